"""Jobs as processes of this machine.

It starts, finds and ends processes; which of them, and when, is scheduler.py's business. What a job is to do
is written into its submission's folder, as for an array of Slurm's: jobs/runtime/local_job.py reads it there.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from jobs.core.paths import CODE
from jobs.core.place import foreign
from jobs.core.unit import Unit
from jobs.runtime.array_task import ELEMENTS, element, line
from jobs.runtime.local_job import INDEX
from jobs.store.rundir import StudyDir
from launch.state.backend import Live
from launch.state.ledger import Attempt, Job
from launch.state.states import State

GRACE = 30.0  # seconds that a cancelled job has to save what it has, as Slurm gives it by default
PROGRAM = "jobs.runtime.local_job"


class Local:
    """Jobs of one study on this machine.

    A job is the process that watches over its ranks; the name of its submission, which no other one has,
    stands in its command line.
    """

    settle = 0.0

    def __init__(self, root: StudyDir) -> None:
        self._root = root
        self._started: list[subprocess.Popen[bytes]] = []  # kept, so that they are waited for when they end

    def submit(self, unit: Unit, submission: str, attempt: int, worker: int, gpus: Sequence[str]) -> str:
        """Start one worker's job on these GPUs; returns its id."""
        folder = self._root.submission(submission)
        folder.mkdir(parents=True, exist_ok=True)
        root = self._root.path.absolute()
        work = line(INDEX, unit, root, attempt, worker, gpus=list(gpus))
        (folder / ELEMENTS).write_text(work, encoding="utf-8")
        with (folder / "watcher.log").open("ab") as log:
            # In a session of its own: Ctrl-C or the end of the terminal is not for the job, which is asked
            # to save by `cancel`.
            process = subprocess.Popen(
                [sys.executable, "-m", PROGRAM, str(folder)], env=_environment(gpus),
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self._started.append(process)
        return str(process.pid)

    def gpus(self, job: Job) -> tuple[str, ...]:
        """The GPUs that a job was started on."""
        try:
            return tuple(element(self._root.submission(job.submission), INDEX).get("gpus", ()))
        except (OSError, LookupError, ValueError):
            return ()

    def live(self, attempts: Mapping[str, Attempt]) -> dict[str, Live]:
        self._started = [process for process in self._started if process.poll() is None]
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
        program, last = (
            f"\0{PROGRAM}\0".encode(),
            f"/{job.submission}\0".encode(),
        )  # a rank has more arguments
        for pid in candidates:
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                # It is empty for one that has ended, but also for a moment after one has begun.
                if not command and job.id and _begins(pid):
                    return job
            except OSError:
                continue
            if program in command and command.endswith(last):
                return job._replace(array=pid)
        return None


def _begins(pid: str) -> bool:
    """Whether a process without a command line has not ended, and is none of the kernel's own."""
    state, parent, *_ = _stat(pid)
    return state not in "ZX" and parent not in ("0", "2")


def _stat(pid: str | int) -> list[str]:
    """What /proc tells of a process after its name."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()


def _environment(gpus: Sequence[str]) -> dict[str, str]:
    """The variables of a job: this process's, without what describes a job that this process belongs to."""
    own = {
        name: value
        for name, value in os.environ.items()
        if name == "SLURM_CONF" or not (foreign(name) or name.startswith(("SLURM_", "SLURMD_")))
    }
    # As in Slurm's jobs: the code is not looked for in the working directory first.
    path = [str(CODE), *filter(None, os.environ.get("PYTHONPATH", "").split(":")), os.getcwd()]
    return own | {
        "PYTHONPATH": ":".join(dict.fromkeys(path)),
        "PYTHONSAFEPATH": "1",
        "CUDA_VISIBLE_DEVICES": ",".join(gpus),
    }


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
