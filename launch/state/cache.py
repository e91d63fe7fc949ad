"""What one look at a study leaves for the next: what need not be read, or worked out, again.

A look that knows what one before it found comes to what it would come to without; it only costs less. For
what rests there is an exception, which `Known.resting` tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from launch.state.ledger import Attempt, Ledger

if TYPE_CHECKING:
    from jobs.store.rundir import StudyDir
    from launch.state.status import Seen

FEW = 500  # units at rest that are looked at each time, however many there are
PARTS = 8  # looks within which every unit at rest has been looked at


class Ended(NamedTuple):
    """What is known of an attempt that has neither a job nor a result.

    Args:
        error: why it ended, where that does not stand in the ledger.
        written: the line of attempts.jsonl that says so.
        put_off: why it is no failure.
        harm: which of the unit's files cannot be read, so that none of that is known.
    """

    error: str | None
    written: dict[str, Any] | None
    put_off: str | None
    harm: str | None = None


class Known:
    """What looks at one study found so far, by ids of units: all, and how those without a result ended."""

    def __init__(self) -> None:
        self.seen: dict[str, Seen] = {}
        self.ended: dict[str, Ended] = {}
        self.sound: set[str] = set()  # units whose result was read once, and could be
        self._attempts: Mapping[str, Attempt] | None = None  # that were read ahead of the next look
        self._looks = 0

    def read(self, root: StudyDir) -> None:
        """Read the ledger ahead of the next look.

        Studies that share an answer of the machine's have to be read before it is asked: what was submitted
        after it would seem to have ended.
        """
        self._attempts = Ledger(root.ledger).attempts()

    def attempts(self, root: StudyDir) -> Mapping[str, Attempt]:
        """The last attempts at all units, as the ledger tells them, or told when it was read ahead."""
        attempts, self._attempts = self._attempts, None
        return Ledger(root.ledger).attempts() if attempts is None else attempts

    def resting(self, attempts: Mapping[str, Attempt]) -> dict[str, Seen]:
        """Units whose folders are not looked at this time.

        No job had them in hand, and nothing was submitted for them since they were looked at: only a person
        who removes a result, or a copy of a job on a node that was cut off, changes anything. Of many, a part
        is looked at each time.
        """
        found = {
            id: seen
            for id, seen in self.seen.items()
            if seen.live is None and (seen.published or seen.attempt)
            if (now := attempts.get(id)) is seen.attempt or now == seen.attempt
        }
        parts = min(PARTS, 1 + len(found) // FEW)
        self._looks += 1
        return {id: seen for id, seen in found.items() if (hash(id) + self._looks) % parts}
