"""Near duplicates: prompts whose runs of five words are the same up to a Jaccard similarity.

Candidates are found by MinHash and locality-sensitive hashing (Broder 1997; as for web text in Lee et al.
2022, "Deduplicating Training Data Makes Language Models Better", arXiv 2107.06499), and each is then
compared exactly. So no prompt is dropped below the threshold, and MISSED of the pairs at the threshold are
missed, at most; far fewer above it.

A prompt is dropped if an earlier one that stays is as similar: of a chain of prompts, each similar to the
next, those stay that are not similar to each other.

Measured with 64 words a prompt: see docs/models-and-data.md, "Filters".
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from jobs.data.filters.words import Hashed, Places, mixed

SIZE = 5  # words of a run
MINIMA = 128  # at most, for each prompt
MISSED = 1e-3
MOST = 100  # prompts that one is compared with, at most: those with which it shares the most bands
Bands = npt.NDArray[np.uint32]


def rows_of(threshold: float) -> int:
    """Return how many minima make a band: as many as MISSED allows."""

    def missed(rows: int) -> float:
        return float((1 - threshold**rows) ** (MINIMA // rows))

    return max((rows for rows in range(1, 17) if missed(rows) <= MISSED), default=1)


class Sketch(NamedTuple):
    """What is to be known of some prompts, in order.

    Args:
        bands: Hashes of bands of minima, one row a prompt.
        runs: Hashes of runs of words, prompt after prompt.
        starts: Where each prompt's runs begin, and where the last one's end.
    """

    bands: Bands
    runs: npt.NDArray[np.uint32]
    starts: Places


def sketch(hashed: Hashed, threshold: float) -> Sketch:
    """Sketch prompts, given by their words."""
    runs, starts = hashed.shingles(SIZE)
    rows = rows_of(threshold)
    count = MINIMA // rows
    keys = np.zeros((count, len(starts) - 1), np.uint64)
    factors = np.random.default_rng(0).integers(0, 2**63, MINIMA, np.uint64) * np.uint64(2) + np.uint64(1)
    for number, factor in enumerate(factors[: rows * count]):
        minima = np.minimum.reduceat((runs * factor) >> np.uint64(32), starts[:-1])
        keys[number // rows] = mixed(keys[number // rows] * np.uint64(31) + minima)
    return Sketch(keys.T.astype(np.uint32), runs.astype(np.uint32), starts)


class Sketches:
    """The sketches of all prompts: bands in memory, runs of words in a file, which is removed at the end.

    Args:
        file: Where to write; removed on exit.
        threshold: Jaccard similarity from which the later prompt is dropped.
    """

    def __init__(self, file: Path, threshold: float) -> None:
        self.threshold = threshold
        self._path, self._file = file, file.open("wb")
        self._bands: list[Bands] = []
        self._starts = array("q", [0])

    def __enter__(self) -> Sketches:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)

    def add(self, found: Sketch) -> None:
        """Add the next prompts."""
        self._bands.append(found.bands)
        self._starts.extend((found.starts[1:] + self._starts[-1]).tolist())
        self._file.write(found.runs.tobytes())

    def later(self, among: npt.NDArray[np.bool_]) -> dict[int, int]:
        """Return the prompts to drop, by their number, with the earlier one that each is similar to.

        Args:
            among: Which prompts are compared.
        """
        self._file.flush()
        places = np.flatnonzero(among)
        if len(places) < 2:
            return {}
        runs = np.memmap(self._path, np.uint32, "r")
        starts, bands = self._starts, np.concatenate(self._bands)[places]
        self._bands.clear()

        @lru_cache(10_000)
        def of(number: int) -> frozenset[int]:
            return frozenset(runs[starts[number] : starts[number + 1]].tolist())

        kept: dict[int, list[int]] = {}  # by bucket
        found: dict[int, int] = {}
        for place, buckets in _shared(bands):
            number = int(places[place])
            near = Counter[int]()
            for bucket in buckets:
                near.update(kept.get(bucket, ()))
            own = of(number)
            likely = (other for other, _ in near.most_common(MOST) if self._similar(own, of(other)))
            first = next(likely, None)
            if first is not None:
                found[number] = first
                continue
            for bucket in buckets:
                if len(others := kept.setdefault(bucket, [])) < MOST:
                    others.append(number)
        return found

    def _similar(self, one: frozenset[int], other: frozenset[int]) -> bool:
        shared = len(one & other)
        return shared >= self.threshold * (len(one) + len(other) - shared)


def _shared(bands: Bands) -> Iterator[tuple[int, list[int]]]:
    """Yield each prompt that shares a bucket with another one, in order, with its shared buckets."""
    numbers, buckets, last = [], [], 0
    for column in bands.T:
        order = np.argsort(column, kind="stable")
        values = column[order]
        fresh = np.concatenate([[True], values[1:] != values[:-1]])
        alone = fresh & np.concatenate([fresh[1:], [True]])
        bucket = np.cumsum(fresh, dtype=np.int64) + last
        last = int(bucket[-1])
        numbers.append(order[~alone].astype(np.int32))
        buckets.append(bucket[~alone])
    every, where = np.concatenate(numbers), np.concatenate(buckets)
    order = np.argsort(every, kind="stable")
    pairs: Iterator[Any] = zip(every[order].tolist(), where[order].tolist(), strict=True)
    for number, group in groupby(pairs, key=lambda pair: pair[0]):
        yield number, [bucket for _, bucket in group]
