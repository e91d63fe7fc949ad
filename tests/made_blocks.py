"""Blocks in memory of rows that a test has laid out itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from jobs.data.blocks import Blocks, Index
from jobs.data.token_store import PLAIN, PROMPT, REASONED
from jobs.text.encoding import Row


def made_blocks(blocks: Sequence[Sequence[Row]], size: int, phases: tuple[int, ...] = ()) -> Blocks:
    """Blocks that hold these rows.

    Args:
        phases: blocks of each training phase; by default, there is one phase.
    """
    rows = [row for block in blocks for row in block]
    bounds = np.cumsum([0, *map(len, blocks)])
    reasoned = np.array([row.reasoned for row in rows], bool)
    index = Index(np.arange(len(rows), dtype=np.uint32), reasoned, bounds, phases or (len(blocks),))
    return replace(Blocks.of_rows(rows, size), index=index)


def row(length: int, answer: int, start: int = 0, reasoned: bool = False) -> Row:
    """A row of so many tokens, the last of them an answer, whose tokens count up from `start`."""
    tokens = range(start, start + length)
    return Row(tokens[: length - answer], tokens[length - answer :], reasoned)


def rows_of(blocks: Blocks, first: int = 0, last: int | None = None) -> list[tuple[list[int], list[int]]]:
    """Prompt and answer tokens of all rows in some blocks; by default, of all from the first one."""
    store, index = blocks.store, blocks.index
    held = slice(index.bounds[first], index.bounds[len(blocks) if last is None else last])
    found = []
    for pair, reasoned in zip(index.pairs[held].tolist(), index.reasoned[held].tolist(), strict=True):
        parts = np.cumsum([store.starts[pair], *store.lengths[pair]])
        prompt, answer = (
            store.tokens[parts[n] : parts[n + 1]].tolist() for n in (PROMPT, REASONED if reasoned else PLAIN)
        )
        found.append((prompt, answer))
    return found
