"""Run directories with evaluations of made-up students, for the tests of analysis."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.results.collect import COLUMNS
from jobs.core.unit import Unit
from jobs.store.rundir import StudyDir, write_json


def benchmark(task: str, accuracy: float, **other: Any) -> dict[str, Any]:
    """One entry of an evaluation's benchmarks."""
    entry = {
        "task": task, "domain": "general", "format": "open-ended", "metric": "exact_match",
        "filter": "strict", "accuracy": accuracy, "stderr": 0.01, "n": 100, "task_version": "1",
        "prompt_tokens": 10.0, "output_tokens": 20.0, "reasoning_tokens": 5.0, "flops_per_item": 1e9,
    }  # fmt: skip
    return entry | other


def evaluation(
    root: Path,
    student: str,
    flops: int | None,
    benchmarks: list[dict[str, Any]],
    scores: dict[str, dict[str, float]] | None = None,
    read: Unit | None = None,
    packed: dict[str, Any] | None = None,
    trained: dict[str, Any] | None = None,
    **other: Any,
) -> Unit:
    """Publish an evaluation below `root`, with the training that it comes from.

    Args:
        scores: of items, by benchmark.
        read: what the training read; its record is written, too.
        packed: what the training counted of its rows.
        trained: what else the training's record holds.
    """
    study = StudyDir(root)
    root.mkdir(parents=True, exist_ok=True)
    write_json(study.study, {})
    who = {"name": student, "size": "1B", "share": 0.0, "order": "sequential", "seed": 0} | other
    train = Unit("train", student, who | (trained or {}), (read.as_input(),) if read else ())
    unit = Unit("evaluate", f"{student}-group", who | {"tasks": benchmarks}, (train.as_input(),))
    if read and not study.unit(read).spec.exists():
        study.unit(read).path.mkdir(parents=True)
        write_json(study.unit(read).spec, read.to_json())
    for made, result in (
        (train, {"flops": flops} | ({"packed": packed} if packed else {})),
        (unit, {"student": who, "training": {"flops": flops, "tokens": 1000}, "benchmarks": benchmarks}),
    ):
        folder = study.unit(made)
        staged = folder.staging("0")
        staged.mkdir(parents=True)
        write_json(folder.spec, made.to_json())
        write_json(staged / "result.json", result)
        if made is unit:
            lines = [
                {"task": task, "item": item, "correct": correct, "prompt_tokens": 10, "output_tokens": 20}
                for task, correctness in (scores or {}).items()
                for item, correct in correctness.items()
            ]
            (staged / "items.jsonl").write_text(
                "".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8"
            )
        code = {"commit": "0123456789abcdef", "dirty": made.stage == "train"}
        hardware = {"cpu": "A processor", "cores": 2, "gpus": ["NVIDIA H100"] * 2}
        packages = {"torch": "2.13.0"}
        write_json(
            staged / "provenance.json",
            {"python": "3.11", "code": code, "hardware": hardware, "packages": packages},
        )
        folder.publish(staged)
    return unit


def nine_students(root: Path, hard: str = "hard") -> list[Unit]:
    """Publish a study: three sizes times three shares on two benchmarks, the second of which is `hard`."""
    units = []
    for i, size in enumerate(("0.5B", "3B", "14B")):
        for j, share in enumerate((0.0, 0.5, 1.0)):
            cost = {"flops_per_item": 1e9 * 3**i * (1 + j), "output_tokens": 20.0 * (1 + 2 * j)}
            made = [
                benchmark("easy", 0.4 + 0.1 * i + 0.01 * j, **cost),
                benchmark(hard, 0.1 + 0.1 * i + 0.1 * j, **cost, domain="math"),
            ]
            name, flops = f"{size}-{share:.0%}", 10 ** (18 + i) * (1 + j)
            units.append(evaluation(root, name, flops, made, size=size, share=share))
    return units


def at(table: pd.DataFrame, row: Any, columns: Any = None) -> Any:
    """What a table says at its labels; pandas' types know neither which nor what kind."""
    return table.loc[row] if columns is None else table.loc[row, columns]


def each_row(table: pd.DataFrame) -> list[Any]:
    """A table's rows, by the names of its columns, of whose kinds pandas' types know nothing."""
    return list(table.itertuples())


def results_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The table that `collect` would make of these rows; what they lack is the same."""
    same = {
        "order": "sequential", "recipe": "", "domain": "general", "format": "open-ended",
        "metric": "exact_match,none", "seed": 0, "task_version": "1", "source": "made",
        "output_tokens": 10.0, "reasoning_tokens": 0.0,
    }  # fmt: skip
    return pd.DataFrame([same | row for row in rows]).reindex(columns=list(COLUMNS)).astype(COLUMNS)
