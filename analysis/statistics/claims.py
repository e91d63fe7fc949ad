"""The study's questions, each answered yes, no, or not enough evidence, with the numbers.

The questions are from the abstract of arXiv 2509.22193 (v2); the one at the same compute is that of
`answers`. An answer is given only if it holds everywhere within simultaneous intervals (see `bootstrap`):
all intervals of one kind of comparison, on one axis and over one kind of scope, hold together with 95 %
confidence. The evidence shows these intervals. Extrapolated or incomparable values are not evidence,
nor are a single student, a single kind of supervision, or equal accuracies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.statistics.frontier import AXES, NEAR, asked_level, size_order, supervision
from analysis.statistics.wording import apart, in_points, interval
from jobs.core.wording import count

YES, NO, OPEN = "yes", "no", "not enough evidence"
WORDS = {"training_flops": "training", "inference_flops": "inference"}
NEAR_FRONTIER = "Is plain fine-tuning on or near the frontier in most configurations?"
# Rivals of reasoning, and the columns of `standing` with the gap to their frontier.
REACHES = {
    "Does reasoning reach the frontier of plain fine-tuning, and from which size?": "plain_gap",
    "Does reasoning reach the frontier of all, mixtures included, and from which size?": "gap",
}


class Claim(NamedTuple):
    """One question and its answer, in words."""

    question: str
    axis: str
    scope: str
    answer: str
    evidence: str


def claims(points: pd.DataFrame, standing: pd.DataFrame, kept: pd.DataFrame) -> pd.DataFrame:
    """Return the table of questions and answers.

    Args:
        points, standing: Tables of `analysis.statistics.frontier`.
        kept: Table of `analysis.statistics.matched`.

    Returns:
        The columns of `Claim`; axis is "training", "inference" or "". Questions that the students cannot
        answer (e.g. because there are no mixtures) are left out.
    """
    about = points[["scope", "student", "size", "share", "order", "accuracy"]]
    stood = standing.merge(about, on=["scope", "student"])
    level = asked_level(points)
    asked = points[points["kind"] == level]
    found: list[Claim] = []
    for axis in AXES:
        rows = stood[(stood["axis"] == axis) & (stood["kind"] == level)]
        found += _plain_near(rows, axis, level)
        for scope, own in asked.groupby("scope", sort=False):
            sizes = size_order(own[own["share"] == 1])
            found += _reaches(rows[rows["scope"] == scope], axis, str(scope), sizes)
    found += _mixtures(kept, level)
    return pd.DataFrame(found, columns=Claim._fields)


def verdict(low: pd.Series[float], high: pd.Series[float], at: float) -> pd.Series[str]:
    """Decide whether a value is at most `at`: yes if its whole interval is, no if none of it is."""
    return pd.Series(np.select([high <= at, low > at], [YES, NO], OPEN), index=low.index)


def nothing_to_compare(own: pd.DataFrame) -> str:
    """Return why students of one scope allow no comparison of supervision; empty if they do."""
    if len(own) < 2:
        return "there is one student only" if len(own) else "no student can be compared"
    shares = own["share"].dropna()
    if shares.where(shares.isin([0, 1])).nunique(dropna=False) < 2:  # all mixtures are one kind
        return "all students had one kind of supervision"
    return "all accuracies are equal" if own["accuracy"].nunique() == 1 else ""


def _plain_near(rows: pd.DataFrame, axis: str, level: str) -> Iterator[Claim]:
    plain = rows[rows["share"] == 0]
    if plain.empty:
        return
    reasons = {str(scope): nothing_to_compare(own) for scope, own in rows.groupby("scope", sort=False)}
    useful = plain["scope"].map(reasons) == ""
    counts = verdict(plain["gap_low"], plain["gap_high"], NEAR)[useful].value_counts()
    yes, no, total = counts.get(YES, 0), counts.get(NO, 0), len(plain)
    answer = _majority(yes, no, total)
    cases = count(total, "case") + f" (a plain student on a {level})"
    evidence = (
        f"of {cases}, {yes} surely at most {in_points(NEAR)} below the frontier, {no} surely further below, "
        f"{total - yes - no} unclear; by the estimates alone, {(plain['gap'] <= NEAR).sum()} near"
    )
    if not np.isfinite(plain.loc[useful, "gap"]).any():
        answer, why = OPEN, next(filter(None, reasons.values()), "no other student costs as little")
        evidence = f"{why}; {evidence}"
    yield Claim(NEAR_FRONTIER, WORDS[axis], f"all {level}s", answer, evidence)


def _majority(yes: int, no: int, total: int) -> str:
    return YES if yes > total / 2 else NO if no >= total / 2 else OPEN


def _reaches(rows: pd.DataFrame, axis: str, scope: str, sizes: list[str]) -> Iterator[Claim]:
    """Find the size from which full reasoning is on the frontier, at it and all larger ones."""
    mixed = rows["share"].between(0, 1, inclusive="neither")
    for question, gap in REACHES.items():
        rivals = rows["share"] == 0 if gap == "plain_gap" else mixed
        if sizes and rivals.any():
            asked = rows[(rows["share"] == 1) | rivals] if gap == "plain_gap" else rows
            yield _reached(question, gap, asked, axis, scope, sizes)


def _reached(question: str, gap: str, rows: pd.DataFrame, axis: str, scope: str, sizes: list[str]) -> Claim:
    own = rows[rows["share"] == 1]
    sure = verdict(own[f"{gap}_low"], own[f"{gap}_high"], 0.0)
    by_size = sure.groupby(own["size"]).agg(set)
    # One student of a size on the frontier suffices; a size with unknown compute is open.
    on = {
        size: YES if YES in found else NO if found == {NO} else OPEN
        for size in sizes
        for found in [by_size.get(size, {OPEN})]
    }
    first = next((i for i in range(len(sizes)) if all(on[size] == YES for size in sizes[i:])), None)
    answer = NO if all(word == NO for word in on.values()) else OPEN
    if first is not None:
        earlier = first > 0 and on[sizes[first - 1]] == OPEN
        answer = f"{YES}, from {sizes[first]}" + (" or earlier" if earlier else "")
    words = {YES: "on it", NO: "below it", OPEN: "unclear"}
    distances = {
        size: ", ".join(
            "no other costs as little" if value == -math.inf else apart(-value, -high, -low)
            for value, low, high in found[[gap, f"{gap}_low", f"{gap}_high"]].to_numpy()
        )
        for size, found in own.groupby("size")
    }
    evidence = "; ".join(
        f"{size} {words[on[size]]}, {distances.get(size, 'compute not known')}" for size in sizes
    )
    why = nothing_to_compare(rows)
    if not why and not np.isfinite(own[gap]).any():
        why = "no other student costs as little"
    return Claim(
        question, WORDS[axis], scope, OPEN if why else answer, f"{why}; {evidence}" if why else evidence
    )


def _mixtures(kept: pd.DataFrame, level: str) -> Iterator[Claim]:
    rows = kept[kept["kind"] == level] if len(kept) else kept
    for row in rows.to_dict("records"):
        gain = f"{in_points(row['gain'])} {interval(row['gain_low_all'], row['gain_high_all'])}"
        training, inference = _part(row["training"]), _part(row["inference"])
        compute = f"{training} of its training and {inference} of its inference compute"
        if row["gain_low_all"] > 0:
            answer = YES if row["over_half_low_all"] > 0 else NO if row["over_half_high_all"] < 0 else OPEN
            half = apart(row["over_half"], row["over_half_low_all"], row["over_half_high_all"])
            part = f"keeps {_part(row['kept'])} of reasoning's gain of {gain}; against half of it, {half}"
        else:
            answer, part = OPEN, f"reasoning has no sure gain of which to keep a part: {gain}"
        mixture = supervision(row["share"], row["order"])
        question = f"Does the mixture of {mixture} keep most of reasoning's gain?"
        yield Claim(question, "", str(row["scope"]), answer, f"{part}; at {compute}")


def _part(value: float) -> str:
    return "an unknown part" if math.isnan(value) else f"{100 * value:.0f} %"
