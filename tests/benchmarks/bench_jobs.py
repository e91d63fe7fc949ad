"""Packing by best fit, beside first fit over a window of open blocks, and next fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from measure import Ratio, seconds
from numpy.typing import NDArray

from jobs.data.best_fit import best_fit

SIZE = 16_384
OPEN = 64  # blocks that first fit keeps open
Lengths = NDArray[np.int64]


def ratios() -> Iterator[Ratio]:
    """All measurements of this file."""
    lengths = drawn(100_000)
    ours, name = best_fit(lengths, SIZE), "best fit"
    filled, time = of_a_block(lengths, ours), seconds(lambda: best_fit(lengths, SIZE)) / len(lengths)
    others = {"first fit over a window": first_fit, "next fit": next_fit}
    for other, fill in others.items():
        theirs = of_a_block(lengths, fill(lengths))
        yield Ratio(f"packing: filled by {name}", other, filled, theirs, "of a block")
        taken = timed(fill, lengths)
        yield Ratio(f"packing: time of {name}", other, 1e6 * time, 1e6 * taken, "µs a row")


def drawn(rows: int) -> Lengths:
    """Return lengths of rows of the paper's means: half plain answers, half with reasoning."""
    rng = np.random.default_rng(0)
    answers = [rng.lognormal(np.log(mean) - 0.32, 0.8, rows // 2) for mean in (650, 3450)]
    lengths = np.concatenate(answers).astype(np.int64) + 150
    return rng.permutation(lengths[lengths <= SIZE])


def of_a_block(lengths: Lengths, blocks: NDArray[np.int64]) -> float:
    """Return the share of a block that is filled, on average."""
    return float(lengths.sum() / (blocks.max() + 1) / SIZE)


def timed(fill: Callable[[Lengths], NDArray[np.int64]], lengths: Lengths) -> float:
    """Return the seconds of one row."""
    return seconds(lambda: fill(lengths)) / len(lengths)


def first_fit(lengths: Lengths) -> NDArray[np.int64]:
    """Put each row into the first of some open blocks that it fits into, as earlier versions did."""
    numbers, room, found = list[int](), list[int](), list[int]()
    opened = 0
    for length in lengths.tolist():
        place = next((i for i, left in enumerate(room) if left >= length), None)
        if place is None:
            if len(room) == OPEN:
                fullest = room.index(min(room))
                del room[fullest], numbers[fullest]
            place = len(room)
            room.append(SIZE)
            numbers.append(opened)
            opened += 1
        found.append(numbers[place])
        room[place] -= length
    return np.array(found)


def next_fit(lengths: Lengths) -> NDArray[np.int64]:
    """Fill one block after the other, and begin the next where a row does not fit."""
    block, room, found = 0, SIZE, list[int]()
    for length in lengths.tolist():
        if length > room:
            block, room = block + 1, SIZE
        found.append(block)
        room -= length
    return np.array(found)


if __name__ == "__main__":
    for ratio in ratios():
        print(ratio)
