"""Decontamination: texts that share a run of words with an item of a benchmark.

The rule is that of GPT-3 (Brown et al. 2020, arXiv 2005.14165, appendix C): a shared run of 13 words
counts, unless it is common. Others take shorter runs and a share of the item's words (Tülu 3, arXiv
2411.15124: 8 words, half of the tokens) or 8 words alone (open-r1): more is found, and more is dropped by
chance. Here the number of words is the study's.

What is the same in all items of a benchmark says nothing about an item, and must not remove what is asked
in the same form. So words with which all items of a task begin or end are taken off, and a run that is in
more than COMMON items of a task, or in more than half of them, does not count.

An item with fewer words than a run counts where all of it is contained, if it has LEAST words or more. A
shorter one counts where it is the whole prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from jobs.data.filters.words import Hashed, Hashes, digest, words

COMMON = 10  # items; GPT-3's filter ignores runs that are in more than ten documents
LEAST = 8  # words of a short item that is looked for inside of texts
BITS = 24  # of the table that is asked first
Owners = npt.NDArray[np.uint16]


class Item(NamedTuple):
    """An item of a benchmark.

    Args:
        question: What is asked.
        more: Its other texts, such as choices and a solution; they count where they have a run's words.
    """

    question: str
    more: tuple[str, ...] = ()


@dataclass(frozen=True)
class Runs:
    """Hashes of runs of one size, sorted, each with the number of a benchmark that has it."""

    size: int
    hashes: Hashes
    owners: Owners
    table: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, size: int, found: Sequence[tuple[Hashes, int]]) -> Runs:
        """Sort hashes of several benchmarks."""
        hashes = np.concatenate([each for each, _ in found])
        owners = np.concatenate([np.full(len(each), owner, np.uint16) for each, owner in found])
        order = np.argsort(hashes, kind="stable")
        table = np.zeros(1 << BITS, np.bool_)
        table[(hashes >> np.uint64(64 - BITS)).astype(np.int64)] = True
        return cls(size, hashes[order], owners[order], table)

    def hits(self, texts: Hashed) -> Iterable[tuple[int, int]]:
        """Return (number of a text, number of a benchmark) of all shared runs, with repeats."""
        runs, text = texts.runs(self.size)
        likely = np.flatnonzero(self.table[(runs >> np.uint64(64 - BITS)).astype(np.int64)])
        left = np.searchsorted(self.hashes, runs[likely], "left")
        right = np.searchsorted(self.hashes, runs[likely], "right")
        for place, first, end in zip(likely, left, right, strict=True):
            for owner in self.owners[first:end].tolist():
                yield int(text[place]), owner


@dataclass(frozen=True)
class Index:
    """What identifies the items of some benchmarks.

    Args:
        names: The benchmarks.
        runs: By size.
        whole: Digests of short questions in their normal form, with the benchmarks that have them.
    """

    names: tuple[str, ...]
    runs: tuple[Runs, ...]
    whole: Mapping[int, frozenset[int]]

    @classmethod
    def of(cls, benchmarks: Mapping[str, Sequence[Sequence[Item]]], size: int) -> Index:
        """Index benchmarks, each given by the items of its tasks.

        Args:
            size: Words of a run.
        """
        found: dict[int, list[tuple[Hashes, int]]] = {}
        whole: dict[int, frozenset[int]] = {}
        for owner, tasks in enumerate(benchmarks.values()):
            for items in tasks:
                questions = _without_frame([words(item.question) for item in items])
                for length, hashes in _runs_of(items, questions, size).items():
                    found.setdefault(length, []).append((hashes, owner))
                for item, question in zip(items, questions, strict=True):
                    if len(question) < size:
                        key = digest(item.question)
                        whole[key] = whole.get(key, frozenset()) | {owner}
        runs = tuple(Runs.of(length, each) for length, each in sorted(found.items()))
        return cls(tuple(benchmarks), runs, whole)

    def found(self, prompts: Sequence[str], others: Sequence[Sequence[str]] = ()) -> list[frozenset[str]]:
        """Return the benchmarks with which each prompt, or a text that belongs to it, shares something.

        Args:
            others: The other texts, such as the answers, each list in the order of the prompts.
        """
        owners = [set(self.whole.get(digest(prompt), ())) for prompt in prompts]
        for texts in (prompts, *others):
            hashed = Hashed.of([words(text) for text in texts])
            for runs in self.runs:
                for text, owner in runs.hits(hashed):
                    owners[text].add(owner)
        return [frozenset(self.names[owner] for owner in own) for own in owners]

    def save(self, file: Path) -> None:
        """Write to an .npz file."""
        arrays: dict[str, npt.NDArray[np.generic]] = {}
        for runs in self.runs:
            arrays |= {f"hashes{runs.size}": runs.hashes, f"owners{runs.size}": runs.owners}
        keys = [(key, owner) for key, owners in self.whole.items() for owner in sorted(owners)]
        whole = np.array([key for key, _ in keys], np.uint64)
        of = np.array([owner for _, owner in keys], np.uint16)
        with file.open("wb") as opened:
            np.savez(opened, names=np.array(self.names, str), whole=whole, of=of, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, file: Path) -> Index:
        """Read what `save` wrote."""
        with np.load(file) as saved:
            sizes = sorted(int(name.removeprefix("hashes")) for name in saved if name.startswith("hashes"))
            whole: dict[int, frozenset[int]] = {}
            for key, owner in zip(saved["whole"].tolist(), saved["of"].tolist(), strict=True):
                whole[key] = whole.get(key, frozenset()) | {owner}
            runs = [_table(size, saved[f"hashes{size}"], saved[f"owners{size}"]) for size in sizes]
            return cls(tuple(saved["names"].tolist()), tuple(runs), whole)


def _table(size: int, hashes: Hashes, owners: Owners) -> Runs:
    return Runs.of(size, [(hashes[owners == owner], int(owner)) for owner in np.unique(owners)])


def _runs_of(items: Sequence[Item], questions: list[list[str]], size: int) -> dict[int, Hashes]:
    """Return the hashes of a task's runs that count, by size.

    Args:
        questions: The items' questions as words, without what all of them have.
    """
    texts = [*questions, *(words(text) for item in items for text in item.more)]
    owner = [*range(len(items)), *(number for number, item in enumerate(items) for _ in item.more)]
    hashed = Hashed.of(texts)
    found = {size: _uncommon(*hashed.runs(size), np.array(owner), len(items))}
    for length in {len(text) for text in questions if LEAST <= len(text) < size}:
        short = Hashed.of([text for text in questions if len(text) == length])
        found[length] = np.unique(short.runs(length)[0])
    return {length: hashes for length, hashes in found.items() if len(hashes)}


def _uncommon(
    hashes: Hashes, text: npt.NDArray[np.int64], owner: npt.NDArray[np.int64], items: int
) -> Hashes:
    """Return the hashes that are in few of a task's items.

    Args:
        text: The number of the text that each is of.
        owner: The item of each text.
    """
    if not len(hashes):
        return hashes
    order = np.lexsort((owner[text], hashes))
    hashes, own = hashes[order], owner[text][order]
    fresh = np.concatenate([[True], (hashes[1:] != hashes[:-1]) | (own[1:] != own[:-1])])
    found, times = np.unique(hashes[fresh], return_counts=True)
    return found[times <= min(COMMON, max(1, items // 2))]


def _without_frame(questions: list[list[str]]) -> list[list[str]]:
    """Return questions without the words with which all of them begin, and end."""
    if len({tuple(question) for question in questions}) < 2:
        return questions
    shortest = min(map(len, questions))
    before = _alike(questions, range(shortest))
    after = _alike(questions, range(-1, -(shortest - before) - 1, -1))
    return [question[before : len(question) - after] for question in questions]


def _alike(questions: list[list[str]], places: Iterable[int]) -> int:
    """Return at how many of these places, from the first one, all questions have the same word."""

    def same(place: int) -> bool:
        return len({question[place] for question in questions}) == 1

    return sum(1 for _ in takewhile(same, places))
