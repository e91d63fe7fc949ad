"""What a study's filters did to the pairs: the arms before and after, and the benchmarks that prompts were
like.

A prompt leaves both modes, but it need not cost both the same: long traces and hard questions are more
often wrong.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from analysis.results.dropped import published
from analysis.results.files import section
from jobs.core.unit import MODES

FILTERED = {
    "mode": "str",
    "prompts_before": "int64",
    "prompts": "int64",
    "length_before": "float64",  # mean of an answer, with its reasoning
    "length": "float64",
    "lengths_in": "str",  # tokens or characters
    "judged": "int64",  # prompts with a reference answer, before
    "correct_before": "float64",  # share of these whose answer agrees with it; NaN: there are none
    "correct": "float64",
}
CONTAMINATED = {
    "benchmark": "str",
    "prompts": "int64",  # that share words with an item; one may do so with several benchmarks
}


def filtered(path: str | Path, results: pd.DataFrame) -> pd.DataFrame:
    """Return the answers before and after the filters, one row a mode, for the students of a results table.

    Args:
        path: The collected folder.
        results: Its table from `analysis.results.collect.collect`.

    Returns:
        The columns of FILTERED; no rows without filters.
    """
    rows = []
    for _, result, _ in published(path, results, ("collate",)):
        if not (found := section(result, "filters")):
            continue
        before, after = found["before"], found["after"]
        rates = [state["correct"] or {} for state in (before, after)]
        rows += [
            (
                mode, before["prompts"], after["prompts"], before["lengths"][mode], after["lengths"][mode],
                result["lengths_in"], rates[0].get("prompts", 0), *(rate.get(mode) for rate in rates),
            )
            for mode in MODES
        ]  # fmt: skip
    return pd.DataFrame(rows, columns=list(FILTERED)).astype(FILTERED)


def contaminated(path: str | Path, results: pd.DataFrame) -> pd.DataFrame:
    """Return how many prompts each benchmark removed, with the columns of CONTAMINATED; as for `filtered`."""
    rows = [
        (benchmark, prompts)
        for _, result, _ in published(path, results, ("collate",))
        for benchmark, prompts in section(result, "filters").get("contaminated", {}).items()
    ]
    found = pd.DataFrame(rows, columns=list(CONTAMINATED)).astype(CONTAMINATED)
    return found.sort_values("prompts", ascending=False, ignore_index=True)


def filtered_line(table: pd.DataFrame, benchmarks: pd.DataFrame) -> str:
    """Format both tables in one line; empty without filters."""
    parts = []
    for row in table.to_dict("records"):
        words = (
            f"{row['mode']} {row['length_before']:,.0f} to {row['length']:,.0f} {row['lengths_in']} an answer"
        )
        if pd.notna(row["correct_before"]):
            words += f", {row['correct_before']:.1%} to {row['correct']:.1%} correct"
        parts.append(words)
    if len(benchmarks):
        hits = ", ".join(f"{name} {count:,}" for name, count in benchmarks.values)
        parts.append(f"prompts like items of {hits}")
    return f"filters: {'; '.join(parts)}" if parts else ""
