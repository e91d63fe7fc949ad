"""The cluster with a study on it, as faults and driver see it: its queue, and the processes of its jobs.

Only processes that have this cluster's SLURM_CONF in their environment are ever touched.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from cluster import Cluster, ClusterError

from jobs.core.unit import Unit
from jobs.runtime.array_task import ELEMENTS
from jobs.store.rundir import StudyDir

LEAK = signal.SIGRTMIN + 7  # has a rank take memory without end; see inside/sitecustomize.py
PATIENCE = 4.0  # seconds that a question to Slurm may take; more would let the study go unseen
FIELDS = (
    "JobArrayID", "JobID", "State", "Reason", "NodeList", "RestartCnt", "TimeUsed", "TimeLimit", "Command",
)  # fmt: skip
RANK = b"\0jobs.runtime.array_task\0"  # in the command line of each rank


@dataclass(frozen=True)
class Job:
    """A line of the queue.

    Args:
        id: as people and `scontrol` name it.
        number: as the job's own processes know it.
        used, limit: of time, as Slurm writes it.
        unit: what it works on.
    """

    id: str
    number: str
    state: str
    reason: str
    nodes: tuple[str, ...]
    restarts: int
    used: str
    limit: str
    unit: Unit

    def __str__(self) -> str:
        return f"{self.unit.stage} {self.unit.name}"

    @property
    def seconds(self) -> int:
        """How long it has run."""
        seconds = 0
        for part in self.used.replace("-", ":").split(":"):
            seconds = seconds * 60 + int(part)  # no job runs for days
        return seconds


@dataclass
class Lab:
    """A cluster, the disk that the run directories lie on, and the run directory that is at work.

    Args:
        jobs: the study's in the queue, at the last look.
    """

    cluster: Cluster
    disk: Path
    root: StudyDir
    jobs: list[Job] = field(default_factory=list)

    def poll(self) -> bool:
        """Ask for the queue; False if there was no answer, and the last one stays."""
        asked = ",".join(f"{name}:|" for name in FIELDS)
        try:
            lines = self.cluster.run(
                "squeue", "--noheader", "--array", f"--Format={asked}", timeout=PATIENCE
            ).splitlines()
        except (ClusterError, subprocess.TimeoutExpired):
            return False
        found = [self._job(*line.split("|")[: len(FIELDS)]) for line in lines]
        self.jobs = [job for job in found if job]
        return True

    def tell(self, *command: str) -> bool:
        """Have Slurm do something; False if it would not, or did not answer."""
        try:
            self.cluster.run(*command, timeout=PATIENCE)
        except (ClusterError, subprocess.TimeoutExpired):
            return False
        return True

    def drained(self) -> dict[str, str]:
        """The nodes that Slurm gives no more jobs until an administrator says so, each with its reason."""
        try:
            lines = self.cluster.run(
                "sinfo", "--Node", "--noheader", "--partition=main", "--states=drain,fail", "--format=%N|%E",
                timeout=PATIENCE,
            ).splitlines()  # fmt: skip
        except (ClusterError, subprocess.TimeoutExpired):
            return {}
        return dict(line.split("|", 1) for line in lines)

    def runs(self, job: Job) -> bool:
        """Whether this run of the job went on, at the last look."""
        return any((j.id, j.restarts, j.state) == (job.id, job.restarts, "RUNNING") for j in self.jobs)

    def waits(self, job: Job) -> bool:
        """Whether the job is to run again, at the last look."""
        return any((j.id, j.state) == (job.id, "PENDING") for j in self.jobs)

    def restarted(self, job: Job) -> bool:
        """Whether a later run of the job went on, at the last look."""
        return any(j.id == job.id and j.state == "RUNNING" and j.restarts > job.restarts for j in self.jobs)

    def at_work(self) -> list[Job]:
        """Jobs whose processes run; a job has none in its first moment and in its last."""
        return [job for job in self.jobs if job.state == "RUNNING" and self.ranks(job)]

    def ranks(self, job: Job) -> list[int]:
        """The processes of a job's ranks, once they are ready to take memory when told so."""
        return [pid for pid, number in self.processes().items() if number == job.number and _ready(pid)]

    def copies(self, job: Job) -> bool:
        """Whether processes of any run of the job are there."""
        return job.number in self.processes().values()

    def processes(self) -> dict[int, str]:
        """All ranks of all jobs on the cluster, also of those that Slurm knows nothing of any more."""
        found = {}
        for folder in Path("/proc").iterdir():
            try:
                command = (folder / "cmdline").read_bytes() if folder.name.isdigit() else b""
                if b"\0jobs.runtime.array_task\0" not in command or not command.partition(b"\0")[0].endswith(
                    b"python"
                ):
                    continue
                lines = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
            except OSError:  # it has ended
                continue
            environment = dict(line.partition("=")[::2] for line in lines)
            if environment.get("SLURM_CONF") == str(self.cluster.conf) and "SLURM_JOB_ID" in environment:
                found[int(folder.name)] = environment["SLURM_JOB_ID"]
        return found

    def _job(
        self, id: str, number: str, state: str, reason: str, nodes: str, restarts: str, used: str, limit: str,
        script: str,
    ) -> Job | None:  # fmt: skip
        submission = Path(script).parent
        elements = submission / ELEMENTS
        if not submission.is_relative_to(self.root.path.absolute()) or not elements.is_file():
            return None  # of another run, or none that works on a unit
        begins = f'{{"index": {id.partition("_")[2]},'
        lines = elements.read_text(encoding="utf-8").splitlines()
        unit = next(json.loads(line)["unit"] for line in lines if line.startswith(begins))
        places = tuple(node for node in self.cluster.nodes if node in _expand(nodes))
        return Job(id, number, state, reason, places, int(restarts), used, limit, Unit.from_json(unit))


def _expand(nodes: str) -> set[str]:
    """The names in Slurm's list of nodes, as n[1,3-4]."""
    found = set()
    for part in nodes.removeprefix("n").strip("[]").split(",") if nodes else []:
        first, _, last = part.partition("-")
        found |= {f"n{i}" for i in range(int(first), int(last or first) + 1)}
    return found


def _ready(pid: int) -> bool:
    """Whether a process has a handler for LEAK, which would end it otherwise."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return False
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (LEAK - 1) & 1)


def send(pid: int, sign: int) -> None:
    """Send a signal to a process, unless it has ended."""
    try:
        os.kill(pid, sign)
    except ProcessLookupError:
        return
