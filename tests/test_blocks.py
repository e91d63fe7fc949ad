"""Packed blocks on disk: the blocks of a next step are read while others are trained on."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_study import wait_for

from jobs.data.blocks import Blocks
from jobs.store.rundir import write_json

BLOCKS, SIZE = 3000, 1500  # of tokens; no block but the first starts with a page


@pytest.fixture
def blocks(tmp_path: Path) -> Blocks:
    """Blocks on disk of which nothing is in memory."""
    tokens = np.arange(BLOCKS * SIZE, dtype=np.uint32)
    for name, array in (("tokens.u32", tokens), ("flags.u8", tokens.astype(np.uint8))):
        array.tofile(tmp_path / name)
        with (tmp_path / name).open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    write_json(tmp_path / "result.json", {"phases": [{"blocks": BLOCKS}], "block_size": SIZE})
    return Blocks.open(tmp_path)


def in_memory(array: Any, block: int) -> bool:
    """Whether all pages of a block are in memory."""
    start = int(array.ctypes.data + block * SIZE * array.itemsize)
    first = start // mmap.PAGESIZE * mmap.PAGESIZE
    length = start + SIZE * array.itemsize - first
    pages = (ctypes.c_ubyte * -(-length // mmap.PAGESIZE))()
    assert ctypes.CDLL(None).mincore(ctypes.c_void_p(first), ctypes.c_size_t(length), pages) == 0
    return all(page & 1 for page in pages)


@pytest.mark.optional
def test_blocks_are_read_ahead_and_no_others(blocks: Blocks) -> None:
    if in_memory(blocks.tokens, 7):
        pytest.skip("the folder of tests is in memory")
    wanted = np.array([7, 2500, BLOCKS - 1])
    blocks.read_ahead(wanted)
    for array in (blocks.tokens, blocks.flags):
        wait_for(lambda array=array: all(in_memory(array, n) for n in wanted), "the blocks", 20)
    assert not in_memory(blocks.tokens, 1250)
    assert blocks.tokens[2500, 0] == 2500 * SIZE


def test_blocks_that_never_were_on_disk_are_left_alone() -> None:
    made = Blocks(np.ones((2, 4), np.uint32), np.ones((2, 4), np.uint8), (2,))
    made.read_ahead(np.arange(2))
    made.read_ahead(np.arange(0))
