"""A study that ran under faults, held against an undisturbed run of the same study.

Each check returns what is wrong, in words; nothing is wrong in an empty list.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pyarrow.parquet as pq

from chaos.watch import Watch
from jobs.core.unit import Unit
from jobs.data.pairs import PAIRS
from jobs.store import journal
from jobs.store.rundir import StudyDir, UnitDir, read_json, read_jsonl
from jobs.store.schema import event

CLOCKS = ("seconds", "tokens_per_second", "gpu_memory", "mfu")  # of a line of metrics.jsonl: these may differ

DECISION = 30.0  # seconds that `sor submit` may take from its look at the disk to the submission


def problems(root: StudyDir, undisturbed: StudyDir, watch: Watch) -> list[str]:
    """All that is wrong with a study."""
    found = []
    for unit in watch.units:
        folder, model = root.unit(unit), undisturbed.unit(unit)
        if not folder.done:
            found.append(f"{unit.stage} {unit.name} has no result")
            continue
        words = CHECKS[unit.stage](folder, model) if unit.stage in CHECKS else []
        found += [f"{unit.stage} {unit.name}: {word}" for word in [*words, *late(unit, root, watch)]]
    return found


def rows(folder: UnitDir, model: UnitDir) -> list[str]:
    """The chunks hold every prompt once in each mode, and the same answers as the undisturbed run's."""
    ours, theirs = _rows(folder), _rows(model)
    counts, wanted = (Counter((row["id"], row["mode"]) for row in some) for some in (ours, theirs))
    wrong = _differences("rows", counts, wanted)
    answers = {(r["id"], r["mode"]): r["text"] for r in theirs}
    others = sum(r["text"] != answers.get((r["id"], r["mode"])) for r in ours)
    return wrong + ([f"{others} answers are not those of the undisturbed run"] if others else [])


def pairs(folder: UnitDir, model: UnitDir) -> list[str]:
    """The dataset holds every prompt once."""
    counts, wanted = (
        Counter(pq.read_table(some.out / PAIRS, columns=["id"])["id"].to_pylist()) for some in (folder, model)
    )
    return _differences("pairs", counts, wanted)


def training(folder: UnitDir, model: UnitDir) -> list[str]:
    """Every line of the metrics is that of the undisturbed run, bit for bit, except for the time it took."""
    ours, theirs = _metrics(folder), _metrics(model)
    if len(ours) != len(theirs):
        return [f"{len(ours)} lines of metrics, and {len(theirs)} undisturbed"]
    other = [(a, b) for a, b in zip(ours, theirs, strict=True) if a != b]
    return [f"{len(other)} lines of metrics differ, first {other[0][0]} from {other[0][1]}"] if other else []


def accuracies(folder: UnitDir, model: UnitDir) -> list[str]:
    """Every benchmark is there once, with the undisturbed run's accuracy."""
    ours, theirs = _benchmarks(folder), _benchmarks(model)
    return [f"benchmarks are {ours}, and {theirs} undisturbed"] if ours != theirs else []


def late(unit: Unit, root: StudyDir, watch: Watch) -> list[str]:
    """No run of a unit began to tell of progress after its result was there, and none was submitted.

    The folder of a result is renamed when it is published, and never touched again: that sets its ctime.
    Between a submission and its look at the disk, a job that Slurm has given up may publish.
    """
    published = root.unit(unit).out.stat().st_ctime
    submitted = [
        record["time"]
        for record in journal.read(root.ledger, event)
        if record["event"] == "intent" and any(element[0] == unit.id for element in record["elements"])
    ]
    wrong = [
        f"was submitted {t - published:.1f} s after it was done"
        for t in submitted
        if t > published + DECISION
    ]
    began = watch.starts.get(unit.id, ())
    return wrong + [f"was started {t - published:.1f} s after it was done" for t in began if t > published]


def submitted(root: StudyDir) -> int:
    """How many jobs were submitted for a study."""
    return sum(
        len(record["elements"]) for record in journal.read(root.ledger, event) if record["event"] == "intent"
    )


CHECKS = {"generate": rows, "collate": pairs, "train": training, "evaluate": accuracies}


def _differences(what: str, counts: Counter[Any], wanted: Counter[Any]) -> list[str]:
    missing, extra = (wanted - counts).total(), (counts - wanted).total()
    twice = sum(n > 1 for n in counts.values())
    if not (missing or extra or twice):
        return []
    return [
        f"of {wanted.total()} {what} {missing} are missing, {extra} are too many, {twice} are there twice"
    ]


def _rows(folder: UnitDir) -> list[dict[str, Any]]:
    return [row for path in sorted((folder.out / "chunks").glob("*.jsonl")) for row in read_jsonl(path)]


def _metrics(folder: UnitDir) -> list[dict[str, Any]]:
    lines: Iterable[dict[str, Any]] = read_jsonl(folder.out / "metrics.jsonl")
    return [{k: v for k, v in line.items() if k not in CLOCKS} for line in lines]


def _benchmarks(folder: UnitDir) -> list[tuple[str, int, float]]:
    found = read_json(folder.result)["benchmarks"]
    return sorted((b["task"], b["n"], b["accuracy"]) for b in found)
