"""Host memory of a job: how much of a node Slurm lets it have, and how much its processes have used.

Everything is in MiB. Reads /proc and the environment only, so that every stage can afford it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

HIGH_WATER = re.compile(r"^VmHWM:\s*(\d+) kB$", re.MULTILINE)

# What slurmstepd (with OverMemoryKill, or by cgroups) and srun print about a process that was killed for its
# job's memory limit: an extended regular expression, as grep reads it in again.bash, too.
KILLED = (
    "^(slurmstepd|srun)[^ ]*: (error: )?.*("
    "[Ee]xceeded ([a-z]+ )*memory limit|oom[-_ ]kill|OOM Killed|[Oo]ut [Oo]f [Mm]emory|out-of-memory)"
)
END = 16_384  # bytes of a log in which such words are looked for


def asked(environment: Mapping[str, str] = os.environ) -> int | None:
    """Return how much memory of each node Slurm grants this job, as its own variables say.

    Returns:
        MiB; None where there is no limit (`--mem=0`, a cluster that does not track memory) or no Slurm.
    """
    for name, count in (("NODE", None), ("CPU", "SLURM_CPUS_ON_NODE"), ("GPU", "SLURM_GPUS_ON_NODE")):
        each = environment.get(f"SLURM_MEM_PER_{name}", "")
        times = environment.get(count, "") if count else "1"
        if each.isdigit() and times.isdigit() and int(each) * int(times):
            return int(each) * int(times)
    return None


class Peak:
    """The most memory that this process and its descendants have held together.

    The kernel keeps the high-water mark of each process, so a peak between two calls of `update` is not
    missed, only a descendant that started and ended between them. Pages that processes share count for each.
    """

    def __init__(self) -> None:
        self.most = 0

    def update(self) -> int:
        """Read the marks of all processes that live now; returns the most so far, in MiB."""
        self.most = max(self.most, sum(map(_high_water, _tree(os.getpid()))) // 1024)
        return self.most


def killed_for_memory(log: Path) -> str | None:
    """The line near the end of a log that says that a process was killed for the memory limit, if any."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - END))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return None
    return next((line for line in lines if re.match(KILLED, line)), None)


def noted(element: Path) -> int | None:
    """The limit at which the last run of a job was killed for memory, as its script noted down.

    Args:
        element: what the names of its files begin with, as SUBMISSION/ARRAY_INDEX.
    """
    try:
        return int(element.with_name(f"{element.name}.memory").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _high_water(pid: int) -> int:
    """The most that a process ever held, in KiB; 0 once it has ended."""
    try:
        found = HIGH_WATER.search(Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace"))
    except OSError:
        return 0
    return int(found[1]) if found else 0


def _tree(pid: int) -> Iterator[int]:
    """A process and its descendants."""
    yield pid
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = listing.read_text(encoding="ascii").split()
        except OSError:
            continue  # the thread has ended
        for child in children:
            yield from _tree(int(child))
