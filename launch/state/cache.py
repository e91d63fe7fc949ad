"""What one poll of a study leaves for the next: results that were read once, and a ledger read ahead."""

from __future__ import annotations

from collections.abc import Mapping

from jobs.store.rundir import StudyDir
from launch.state.ledger import Attempt, Ledger


class StatusCache:
    """Of one study, by ids of units. A poll with a cache comes to what it would come to without."""

    def __init__(self) -> None:
        self.sound: set[str] = set()  # units whose result was read once, and could be
        self._attempts: Mapping[str, Attempt] | None = None

    def read(self, root: StudyDir) -> None:
        """Read the ledger ahead of the next poll.

        Studies that share an answer of the machine's have to be read before it is asked: what was submitted
        after it would seem to have ended.
        """
        self._attempts = Ledger(root.ledger).attempts()

    def attempts(self, root: StudyDir) -> Mapping[str, Attempt]:
        """The last attempts at all units, as the ledger tells them, or told when it was read ahead."""
        attempts, self._attempts = self._attempts, None
        return Ledger(root.ledger).attempts() if attempts is None else attempts
