"""Scores of single items, which a paired bootstrap needs in addition to accuracies.

They are read from the results' origin: `items.jsonl` of this project's evaluations, or lm-eval's
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

# By benchmark: a row per student, a column per item, NaN if not scored.
Scores = dict[str, pd.DataFrame]


def item_scores(path: str | Path, results: pd.DataFrame) -> Scores:
    """Return the score of every item behind a table of results.

    A student whose items do not average to its accuracy (a metric that is not a mean over items, a group's
    mean of means) is left out of that benchmark with a warning: its items say nothing about its error.

    Args:
        path: The collected folder.
        results: Its table from `analysis.results.collect.collect`.

    Raises:
        ValueError: A file of items cannot be interpreted.
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
            elif not abs(np.mean(list(scores.values())) - accuracy) <= 1e-6:  # true for NaN
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
    noted = [
        f"{benchmark} ({' and '.join(map(str, sorted(set(table.notna().sum(axis=1)))))} of {table.shape[1]})"
        for benchmark, table in tables.items()
        if table.isna().any(axis=None)
    ]
    if noted:
        warn(
            f"Students were scored on different items: {few(noted)}. "
            "Those they share are paired; each accuracy is over its own."
        )
    return tables


def _few(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more: each"


def _read(source: Path, rows: pd.DataFrame) -> dict[str, dict[str, float] | str]:
    """Return one result file's scores by benchmark and item, or why there are none."""
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
        if is_accuracy(metric):  # other metrics are not means over items
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
    """Read scores of this project's evaluations."""
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
    """Yield items of lm-eval's samples and their scores.

    Raises:
        Unreadable: The file is damaged, or its scores are not numbers.
    """
    name, _, chosen = metric.partition(",")
    by = scale(leaf, metric)
    for line in _lines(file, ("doc_id",)) if file else ():
        if name in line and line.get("filter", chosen) == chosen:
            score = _score(line[name])
            if math.isnan(score):
                raise Unreadable("their scores are not numbers")
            # The key includes the question's hash: items of different versions must not pair.
            yield f"{leaf}/{line['doc_id']}/{str(line.get('doc_hash', ''))[:12]}", score / by


def _score(value: Any) -> float:
    """Convert an item's score; some metrics give one truth value per part of an answer."""
    if isinstance(value, list) and value and all(isinstance(part, bool) for part in value):
        return float(np.mean(value))
    return float(value) if isinstance(value, bool) else number(value)


def _samples(results: Path, task: str) -> Path | None:
    """Return lm-eval's samples file of one task, with the same timestamp as the results.

    Results without a timestamp match the samples beside them if these have a single timestamp.
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
    """Return the records of a file; none if it does not exist.

    Raises:
        Unreadable: The file is not JSONL with these keys; the message continues one that names the file.
    """
    if not file.exists():
        return []
    try:
        text = read_text(file).rstrip("\n").replace("\n", ",\n")
        lines: list[dict[str, Any]] = parse(f"[{text}]")  # at once: twice as fast as line by line
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
