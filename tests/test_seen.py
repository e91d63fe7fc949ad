"""Identifiers seen before and the distribution of lengths, against Python's sets and numpy's percentiles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.data.lengths import Lengths
from jobs.data.seen import Seen, hashed


@given(st.lists(st.lists(st.integers(0, 40), max_size=12), max_size=30))
def test_the_first_of_equal_identifiers_is_new(batches: list[list[int]]) -> None:
    seen, known = Seen(), set[int]()
    for batch in batches:
        expected = [number not in known and number not in batch[:i] for i, number in enumerate(batch)]
        assert seen.add(hashed(map(str, batch))).tolist() == expected
        known |= set(batch)


def test_a_million_identifiers_take_8_bytes_each() -> None:
    seen = Seen()
    for start in range(0, 1_000_000, 1000):
        assert seen.add(np.arange(start, start + 1000, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)).all()
    assert sum(run.nbytes for run in seen._runs) == 8_000_000
    assert len(seen._runs) < 20


@given(st.lists(st.lists(st.integers(0, 500), max_size=20), min_size=1, max_size=10).filter(any))
def test_lengths_are_summed_up_as_numpy_does(batches: list[list[int]]) -> None:
    lengths, every = Lengths(), np.array([n for batch in batches for n in batch])
    for batch in batches:
        lengths.add(np.array(batch, np.int64))
    found = lengths.summary()
    assert (found["max"], found["total"]) == (every.max(), every.sum())
    assert found["mean"] == pytest.approx(every.mean())
    assert [found["p50"], found["p90"]] == pytest.approx(np.percentile(every, [50, 90]).tolist())
