"""The report in the terminal: tables and lines."""

from __future__ import annotations

import shutil
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from analysis.statistics.answers import BY_SIZE, PLAIN, REASONING
from analysis.statistics.frontier import AVERAGE, AXES, SHARED, trained_on, with_configuration
from jobs.core.wording import about, count, span

FLOPS, TOKENS = "FLOPs\nper item", "tokens\nper item"
SURE = 27  # columns of the table beside the names: training FLOPs, accuracy, space
PER_ITEM = {FLOPS: 11, TOKENS: 21}  # columns that they need, and those before them


def terminal_table(results: pd.DataFrame, points: pd.DataFrame, width: int | None = None) -> Table:
    """Return the frontier as text: each student's compute and accuracy, with ● if it is on the frontier.

    Args:
        results: Table of `analysis.results.collect.collect`. Missing values are shown as –.
        points: Table of `analysis.statistics.frontier.frontier_table`.
        width: Columns of the terminal, by default the current one's. What does not fit beside whole names is
            left out: accuracies of groups, then tokens and FLOPs per item.
    """
    width = width or shutil.get_terminal_size().columns
    names = list(dict.fromkeys(points.loc[points["kind"] == "group", "scope"]))
    shared = [SHARED] if SHARED in set(points["scope"]) else []
    room = width - 85 - 12 * len(shared)
    groups = names if 1 < len(names) <= room // 12 else []
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.caption = "● on the frontier: none is as accurate at less compute"
    table.add_column("student", overflow="fold")
    table.add_column("trained on")
    cells = {(row["scope"], row["student"]): row for row in points.to_dict("records")}
    results = with_configuration(results)
    words = dict(zip(results["configuration"], trained_on(results), strict=True))
    taken = sum(max(map(len, names)) for names in (words.keys(), words.values())) + SURE + 12 * len(shared)
    per_item = [column for column, needed in PER_ITEM.items() if taken + needed <= width]
    for name in ("training\nFLOPs", *per_item, "accuracy\n%"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in (*("shared by\nall, %" for _ in shared), *groups):
        heading = name.replace(", ", ",\n").replace("-", "-\n")
        table.add_column(heading, justify="right", no_wrap=True)
    axes = list(AXES.items()) if FLOPS in per_item else [*AXES.items()][:1]
    for student, own in results.groupby("configuration", sort=False):
        average = cells.get((AVERAGE, student), {})
        flops = {"training_flops": own["training_flops"].iloc[0], **average}
        table.add_row(
            str(student),
            words[str(student)],
            *(_scientific(flops.get(x)) + (" ●" if average.get(mark) else "  ") for x, mark in axes),
            *([_rounded(average.get("output_tokens"))] if TOKENS in per_item else []),
            *(_percent(cells.get((scope, student), {})) for scope in (AVERAGE, *shared, *groups)),
            style="bold" if any(average.get(mark) for mark in AXES.values()) else None,
        )
    return table


def questions_table(table: pd.DataFrame) -> Group:
    """Format `analysis.statistics.questions.questions` as text: a small table for each question."""
    parts = []
    for question in table["question"].unique():
        shown = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, expand=True)
        shown.title, shown.title_justify, shown.title_style = Text(question), "left", "bold"
        for name, ratio in (("over", 2), ("training", 2), ("inference", 2), ("evidence", 5)):
            shown.add_column(name, overflow="fold", ratio=ratio)
        for row in table[table["question"] == question].to_dict("records"):
            answers = (_colored(row[axis]) for axis in ("training", "inference"))
            shown.add_row(Text(row["scope"]), *answers, Text(_evidence(row)))
        parts.append(shown)
    return Group(*parts)


def _evidence(row: dict[Any, Any]) -> str:
    """Join the evidence of both axes, and the reason why their answers differ."""
    training, inference = row["training_evidence"], row["inference_evidence"]
    if training and inference and training != inference:
        training, inference = f"training: {training}", f"inference: {inference}"
    return "\n".join(dict.fromkeys(filter(None, (training, inference, row["why"]))))


def _colored(answer: str) -> Text:
    """Color an answer: green and red where it is sure, yellow where it is not."""
    colors = {"yes": "green", "no": "red", REASONING: "green", PLAIN: "red", BY_SIZE: "cyan"}
    return Text(answer, colors.get(answer.split(",")[0], "yellow"))


def usage_line(table: pd.DataFrame) -> str:
    """Summarize a study's usage (`results.usage.usage`) in one line; empty if nothing is known."""
    if not len(table):
        return ""
    unit = "gpu_hours" if table["gpu_hours"].any() else "hours"
    what = "GPU time" if unit == "gpu_hours" else "job time, without GPUs"
    stages = zip(table["stage"], table[unit], strict=True)
    parts = ", ".join(f"{stage} {span(hours)}" for stage, hours in stages if hours * 3600 >= 0.5)
    total, runs, interrupted = (table[name].sum() for name in (unit, "runs", "interrupted"))
    energy = f", {about(table['joules'].sum() / 3.6e6)} kWh of its nodes" if table["joules"].any() else ""
    ended = f"{interrupted} of them interrupted" if interrupted else "none interrupted"
    return f"used: {span(total)} of {what} ({parts}){energy}; {count(int(runs), 'run')}, {ended}"


def _scientific(value: float | None) -> str:
    return "–" if value is None or pd.isna(value) else f"{value:.2e}".replace("e+", "e")


def _rounded(value: float | None) -> str:
    return "–" if value is None or pd.isna(value) else f"{value:,.0f}"


def _percent(row: dict[Any, Any]) -> str:
    if not row:
        return "–"
    error = "" if pd.isna(row["stderr"]) else f" ± {row['stderr'] * 100:.1f}"
    return f"{row['accuracy'] * 100:.1f}{error}"
