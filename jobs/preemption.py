"""Signals -> a flag, which the work reads where it can stop: nothing else happens inside a signal handler.

Slurm sends USR2 ahead of a job's time limit, and TERM where a job is preempted or cancelled; TERM is also how
`sor` ends jobs of this machine. Only a stage that reads the flag listens for them: any other ends at TERM.
"""

from __future__ import annotations

import signal

REASONS = {
    signal.SIGUSR2: "its time limit is near",
    signal.SIGTERM: "it was preempted or cancelled",
}


class Interrupted(Exception):
    """The work stopped because it was told to; what it had is saved. The message is the reason."""


class Preemption:
    """Whether this process was told to stop."""

    def __init__(self) -> None:
        self.reason: str | None = None

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

    def _note(self, number: int, frame: object) -> None:
        self.reason = self.reason or REASONS[signal.Signals(number)]
