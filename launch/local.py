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
from dataclasses import replace
from pathlib import Path

import submitit

from jobs.run import run_unit
from jobs.rundir import StudyDir
from jobs.unit import Resources, Unit
from launch.backends import Live
from launch.ledger import Attempt, Job
from launch.states import State

GRACE = 5.0  # seconds that a cancelled job has to end by itself


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
        folder = self._root.submission(submission)
        executor = submitit.LocalExecutor(folder=folder)
        executor.update_parameters(
            timeout_min=unit.resources.hours * 60,
            tasks_per_node=unit.resources.tasks_per_node,
            gpus_per_node=len(gpus),
            visible_gpus=tuple(gpus),
            stderr_to_stdout=True,
        )
        with _errors_to(folder / "watcher.log"):
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

    def cancel(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            assert job.id is not None
            tree = [int(job.id), *_children(int(job.id))]
            for sign, wait in ((signal.SIGINT, GRACE), (signal.SIGKILL, 1.0)):
                if not self._alive(job):
                    break
                for pid in tree if sign == signal.SIGKILL else tree[:1]:
                    with suppress(ProcessLookupError):
                        os.kill(pid, sign)
                until = time.monotonic() + wait
                while self._alive(job) and time.monotonic() < until:
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
                return replace(job, id=pid)
        return None


def _begins(pid: str) -> bool:
    """Whether a process without a command line has not ended, and is none of the kernel's own."""
    state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    return state not in "ZX" and parent not in ("0", "2")


@contextmanager
def _errors_to(path: Path) -> Iterator[None]:
    """Have processes that are started now write their errors to a file.

    submitit's controller is started with ours, and would print a traceback a job at every Ctrl-C.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    ours = os.dup(2)
    with path.open("a") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(ours, 2)
        os.close(ours)


def _children(pid: int) -> list[int]:
    """The processes that a process started, and those that they started."""
    found: list[int] = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in listing.read_text().split():
            found += [int(child), *_children(int(child))]
    return found


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
