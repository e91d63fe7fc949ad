"""Scores of single items: what a paired bootstrap needs beyond a table of accuracies.

They are read from where the results came from: `items.jsonl` of this project's evaluations, or lm-eval's
`samples_TASK_TIME.jsonl` (written with --log_samples) beside its result file. Nothing is computed here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.results.files import Unreadable, parse, read_object, read_text
from analysis.results.metrics import is_accuracy, number, scale
from analysis.results.result_files import STAMPED, groups_of, leaves
from analysis.results.table import few, warn

# By benchmark: a row for each student, a column for each item, NaN: not scored.
Scores = dict[str, pd.DataFrame]


def item_scores(path: str | Path, results: pd.DataFrame) -> Scores:
    """The score of every item behind a table of results.

    A student whose items do not average to its accuracy (a metric that is no mean over items, a group's mean
    of means) is left out of that benchmark and said: its items say nothing about its accuracy's error.

    Args:
        path: the folder that was collected.
        results: the table that `analysis.results.collect.collect` made of it.

    Raises:
        ValueError: a file of items that cannot be understood.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    doubts: dict[str, list[str]] = {}
    for source, rows in results.groupby("source"):
        read = _read(Path(path) / str(source), rows)
        for student, benchmark, accuracy in rows[["student", "benchmark", "accuracy"]].to_numpy():
            scores = read.get(benchmark, {})
            if isinstance(scores, str):
                doubt = scores
            elif not scores:
                doubt = "no scores of single items"
            elif not abs(np.mean(list(scores.values())) - accuracy) <= 1e-6:  # NaN is not
                doubt = "items whose mean is not its accuracy"
            else:
                found.setdefault(benchmark, {})[student] = scores
                continue
            doubts.setdefault(doubt, []).append(f"{student}, {benchmark}")
    for doubt, names in doubts.items():
        warn(
            f"{_few(names)} has {doubt}: errors are taken from standard errors there, as if independent of "
            "other students'. That makes intervals of differences wider than pairing would."
        )
    tables = {benchmark: pd.DataFrame(own).T for benchmark, own in sorted(found.items())}
    told = [
        f"{benchmark} ({' and '.join(map(str, sorted(set(table.notna().sum(axis=1)))))} of {table.shape[1]})"
        for benchmark, table in tables.items()
        if table.isna().any(axis=None)
    ]
    if told:
        warn(
            f"Students were scored on different items: {few(told)}. "
            "Those they share are paired; each accuracy is over its own."
        )
    return tables


def _few(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more: each"


def _read(source: Path, rows: pd.DataFrame) -> dict[str, dict[str, float] | str]:
    """Scores by benchmark and item of what one result file holds, or why there are none."""
    if source.name == "result.json":
        return dict(_own(source.with_name("items.jsonl")))
    if source.suffix != ".json":
        return {}
    try:
        groups = groups_of(read_object(source))
    except Unreadable:
        return {}
    read: dict[str, dict[str, float] | str] = {}
    for benchmark, metric in rows[["benchmark", "metric"]].to_numpy():
        if is_accuracy(metric):  # others are no means over items
            try:
                read[benchmark] = {
                    item: score
                    for leaf in leaves(benchmark, groups)
                    for item, score in _logged(_samples(source, leaf), leaf, metric)
                }
            except Unreadable as error:
                read[benchmark] = f"no scores of single items ({error})"
    return read


def _own(file: Path) -> dict[str, dict[str, float]]:
    """Scores of this project's evaluations."""
    read: dict[str, dict[str, float]] = {}
    try:
        for line in _lines(file, ("task", "item", "correct")):
            read.setdefault(line["task"], {})[line["item"]] = line["correct"]
    except Unreadable as error:
        raise ValueError(f"{file}{error}") from None
    except TypeError:
        raise ValueError(f"{file}: a task or an item is not a text") from None
    for task, scores in read.items():
        if set(map(type, scores.values())) != {float}:
            read[task] = {item: _score(score) for item, score in scores.items()}
    return read


def _logged(file: Path | None, leaf: str, metric: str) -> Iterator[tuple[str, float]]:
    """Items of lm-eval's samples and their scores.

    Raises:
        Unreadable: the file is damaged, or its scores are no numbers.
    """
    name, _, chosen = metric.partition(",")
    by = scale(leaf, metric)
    for line in _lines(file, ("doc_id",)) if file else ():
        if name in line and line.get("filter", chosen) == chosen:
            score = _score(line[name])
            if math.isnan(score):
                raise Unreadable("their scores are not numbers")
            # The question itself is part of the name: of two versions, items do not pair.
            yield f"{leaf}/{line['doc_id']}/{str(line.get('doc_hash', ''))[:12]}", score / by


def _score(value: Any) -> float:
    """An item's score; some metrics give a truth value for each part of an answer."""
    if isinstance(value, list) and value and all(isinstance(part, bool) for part in value):
        return float(np.mean(value))
    return float(value) if isinstance(value, bool) else number(value)


def _samples(results: Path, task: str) -> Path | None:
    """lm-eval's file of one task's samples: that of the same moment as the results.

    Results without a time in their name belong to the samples beside them if there are of one moment only.
    """
    if stamped := STAMPED.fullmatch(results.name):
        return results.with_name(f"samples_{task}_{stamped['time']}.jsonl")
    beside = [
        file
        for file in results.parent.glob("samples_*.jsonl")
        if (found := STAMPED.fullmatch(file.name.removesuffix("l"))) and found["stem"] == f"samples_{task}"
    ]
    return beside[0] if len(beside) == 1 else None


def _lines(file: Path, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """The records of a file; none if there is no such file.

    Raises:
        Unreadable: it is no JSONL with these keys; the text continues one that names the file.
    """
    if not file.exists():
        return []
    try:
        text = read_text(file).rstrip("\n").replace("\n", ",\n")
        lines: list[dict[str, Any]] = parse(f"[{text}]")  # at once: twice as fast as each alone
    except Unreadable as error:
        raise Unreadable(f": not a JSON object in each line: {error}") from None
    try:
        missing = [(n, key) for n, line in enumerate(lines, 1) for key in keys if key not in line]
    except TypeError:
        raise Unreadable(": not a JSON object in each line") from None
    if missing:
        raise Unreadable(f", line {missing[0][0]}: the key {missing[0][1]!r} is missing")
    if not all(isinstance(line, dict) for line in lines):
        raise Unreadable(": not a JSON object in each line")
    return lines
