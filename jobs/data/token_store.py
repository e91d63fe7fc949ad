"""The tokens of all pairs, made once a tokenizer: what every student that uses it is trained on.

    tokens.u16, tokens.u32   of each pair: the prompt, the plain answer, the answer with reasoning
    lengths.u32              how many tokens each of these has, of shape (pairs, 3)
    faults.u8                why no student can learn from a pair, as a place in FAULTS, of shape (pairs,)

Pairs are in the order of the collated ones, and those with a fault have no tokens. A prompt's tokens are the
same in both modes, so they are stored once.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.store.rundir import read_json

# A thinking tag inside a part of an answer; a prompt whose words make the chat template switch the thinking.
FAULTS = ("", "stray_tags", "switched")
PROMPT, PLAIN, REASONED = 0, 1, 2  # the parts of a pair
SMALL = 2**16  # tokens of a vocabulary whose IDs fit into two bytes


@dataclass(frozen=True)
class Pairs:
    """Tokens of some pairs, as in the files."""

    tokens: NDArray[Any]
    lengths: NDArray[np.uint32]
    faults: NDArray[np.uint8]


@dataclass(frozen=True)
class TokenStore(Pairs):
    """The tokens of all pairs.

    Attributes:
        mapped: The file of tokens, of which only what is used is in memory; None if `tokens` is.
    """

    mapped: mmap.mmap | None = None

    @classmethod
    def open(cls, folder: Path) -> TokenStore:
        """Open the result of a tokenize unit."""
        kind = np.dtype(read_json(folder / "result.json")["type"])
        with _tokens(folder, kind).open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        lengths = np.fromfile(folder / "lengths.u32", np.uint32).reshape(-1, 3)
        faults = np.fromfile(folder / "faults.u8", np.uint8)
        return cls(np.frombuffer(mapped, kind), lengths, faults, mapped)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Return where the tokens of each pair start, of shape (pairs,)."""
        ends = np.cumsum(self.lengths.sum(1, dtype=np.int64))
        return np.concatenate([[0], ends[:-1]]).astype(np.int64)

    def read_ahead(self, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
        """Have the system read these tokens from disk while other work is done; do not wait for it."""
        if self.mapped is None or not len(starts):
            return
        page, size = mmap.PAGESIZE, self.tokens.itemsize
        order = np.argsort(starts)
        first = starts[order] * size // page
        last = -(-ends[order] * size // page)
        # Parts of the file with less than a page between them are read as one.
        apart = np.flatnonzero(first[1:] > np.maximum.accumulate(last)[:-1]) + 1
        groups = np.concatenate([[0], apart])
        for begin, end in zip(
            first[groups].tolist(), np.maximum.reduceat(last, groups).tolist(), strict=True
        ):
            if end > begin:
                length = min(end * page, len(self.mapped)) - begin * page
                self.mapped.madvise(mmap.MADV_WILLNEED, begin * page, length)


def token_type(vocabulary: int) -> np.dtype[Any]:
    """Return the type of the tokens of a vocabulary with this number of words."""
    return np.dtype(np.uint16 if vocabulary <= SMALL else np.uint32)


def write(folder: Path, batches: Iterable[Pairs], kind: np.dtype[Any]) -> dict[str, Any]:
    """Write pairs as they come.

    Returns:
        Counts of pairs without and with a fault, and of tokens.
    """
    faults, tokens = np.zeros(len(FAULTS), np.int64), np.zeros(3, np.int64)
    files = (_tokens(folder, kind), folder / "lengths.u32", folder / "faults.u8")
    with (
        files[0].open("wb") as of_tokens,
        files[1].open("wb") as of_lengths,
        files[2].open("wb") as of_faults,
    ):
        for batch in batches:
            of_tokens.write(batch.tokens.astype(kind, copy=False).tobytes())
            of_lengths.write(batch.lengths.tobytes())
            of_faults.write(batch.faults.tobytes())
            faults += np.bincount(batch.faults, minlength=len(FAULTS))
            tokens += batch.lengths.sum(0, dtype=np.int64)
    return {
        "prompts": int(faults[0]),
        "dropped": dict(zip(FAULTS[1:], faults[1:].tolist(), strict=True)),
        "tokens": dict(zip(("prompt", "ift", "reasoning"), tokens.tolist(), strict=True)),
        "type": kind.name,
    }


def _tokens(folder: Path, kind: np.dtype[Any]) -> Path:
    return folder / f"tokens.u{8 * kind.itemsize}"
