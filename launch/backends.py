"""Starting, finding and ending jobs on the machine that runs them, through submitit.

This machine without a scheduler is the only one yet. A backend knows nothing of studies: it is handed a
unit and its folder.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import submitit

from jobs.run import run_unit
from jobs.rundir import UnitDir
from jobs.unit import Resources, Unit
from launch.ledger import Attempt, Job
from launch.states import State

GRACE = 5.0  # seconds that a cancelled job has to end by itself


class Backend(Protocol):
    """What submitting, watching and cancelling need of a machine."""

    def submit(self, unit: Unit, folder: UnitDir, attempt: int, worker: int, gpus: Sequence[int]) -> str:
        """Start one worker's job; returns its id."""

    def state(self, attempt: Attempt, folder: UnitDir) -> State | None:
        """Whether an attempt's jobs live: QUEUED, RUNNING or PREEMPTED, or None when all have ended."""

    def cancel(self, job: Job, folder: UnitDir) -> None:
        """End a job; ending one that has ended is no error."""


class Local:
    """Jobs as processes of this machine, through submitit's LocalExecutor."""

    def submit(self, unit: Unit, folder: UnitDir, attempt: int, worker: int, gpus: Sequence[int]) -> str:
        executor = submitit.LocalExecutor(folder=folder.logs.resolve() / "%j")
        executor.update_parameters(
            timeout_min=unit.resources.hours * 60,
            tasks_per_node=unit.resources.tasks_per_node,
            gpus_per_node=len(gpus),
            visible_gpus=tuple(gpus),
            stderr_to_stdout=True,
        )
        with _errors_to(folder.local_errors):
            job = executor.submit(run_unit, str(folder.path.resolve()), attempt, worker)
        return str(job.job_id)

    def state(self, attempt: Attempt, folder: UnitDir) -> State | None:
        return State.RUNNING if any(self.lives(job, folder) for job in attempt.jobs) else None

    def lives(self, job: Job, folder: UnitDir) -> bool:
        """Whether the job's process runs on this host; one that merely got its number does not count."""
        if job.host != socket.gethostname():
            return False
        try:
            command = Path(f"/proc/{job.id}/cmdline").read_bytes().decode(errors="replace")
        except OSError:
            return False
        return str(folder.logs.resolve()) in command  # empty for a process that has ended

    def cancel(self, job: Job, folder: UnitDir) -> None:
        tree = [int(job.id), *_children(int(job.id))]
        for sign, wait in ((signal.SIGINT, GRACE), (signal.SIGKILL, 1.0)):
            if not self.lives(job, folder):
                return
            for pid in tree if sign == signal.SIGKILL else tree[:1]:
                _kill(pid, sign)
            until = time.monotonic() + wait
            while self.lives(job, folder) and time.monotonic() < until:
                time.sleep(0.05)


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


def _kill(pid: int, sign: signal.Signals) -> None:
    try:
        os.kill(pid, sign)
    except ProcessLookupError:
        return


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
