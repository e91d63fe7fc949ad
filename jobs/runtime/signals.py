"""Signals -> a flag, which the work reads where it can stop: nothing else happens inside a signal handler.

Slurm sends USR2 ahead of a job's time limit, and TERM where a job is preempted or cancelled, or reaches that
limit; TERM is also how `sor` ends jobs of this machine. A stage that can go on later reads the flag. One that
starts over uses the time that it has: only TERM ends it, wherever it is, with the cause written down.
"""

from __future__ import annotations

import signal

REASONS = {
    signal.SIGUSR2: "its time limit is near",
    signal.SIGTERM: "it was preempted or cancelled",
}

STARTS_OVER = {  # stages of which a run keeps nothing for the next one, and why
    "prepare": "what the study's function has done is not kept",
    "collate": "collating starts with the first row each time",
    "pack": "packing starts with the first row each time",
    "report": "a report is written anew each time",
}


class Interrupted(Exception):
    """The work stopped because it was told to; what it had is saved. The message is the reason."""


class Preemption:
    """Whether this process was told to stop.

    Attributes:
        reason: why; None: it was not.
        lost: whether it stopped at once, so that nothing of its work is kept.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self.lost = False

    def listen(self) -> None:
        """From now on signals set the flag; call it in the main thread."""
        for number in REASONS:
            signal.signal(number, self._note)

    def check(self) -> None:
        """Stop here if told to.

        Raises:
            Interrupted: a signal came.
        """
        if self.reason is not None:
            raise Interrupted(self.reason)

    def unwind(self, why: str) -> None:
        """From now on TERM ends the work by KeyboardInterrupt, which a function of the user's lets through.

        A function that listens itself, and keeps what it has, takes the place of this.

        Args:
            why: nothing of the work can be kept; it is said with the reason.
        """

        def end(number: int, frame: object) -> None:
            self._note(number, frame)
            self.reason, self.lost = f"{self.reason}; {why}", True
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the end is being written down
            raise KeyboardInterrupt

        signal.signal(signal.SIGUSR2, self._note)
        signal.signal(signal.SIGTERM, end)

    def _note(self, number: int, frame: object) -> None:
        self.reason = self.reason or REASONS[signal.Signals(number)]
