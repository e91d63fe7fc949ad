"""Packed token blocks as training reads them: two arrays on disk, with flags marking where rows start.

`tokens.u32` and `flags.u8` have the shape (blocks, block size). A block holds whole rows, one after another.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jobs.store.rundir import read_json

LEARN, START, PADDING = 1, 2, 4  # token flags: counts toward the loss; first token of a row; padding


@dataclass(frozen=True)
class Blocks:
    """Packed blocks, memory-mapped from disk."""

    tokens: NDArray[np.uint32]  # shape (blocks, block size)
    flags: NDArray[np.uint8]  # same shape
    phases: tuple[int, ...]  # number of blocks per training phase, in order

    @classmethod
    def open(cls, folder: Path) -> Blocks:
        """Open the blocks published by a pack unit."""
        result = read_json(folder / "result.json")
        phases = tuple(p["blocks"] for p in result["phases"])
        shape = (sum(phases), result["block_size"])
        tokens = np.memmap(folder / "tokens.u32", np.uint32, "r", shape=shape)
        return cls(tokens, np.memmap(folder / "flags.u8", np.uint8, "r", shape=shape), phases)

    def lengths(self, blocks: NDArray[np.int64]) -> list[int]:
        """Return the lengths in tokens of all rows in these blocks, excluding padding."""
        flags = self.flags[blocks].ravel()  # each block begins with a start: rows never span two
        starts = np.flatnonzero(flags & START)
        lengths = np.diff(np.append(starts, len(flags)))
        return [int(n) for n in lengths[(flags[starts] & PADDING) == 0]]

    def positions(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return each token's position in its own row, of shape (len(blocks), block size)."""
        flags = self.flags[blocks]
        index = np.arange(flags.shape[1])
        return index - np.maximum.accumulate(np.where(flags & START, index, 0), axis=1)
