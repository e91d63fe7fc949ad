"""Jobs as processes of this machine, through submitit's LocalExecutor.

It starts, finds and ends processes; which of them, and when, is foreground.py's business.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from jobs.rundir import StudyDir
from jobs.unit import Resources, Unit
from launch.backends import Live
from launch.ledger import Attempt, Job
from launch.states import State

GRACE = 30.0  # seconds that a cancelled job has to save what it has, as Slurm gives it by default


class Local:
    """Jobs of one study on this machine.

    A job is the process that watches over its ranks; the name of its submission, which no other one has,
    stands in its command line.
    """

    settle = 0.0

    def __init__(self, root: StudyDir) -> None:
        self._root = root

    def submit(self, unit: Unit, submission: str, attempt: int, worker: int, gpus: Sequence[int]) -> str:
        """Start one worker's job; returns its id."""
        import submitit  # which takes its time, and few commands start anything

        from jobs.run import run_unit

        folder = self._root.submission(submission)
        executor = submitit.LocalExecutor(folder=folder)
        executor.update_parameters(
            timeout_min=unit.resources.hours * 60,
            tasks_per_node=unit.resources.tasks_per_node,
            gpus_per_node=len(gpus),
            visible_gpus=tuple(gpus),
            stderr_to_stdout=True,
        )
        with _apart(folder / "watcher.log"):
            job = executor.submit(run_unit, unit.to_json(), str(self._root.path.absolute()), attempt, worker)
        return str(job.job_id)

    def live(self, attempts: Mapping[str, Attempt]) -> dict[str, Live]:
        found = {}
        for unit, attempt in attempts.items():
            jobs = [alive for job in attempt.jobs if (alive := self._alive(job))]
            if jobs:
                found[unit] = Live(State.RUNNING, tuple(jobs), nodes=jobs[0].host, start=int(attempt.begun))
        return found

    def ends(self, attempts: Mapping[str, Attempt]) -> dict[str, str]:
        return {}  # what they wrote down themselves is all there is

    def cancel(self, jobs: Iterable[Job], hurried: Event | None = None) -> None:
        """End jobs, all at once; those that listen save first what they have.

        Args:
            hurried: once it is set, nobody waits for that any more.
        """
        asked = [(job, _tree(int(job.id))) for job in jobs if job.id and self._alive(job)]
        for _, tree in asked:
            _send(signal.SIGTERM, tree[:1])  # which the job hands on to its ranks
        self._wait([job for job, _ in asked], GRACE, hurried)
        self._kill(asked)

    def kill(self, jobs: Iterable[Job]) -> None:
        """End jobs as they are."""
        self._kill([(job, _tree(int(job.id))) for job in jobs if job.id and self._alive(job)])

    def _kill(self, jobs: Sequence[tuple[Job, list[_Process]]]) -> None:
        for _, tree in jobs:
            _send(signal.SIGKILL, tree)  # also what outlived its job
        self._wait([job for job, _ in jobs], 1.0)

    def _wait(self, jobs: Sequence[Job], seconds: float, hurried: Event | None = None) -> None:
        until = time.monotonic() + seconds
        while any(map(self._alive, jobs)) and time.monotonic() < until:
            if hurried and hurried.is_set():
                break
            time.sleep(0.05)

    def _alive(self, job: Job) -> Job | None:
        """The job, with its id, if its process runs on this host."""
        if job.host != socket.gethostname():
            return None
        candidates = [job.id] if job.id else [p.name for p in Path("/proc").iterdir() if p.name.isdigit()]
        mark = job.submission.encode()
        for pid in candidates:
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                # It is empty for one that has ended, but also for a moment after one has begun.
                if not command and job.id and _begins(pid):
                    return job
            except OSError:
                continue
            if mark in command and b"submitit.local._local" in command:
                return job._replace(array=pid)
        return None


def _begins(pid: str) -> bool:
    """Whether a process without a command line has not ended, and is none of the kernel's own."""
    state, parent, *_ = _stat(pid)
    return state not in "ZX" and parent not in ("0", "2")


def _stat(pid: str | int) -> list[str]:
    """What /proc tells of a process after its name."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()


@contextmanager
def _apart(errors: Path) -> Iterator[None]:
    """Have processes that are started now write their errors to a file, and hear nothing of Ctrl-C.

    A terminal sends that to them all, and submitit would end the ranks within a second, with a traceback.
    They are to be asked by `cancel`.
    """
    errors.parent.mkdir(parents=True, exist_ok=True)
    ours, heard = os.dup(2), signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    with errors.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(ours, 2)
        os.close(ours)
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)


@dataclass(frozen=True)
class _Process:
    """A process; by when it began it is told from a later one with its number."""

    pid: int
    began: int  # as /proc tells it

    @property
    def alive(self) -> bool:
        return _began(self.pid) == self.began


def _began(pid: int) -> int | None:
    try:
        return int(_stat(pid)[19])
    except OSError:
        return None


def _tree(pid: int) -> list[_Process]:
    """A process, those that it started, and those that they started."""
    found = [] if (began := _began(pid)) is None else [_Process(pid, began)]
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in listing.read_text(encoding="utf-8").split():
                found += _tree(int(child))
    return found


def _send(sign: signal.Signals, processes: Iterable[_Process]) -> None:
    for process in processes:
        if process.alive:
            with suppress(ProcessLookupError):
                os.kill(process.pid, sign)


def fits(resources: Resources, cores: int, gpus: int) -> str | None:
    """Why a unit can never run on a machine of this size; None if it can."""
    if resources.nodes > 1:
        return f"needs {resources.nodes} nodes, and this is one machine"
    if resources.gpus_per_node > gpus:
        return f"needs {resources.gpus_per_node} GPUs, and this machine has {gpus}"
    wanted = resources.tasks_per_node * (1 if resources.gpus_per_node else resources.cpus_per_task)
    if wanted > cores:
        return f"needs {wanted} cores, and this machine has {cores}"
    return None


def visible_gpus() -> int:
    """How many NVIDIA GPUs this machine has, without loading CUDA; CUDA_VISIBLE_DEVICES limits them."""
    limited = os.environ.get("CUDA_VISIBLE_DEVICES")
    if limited is not None:
        return len([g for g in limited.split(",") if g.strip()])
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
