"""Scores of single items: what a paired bootstrap needs beyond a table of accuracies.

They are read from where the results came from: `items.jsonl` of this project's evaluations, or lm-eval's
`samples_TASK_TIME.jsonl` (written with --log_samples) beside its result file. Nothing is computed here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.collect import leaves, warn
from jobs.rundir import read_json

# By benchmark: a row for each student, a column for each item, NaN: not scored.
Scores = dict[str, pd.DataFrame]


def item_scores(path: str | Path, results: pd.DataFrame) -> Scores:
    """The score of every item behind a table of results.

    A student whose items do not average to its accuracy (a metric that is no mean over items, a group's mean
    of means) is left out of that benchmark and said: its items say nothing about its accuracy's error.

    Args:
        path: the folder that was collected.
        results: the table that `analysis.collect.collect` made of it.

    Raises:
        ValueError: a file of items that cannot be understood.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    doubts: dict[str, list[str]] = {}
    for source, rows in results.groupby("source"):
        read = _read(Path(path) / str(source), rows)
        for student, benchmark, accuracy in rows[["student", "benchmark", "accuracy"]].to_numpy():
            scores = read.get(benchmark, {})
            if scores and abs(np.mean(list(scores.values())) - accuracy) <= 1e-6:
                found.setdefault(benchmark, {})[student] = scores
            else:
                doubt = "items whose mean is not its accuracy" if scores else "no scores of single items"
                doubts.setdefault(doubt, []).append(f"{student}, {benchmark}")
    for doubt, names in doubts.items():
        warn(
            f"{_few(names)} has {doubt}: errors are taken from standard errors there, as if independent of "
            "other students'. That makes intervals of differences wider than pairing would."
        )
    tables = {benchmark: pd.DataFrame(own).T for benchmark, own in sorted(found.items())}
    for benchmark, table in tables.items():
        if table.isna().any(axis=None):
            counts = " and ".join(map(str, sorted(set(table.notna().sum(axis=1)))))
            warn(
                f"{benchmark}: students were scored on different items ({counts} of {table.shape[1]}). "
                "Those they share are paired; each accuracy is over its own."
            )
    return tables


def _few(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more: each"


def _read(source: Path, rows: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Scores by benchmark and item of what one result file holds."""
    read: dict[str, dict[str, float]] = {}
    if source.name == "result.json":
        for line in _lines(source.with_name("items.jsonl"), ("task", "item", "correct")):
            read.setdefault(line["task"], {})[line["item"]] = line["correct"]
    elif source.suffix == ".json":
        groups = read_json(source).get("group_subtasks") or {}
        for row in rows.itertuples():
            metric, _, chosen = str(row.metric).partition(",")
            for leaf in leaves(str(row.benchmark), groups):
                for line in _lines(_samples(source, leaf), ("doc_id",)):
                    if metric in line and line.get("filter", chosen) == chosen:
                        # The question itself is part of the name: of two versions, items do not pair.
                        item = f"{leaf}/{line['doc_id']}/{line.get('doc_hash', '')[:12]}"
                        read.setdefault(str(row.benchmark), {})[item] = float(np.mean(line[metric]))
    return read


def _samples(results: Path, task: str) -> Path:
    """lm-eval's file of one task's samples: of the same moment as the results; else the newest."""
    same = results.with_name(results.name.replace("results", f"samples_{task}", 1) + "l")
    times = "[0-9]" * 4 + "-[0-9][0-9]-[0-9][0-9]T*"
    return same if same.exists() else max(results.parent.glob(f"samples_{task}_{times}.jsonl"), default=same)


def _lines(file: Path, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """The records of a file; none if there is no such file."""
    if not file.exists():
        return []
    text = file.read_text(encoding="utf-8").rstrip("\n").replace("\n", ",\n")
    try:
        lines: list[dict[str, Any]] = json.loads(f"[{text}]")  # at once: twice as fast as each alone
        missing = [(n, key) for n, line in enumerate(lines, 1) for key in keys if key not in line]
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"{file}: not a JSON object in each line: {error}") from None
    if missing:
        raise ValueError(f"{file}, line {missing[0][0]}: the key {missing[0][1]!r} is missing")
    return lines
