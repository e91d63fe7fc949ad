"""Best fit on row lengths: which block each row goes into.

Most of each block is dealt: rows in the order in which they come, so that a block has rows of many lengths,
and a step of few blocks sees much the same as any other. What is left fills the blocks up by best-fit
decreasing: from the longest row to the shortest, each goes into the block with the least room that it fits
into. All rows by best-fit decreasing would make blocks of rows of one length each.

Lengths are whole numbers up to the block size, so rows of one length, and blocks with one amount of room, are
handled at once: the tightest block takes as many rows of a length as fit, since it stays the tightest. A
million rows take some hundred thousand such steps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

DEALT = 0.8  # of a block; more mixes rows better, and fills blocks less: below 99.5 % from 0.85


def best_fit(lengths: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return the block of each row, of shape (rows,); blocks are counted from 0.

    Args:
        lengths: Tokens of each row, from 1 to `size`, in random order.
        size: Tokens of a block.
    """
    assert not len(lengths) or (lengths.min() > 0 and lengths.max() <= size)
    found, room = _dealt(lengths, size)
    rest = np.flatnonzero(found < 0)
    found[rest] = _decreasing(lengths[rest], _Room(size, room))
    return found


def _dealt(lengths: NDArray[np.int64], size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Deal rows to the fewest blocks that can hold all: one to each for long rows, the others in turn.

    Returns:
        The block of each row, -1 where none is dealt yet, and the room left in each block.
    """
    found = np.full(len(lengths), -1, np.int64)
    room = np.full(-(-int(lengths.sum()) // size), size, np.int64)
    is_long = lengths > DEALT * size
    long, others = np.flatnonzero(is_long)[: len(room)], np.flatnonzero(~is_long)
    found[long] = np.arange(len(long))
    room[: len(long)] -= lengths[long]
    takers = np.arange(len(long), len(room))
    rounds = int(DEALT * size / lengths[others].mean()) if len(others) else 0
    for turn in range(rounds):
        rows = others[turn * len(takers) :][: len(takers)]
        blocks = takers[: len(rows)]
        fits = lengths[rows] <= room[blocks]
        found[rows[fits]] = blocks[fits]
        room[blocks[fits]] -= lengths[rows[fits]]
    return found, room


def _decreasing(lengths: NDArray[np.int64], room: _Room) -> NDArray[np.int64]:
    """Return the block of each row, by best-fit decreasing into this room and new blocks."""
    order = np.argsort(-lengths, kind="stable")
    values, counts = np.unique(lengths, return_counts=True)
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
    """Blocks by the room that is left in them.

    Args:
        size: Tokens of a block.
        room: What is left in the blocks that are open already.
    """

    def __init__(self, size: int, room: NDArray[np.int64]) -> None:
        self._size = size
        self._blocks: list[list[int]] = [[] for _ in range(size + 1)]
        self._some = 0  # a bit for each amount of room that some block has
        self._opened = len(room)
        for block, left in enumerate(room.tolist()):
            self.give(left, [block])

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
