"""A teacher's answers by mode: how many, how long, and how many were cut off at the cap."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from analysis.results.collect import lineage
from analysis.results.files import Unreadable, read_object, section
from jobs.core.unit import MODES
from jobs.store.rundir import StudyDir, UnitDir

TEACHER = {
    "teacher": "str",
    "mode": "str",  # "ift" or "reasoning"
    "answers": "int64",
    "tokens": "float64",  # mean of an answer, its reasoning included
    "max_tokens": "int64",  # the cap
    "cut_off": "int64",  # answers that reached the cap, or the end of the teacher's context
}


def teacher_answers(path: str | Path, results: pd.DataFrame) -> pd.DataFrame:
    """Return how the teachers answered whose answers made the students of a results table.

    Args:
        path: The collected folder.
        results: Its table from `analysis.results.collect.collect`.

    Returns:
        The columns of TEACHER, one row per teacher and mode.
    """
    study = StudyDir(Path(path))
    sources = sorted(set(results["source"].dropna()))
    evaluated = (UnitDir((study.path / s).parent.parent) for s in sources if Path(s).name == "result.json")
    rows = []
    for folder in lineage(study, evaluated):
        if folder.path.parent.name != "generate" or not folder.done:
            continue
        try:
            result, unit = read_object(folder.result), folder.unit()
            rows += [_row(unit.name, mode, result, unit.config["modes"][mode]) for mode in MODES]
        except (
            Unreadable,
            ValueError,
            KeyError,
            TypeError,
            ZeroDivisionError,
        ):  # unreadable
            continue
    return pd.DataFrame(rows, columns=list(TEACHER)).astype(TEACHER)


def _row(teacher: str, mode: str, result: dict[str, object], asked: dict[str, int]) -> list[object]:
    finish, tokens = section(result, "finish", mode), section(result, "tokens", mode)
    answers = sum(finish.values())
    mean = (tokens["reasoning"] + tokens["answer"]) / answers
    return [teacher, mode, answers, mean, asked["max_tokens"], finish["length"]]


def teacher_line(table: pd.DataFrame) -> str:
    """Format the table of `teacher_answers` in one line; empty if nothing is known."""
    parts = [
        f"{'plain' if row['mode'] == 'ift' else 'reasoning'} {row['tokens']:,.0f} tokens in the mean, "
        f"{row['cut_off'] / row['answers']:.1%} of {row['answers']:,} cut off at {row['max_tokens']:,}"
        for row in table.to_dict("records")
    ]
    return f"the teacher's answers: {'; '.join(parts)}" if parts else ""
