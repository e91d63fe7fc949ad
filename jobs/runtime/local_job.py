"""A job on the local machine, the counterpart of a Slurm job: one process that supervises the job's ranks.

The submission's folder holds the job's unit as a line of JSON, in the format of array elements
(array_task.py). The process's command line contains the unique submission name, so the job can be found even
if its process ID was not recorded.

    python -m jobs.runtime.local_job SUBMISSION             the supervisor
    python -m jobs.runtime.local_job SUBMISSION JOB RANK    a rank

A job forked by warm_start.py has no such command line and takes its title instead; it forks its ranks, too.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from jobs.core.place import Place
from jobs.core.trust import private_umask
from jobs.runtime.array_task import element
from jobs.runtime.run import run_unit

NAME = "jobs.runtime.local_job"  # in the command line or title of a job
INDEX = 0  # a submission has one element
WARNING = 30.0  # seconds before the time limit at which the ranks are signaled
FORWARDED = (signal.SIGTERM, signal.SIGALRM)  # signals that the supervisor passes on to the ranks


class Process(Protocol):
    """What the supervisor needs of a rank's process."""

    def wait(self) -> object: ...

    def send_signal(self, number: int) -> None: ...


class Watcher:
    """Starts the ranks of a job, forwards signals to them, and kills them at the time limit.

    Args:
        start: starts one rank, given the submission, the job's ID, the rank, and its log.
    """

    def __init__(self, submission: Path, start: Callable[[Path, str, int, Path], Process]) -> None:
        self._submission, self._start = submission, start
        resources = element(submission, INDEX)["unit"]["resources"]
        self._size: int = resources["tasks_per_node"]
        self._seconds: float = 3600 * resources["hours"]
        self._ranks: list[Process] = []
        self._told = False

    def run(self) -> None:
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGALRM, self._warn)
        signal.setitimer(signal.ITIMER_REAL, max(self._seconds - WARNING, 1.0))
        job = str(os.getpid())
        for rank in range(self._size):
            log = self._submission / f"{job}_{rank}_log.out"
            self._ranks.append(self._start(self._submission, job, rank, log))
            if self._told:  # the signal arrived while the rank was being started
                self._ranks[-1].send_signal(signal.SIGTERM)
        for process in self._ranks:
            process.wait()

    def _stop(self, *_: object) -> None:
        self._told = True
        self._send(signal.SIGTERM)

    def _warn(self, *_: object) -> None:
        self._send(signal.SIGUSR2)
        signal.signal(signal.SIGALRM, lambda *_: self._send(signal.SIGKILL))
        signal.setitimer(signal.ITIMER_REAL, WARNING)

    def _send(self, number: signal.Signals) -> None:
        for process in self._ranks:
            process.send_signal(number)


def spawned(submission: Path, job: str, rank: int, log: Path) -> Process:
    """Start a rank as a program of its own."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-u", "-m", NAME, str(submission), job, str(rank)],
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip


class Forked:
    """A rank that is a copy of its supervisor, with everything that has been imported."""

    def __init__(self, submission: Path, job: str, rank: int, log: Path) -> None:
        from multiprocessing import get_context

        make = get_context("fork").Process
        self._process = make(target=self._run, args=(submission, job, rank, log))
        # A signal must not run the supervisor's handler in the copy.
        signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)

    @staticmethod
    def _run(submission: Path, job: str, rank: int, log: Path) -> None:
        for number in FORWARDED:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
        entitle(f"{NAME} {submission} {job} {rank}")
        redirect(log)
        run_rank(submission, job, rank)

    def wait(self) -> None:
        self._process.join()

    def send_signal(self, number: int) -> None:
        if self._process.pid and self._process.is_alive():
            os.kill(self._process.pid, number)


def entitle(title: str) -> None:
    """Show a title in place of this process's command line."""
    from setproctitle import setproctitle  # as multiprocessing, not loaded on a login node

    setproctitle(title)


def redirect(log: Path) -> None:
    """Append what this process and its children print to a file, and give them no input."""
    sys.stdout.flush()
    sys.stderr.flush()
    with log.open("ab") as output, open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)


def run_rank(submission: Path, job: str, rank: int) -> None:
    """Run one rank of a job in this process."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # sent before the time limit; would kill the process
    mine = element(submission, INDEX)
    size: int = mine["unit"]["resources"]["tasks_per_node"]
    place = Place(job, rank, rank, size)
    run_unit(mine["unit"], mine["root"], mine["attempt"], mine["worker"], place)


def main() -> None:
    """Run the supervisor of a job, or one of its ranks."""
    private_umask()
    submission = Path(sys.argv[1])
    if len(sys.argv) == 2:
        Watcher(submission, spawned).run()
    else:
        run_rank(submission, sys.argv[2], int(sys.argv[3]))


if __name__ == "__main__":
    main()
