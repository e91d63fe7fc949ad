"""Which identifiers were seen before, in 8 bytes each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

BYTES = 8


def hashed(ids: Iterable[str]) -> NDArray[np.uint64]:
    """Return hashes of identifiers: among 3 million, two are alike with a probability of 2.4e-7."""
    digests = (hashlib.blake2b(id.encode(), digest_size=BYTES).digest() for id in ids)
    return np.frombuffer(b"".join(digests), np.uint64)


class Seen:
    """A set of hashes that only grows: sorted arrays, each at least twice as long as the next.

    A batch is looked up in each by bisection, and arrays are merged as in a merge sort: n hashes take
    O(n log n) steps in all.
    """

    def __init__(self) -> None:
        self._runs: list[NDArray[np.uint64]] = []

    def add(self, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Add hashes; return which of them are new, of equal ones the first."""
        distinct, first = np.unique(hashes, return_index=True)
        fresh = np.ones(len(distinct), bool)
        for run in self._runs:
            place = np.minimum(np.searchsorted(run, distinct), len(run) - 1)
            fresh &= run[place] != distinct
        new = np.zeros(len(hashes), bool)
        new[first[fresh]] = True
        if fresh.any():
            self._runs.append(distinct[fresh])
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            last = self._runs.pop()
            self._runs[-1] = np.sort(np.concatenate([self._runs[-1], last]), kind="stable")
        return new
