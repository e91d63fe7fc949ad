"""What a study took, from what its jobs wrote down."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from made_results import benchmark, evaluation
from small_study import publish

from analysis.results.usage import USAGE, usage
from analysis.terminal import usage_line
from jobs.core.unit import Resources, Unit
from jobs.core.wording import about, span
from jobs.store import journal
from jobs.store.rundir import StudyDir, write_json

KWH = 3.6e6  # joules


def ran(root: Path, unit: Unit, lines: list[tuple[int, int, int, int, float | None, str | None]]) -> None:
    """Lines of attempts.jsonl: attempt, restart, worker, rank, seconds, error."""
    folder = StudyDir(root).unit(unit)
    folder.path.mkdir(parents=True, exist_ok=True)
    write_json(folder.spec, unit.to_json())
    for line in lines:
        keys = ("attempt", "restart", "worker", "rank", "seconds", "error")
        rest = {"cause": line[-1] and "preempted", "host": "n1", "time": 1.0, "kept": 0, "micro_batch": None}
        journal.append(folder.attempts, {**dict(zip(keys, line, strict=True)), **rest})


def rows(root: Path) -> dict[str, dict[str, Any]]:
    found = usage(root, {"train": KWH}).to_dict("records")
    return {row["stage"]: {str(name): value for name, value in row.items()} for row in found}


def test_a_run_counts_once_whatever_its_ranks_and_holds_all_its_gpus(tmp_path: Path) -> None:
    unit = Unit("train", "a", {}, resources=Resources(nodes=2, tasks_per_node=2, gpus_per_node=2))
    ran(
        tmp_path,
        unit,
        [
            (1, 0, 0, 0, 1800.0, "it was preempted"),
            (1, 0, 0, 1, 1790.0, "it was preempted"),
            (1, 1, 0, 0, None, "ended without an error message"),
            (1, 2, 0, 1, 3599.0, None),
            (1, 2, 0, 0, 3600.0, None),
        ],
    )
    assert rows(tmp_path) == {
        "train": {
            "stage": "train", "units": 1, "runs": 3, "interrupted": 2, "untimed": 1, "hours": 1.5,
            "gpu_hours": 6.0, "interrupted_gpu_hours": 2.0, "flops": 0.0, "joules": KWH,
        }
    }  # fmt: skip
    line = usage_line(usage(tmp_path))
    assert line == "used: 6 h of GPU time (train 6 h); 3 runs, 2 of them interrupted"
    line = usage_line(usage(tmp_path, {"train": KWH}))
    assert line == "used: 6 h of GPU time (train 6 h), 1 kWh of its nodes; 3 runs, 2 of them interrupted"
    assert ", 150 kWh of its nodes;" in usage_line(usage(tmp_path, {"train": 149.7 * KWH}))


def test_each_worker_runs_by_itself_and_an_attempt_that_is_repeated_counts_again(tmp_path: Path) -> None:
    unit = Unit("generate", "a", {}, resources=Resources(workers=2))
    ran(tmp_path, unit, [(1, 0, 0, 0, 60.0, None), (1, 0, 1, 0, 30.0, "x"), (2, 0, 1, 0, 90.0, None)])
    found = rows(tmp_path)["generate"]
    assert (found["runs"], found["interrupted"], found["hours"] * 3600) == (3, 1, pytest.approx(180))
    assert "of job time, without GPUs" in usage_line(usage(tmp_path))


def test_flops_are_those_of_published_results(tmp_path: Path) -> None:
    unit = evaluation(tmp_path, "a", 10**18, [benchmark("x", 0.5), benchmark("y", 0.5, n=50)])
    ran(tmp_path, unit, [(1, 0, 0, 0, 1.0, None)])
    report = Unit("report", "a", {})
    ran(tmp_path, report, [(1, 0, 0, 0, 1.0, None)])
    publish(StudyDir(tmp_path), report, {"benchmarks": 2})
    found = rows(tmp_path)
    assert (found["evaluate"]["flops"], found["report"]["flops"]) == (150 * 1e9, 0)
    assert math.isnan(found["evaluate"]["joules"])
    assert list(found) == ["evaluate", "report"]  # of the training nobody wrote anything


def test_of_another_folder_nothing_is_known(tmp_path: Path) -> None:
    assert list(usage(tmp_path).columns) == list(USAGE)
    assert usage_line(usage(tmp_path)) == ""


@pytest.mark.parametrize(
    ("hours", "words"),
    [(0.004, "14 s"), (0.5, "30 min"), (1.0, "1 h"), (12.34, "12.3 h"), (2469.5, "2,470 h")],
)
def test_spans_have_a_unit_that_reads(hours: float, words: str) -> None:
    assert span(hours) == words


@pytest.mark.parametrize(
    ("number", "words"),
    [(0.0000153, "0.000015"), (1.04, "1"), (1.55, "1.6"), (99.6, "100"), (149.7, "150"), (6_887, "6,900")],
)
def test_two_digits_need_no_exponent(number: float, words: str) -> None:
    assert about(number) == words
