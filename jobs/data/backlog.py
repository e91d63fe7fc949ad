"""The order in which a worker asks for its rows: the longest expected answers first, both modes mixed.

An answer that starts last ends last. So the mode with the longer answers goes first, its longest prompts
first, and some rows of the other mode are kept back: they fill the places that become free at the end, while
the last long answers are being written.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import NamedTuple

from jobs.core.unit import MODES

KEPT_BACK = 4  # requests in flight for each row that is kept back


class Key(NamedTuple):
    """Identifies the row that an answer belongs to."""

    chunk: int
    id: str
    mode: str


class Backlog:
    """Rows that a worker has claimed and not asked for.

    Args:
        most: Tokens of an answer by mode, at most; expected as long as none is finished.
    """

    def __init__(self, most: Mapping[str, int]) -> None:
        self._expected = {mode: float(most[mode]) for mode in MODES}
        self._finished = dict.fromkeys(MODES, 0)
        self._waiting: dict[str, list[tuple[int, int, Key]]] = {mode: [] for mode in MODES}
        self._added = 0

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def add(self, key: Key, prompt: str) -> None:
        """Add a row; of two alike, the one that was added first is asked for first."""
        self._added += 1
        heapq.heappush(self._waiting[key.mode], (-len(prompt), self._added, key))

    def finished(self, mode: str, tokens: int) -> None:
        """Learn from an answer: the mean of those that are finished is expected of the others."""
        self._finished[mode] += 1
        mean = self._expected[mode] if self._finished[mode] > 1 else 0.0
        self._expected[mode] = mean + (tokens - mean) / self._finished[mode]

    def order(self) -> list[str]:
        """Return the modes, the one with the longest expected answers first."""
        return sorted(MODES, key=lambda mode: (-self._expected[mode], mode == "ift"))

    def wants(self, in_flight: int) -> bool:
        """Whether another chunk is to be claimed before the next row is asked for."""
        longest = self.order()[0]
        return not self._waiting[longest] and len(self) < max(1, in_flight // KEPT_BACK)

    def pop(self) -> Key:
        """Remove and return the row to ask for next; there must be one."""
        mode = next(mode for mode in self.order() if self._waiting[mode])
        return heapq.heappop(self._waiting[mode])[2]
