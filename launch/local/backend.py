"""Jobs as processes of this machine.

This module starts, finds and ends processes; scheduler.py decides which, and when. The work of a job is
written to its submission's folder, as for a Slurm array, and jobs/runtime/local_job.py reads it there.
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
from threading import Event
from typing import TYPE_CHECKING

from jobs.core.paths import CODE
from jobs.core.place import foreign
from jobs.core.unit import Unit
from jobs.runtime.array_task import ELEMENTS, element, line
from jobs.runtime.local_job import INDEX, NAME
from jobs.store.rundir import StudyDir
from launch.local.warm_start import WarmStart
from launch.state.backend import LiveJobs
from launch.state.ledger import Attempt, Job
from launch.state.states import State

if TYPE_CHECKING:
    import psutil  # loaded where processes are looked for: commands for a cluster never need it

GRACE = 30.0  # seconds that a canceled job has to save its state, as by Slurm's default
NAMES = {NAME, "jobs.local_job"}  # the latter in jobs started by an earlier version


class Local:
    """Jobs of one study on this machine.

    A job is the process that supervises its ranks; the unique name of its submission is in its command line.
    Jobs without GPUs are copies of a process that has imported what they need, once their stage is `ready`.
    GPUs must not be touched before a process is copied, which cannot be ensured for every library.
    """

    settle = 0.0

    def __init__(self, root: StudyDir) -> None:
        self._root = root
        self._started: list[subprocess.Popen[bytes]] = []  # kept, so that they are reaped when they end
        self._warm: WarmStart | None = None

    def ready(self, unit: Unit) -> bool:
        """Return whether a unit's job can be started now; if not, what it needs is imported meanwhile."""
        if unit.resources.gpus:
            return True
        if self._warm is None:
            self._warm = WarmStart(_environment(()))
        return self._warm.ready(unit.stage)

    def close(self) -> None:
        """Import nothing more. Jobs go on."""
        if self._warm:
            self._warm.close()
            self._warm = None

    def submit(self, unit: Unit, submission: str, attempt: int, worker: int, gpus: Sequence[str]) -> str:
        """Start one worker's job on these GPUs and return its id."""
        folder = self._root.submission(submission)
        folder.mkdir(parents=True, exist_ok=True)
        root = self._root.path.absolute()
        work = line(INDEX, unit, root, attempt, worker, gpus=list(gpus))
        (folder / ELEMENTS).write_text(work, encoding="utf-8")
        output = folder / "watcher.log"
        if self._warm and not gpus and self._warm.ready(unit.stage):
            forked = self._warm.fork(folder, output)
            if forked is None and (found := self._alive(Job(submission, None, socket.gethostname()))):
                forked = found.array
            if forked:
                return forked
        with output.open("ab") as log:
            # In a session of its own: Ctrl-C or the end of the terminal must not reach the job; `cancel`
            # asks it to save.
            process = subprocess.Popen(
                [sys.executable, "-m", NAME, str(folder)], env=_environment(gpus),
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self._started.append(process)
        return str(process.pid)

    def gpus(self, job: Job) -> tuple[str, ...]:
        """Return the GPUs that a job was started on."""
        try:
            return tuple(element(self._root.submission(job.submission), INDEX).get("gpus", ()))
        except (OSError, LookupError, ValueError):
            return ()

    def live(self, attempts: Mapping[str, Attempt]) -> dict[str, LiveJobs]:
        self._started = [process for process in self._started if process.poll() is None]
        found = {}
        for unit, attempt in attempts.items():
            jobs = [alive for job in attempt.jobs if (alive := self._alive(job))]
            if jobs:
                found[unit] = LiveJobs(
                    State.RUNNING, tuple(jobs), nodes=jobs[0].host, start=int(attempt.started)
                )
        return found

    def exit_reasons(self, attempts: Mapping[str, Attempt]) -> dict[str, str]:
        return {}  # only what jobs recorded themselves is known

    def cancel(self, jobs: Iterable[Job], hurried: Event | None = None) -> None:
        """End jobs, all at once; those that handle the signal save their state first.

        Args:
            hurried: once it is set, do not wait for that any longer.
        """
        asked = [(job, _tree(int(job.id))) for job in jobs if job.id and self._alive(job)]
        for _, tree in asked:
            _send(signal.SIGTERM, tree[:1])  # the job forwards it to its ranks
        self._wait([job for job, _ in asked], GRACE, hurried)
        self._kill(asked)

    def kill(self, jobs: Iterable[Job]) -> None:
        """End jobs without letting them save."""
        self._kill([(job, _tree(int(job.id))) for job in jobs if job.id and self._alive(job)])

    def _kill(self, jobs: Sequence[tuple[Job, list[psutil.Process]]]) -> None:
        for _, tree in jobs:
            _send(signal.SIGKILL, tree)  # also processes that outlived their job
        self._wait([job for job, _ in jobs], 1.0)

    def _wait(self, jobs: Sequence[Job], seconds: float, hurried: Event | None = None) -> None:
        until = time.monotonic() + seconds
        while any(map(self._alive, jobs)) and time.monotonic() < until:
            if hurried and hurried.is_set():
                break
            time.sleep(0.05)

    def _alive(self, job: Job) -> Job | None:
        """Return the job, with its id, if its process runs on this host."""
        if job.host != socket.gethostname():
            return None
        import psutil

        for pid in [int(job.id)] if job.id else psutil.pids():
            with suppress(psutil.Error):  # it has ended, or belongs to another user
                process = psutil.Process(pid)
                command = process.cmdline()
                if not command and job.id and process.ppid() not in (0, 2):
                    return job  # just started; kernel threads have no command either
                # Ranks have more arguments. In a forked job, all of it is one argument, and may be cut up.
                words = " ".join(filter(None, command))
                if NAMES & set(words.split()) and words.endswith(f"/{job.submission}"):
                    return job._replace(array=str(pid))
        return None


def _environment(gpus: Sequence[str]) -> dict[str, str]:
    """Return a job's variables: this process's, without those of an enclosing job."""
    own = {
        name: value
        for name, value in os.environ.items()
        if name == "SLURM_CONF" or not (foreign(name) or name.startswith(("SLURM_", "SLURMD_")))
    }
    # As in Slurm's jobs: code is not imported from the working directory first.
    path = [str(CODE), *filter(None, os.environ.get("PYTHONPATH", "").split(":")), os.getcwd()]
    return own | {
        "PYTHONPATH": ":".join(dict.fromkeys(path)),
        "PYTHONSAFEPATH": "1",
        "CUDA_VISIBLE_DEVICES": ",".join(gpus),
    }


def _tree(pid: int) -> list[psutil.Process]:
    """Return a process and all its descendants."""
    import psutil

    with suppress(psutil.Error):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def _send(sign: signal.Signals, processes: Iterable[psutil.Process]) -> None:
    import psutil

    for process in processes:
        with suppress(psutil.NoSuchProcess):  # it has ended, or its pid was reused
            process.send_signal(sign)
