"""Packed token blocks as training reads them: two arrays on disk, with flags marking where rows start.

`tokens.u32` and `flags.u8` have the shape (blocks, block size). A block holds whole rows, one after another.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jobs.store.rundir import read_json

# Token flags: counts toward the loss; first token of a row; padding; of a row with reasoning.
LEARN, START, PADDING, REASONING = 1, 2, 4, 8


@dataclass(frozen=True)
class Flat:
    """Rows of some blocks one after another, without padding.

    Attributes:
        positions: Each token's position in its own row.
        bounds: First token of each row, and the end of the last one.
        predicting: Tokens whose next token counts toward the loss.
        targets: Those next tokens.
        reasoning: Which of them are of rows with reasoning, as booleans.
    """

    tokens: NDArray[np.int64]
    positions: NDArray[np.int64]
    bounds: NDArray[np.int64]
    predicting: NDArray[np.int64]
    targets: NDArray[np.int64]
    reasoning: NDArray[np.bool_]

    def at_least(self, tokens: int) -> Flat:
        """Return at least this many tokens: if there are fewer, with a row more that predicts nothing."""
        more = np.arange(max(0, tokens - len(self.tokens)))
        return replace(
            self,
            tokens=np.append(self.tokens, np.zeros_like(more)),
            positions=np.append(self.positions, more),
            bounds=np.append(self.bounds, [tokens] * bool(len(more))).astype(np.int64),
        )

    def part(self, start: int, end: int) -> Flat:
        """Return the tokens from `start` to before `end`, with what they predict, and all `bounds`."""
        held = slice(*np.searchsorted(self.predicting, (start, end)))
        return Flat(
            self.tokens[start:end],
            self.positions[start:end],
            self.bounds,
            self.predicting[held] - start,
            self.targets[held],
            self.reasoning[held],
        )


@dataclass(frozen=True)
class Blocks:
    """Packed blocks, memory-mapped from disk.

    Attributes:
        tokens, flags: Shape (blocks, block size).
        phases: Number of blocks per training phase, in order.
        marked: Whether flags say which rows have reasoning; those of earlier versions do not.
    """

    tokens: NDArray[np.uint32]
    flags: NDArray[np.uint8]
    phases: tuple[int, ...]
    marked: bool = True

    @classmethod
    def open(cls, folder: Path) -> Blocks:
        """Open the blocks published by a pack unit."""
        result = read_json(folder / "result.json")
        phases = tuple(p["blocks"] for p in result["phases"])
        shape = (sum(phases), result["block_size"])
        tokens = np.memmap(folder / "tokens.u32", np.uint32, "r", shape=shape)
        flags = np.memmap(folder / "flags.u8", np.uint8, "r", shape=shape)
        return cls(tokens, flags, phases, "reasoning_rows" in result)

    def read_ahead(self, blocks: NDArray[np.int64]) -> None:
        """Have the system read these blocks from disk while other work is done; do not wait for it."""
        for array in (self.tokens, self.flags):
            if isinstance(array.base, mmap.mmap):
                size = array.shape[1] * array.itemsize
                for first in (size * blocks).tolist():
                    start = first // mmap.PAGESIZE * mmap.PAGESIZE
                    array.base.madvise(mmap.MADV_WILLNEED, start, first + size - start)

    def answers(self, blocks: NDArray[np.int64]) -> tuple[int, int]:
        """Return the number of answer tokens in these blocks: of plain rows, and of rows with reasoning."""
        flags = self.flags[blocks]
        answers, reasoning = ((flags & LEARN) != 0), ((flags & REASONING) != 0)
        both = int(np.count_nonzero(answers & reasoning))
        return int(np.count_nonzero(answers)) - both, both

    def rows(self, blocks: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the lengths in tokens of all rows in these blocks, excluding padding, and each row's block.

        Returns:
            Two arrays of shape (rows,); a row's block is its place in `blocks`.
        """
        flags = self.flags[blocks].ravel()  # each block begins with a start: rows never span two
        starts = np.flatnonzero(flags & START)
        lengths = np.diff(np.append(starts, len(flags)))
        real = (flags[starts] & PADDING) == 0
        return lengths[real], starts[real] // self.flags.shape[1]

    def lengths(self, blocks: NDArray[np.int64]) -> list[int]:
        """Return the lengths in tokens of all rows in these blocks, excluding padding."""
        found: list[int] = self.rows(blocks)[0].tolist()
        return found

    def flat(self, blocks: NDArray[np.int64]) -> Flat:
        """Return these blocks' rows one after another, without padding."""
        flags = self.flags[blocks].ravel()
        kept = (flags & PADDING) == 0
        tokens, flags = self.tokens[blocks].ravel()[kept].astype(np.int64), flags[kept]
        bounds = np.append(np.flatnonzero(flags & START), len(flags))
        positions = np.arange(len(flags)) - np.repeat(bounds[:-1], np.diff(bounds))
        learnt = np.flatnonzero(
            (flags & (LEARN | START)) == LEARN
        )  # nothing comes before a row's first token
        reasoning = (flags[learnt] & REASONING) != 0
        return Flat(tokens, positions, bounds, learnt - 1, tokens[learnt], reasoning)
