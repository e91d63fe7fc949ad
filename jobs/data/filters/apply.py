"""Filters applied to a file of pairs: what is known of each prompt, which prompts leave, and why.

A prompt that leaves takes both of its answers with it. It leaves for the first of REASONS that holds, and
duplicates are sought among the rest only: a prompt that leaves for its answers does not keep another one
out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.core.unit import MODES
from jobs.data.filters.judges import Claim, Judges
from jobs.data.filters.near import Sketch, Sketches, sketch
from jobs.data.filters.overlap import Index
from jobs.data.filters.references import References
from jobs.data.filters.words import Hashed, digest, words
from jobs.data.pool import ordered
from jobs.text.parquet import streamed

REASONS = ("contaminated", "incorrect", "duplicate", "near_duplicate")
ANSWERS = {"ift": "ift", "reasoning": "answer"}  # the column of each mode's answer, without its reasoning
RIGHT, WRONG, UNKNOWN = 1, 0, -1
Verdicts = dict[str, NDArray[np.int8]]  # RIGHT, WRONG or UNKNOWN, by mode
Report = Callable[[int, int, str], None]


class Filters(NamedTuple):
    """The filters of a study; None or False: switched off.

    Args:
        duplicates: Whether of prompts with the same normal form only the first one stays.
        near_duplicates: Jaccard similarity of their runs of words from which the later prompt leaves.
        decontaminate: Words of a run that is shared with a benchmark.
        correct: "report" or "require".
    """

    duplicates: bool = False
    near_duplicates: float | None = None
    decontaminate: int | None = None
    correct: str | None = None

    @classmethod
    def of(cls, config: dict[str, Any]) -> Filters:
        """Read a collate unit's `filters`."""
        return cls(**{name: config[name] for name in cls._fields if name in config})


@dataclass(frozen=True)
class Decided:
    """What was decided about the prompts of a file.

    Args:
        reasons: For each prompt the place of its reason in REASONS; -1 if it stays.
        contaminated: Prompts that share something with each benchmark; one may do so with several.
        verdicts: Empty if answers were not compared.
        late: Answers whose comparison took too long, among the wrong ones.
    """

    reasons: NDArray[np.int8]
    contaminated: dict[str, int]
    verdicts: Verdicts
    late: int

    def dropped(self) -> dict[str, int]:
        """Return the prompts that leave, by reason."""
        return {reason: int(np.count_nonzero(self.reasons == n)) for n, reason in enumerate(REASONS)}

    def rates(self, among: NDArray[np.bool_] | None = None) -> dict[str, float | int] | None:
        """Return the number of prompts with a reference, and each mode's share of correct answers.

        Args:
            among: The prompts that count; by default, all.

        Returns:
            None if no prompt has a reference.
        """
        if not self.verdicts:
            return None
        judged = self.verdicts["ift"] != UNKNOWN
        judged = judged if among is None else judged & among
        if not (count := int(np.count_nonzero(judged))):
            return None
        right = {m: int(np.count_nonzero(own[judged] == RIGHT)) for m, own in self.verdicts.items()}
        return {"prompts": count, **{mode: number / count for mode, number in right.items()}}


class Facts(NamedTuple):
    """What is known of the prompts of a row group; None: not wanted."""

    prompts: int
    digests: NDArray[np.uint64] | None
    sketch: Sketch | None
    contaminated: dict[int, frozenset[str]]  # by place in the group, of those that share something


def decide(
    file: Path,
    filters: Filters,
    processes: int,
    index: Path | None = None,
    references: References | None = None,
    report: Report = lambda done, total, phase: None,
) -> Decided:
    """Decide which pairs of a file leave.

    Args:
        processes: How many work at once.
        index: The benchmarks' index, for `decontaminate`.
        references: For `correct`.
        report: Called with the row groups done, their number, and what is being done.

    Raises:
        RuntimeError: math-verify is needed and not installed.
    """
    with streamed(file) as opened:
        prompts, groups = opened.metadata.num_rows, opened.num_row_groups
    out = np.full(prompts, -1, np.int8)
    verdicts, late = _verdicts(file, references, processes, report) if filters.correct else ({}, 0)
    near = filters.near_duplicates
    with Sketches(file.with_suffix(".runs"), near or 1) as sketches:
        digests: list[NDArray[np.uint64]] = []
        contaminated: dict[int, frozenset[str]] = {}
        start = 0
        facts = partial(_facts, file, filters, index)
        for done, found in enumerate(ordered(facts, range(groups), processes)):
            report(done, groups, "reading the prompts")
            if found.digests is not None:
                digests.append(found.digests)
            if found.sketch is not None:
                sketches.add(found.sketch)
            contaminated |= {start + place: names for place, names in found.contaminated.items()}
            start += found.prompts
        out[list(contaminated)] = REASONS.index("contaminated")
        if filters.correct == "require":
            wrong = np.logical_or.reduce([own == WRONG for own in verdicts.values()])
            _leave(out, "incorrect", wrong)
        if digests:
            _leave(out, "duplicate", _repeated(np.concatenate(digests), out < 0))
        if near is not None:
            report(groups, groups, "comparing the prompts")
            later = np.zeros(prompts, bool)
            later[list(sketches.later(out < 0))] = True
            _leave(out, "near_duplicate", later)
    counts = Counter(name for names in contaminated.values() for name in names)
    return Decided(out, dict(sorted(counts.items())), verdicts, late)


