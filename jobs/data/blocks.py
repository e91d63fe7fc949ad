"""Blocks of whole rows, as training reads them: an index into a token store, assembled when they are read.

A block holds whole rows one after another, without attention across them (training restarts positions at
each row). Only answer tokens count toward the loss, never prompts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from jobs.data.best_fit import best_fit
from jobs.data.token_store import PLAIN, PROMPT, REASONED, TokenStore
from jobs.text.encoding import Row


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
class Index:
    """Which rows each block holds.

    Attributes:
        pairs: The pair of each row, block after block, of shape (rows,).
        reasoned: Whether it is the pair's answer with reasoning, of shape (rows,).
        bounds: The first row of each block, and the end of the last one, of shape (blocks + 1,).
        phases: Number of blocks per training phase, in order.
    """

    pairs: NDArray[np.uint32]
    reasoned: NDArray[np.bool_]
    bounds: NDArray[np.int64]
    phases: tuple[int, ...]

    @classmethod
    def open(cls, file: Path) -> Index:
        """Read what `save` wrote."""
        with np.load(file) as found:
            return cls(found["pairs"], found["reasoned"], found["bounds"], tuple(found["phases"].tolist()))

    def save(self, file: Path) -> None:
        """Write the index to a file: 5 bytes a row."""
        with file.open("wb") as stream:
            np.savez(stream, **{**vars(self), "phases": np.array(self.phases, np.int64)})


class _Rows(NamedTuple):
    """Rows of some blocks: where their tokens are, and how many."""

    prompt: NDArray[np.int64]
    prompt_length: NDArray[np.int64]
    answer: NDArray[np.int64]
    answer_length: NDArray[np.int64]
    reasoned: NDArray[np.bool_]
    block: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        return self.prompt_length + self.answer_length


@dataclass(frozen=True)
class Blocks:
    """Blocks of a mixture, whose tokens stay in the store until they are read.

    Attributes:
        size: Tokens of a block; the rows of a block may have fewer.
    """

    store: TokenStore
    index: Index
    size: int

    @classmethod
    def of_rows(cls, rows: Iterable[Row], size: int) -> Blocks:
        """Pack rows that are in memory; none is longer than a block."""
        every = list(rows)
        lengths = np.zeros((len(every), 3), np.uint32)
        for place, row in enumerate(every):
            lengths[place, [PROMPT, REASONED if row.reasoned else PLAIN]] = len(row.prompt), len(row.answer)
        tokens = chain.from_iterable((*row.prompt, *row.answer) for row in every)
        store = TokenStore(np.fromiter(tokens, np.uint32), lengths, np.zeros(len(every), np.uint8))
        reasoned = np.array([row.reasoned for row in every], bool)
        return cls(store, indexed(lengths, [(np.arange(len(every)), reasoned)], size), size)

    @property
    def phases(self) -> tuple[int, ...]:
        """Number of blocks per training phase, in order."""
        return self.index.phases

    def __len__(self) -> int:
        return len(self.index.bounds) - 1

    def read_ahead(self, blocks: NDArray[np.int64]) -> None:
        """Have the system read these blocks from disk while other work is done; do not wait for it."""
        rows = self._rows(blocks)
        self.store.read_ahead(rows.prompt, rows.answer + rows.answer_length)

    def answers(self, blocks: NDArray[np.int64]) -> tuple[int, int]:
        """Return the number of answer tokens in these blocks: of plain rows, and of rows with reasoning."""
        rows = self._rows(blocks)
        reasoned = int(rows.answer_length[rows.reasoned].sum())
        return int(rows.answer_length.sum()) - reasoned, reasoned

    def rows(self, blocks: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the lengths in tokens of all rows in these blocks, and each row's block.

        Returns:
            Two arrays of shape (rows,); a row's block is its place in `blocks`.
        """
        rows = self._rows(blocks)
        return rows.lengths, rows.block

    def lengths(self, blocks: NDArray[np.int64]) -> list[int]:
        """Return the lengths in tokens of all rows in these blocks."""
        found: list[int] = self.rows(blocks)[0].tolist()
        return found

    def flat(self, blocks: NDArray[np.int64]) -> Flat:
        """Return these blocks' rows one after another."""
        rows = self._rows(blocks)
        bounds = np.concatenate([[0], np.cumsum(rows.lengths)]).astype(np.int64)
        tokens, source = np.empty(bounds[-1], np.int64), self.store.tokens
        lines = (bounds[:-1], rows.prompt, rows.prompt_length, rows.answer, rows.answer_length)
        for at, prompt, asked, answer, answered in zip(*(line.tolist() for line in lines), strict=True):
            tokens[at : at + asked] = source[prompt : prompt + asked]
            tokens[at + asked : at + asked + answered] = source[answer : answer + answered]
        positions = np.arange(len(tokens)) - np.repeat(bounds[:-1], rows.lengths)
        # Nothing comes before a row's first token, so nothing predicts it.
        first = np.maximum(rows.prompt_length, 1)
        learned = _ranges(bounds[:-1] + first, rows.lengths - first)
        reasoning = np.repeat(rows.reasoned, rows.lengths - first)
        return Flat(tokens, positions, bounds, learned - 1, tokens[learned], reasoning)

    def _rows(self, blocks: NDArray[np.int64]) -> _Rows:
        first, numbers = self.index.bounds[blocks], np.diff(self.index.bounds)[blocks]
        chosen = _ranges(first, numbers)
        pairs, reasoned = self.index.pairs[chosen], self.index.reasoned[chosen]
        lengths = self.store.lengths[pairs].astype(np.int64)
        prompt = self.store.starts[pairs]
        answer = prompt + lengths[:, PROMPT] + np.where(reasoned, lengths[:, PLAIN], 0)
        answered = np.where(reasoned, lengths[:, REASONED], lengths[:, PLAIN])
        block = np.repeat(np.arange(len(blocks)), numbers)
        return _Rows(prompt, lengths[:, PROMPT], answer, answered, reasoned, block)


def indexed(
    lengths: NDArray[np.uint32], phases: Iterable[tuple[NDArray[np.int64], NDArray[np.bool_]]], size: int
) -> Index:
    """Pack rows by best fit, phase by phase; no block holds rows of two phases.

    Args:
        lengths: As in a token store; no row is longer than a block.
        phases: The pairs of each phase in random order, and which of them are read with their reasoning.
        size: Tokens of a block.
    """
    pairs, reasoned, numbers, blocks = [], [], [], []
    for chosen, thought in phases:
        answered = np.where(thought, lengths[chosen, REASONED], lengths[chosen, PLAIN])
        block = best_fit((lengths[chosen, PROMPT] + answered).astype(np.int64), size)
        order = np.argsort(block, kind="stable")
        pairs.append(chosen[order])
        reasoned.append(thought[order])
        numbers.append(np.bincount(block))
        blocks.append(len(numbers[-1]))
    bounds = np.concatenate([[0], np.cumsum(np.concatenate(numbers))]).astype(np.int64)
    return Index(np.concatenate(pairs).astype(np.uint32), np.concatenate(reasoned), bounds, tuple(blocks))


def _ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return whole numbers from each start, as many as its length says, one range after another."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))
