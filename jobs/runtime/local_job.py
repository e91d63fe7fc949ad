"""A job on the local machine, the counterpart of a Slurm job: one process that supervises the job's ranks.

The submission's folder holds the job's unit as a line of JSON, in the format of array elements
(array_task.py). The process's command line contains the unique submission name, so the job can be found even
if its process ID was not recorded.

    python -m jobs.runtime.local_job SUBMISSION             the supervisor
    python -m jobs.runtime.local_job SUBMISSION JOB RANK    a rank
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from jobs.core.place import Place
from jobs.core.trust import private_umask
from jobs.runtime.array_task import element
from jobs.runtime.run import run_unit

INDEX = 0  # a submission has one element
WARNING = 30.0  # seconds before the time limit at which the ranks are signaled


class Watcher:
    """Starts the ranks of a job, forwards signals to them, and kills them at the time limit."""

    def __init__(self, submission: Path) -> None:
        self._submission = submission
        resources = element(submission, INDEX)["unit"]["resources"]
        self._size: int = resources["tasks_per_node"]
        self._seconds: float = 3600 * resources["hours"]
        self._ranks: list[subprocess.Popen[bytes]] = []
        self._told = False

    def run(self) -> None:
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGALRM, self._warn)
        signal.setitimer(signal.ITIMER_REAL, max(self._seconds - WARNING, 1.0))
        for rank in range(self._size):
            self._ranks.append(self._start(rank))
            if self._told:  # the signal arrived while the rank was being started
                self._ranks[-1].terminate()
        for process in self._ranks:
            process.wait()

    def _start(self, rank: int) -> subprocess.Popen[bytes]:
        job = str(os.getpid())
        with (self._submission / f"{job}_{rank}_log.out").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-u", "-m", "jobs.runtime.local_job", str(self._submission), job, str(rank)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

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


def main() -> None:
    """Run the supervisor of a job, or one of its ranks."""
    private_umask()
    submission = Path(sys.argv[1])
    if len(sys.argv) == 2:
        Watcher(submission).run()
        return
    job, rank = sys.argv[2], int(sys.argv[3])
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # sent before the time limit; would kill the process
    mine = element(submission, INDEX)
    size: int = mine["unit"]["resources"]["tasks_per_node"]
    place = Place(job, rank, rank, size)
    run_unit(mine["unit"], mine["root"], mine["attempt"], mine["worker"], place)


if __name__ == "__main__":
    main()
