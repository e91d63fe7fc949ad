"""Packing against filling blocks one after the other."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator

from measure import Ratio, seconds

from jobs.stages.pack import Row, packed

SIZE = 4096


def ratios() -> Iterator[Ratio]:
    """All measurements of this file."""
    rng = random.Random(0)  # lengths as reasoning traces have them: many short, few very long
    lengths = [min(SIZE, 1 + round(rng.lognormvariate(6.2, 1.0))) for _ in range(100_000)]
    rows = [Row((), range(n)) for n in lengths]
    tokens = sum(lengths)
    blocks, others = sum(1 for _ in packed(rows, SIZE)), sum(1 for _ in next_fit(rows, SIZE))
    first, second = "first fit over a window", "next fit"
    yield Ratio(
        f"packing: filled by {first}", second, tokens / blocks / SIZE, tokens / others / SIZE, "of a block"
    )

    def of_a_row(fill: Callable[[Iterable[Row], int], Iterator[list[Row]]]) -> float:
        return seconds(lambda: [len(b) for b in fill(rows, SIZE)]) / len(rows)

    ours, theirs = of_a_row(packed), of_a_row(next_fit)
    yield Ratio(f"packing: time of {first}", second, 1e6 * ours, 1e6 * theirs, "µs a row")


def next_fit(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    """Fill one block after the other, and begin the next where a row does not fit."""
    block: list[Row] = []
    room = size
    for row in rows:
        if len(row) > room:
            yield block
            block, room = [], size
        block.append(row)
        room -= len(row)
    yield block


if __name__ == "__main__":
    for ratio in ratios():
        print(ratio)
