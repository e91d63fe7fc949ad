"""The first lines of a report: the answers of `answers`, in two or three sentences."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from analysis.statistics.answers import BY_SIZE, CLOSE, NONE, OPEN, PLAIN, REASONING, joined
from analysis.statistics.frontier import AVERAGE, asked_level

COMPUTE = {"training_flops": "training compute", "inference_flops": "inference compute"}
ORDER = (REASONING, PLAIN, BY_SIZE, CLOSE, OPEN, NONE)  # of sentences: what is sure comes first
Row = dict[Any, Any]


def sentences(answers: pd.DataFrame, points: pd.DataFrame) -> list[str]:
    """Return the answer to the study's question in sentences, the first of which can stand alone.

    Args:
        answers: Table of `answers.answers`.
        points: Table of `frontier.frontier_table`, for studies that cannot answer the question.
    """
    if answers.empty:
        return [_unasked(points), *_best(points)]
    by_axis = {axis: answers[answers["axis"] == axis].to_dict("records") for axis in COMPUTE}
    known = [axis for axis in COMPUTE if by_axis[axis]]
    first, *rest = known
    unknown = {axis: _unknown(answers, by_axis[axis], axis) for axis in known}
    total = points.loc[points["kind"] == answers["kind"].iloc[0], "scope"].nunique()
    found = _on_axis(by_axis[first], first, total, unknown[first])
    for axis in rest:
        before = {row["scope"]: row["answer"] for row in by_axis[first]}
        changed = [row for row in by_axis[axis] if row["answer"] != before.get(row["scope"])]
        if not changed:
            found.append(f"At the same {COMPUTE[axis]}, the answers are the same{unknown[axis]}.")
        else:
            same = "" if len(changed) == len(by_axis[axis]) else "; elsewhere as above"
            found += _on_axis(changed, axis, total, unknown[axis] + same)
    return found


def _unknown(answers: pd.DataFrame, rows: list[Row], axis: str) -> str:
    """Name the scopes that have an answer on the other axis only."""
    having = {row["scope"] for row in rows}
    lacking = [spoken(scope) for scope in answers["scope"].unique() if scope not in having]
    return f"; on {joined(lacking)} the {COMPUTE[axis]} is not known" if lacking else ""


def _on_axis(rows: list[Row], axis: str, total: int, end: str) -> list[str]:
    """Return one sentence for each answer that occurs, beginning with the compute that is compared.

    Args:
        rows: Answers on `axis`.
        total: Number of scopes in the study, those without one of these answers included.
        end: What the last sentence ends with.
    """
    having = {answer: [row for row in rows if row["answer"] == answer] for answer in ORDER}
    made = [_sentence(answer, own, total) for answer, own in having.items() if own]
    made[0] = f"At the same {COMPUTE[axis]}, {made[0]}"
    made[-1] += end
    return [f"{text[0].upper()}{text[1:]}." for text in made]


def _sentence(answer: str, rows: list[Row], total: int) -> str:
    """State one answer for the scopes that have it, of `total`, with the numbers of the clearest."""
    every = f"all {len(rows)} {rows[0]['kind']}s"
    names = every if len(rows) == total > 2 else joined([spoken(row["scope"]) for row in rows])
    row = max(rows, key=lambda r: abs(r["accuracy"] - r["plain"]) if r["plain"] >= 0 else -1.0)
    at = f"for example, on {spoken(row['scope'])}, " if len(rows) > 1 else ""
    pair = (
        f"{percent(row['accuracy'])} with reasoning in the {row['size']} student against about "
        f"{percent(row['plain'])} with plain answers"
    )
    if answer == REASONING:
        return f"reasoning beats plain answers on {names}: {at}{pair}{_limit(row)}{_even(row)}"
    if answer == PLAIN:
        return f"plain answers beat reasoning on {names}: {at}{pair}{_even(row)}"
    if answer == BY_SIZE:
        return f"it depends on the size on {names}: {at}reasoning is {_states(row)}"
    if answer == CLOSE:
        return f"on {names} the two are too close to call: {at}{pair}{_cheaper(row)}"
    if answer == OPEN:
        return f"on {names} there is not enough evidence: the error of the accuracies is not known"
    further = f", but none is as accurate as reasoning at {row['further']}" if row["further"] else ""
    return f"on {names} nothing can be compared: {at}{row['why']}{further}"


def _limit(row: Row) -> str:
    """State what plain answers reach at any compute, if reasoning is ahead of that as well."""
    if row["best_plain"] < row["accuracy"]:
        return f"; no plain student exceeds {percent(row['best_plain'])}"
    return ""


def _even(row: Row) -> str:
    """Restrict an answer to the sizes that decided."""
    return f"; at {row['even']} it is too close to call" if row["even"] else ""


def _cheaper(row: Row) -> str:
    """State what plain answers reach below the compute of all reasoning."""
    if not row["cheap_size"]:
        return ""
    return (
        f"; the plain {row['cheap_size']} student reaches {percent(row['cheap_accuracy'])} "
        f"with {100 * row['cheap_part']:.0f} % of that compute"
    )


def spoken(scope: str) -> str:
    """Name a scope inside a sentence, where the comma of a group would look like a list."""
    return str(scope).replace(", ", " ")


def _unasked(points: pd.DataFrame) -> str:
    """Say why a study cannot answer the question at all."""
    shares, level = set(points["share"].dropna()), asked_level(points)
    asked = points[points["kind"] == level]
    if not shares:
        why = "it is not known what the students were trained on (no column share)"
    elif 0 not in shares:
        why = "no student was trained on plain answers alone"
    elif 1 not in shares:
        why = "no student was trained on reasoning alone"
    elif not any({0, 1} <= set(own["share"]) for _, own in asked.groupby("scope")):
        why = f"no {level} has results of both"
    else:
        why = "the compute of the students is not known"
    return f"Reasoning and plain answers cannot be compared at the same compute: {why}."


def _best(points: pd.DataFrame) -> list[str]:
    """Name the most accurate student, if all have been measured on the same benchmarks."""
    whole = points[points["scope"] == AVERAGE].dropna(subset="accuracy")
    if len(whole) < 2:
        return []
    top = whole.sort_values("accuracy").iloc[-1]
    return [f"The highest accuracy over {AVERAGE} is {percent(top['accuracy'])} ({top['student']})."]


def findings(answers: pd.DataFrame) -> list[str]:
    """Return the finding of each row of `answers.answers` in a few words, as the title of a chart."""
    return [_finding(row) for row in answers.to_dict("records")]


def _finding(row: Row) -> str:
    if row["answer"] == REASONING:
        return f"reasoning beats plain answers at {row['ahead']}"
    if row["answer"] == PLAIN:
        return f"plain answers beat reasoning at {row['behind']}"
    if row["answer"] == BY_SIZE:
        return f"reasoning is {_states(row)}"
    if row["answer"] == CLOSE:
        return "reasoning and plain answers are too close to call"
    if row["answer"] == OPEN:
        return "not enough evidence"
    if row["further"]:
        return f"reasoning at {row['further']} is better than all plain students, which cost less"
    return str(row["why"])


def _states(row: Row) -> str:
    """List at which sizes reasoning is behind, ahead, or better than all plain students."""
    words = {"behind": "behind", "ahead": "ahead", "further": "better than every plain student"}
    return joined([f"{word} at {row[column]}" for column, word in words.items() if row[column]])


def percent(value: float) -> str:
    """Format a fraction as a percentage."""
    return "unknown" if math.isnan(value) else f"{100 * value:.1f} %"
