"""Host memory of a job, in MiB: how much of a node Slurm grants, and how much its processes have used.

Reads only /proc and the environment, so every stage can afford it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

HIGH_WATER = re.compile(r"^VmHWM:\s*(\d+) kB$", re.MULTILINE)

# Messages of slurmstepd (with OverMemoryKill, or by cgroups) and srun about a process killed for its job's
# memory limit: an extended regular expression, also used by grep in again.bash.
KILLED = (
    "^(slurmstepd|srun)[^ ]*: (error: )?.*("
    "[Ee]xceeded ([a-z]+ )*memory limit|oom[-_ ]kill|OOM Killed|[Oo]ut [Oo]f [Mm]emory|out-of-memory)"
)
END = 16_384  # bytes at the end of a log that are searched


def asked(environment: Mapping[str, str] = os.environ) -> int | None:
    """Return how much memory of each node Slurm grants this job, from Slurm's variables.

    Returns:
        MiB; None without a limit (`--mem=0`, a cluster that does not track memory) or without Slurm.
    """
    for name, count in (("NODE", None), ("CPU", "SLURM_CPUS_ON_NODE"), ("GPU", "SLURM_GPUS_ON_NODE")):
        each = environment.get(f"SLURM_MEM_PER_{name}", "")
        times = environment.get(count, "") if count else "1"
        if each.isdigit() and times.isdigit() and int(each) * int(times):
            return int(each) * int(times)
    return None


class Peak:
    """Peak memory that this process and its descendants have held together.

    The kernel keeps a high-water mark per process, so peaks between two calls of `update` are not missed,
    only descendants that started and ended in between. Shared pages count for each process.
    """

    def __init__(self) -> None:
        self.most = 0

    def update(self) -> int:
        """Read the high-water marks of all live processes; return the peak so far in MiB."""
        self.most = max(self.most, sum(map(_high_water, _tree(os.getpid()))) // 1024)
        return self.most


def killed_for_memory(log: Path) -> str | None:
    """Return the line near the end of a log that reports a kill for the memory limit, or None."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - END))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return None
    return next((line for line in lines if re.match(KILLED, line)), None)


def noted(element: Path) -> int | None:
    """Return the memory limit in MiB at which a job's last run was killed, from its script's note, or None.

    Args:
        element: Prefix of the job's files, as SUBMISSION/ARRAY_INDEX.
    """
    try:
        return int(element.with_name(f"{element.name}.memory").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _high_water(pid: int) -> int:
    """Return a process's peak memory in KiB; 0 once it has ended."""
    try:
        found = HIGH_WATER.search(Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace"))
    except OSError:
        return 0
    return int(found[1]) if found else 0


def _tree(pid: int) -> Iterator[int]:
    """Yield a process ID and those of its descendants."""
    yield pid
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = listing.read_text(encoding="ascii").split()
        except OSError:
            continue  # the thread has ended
        for child in children:
            yield from _tree(int(child))
