"""The study's question for each benchmark or group: at the same compute, reasoning or plain answers?

Each student that was trained on reasoning alone is compared with plain answers at exactly its compute
(`matched`). Where every plain student costs less, there is nothing to compare with; but if one of these is
surely more accurate all the same (`standing`), plain answers are better at that compute, too. An answer needs
an interval that holds for all students and scopes of a kind together; equal or unknown errors give none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import pandas as pd

from analysis.statistics.frontier import AXES, asked_level
from analysis.statistics.wording import ahead, apart, behind

REASONING, PLAIN, BY_SIZE = "reasoning", "plain answers", "depends on the size"
CLOSE, OPEN, NONE = "too close to call", "not enough evidence", "cannot be compared"
# How one student that was trained on reasoning stands against plain answers at its compute.
AHEAD, BEHIND, EVEN, UNSURE = "ahead", "behind", "even", "unsure"
FURTHER, DEARER, CHEAPER, UNKNOWN = "further", "dearer", "cheaper", "unknown"


class Answer(NamedTuple):
    """The answer for one scope and axis, and the numbers that explain it; NaN or "" where there are none."""

    kind: str
    scope: str
    axis: str  # one of AXES
    answer: str
    detail: str  # all students with reasoning, in words
    why: str  # why nothing can be compared, if the answer is NONE
    ahead: str  # sizes at which reasoning is surely better, and so on
    behind: str
    even: str
    further: str  # sizes that cost more than every plain student, and are surely better than all of them
    size: str  # the example: the clearest comparison of those that decided
    accuracy: float
    plain: float  # plain answers at the example's compute
    best_plain: float  # accuracy of the best plain student, whatever it costs
    cheap_size: str  # a plain student that costs less than all reasoning, surely better than all as cheap
    cheap_accuracy: float
    cheap_part: float  # its compute, as a fraction of the example's
    times: float  # compute of reasoning as a multiple of plain answers' at the same size, median over sizes


class _Student(NamedTuple):
    """One student with reasoning, against plain answers: accuracies, difference and interval."""

    size: str
    state: str
    flops: float
    accuracy: float
    plain: float
    difference: float
    low: float
    high: float


def answers(points: pd.DataFrame, standing: pd.DataFrame, matched: pd.DataFrame) -> pd.DataFrame:
    """Answer the study's question for each scope of `asked_level`, on both axes.

    Args:
        points, standing: Tables of `analysis.statistics.frontier`.
        matched: Table of `analysis.statistics.matched.matched`.

    Returns:
        The columns of `Answer`; no row for an axis without known compute, and none at all if no student saw
        reasoning alone, or none plain answers alone.
    """
    asked = points[points["kind"] == asked_level(points)]
    found = []
    if len(matched):
        for scope, own in asked.groupby("scope", sort=False):
            for axis in AXES:
                stood = standing[(standing["scope"] == scope) & (standing["axis"] == axis)]
                there = matched[(matched["scope"] == scope) & (matched["axis"] == axis)]
                students = list(_students(own, axis, stood, there))
                if students and (own["share"] == 0).any() and own[axis].notna().any():
                    found.append(_answer(own, axis, stood, students))
    return pd.DataFrame(found, columns=Answer._fields)


def _students(
    own: pd.DataFrame, axis: str, standing: pd.DataFrame, matched: pd.DataFrame
) -> Iterator[_Student]:
    """Yield the students with reasoning of one scope and axis, by compute."""
    stood, there = (table.set_index("student").to_dict("index") for table in (standing, matched))
    rows = own[own["share"] == 1].sort_values(axis)
    unique = rows["size"].notna().all() and rows["size"].is_unique
    for row in rows.to_dict("records"):
        name = str(row["size"] if unique else row["student"])
        compared, place = there.get(row["student"]), stood.get(row["student"])
        yield _student(name, row, axis, compared, place)


def _student(
    name: str,
    row: dict[Any, Any],
    axis: str,
    compared: dict[Any, Any] | None,
    place: dict[Any, Any] | None,
) -> _Student:
    if compared is None or place is None:
        return _Student(name, UNKNOWN, row[axis], row["accuracy"], *[math.nan] * 4)
    low, high = compared["low_all"], compared["high_all"]
    state = AHEAD if low > 0 else BEHIND if high < 0 else EVEN if low <= high else UNSURE
    values = (compared["plain"], compared["difference"], low, high)
    if compared["extrapolated"]:
        state = CHEAPER
        if compared["extrapolated"] == "above":
            gap, low, high = (-place[f"plain_gap{end}"] for end in ("", "_high", "_low"))
            state = BEHIND if high < 0 else FURTHER if low > 0 else DEARER
            values = (row["accuracy"] - gap, gap, low, high)
    return _Student(name, state, row[axis], row["accuracy"], *values)


def _answer(own: pd.DataFrame, axis: str, standing: pd.DataFrame, students: list[_Student]) -> Answer:
    having = {state: [s for s in students if s.state == state] for state in {s.state for s in students}}
    better, worse, even = (having.get(state, []) for state in (AHEAD, BEHIND, EVEN))
    if worse and (better or FURTHER in having):
        answer, example = BY_SIZE, max(better or having[FURTHER], key=lambda s: s.low)
    elif better:
        answer, example = REASONING, max(better, key=lambda s: s.low)
    elif worse:
        answer, example = PLAIN, min(worse, key=lambda s: s.high)
    elif even:
        answer, example = CLOSE, even[0]
    else:
        answer, example = (OPEN if UNSURE in having else NONE), students[0]
    plain = own[own["share"] == 0]
    size, accuracy, part = _cheap(plain, axis, standing, students, example)
    names = {
        state: joined([s.size for s in having.get(state, [])]) for state in (AHEAD, BEHIND, EVEN, FURTHER)
    }
    return Answer(
        kind=str(own["kind"].iloc[0]), scope=str(own["scope"].iloc[0]), axis=axis, answer=answer,
        detail=_detail(having), why=_why_none(having) if answer == NONE else "",
        ahead=names[AHEAD], behind=names[BEHIND], even=names[EVEN], further=names[FURTHER],
        size=example.size, accuracy=example.accuracy, plain=example.plain,
        best_plain=plain["accuracy"].max(), cheap_size=size, cheap_accuracy=accuracy, cheap_part=part,
        times=_times(own, axis),
    )  # fmt: skip


def _cheap(
    plain: pd.DataFrame, axis: str, standing: pd.DataFrame, students: list[_Student], example: _Student
) -> tuple[str, float, float]:
    """Return the best of the plain students below all reasoning's compute: size, accuracy, part of compute.

    It counts only if it is surely more accurate than every other student that costs as little.
    """
    least = min(s.flops for s in students)
    below = plain[plain[axis] < least].merge(standing[["student", "gap", "gap_high"]], on="student")
    sure = below[(below["gap_high"] < 0) & (below["gap"] > -math.inf)]
    if sure.empty:
        return "", math.nan, math.nan
    best = sure.sort_values("accuracy").iloc[-1]
    name = best["student"] if pd.isna(best["size"]) else best["size"]
    return str(name), float(best["accuracy"]), float(best[axis] / example.flops)


def _times(own: pd.DataFrame, axis: str) -> float:
    """Return reasoning's compute as a multiple of plain answers' at the same size; the median over sizes."""
    plain, full = (own[own["share"] == share].groupby(["size", "recipe"])[axis].mean() for share in (0, 1))
    return float((full / plain).median())


def _why_none(having: dict[str, list[_Student]]) -> str:
    """Say why no student with reasoning has plain answers at its compute."""
    much, little = bool(having.keys() & {DEARER, FURTHER}), CHEAPER in having
    as_ = [words for words, there in (("as much", much), ("as little", little)) if there]
    why = [f"no plain student costs {' or '.join(as_)}"] if as_ else []
    return ", or ".join(why + ["the compute is not known"] * (UNKNOWN in having))


def _detail(having: dict[str, list[_Student]]) -> str:
    """Describe the students with reasoning by their state."""
    parts = [
        *(f"{s.size} {ahead(s.difference, s.low, s.high)}" for s in having.get(AHEAD, [])),
        *(f"{s.size} {behind(-s.difference, -s.high, -s.low)}" for s in having.get(BEHIND, [])),
        *(f"{s.size} too close: {apart(s.difference, s.low, s.high)}" for s in having.get(EVEN, [])),
    ]
    about = {
        UNSURE: "{}: the error is not known",
        FURTHER: "{}: no plain student costs as much, and none is as accurate",
        DEARER: "{}: no plain student costs as much",
        CHEAPER: "{}: no plain student costs as little",
        UNKNOWN: "{}: the compute is not known",
    }
    for state, words in about.items():
        if state in having:
            parts.append(words.format(joined([s.size for s in having[state]])))
    return "; ".join(parts)


def joined(names: list[str], most: int = 5) -> str:
    """List names in a sentence: A, B and C; with the number of those beyond `most`."""
    if len(names) > most:
        names = [*names[: most - 1], f"{len(names) - most + 1} more"]
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
