"""Best-fit decreasing on row lengths: which block each row goes into.

Rows are taken from the longest to the shortest, and each goes into the block with the least room that it fits
into. Lengths are whole numbers up to the block size, so rows of one length, and blocks with one amount of
room, are handled at once: the tightest block takes as many rows of a length as fit, since it stays the
tightest. A million rows take some hundred thousand such steps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def best_fit(lengths: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return the block of each row, of shape (rows,); blocks are counted from 0.

    Args:
        lengths: Tokens of each row, from 1 to `size`.
        size: Tokens of a block.
    """
    order = np.argsort(-lengths, kind="stable")
    values, counts = np.unique(lengths, return_counts=True)
    assert not len(lengths) or values[-1] <= size
    room = _Room(size)
    blocks = list[int]()  # those that take rows, in turn
    taken = list[tuple[int, int]]()  # of these: how many blocks take how many rows each
    for length, count in zip(values[::-1].tolist(), counts[::-1].tolist(), strict=True):
        while count:
            left = room.tightest(length)
            each = min(left // length, count)
            chosen = room.take(left, count // each)
            room.give(left - each * length, chosen)
            blocks += chosen
            taken.append((len(chosen), each))
            count -= each * len(chosen)
    many, each_of = np.array(taken, np.int64).reshape(-1, 2).T
    found = np.empty(len(lengths), np.int64)
    found[order] = np.repeat(np.array(blocks, np.int64), np.repeat(each_of, many))
    return found


class _Room:
    """Blocks by the room that is left in them."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._blocks: list[list[int]] = [[] for _ in range(size + 1)]
        self._some = 0  # a bit for each amount of room that some block has
        self._opened = 0

    def tightest(self, length: int) -> int:
        """Return the least room of this length or more that a block has; an empty block can be opened."""
        fitting = self._some >> length
        return length + (fitting & -fitting).bit_length() - 1 if fitting else self._size

    def take(self, room: int, number: int) -> list[int]:
        """Take up to this number of blocks with this room; open them where there is none."""
        blocks = self._blocks[room]
        if not blocks:
            first, self._opened = self._opened, self._opened + number
            return list(range(first, self._opened))
        taken = blocks[-number:]
        del blocks[-number:]
        if not blocks:
            self._some &= ~(1 << room)
        return taken

    def give(self, room: int, blocks: list[int]) -> None:
        """Put blocks back, with the room that they have now."""
        self._blocks[room] += blocks
        self._some |= 1 << room
