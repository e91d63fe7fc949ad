"""One row for each question and scope, with the answers at training and at inference compute side by side."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from analysis.statistics.claims import BETTER, WORDS

FIRST = "At the same compute, reasoning or plain answers?"
QUESTIONS = ["question", "scope", "training", "inference", "training_evidence", "inference_evidence", "why"]


def questions(answers: pd.DataFrame, claims: pd.DataFrame) -> pd.DataFrame:
    """Join the study's question and the claims.

    Args:
        answers: Table of `answers.answers`; it takes the place of the claim about most sizes.
        claims: Table of `claims.claims`.

    Returns:
        The columns of QUESTIONS. An answer is "" where the question was not asked on that axis; a question
        that is not about one axis has its answer on both. why explains answers that differ, else "".
    """
    asked = answers.assign(question=FIRST, axis=answers["axis"].map(WORDS), evidence=answers["detail"])
    others = claims[claims["question"] != BETTER]
    both = pd.concat([asked[list(claims)], others], ignore_index=True)
    times = _times(answers)
    rows = []
    for question in both["question"].unique():
        for scope, own in both[both["question"] == question].groupby("scope", sort=False):
            found = {row["axis"]: row for row in own.to_dict("records")}
            nothing = {"answer": "", "evidence": ""}
            training, inference = (found.get(axis, found.get("", nothing)) for axis in WORDS.values())
            differ = training["answer"] and inference["answer"] and training["answer"] != inference["answer"]
            rows.append([
                question, scope, training["answer"], inference["answer"], training["evidence"],
                inference["evidence"], times.get(str(scope), times.get("", "")) if differ else "",
            ])  # fmt: skip
    return pd.DataFrame(rows, columns=QUESTIONS)


def _times(answers: pd.DataFrame) -> dict[str, str]:
    """Say by scope how much more compute reasoning takes; under "" for all scopes together."""
    if answers.empty:
        return {}
    wide = answers.pivot(index="scope", columns="axis", values="times")
    wide.loc[""] = wide.median()
    found = {str(scope): _costs(row) for scope, row in wide.to_dict("index").items()}
    return {scope: text for scope, text in found.items() if text}


def _costs(times: dict[Any, float]) -> str:
    """Compare reasoning's compute with that of plain answers at the same size; "" if it is not known."""
    parts = [
        f"{times[axis]:.2g} times the {word} compute"
        for axis, word in WORDS.items()
        if not math.isnan(times.get(axis, math.nan))
    ]
    if len(parts) < len(WORDS):
        return ""
    return (
        f"At the same size, reasoning takes {' and '.join(parts)} of plain answers, so plain "
        "students of other sizes are compared with it."
    )
