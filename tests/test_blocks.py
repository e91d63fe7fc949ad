"""Best fit puts each row into one block, and blocks of a token store hold what was put into it."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_blocks import made_blocks, row
from numpy.typing import NDArray
from small_study import wait_for

from jobs.data.best_fit import _decreasing, _Room, best_fit
from jobs.data.blocks import Blocks, Index, indexed
from jobs.data.token_store import Pairs, TokenStore, token_type, write
from jobs.store.rundir import write_json
from jobs.text.encoding import Row

SIZE = 40


# Best fit


def one_by_one(lengths: list[int], size: int) -> list[int]:
    """The rows of each block in tokens, packed by best-fit decreasing as it is written in textbooks."""
    blocks: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [number for number, used in enumerate(blocks) if used + length <= size]
        if fitting:
            blocks[max(fitting, key=blocks.__getitem__)] += length
        else:
            blocks.append(length)
    return sorted(blocks)


@given(st.lists(st.integers(1, SIZE), max_size=120))
def test_what_is_left_fills_blocks_as_best_fit_row_by_row_does(lengths: list[int]) -> None:
    found = _decreasing(np.array(lengths, np.int64), _Room(SIZE, np.zeros(0, np.int64)))
    assert sorted(np.bincount(found, lengths).tolist() if lengths else []) == one_by_one(lengths, SIZE)


@given(st.lists(st.integers(1, SIZE), max_size=120))
def test_each_row_is_in_one_block_and_each_block_has_rows(lengths: list[int]) -> None:
    found = best_fit(np.array(lengths, np.int64), SIZE)
    used = np.bincount(found, lengths) if lengths else np.zeros(0)
    assert found.min(initial=0) == 0
    assert ((used > 0) & (used <= SIZE)).all()


def test_blocks_mix_rows_of_unlike_lengths() -> None:
    lengths = np.random.default_rng(0).permutation(np.repeat([14, 16, 22], [400, 1400, 1600]))

    def spread(found: NDArray[np.int64]) -> float:
        return float(np.std(np.bincount(found, lengths == 22) / np.bincount(found)))

    sorted_ = _decreasing(lengths, _Room(128, np.zeros(0, np.int64)))
    in_turn = np.arange(len(lengths)) // 7  # whatever comes next
    assert spread(best_fit(lengths, 128)) < 1.4 * spread(in_turn)
    assert spread(sorted_) > 2 * spread(in_turn)


def drawn(rows: int, *means: int, size: int = 16_384) -> NDArray[np.int64]:
    """Lengths of rows with answers of these mean lengths, an equal number of each, and prompts."""
    rng = np.random.default_rng(0)
    answers = [rng.lognormal(np.log(mean) - 0.32, 0.8, rows // len(means)) for mean in means]
    lengths = np.concatenate(answers).astype(np.int64) + 150
    return lengths[lengths <= size]


@pytest.mark.parametrize("means", [(650,), (3450,), (650, 3450)])
def test_blocks_of_real_lengths_are_full(means: tuple[int, ...]) -> None:
    lengths = drawn(100_000, *means)
    used = np.bincount(best_fit(lengths, 16_384), lengths)
    assert used.max() <= 16_384
    assert used.sum() / used.size / 16_384 > 0.995


def test_rows_of_one_length_keep_their_order_and_a_block_is_filled_to_the_last_token() -> None:
    assert best_fit(np.array([20, 5, 20, 40, 20, 15]), 40).tolist() == [1, 2, 1, 0, 2, 2]
    with pytest.raises(AssertionError):
        best_fit(np.array([41]), 40)


def test_no_block_holds_rows_of_two_phases() -> None:
    lengths = np.array([[4, 6, 16], [4, 6, 16], [4, 6, 16]], np.uint32)
    plain, thought = np.array([2, 0]), np.array([1])
    index = indexed(lengths, [(plain, np.zeros(2, bool)), (thought, np.ones(1, bool))], SIZE)
    assert index.pairs.tolist() == [2, 0, 1]
    assert index.reasoned.tolist() == [False, False, True]
    assert (index.bounds.tolist(), index.phases) == ([0, 2, 3], (1, 1))


# Blocks in memory


def test_lengths_and_positions() -> None:
    blocks = made_blocks([[row(5, 2), row(3, 2, 10), row(1, 1, 20)], [row(8, 3, 30)]], 10)
    assert [blocks.lengths(np.array([i])) for i in range(2)] == [[5, 3, 1], [8]]
    assert blocks.lengths(np.array([1, 0])) == [8, 5, 3, 1]
    assert blocks.rows(np.array([1, 0]))[1].tolist() == [0, 1, 1, 1]
    flat = blocks.flat(np.array([0, 1]))
    lengths = [5, 3, 1, 8]
    assert np.diff(flat.bounds).tolist() == lengths
    assert flat.positions.tolist() == [i for length in lengths for i in range(length)]
    assert flat.tokens.tolist() == [*range(5), *range(10, 13), 20, *range(30, 38)]
    assert flat.targets.tolist() == [3, 4, 11, 12, 35, 36, 37]
    assert flat.tokens[flat.predicting + 1].tolist() == flat.targets.tolist()
    assert blocks.flat(np.arange(0)).tokens.tolist() == []


def test_a_rows_first_token_is_nothing_to_predict() -> None:
    flat = made_blocks([[Row([], [1, 2]), Row([], [3, 4])]], 5).flat(np.array([0]))
    assert (flat.predicting.tolist(), flat.targets.tolist()) == ([0, 2], [2, 4])


def test_answers_are_counted_by_kind() -> None:
    blocks = made_blocks([[row(5, 2), row(6, 3, reasoned=True)], [row(7, 4)]], 20)
    assert [blocks.answers(np.array(chosen)) for chosen in ([0], [1], [0, 1])] == [(2, 3), (4, 0), (6, 3)]
    assert blocks.flat(np.array([0, 1])).reasoning.tolist() == [False] * 2 + [True] * 3 + [False] * 4


# Blocks of a store


@pytest.fixture(params=[np.uint16, np.uint32])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> TokenStore:
    """Two pairs with tokens, and one between them without."""
    kind = np.dtype(request.param)
    batches = [
        Pairs(np.arange(9), np.array([[2, 3, 4]], np.uint32), np.array([0], np.uint8)),
        Pairs(np.arange(9, 13), np.array([[0, 0, 0], [1, 1, 2]], np.uint32), np.array([2, 0], np.uint8)),
    ]
    result = write(tmp_path, batches, kind)
    assert result == {
        "prompts": 2, "dropped": {"stray_tags": 0, "switched": 1},
        "tokens": {"prompt": 3, "ift": 4, "reasoning": 6}, "type": kind.name,
    }  # fmt: skip
    write_json(tmp_path / "result.json", result)
    return TokenStore.open(tmp_path)


def test_each_pair_is_read_in_either_mode(store: TokenStore) -> None:
    pairs, reasoned = np.array([0, 2, 2, 0], np.uint32), np.array([False, True, False, True])
    blocks = Blocks(store, Index(pairs, reasoned, np.array([0, 2, 3, 4]), (3,)), 10)
    rows = [[[0, 1, 2, 3, 4], [9, 11, 12]], [[9, 10]], [[0, 1, 5, 6, 7, 8]]]
    for number, expected in enumerate(rows):
        flat = blocks.flat(np.array([number]))
        assert np.split(flat.tokens, flat.bounds[1:-1])[0].tolist() == expected[0]
        assert flat.tokens.tolist() == [token for tokens in expected for token in tokens]
    assert blocks.flat(np.array([2])).targets.tolist() == [5, 6, 7, 8]
    blocks.read_ahead(np.arange(3))
    blocks.read_ahead(np.arange(0))
    assert not store.tokens.flags.writeable


def test_small_vocabularies_take_two_bytes_a_token() -> None:
    assert [token_type(words).itemsize for words in (65_536, 65_537)] == [2, 4]


PAIRS, LONG = 3000, 1500  # tokens of a pair; no pair but the first starts with a page


def in_memory(store: TokenStore, pair: int) -> bool:
    """Whether all pages of a pair are in memory."""
    start = int(store.tokens.ctypes.data + pair * LONG * store.tokens.itemsize)
    first = start // mmap.PAGESIZE * mmap.PAGESIZE
    length = start + LONG * store.tokens.itemsize - first
    pages = (ctypes.c_ubyte * -(-length // mmap.PAGESIZE))()
    assert ctypes.CDLL(None).mincore(ctypes.c_void_p(first), ctypes.c_size_t(length), pages) == 0
    return all(page & 1 for page in pages)


@pytest.mark.optional
def test_blocks_are_read_ahead_and_no_others(tmp_path: Path) -> None:
    lengths = np.tile(np.array([500, 0, 1000], np.uint32), (PAIRS, 1))
    made = Pairs(np.arange(PAIRS * LONG), lengths, np.zeros(PAIRS, np.uint8))
    write_json(tmp_path / "result.json", write(tmp_path, [made], np.dtype(np.uint32)))
    with (tmp_path / "tokens.u32").open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    store = TokenStore.open(tmp_path)
    if in_memory(store, 7):
        pytest.skip("the folder of tests is in memory")
    index = Index(np.arange(PAIRS, dtype=np.uint32), np.ones(PAIRS, bool), np.arange(PAIRS + 1), (PAIRS,))
    blocks = Blocks(store, index, LONG)
    wanted = np.array([7, 2500, PAIRS - 1])
    blocks.read_ahead(wanted)
    wait_for(lambda: all(in_memory(store, int(n)) for n in wanted), "the blocks", 20)
    assert not in_memory(store, 1250)
    assert store.tokens[2500 * LONG] == 2500 * LONG


def test_an_index_is_read_as_it_was_written(tmp_path: Path) -> None:
    made: Any = made_blocks([[row(3, 1), row(4, 1, reasoned=True)], [row(5, 2)]], 10, (1, 1)).index
    made.save(tmp_path / "index.npz")
    found = Index.open(tmp_path / "index.npz")
    assert found.phases == (1, 1)
    for name in ("pairs", "reasoned", "bounds"):
        assert getattr(found, name).tolist() == getattr(made, name).tolist()
        assert getattr(found, name).dtype == getattr(made, name).dtype
