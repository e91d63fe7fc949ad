"""The study's questions, each answered yes, no, or not enough evidence, with the numbers.

The questions are those that the abstract of arXiv 2509.22193 (v2) answers. An answer is given only if it
holds at every place inside of intervals that hold together (see `analysis.bootstrap`): with 95 % confidence
all answers that come from one table are right. What had to be extrapolated is evidence for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.frontier import AXES, NEAR, size_order, supervision

YES, NO, OPEN = "yes", "no", "not enough evidence"
WORDS = {"training_flops": "training", "inference_flops": "inference"}


class Claim(NamedTuple):
    """One question and its answer, all in words."""

    question: str
    axis: str
    scope: str
    answer: str
    evidence: str


def claims(
    points: pd.DataFrame, standing: pd.DataFrame, matched: pd.DataFrame, kept: pd.DataFrame
) -> pd.DataFrame:
    """The table of questions.

    Args:
        points, standing: of `analysis.frontier`.
        matched, kept: of `analysis.matched`.

    Returns:
        The columns of `Claim`; axis is "training", "inference" or "". A question that the students cannot
        answer at all (there are no mixtures, say) is left out.
    """
    about = points[["scope", "student", "size", "share", "order"]]
    stood = standing.merge(about, on=["scope", "student"])
    level = "group" if "group" in set(points["kind"]) else "benchmark"
    found: list[Claim] = []
    for axis in AXES:
        rows = stood[(stood["axis"] == axis) & (stood["kind"] == level)]
        found += _plain_near(rows, axis, level)
        found += _better(matched, axis, level)
        for scope, own in rows[rows["share"] == 1].groupby("scope", sort=False):
            found.append(_reaches(own, axis, str(scope), size_order(points)))
    found += _mixtures(kept, level)
    return pd.DataFrame(found, columns=Claim._fields)


def verdict(low: pd.Series[float], high: pd.Series[float], at: float) -> pd.Series[str]:
    """Whether a value is at most `at`: yes if all of its interval is, no if none is."""
    return pd.Series(np.select([high <= at, low > at], [YES, NO], OPEN), index=low.index)


def _plain_near(rows: pd.DataFrame, axis: str, level: str) -> Iterator[Claim]:
    plain = rows[rows["share"] == 0]
    if plain.empty:
        return
    counts = verdict(plain["gap_low"], plain["gap_high"], NEAR).value_counts()
    yes, no, total = counts.get(YES, 0), counts.get(NO, 0), len(plain)
    question = "Is plain fine-tuning on or near the frontier in most configurations?"
    evidence = (
        f"of {total} (students × {level}s) surely yes {yes}, surely no {no}; "
        f"near is at most {NEAR * 100:g} points below; estimated {(plain['gap'] <= NEAR).sum()}"
    )
    yield Claim(question, WORDS[axis], f"all {level}s", _majority(yes, no, total), evidence)


def _majority(yes: int, no: int, total: int) -> str:
    return YES if yes > total / 2 else NO if no >= total / 2 else OPEN


def _better(matched: pd.DataFrame, axis: str, level: str) -> Iterator[Claim]:
    if matched.empty:
        return
    rows = matched[(matched["axis"] == axis) & (matched["kind"] == level)]
    question = "Is reasoning better than plain fine-tuning of the same compute, at most sizes?"
    for scope, full in rows[rows["share"] == 1].groupby("scope", sort=False):
        own = full[full["extrapolated"] == ""]
        better, worse = int((own["low_all"] > 0).sum()), int((own["high_all"] <= 0).sum())
        answer = _majority(better, worse, len(own)) if len(own) else OPEN
        listed = ", ".join(
            f"{row['size']} {100 * row['difference']:+.1f} "
            f"[{100 * row['low_all']:+.1f}, {100 * row['high_all']:+.1f}]"
            for row in own.to_dict("records")
        )
        evidence = f"difference in points: {listed}" if listed else "none can be compared"
        if left_out := len(full) - len(own):
            evidence += f"; {left_out} beyond plain students' compute left out"
        yield Claim(question, WORDS[axis], str(scope), answer, evidence)


def _reaches(own: pd.DataFrame, axis: str, scope: str, sizes: list[str]) -> Claim:
    """From which size on full reasoning lies on the frontier: at it and at all larger ones."""
    own = own.assign(on=verdict(own["gap_low"], own["gap_high"], 0.0))
    on = {size: answers.iloc[0] for size, answers in own.groupby("size")["on"]}
    order = [size for size in sizes if size in on]
    first = next((i for i in range(len(order)) if all(on[size] == YES for size in order[i:])), None)
    if first is not None:
        earlier = first > 0 and on[order[first - 1]] == OPEN
        answer = f"{YES}, from {order[first]}" + (" or earlier" if earlier else "")
    else:
        answer = NO if on and all(word == NO for word in on.values()) else OPEN
    listed = {YES: "on it", NO: "below it", OPEN: "either"}
    evidence = ", ".join(f"{size} {listed[on[size]]}" for size in order) or "no sizes are known"
    question = "Does reasoning reach the frontier, and from which size?"
    return Claim(question, WORDS[axis], scope, answer, evidence)


def _mixtures(kept: pd.DataFrame, level: str) -> Iterator[Claim]:
    rows = kept[kept["kind"] == level] if len(kept) else kept
    for row in rows.to_dict("records"):
        value, low, high = (f"{100 * row[name]:+.1f}" for name in ("gain", "gain_low_all", "gain_high_all"))
        gain = f"gain {value} [{low}, {high}]"
        compute = (
            f"{row['training']:.0%} of its training FLOPs, {row['inference']:.0%} of its inference FLOPs"
        )
        if row["gain_low_all"] > 0:
            answer = YES if row["over_half_low_all"] > 0 else NO if row["over_half_high_all"] < 0 else OPEN
            part, low, high = (f"{row[name]:.0%}" for name in ("kept", "kept_low", "kept_high"))
            part = f"{part} [{low}, {high}] of reasoning's {gain} points"
        else:
            answer, part = OPEN, f"reasoning has no sure gain of which to keep a part: {gain} points"
        mixture = supervision(row["share"], row["order"])
        question = f"Does the mixture of {mixture} keep most of reasoning's gain?"
        yield Claim(question, "", str(row["scope"]), answer, f"{part}, at {compute}")
