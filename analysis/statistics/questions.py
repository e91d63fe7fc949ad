"""One row for each question and scope, with the answers at training and at inference compute side by side."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from analysis.statistics.claims import WORDS
from jobs.core.wording import about

FIRST = "At the same compute, reasoning or plain answers?"
QUESTIONS = ["question", "scope", "training", "inference", "training_evidence", "inference_evidence", "why"]


def questions(answers: pd.DataFrame, claims: pd.DataFrame) -> pd.DataFrame:
    """Join the study's question and the claims.

    Args:
        answers: Table of `answers.answers`.
        claims: Table of `claims.claims`.

    Returns:
        The columns of QUESTIONS. An answer is "" where the question was not asked on that axis; a question
        that is not about one axis has its answer on both. why explains answers to FIRST that differ, if
        reasoning takes more of one compute than of the other; else "".
    """
    asked = answers.assign(question=FIRST, axis=answers["axis"].map(WORDS), evidence=answers["detail"])
    both = pd.concat([asked[list(claims)], claims], ignore_index=True)
    times = _times(answers)
    rows = []
    for question in both["question"].unique():
        for scope, own in both[both["question"] == question].groupby("scope", sort=False):
            found = {row["axis"]: row for row in own.to_dict("records")}
            nothing = {"answer": "", "evidence": ""}
            training, inference = (found.get(axis, found.get("", nothing)) for axis in WORDS.values())
            differ = question == FIRST and len(found) > 1 and training["answer"] != inference["answer"]
            rows.append([
                question, scope, training["answer"], inference["answer"], training["evidence"],
                inference["evidence"], times[str(scope)] if differ else "",
            ])  # fmt: skip
    return pd.DataFrame(rows, columns=QUESTIONS)


def _times(answers: pd.DataFrame) -> dict[str, str]:
    """Say by scope how much more compute reasoning takes."""
    wide = answers.pivot(index="scope", columns="axis", values="times")
    return {str(scope): _costs(row) for scope, row in wide.to_dict("index").items()}


def _costs(times: dict[Any, float]) -> str:
    """Compare reasoning's compute with that of plain answers at the same size.

    Returns:
        "" if the ratio is not known on an axis, or the same on both.
    """
    known = {word: times.get(axis, math.nan) for axis, word in WORDS.items()}
    shown = {word: about(ratio) for word, ratio in known.items() if math.isfinite(ratio)}
    if len(shown) < len(WORDS) or len(set(shown.values())) == 1:
        return ""
    if shown["training"] == "1":  # trained to one budget
        return (
            "At the same size, reasoning takes the same training compute as plain answers, and "
            f"{shown['inference']} times their inference compute."
        )
    parts = [f"{ratio} times the {word} compute" for word, ratio in shown.items()]
    return (
        f"At the same size, reasoning takes {' and '.join(parts)} of plain answers, so plain "
        "students of other sizes are compared with it."
    )
