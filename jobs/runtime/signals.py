"""Signal handling: handlers only set a flag, which the work checks where it can stop.

Slurm sends USR2 ahead of a job's time limit, and TERM when a job is preempted, cancelled or reaches that
limit; `sor` also ends local jobs with TERM. A resumable stage checks the flag. A stage that starts over uses
its remaining time: only TERM ends it, at any point, with the cause recorded.
"""

from __future__ import annotations

import signal

REASONS = {
    signal.SIGUSR2: "its time limit is near",
    signal.SIGTERM: "it was preempted or cancelled",
}

STARTS_OVER = {  # stages whose runs keep nothing for the next run, and why
    "prepare": "the study's function starts over",
    "collate": "collate starts over",
    "tokenize": "tokenize starts over",
    "report": "report starts over",
}


class Interrupted(Exception):
    """The work stopped on a signal and saved its state; the message is the reason."""


class Preemption:
    """Whether this process was asked to stop.

    Attributes:
        reason: Why; None if it was not asked to stop.
        lost: Whether the work was cut off, so that none of it is kept.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self.lost = False

    def listen(self) -> None:
        """Install the handlers that set the flag; call in the main thread."""
        for number in REASONS:
            signal.signal(number, self._note)

    def check(self) -> None:
        """Stop here if asked to.

        Raises:
            Interrupted: A signal came.
        """
        if self.reason is not None:
            raise Interrupted(self.reason)

    def unwind(self, why: str) -> None:
        """Make TERM end the work by KeyboardInterrupt, which user functions normally let through.

        A function that calls `listen` and keeps its work overrides this.

        Args:
            why: Why none of the work can be kept; appended to the reason.
        """

        def end(number: int, frame: object) -> None:
            self._note(number, frame)
            self.reason, self.lost = f"{self.reason}; {why}", True
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # do not interrupt the recording of the end
            raise KeyboardInterrupt

        signal.signal(signal.SIGUSR2, self._note)
        signal.signal(signal.SIGTERM, end)

    def _note(self, number: int, frame: object) -> None:
        self.reason = self.reason or REASONS[signal.Signals(number)]
