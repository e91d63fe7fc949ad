"""State that one poll of a study leaves for the next: results already read, and a ledger read ahead."""

from __future__ import annotations

from collections.abc import Mapping

from jobs.store.rundir import StudyDir
from launch.state.ledger import Attempt, Ledger


class StatusCache:
    """Cache for the polls of one study, by unit id. A poll returns the same with and without it."""

    def __init__(self) -> None:
        self.sound: set[str] = set()  # units whose result has been read successfully
        self.unreadable: dict[str, str] = {}  # why others could not be, the last ones last
        self._attempts: Mapping[str, Attempt] | None = None

    def read(self, root: StudyDir) -> None:
        """Read the ledger ahead of the next poll.

        For studies that share one answer of the machine, this must precede the query: what is submitted after
        it would appear to have ended.
        """
        self._attempts = Ledger(root.ledger).attempts()

    def attempts(self, root: StudyDir) -> Mapping[str, Attempt]:
        """Return the last attempt at each unit, from the ledger that was read ahead, if one was."""
        attempts, self._attempts = self._attempts, None
        return Ledger(root.ledger).attempts() if attempts is None else attempts
