"""The distribution of lengths, in memory that depends on the longest one only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class Lengths:
    """How many texts have each length."""

    def __init__(self) -> None:
        self._counts = np.zeros(0, np.int64)

    def add(self, lengths: NDArray[np.int64]) -> None:
        """Count these lengths."""
        counts = np.bincount(lengths, minlength=len(self._counts))
        counts[: len(self._counts)] += self._counts
        self._counts = counts

    def summary(self) -> dict[str, Any]:
        """Return mean, median, 90th percentile, maximum and sum; there is at least one length."""
        below = np.cumsum(self._counts)
        number, total = int(below[-1]), int(self._counts @ np.arange(len(self._counts)))
        return {
            "mean": total / number,
            "p50": _percentile(below, 0.5),
            "p90": _percentile(below, 0.9),
            "max": len(self._counts) - 1,
            "total": total,
        }


def _percentile(below: NDArray[np.int64], share: float) -> float:
    """Return a percentile as numpy does, between two lengths in proportion.

    Args:
        below: The number of texts of at most each length.
    """
    place = share * (int(below[-1]) - 1)
    rank = int(place)
    low, high = np.searchsorted(below, [rank, min(rank + 1, int(below[-1]) - 1)], side="right").tolist()
    return float(low + (place - rank) * (high - low))
