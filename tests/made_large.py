"""A study of 10,000 units, its run directory written by hand, for tests and benchmarks of scale."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from small_study import student, write_study

from jobs.core.unit import Unit
from jobs.store.rundir import StudyDir
from launch.state.ledger import Ledger, Started
from launch.study.cluster import load_cluster
from launch.study.plan import plan
from launch.study.schema import load_study

SEEDS = 1111  # three trainings and six evaluations each
FAILED = 40
ERROR = "RuntimeError: shape '[64, 16384]' is invalid for input of size 1040384"


@dataclass(frozen=True)
class Large:
    """Where it is, and how many of its units are in which state."""

    study: Path
    runs: Path
    total: int
    done: int
    failed: int


def large_file(folder: Path) -> Path:
    """Write the study `large`, of 10,003 units."""
    mixtures, seeds = {"shares": [0, 0.5, 1]}, list(range(SEEDS))
    return write_study(folder, {"s": student()}, name="large", mixtures=mixtures, seeds=seeds)


def large_study(folder: Path) -> Large:
    """Write the study and its run directory, in which a fifth of its trainings are over with their
    evaluations, but for the last few, which failed."""
    file = large_file(folder)
    units = plan(load_study(str(file)), load_cluster("local"))
    root = StudyDir(folder / "runs" / "large")
    trainings = [unit for unit in units if unit.stage == "train"]
    over = trainings[: len(trainings) // 5]
    good = {unit.id for unit in over[:-FAILED]}
    fine = [
        unit
        for unit in units
        if unit.stage in ("prepare", "collate", "tokenize") or good & {unit.id, *(i.id for i in unit.inputs)}
        if unit.stage != "report"
    ]
    started = [*fine, *over[-FAILED:]]
    ledger = Ledger(root.ledger)
    for number, unit in enumerate(started):
        if number % 1000 == 0:
            name = f"wave-{number}"
            wave = started[number : number + 1000]
            ledger.intent(name, [Started(u.id, 1, i) for i, u in enumerate(wave)])
            ledger.submitted(name, str(4711 + number))
        _write(root, unit, None if number < len(fine) else ERROR)
    return Large(file, folder / "runs", len(units), len(fine), FAILED)


def _write(root: StudyDir, unit: Unit, error: str | None) -> None:
    """What a unit leaves behind that is over."""
    folder = root.unit(unit)
    (folder.path if error else folder.out).mkdir(parents=True)
    line = {
        "attempt": 1, "restart": 0, "worker": 0, "rank": 0, "host": "g1", "time": time.time(),
        "seconds": 60.0, "cause": "code error" if error else None, "error": error, "kept": 0,
        "micro_batch": None,
    }  # fmt: skip
    folder.attempts.write_text(
        json.dumps(line) + "\n", encoding="utf-8"
    )  # without waiting for the disk, as jobs do
    if error is None:
        tasks = unit.config["group"]["tasks"] if unit.stage == "evaluate" else ()
        rows = [{"task": task["task"], "accuracy": 0.5} for task in tasks]
        result = {"training": {"flops": 1e9}, "benchmarks": rows, "prompts": 4, "lengths_in": "characters"}
        folder.result.write_text(json.dumps(result), encoding="utf-8")