def staying(file: Path, decided: Decided) -> Iterator[pa.RecordBatch]:
    """Yield the pairs that stay, with columns correct_ift and correct_reasoning if these were compared."""
    start = 0
    with streamed(file) as opened:
        for number in range(opened.num_row_groups):
            table = opened.read_row_group(number)
            own = slice(start, start + len(table))
            start += len(table)
            for mode, verdicts in decided.verdicts.items():
                right = pa.array(verdicts[own] == RIGHT, mask=verdicts[own] == UNKNOWN)
                table = table.append_column(f"correct_{mode}", right)
            yield from table.filter(pa.array(decided.reasons[own] < 0)).combine_chunks().to_batches()


def _leave(out: NDArray[np.int8], reason: str, which: NDArray[np.bool_]) -> None:
    """Note a reason for prompts that have none."""
    out[which & (out < 0)] = REASONS.index(reason)


def _repeated(digests: NDArray[np.uint64], among: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which prompts repeat an earlier one, among some."""
    places = np.flatnonzero(among)
    again = np.ones(len(places), bool)
    again[np.unique(digests[places], return_index=True)[1]] = False
    found = np.zeros(len(digests), bool)
    found[places[again]] = True
    return found


def _facts(file: Path, filters: Filters, index: Path | None, group: int) -> Facts:
    """Return what is to be known of the prompts of a row group."""
    others = ["reasoning", "answer", "ift"] if index else []
    with streamed(file) as opened:
        table = opened.read_row_group(group, columns=["prompt", *others])
    prompts: list[str] = table["prompt"].to_pylist()
    near, digests, sketched = filters.near_duplicates, None, None
    if filters.duplicates or near is not None:
        digests = np.array([digest(prompt) for prompt in prompts], np.uint64)
    if near is not None:
        sketched = sketch(Hashed.of([words(prompt) for prompt in prompts]), near)
    found = _index(index).found(prompts, [table[name].to_pylist() for name in others]) if index else []
    return Facts(
        len(prompts), digests, sketched, {place: names for place, names in enumerate(found) if names}
    )


@lru_cache(1)
def _index(file: Path) -> Index:
    """Return an index, read once by each process."""
    return Index.load(file)


def _verdicts(
    file: Path, references: References | None, processes: int, report: Report
) -> tuple[Verdicts, int]:
    """Compare the answers with their references; return also how many comparisons took too long."""
    assert references is not None  # the study was checked
    found: dict[str, list[int]] = {mode: [] for mode in MODES}
    late = 0
    with streamed(file) as opened, Judges(processes) as judges:
        for number in range(opened.num_row_groups):
            report(number, opened.num_row_groups, "comparing answers with references")
            table = opened.read_row_group(number, columns=["id", *ANSWERS.values()])
            known = references.of(table["id"].to_pylist())
            columns = {mode: table[ANSWERS[mode]].to_pylist() for mode in MODES}
            said = judges.verdicts(_claims(columns, known))
            late += said.count(None)
            places = iter(said)
            for own in found.values():
                own += [UNKNOWN if text is None else int(bool(next(places))) for text in known]
    return {mode: np.array(own, np.int8) for mode, own in found.items()}, late


def _claims(columns: dict[str, list[str]], known: Sequence[str | None]) -> list[Claim]:
    """Return the claims of the prompts with a reference, mode after mode."""
    return [
        Claim(answer, text)
        for answers in columns.values()
        for answer, text in zip(answers, known, strict=True)
        if text is not None
    ]
