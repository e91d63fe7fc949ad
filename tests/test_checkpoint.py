"""Checkpoints on disk: whole or not there, and which of them a training may go on from."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_study import sor, write_study
from tiny import context

from jobs.core.unit import Resources, Unit
from jobs.runtime.context import Context
from jobs.runtime.fence import Fence
from jobs.store import journal
from jobs.store.checkpoints import (
    KEPT,
    LONGEST,
    MARKER,
    METRICS,
    Checkpoint,
    Checkpoints,
    Meta,
    interval,
    metrics_of,
    why_not,
)  # fmt: skip
from jobs.store.rundir import StudyDir, UnitDir, read_json, write_json
from launch.state.ledger import Ledger, Started
from launch.study.cluster import load_cluster
from launch.study.plan import plan
from launch.study.schema import load_study
from launch.submit.limits import Refusal, refuse_resumes

ZERO = {stage: {"deepspeed": {"zero_optimization": {"stage": stage}}} for stage in range(4)}
PLAIN: dict[str, Any] = {"deepspeed": None}


def training(execution: dict[str, Any], dtype: str = "bf16") -> Unit:
    return Unit("train", "t", {"recipe": {"dtype": dtype}}, execution=execution)


def saved(checkpoints: Checkpoints, step: int, zero: int | None = None, world_size: int = 1) -> Checkpoint:
    """A checkpoint without weights."""
    aside = checkpoints.aside(f"step-{step:08}")
    aside.mkdir(parents=True)
    (aside / "by").write_text(checkpoints.run, encoding="utf-8")
    checkpoints.commit(aside, Meta({"step": step}, world_size, zero, 1, checkpoints.run, "fp32"))
    return checkpoints.at(step)


def test_the_newest_is_the_one_with_the_most_steps_and_a_marker(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c", "1.0")
    assert checkpoints.newest() is None
    for step in (9, 10, 100_000):
        saved(checkpoints, step)
    checkpoints.at(200_000).path.mkdir()  # copied by somebody, without its marker
    checkpoints.aside("step-00300000").mkdir()
    newest = checkpoints.newest()
    assert newest is not None
    assert newest.step == newest.meta().totals["step"] == 100_000


def test_a_few_are_kept_and_none_is_replaced(tmp_path: Path) -> None:
    older, newer = (Checkpoints(tmp_path / "c", run) for run in ("1.9", "1.10"))
    for step in range(1, 6):
        saved(older, step)
        older.prune()
    assert sorted(p.name for p in older.folder.iterdir()) == [f"step-0000000{s}" for s in (4, 5)]
    assert len(list(older.folder.iterdir())) == KEPT
    saved(newer, 5)
    assert (newer.at(5).path / "by").read_text(encoding="utf-8") == "1.9"
    assert not newer.aside("step-00000005").exists()


def test_what_was_left_aside_goes_with_the_runs_that_left_it(tmp_path: Path) -> None:
    runs = {run: Checkpoints(tmp_path, run) for run in ("1.9", "1.10", "2.0")}
    for checkpoints in runs.values():
        checkpoints.aside("step-00000001").mkdir()
        checkpoints.aside("metrics.jsonl").touch()
    runs["1.10"].clear()
    assert [run for run, c in runs.items() if c.aside("step-00000001").exists()] == ["2.0"]
    assert all(c.aside("metrics.jsonl").exists() for c in runs.values())


def test_one_whose_marker_is_none_is_left_out_with_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = Checkpoints(tmp_path, "1.0")
    good, bad = saved(checkpoints, 1), saved(checkpoints, 2)
    write_json(bad.path / MARKER, {"totals": {"step": 2}})
    assert checkpoints.newest() == good
    assert f"skipped: {bad.path / MARKER}" in capsys.readouterr().err


def test_what_cannot_be_removed_yet_stops_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path, "1.0")
    for step in range(1, 5):
        saved(checkpoints, step)

    def not_empty(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOTEMPTY, "a run that is fenced still writes there")

    monkeypatch.setattr(os, "rmdir", not_empty)
    checkpoints.prune()
    aside = {f"step-0000000{step}.1.0.tmp" for step in (1, 2)}
    checkpoints.clear()
    assert {path.name for path in tmp_path.iterdir()} == {"step-00000003", "step-00000004", *aside}


def test_where_another_run_removes_an_old_one_first_the_older_go_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints, rename = Checkpoints(tmp_path, "1.0"), os.rename
    for step in range(1, 5):
        saved(checkpoints, step)

    def late(source: Path, target: Path) -> None:
        if source == checkpoints.at(2).path:
            shutil.rmtree(source)
        rename(source, target)

    monkeypatch.setattr(os, "rename", late)
    checkpoints.prune()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]


def test_metrics_are_the_results_or_the_newest_runs(tmp_path: Path) -> None:
    folder = UnitDir(tmp_path / "train" / "t-1")
    assert metrics_of(folder) is None
    folder.checkpoints.mkdir(parents=True)
    (folder.checkpoints / "metrics.jsonl.copied.tmp").touch()
    assert metrics_of(folder) is None
    logs = [Checkpoints(folder.checkpoints, run).aside(METRICS) for run in ("1.9", "1.10", "1.2")]
    for log in logs:
        log.touch()
    assert metrics_of(folder) == logs[1]
    folder.out.mkdir()
    (folder.out / "metrics.jsonl").touch()
    assert metrics_of(folder) == folder.out / "metrics.jsonl"


def test_the_time_between_two_is_where_their_cost_equals_what_is_lost() -> None:
    cost, mtbf = 2.0, 3600.0
    best = interval(cost, mtbf)
    assert best == pytest.approx(120.0)

    def wasted(seconds: float) -> float:
        return cost / seconds + seconds / (2 * mtbf)

    assert wasted(best) < min(wasted(0.9 * best), wasted(1.1 * best))
    assert interval(60.0, 24 * 3600.0) == LONGEST


@pytest.mark.parametrize(
    ("zero", "world_size", "execution", "now", "refused"),
    [
        (None, 2, PLAIN, 2, False),
        (None, 2, PLAIN, 1, False),
        (1, 2, ZERO[1], 2, False),
        (1, 2, ZERO[1], 1, False),
        (3, 1, ZERO[3], 2, False),
        (0, 2, ZERO[0], 2, False),
        (0, 2, ZERO[0], 1, True),
        (1, 2, ZERO[2], 2, True),
        (3, 2, PLAIN, 2, True),
        (None, 2, ZERO[0], 2, True),
    ],
)
def test_which_can_be_read(
    tmp_path: Path, zero: int | None, world_size: int, execution: dict[str, Any], now: int, refused: bool
) -> None:
    why = why_not(saved(Checkpoints(tmp_path, "1.0"), 7, zero, world_size), training(execution), now)
    assert (why is not None) == refused
    if why:
        wanted = next((stage for stage in ZERO if execution == ZERO[stage]), None)
        how = ("without DeepSpeed" if stage is None else f"with ZeRO {stage}" for stage in (zero, wanted))
        then, there = (
            f"{w} by {n} process{'es' * (n > 1)}" for w, n in zip(how, (world_size, now), strict=True)
        )
        assert why.startswith(f"its training stands at step 7, saved {then}, which cannot be read {there}: ")
        assert why.endswith(f"or remove {tmp_path} to start over")


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("zero", [None, 0, 1, 2, 3])
def test_an_earlier_version_had_another_optimizer_for_some_trainings(
    tmp_path: Path, zero: int | None, dtype: str
) -> None:
    checkpoint = saved(Checkpoints(tmp_path, "1.0"), 7, zero, 2)
    how = training(PLAIN if zero is None else ZERO[zero], dtype)
    assert why_not(checkpoint, how, 2) is None
    marker = checkpoint.path / MARKER
    write_json(marker, {key: value for key, value in read_json(marker).items() if key != "gradients"})
    why = why_not(checkpoint, how, 2)
    assert (why is not None) == (zero in (0, 1) and dtype == "bf16")
    assert why is None or why.endswith(
        f"saved by an earlier version with another optimizer for ZeRO {zero}: resume with that one, or "
        f"remove {tmp_path} to start over"
    )


def test_a_training_that_could_not_go_on_is_refused_before_anything_is_submitted(tmp_path: Path) -> None:
    file, root = write_study(tmp_path), StudyDir(tmp_path / "runs" / "small")
    train = next(u for u in plan(load_study(str(file)), load_cluster("local")) if u.stage == "train")
    checkpoints = Checkpoints(root.unit(train).checkpoints, "1.0")
    saved(checkpoints, 40, zero=2, world_size=4)
    Ledger(root.ledger).intent("train-1", [Started(train.id, 1)])
    Ledger(root.ledger).ended("failed", [(train.id, 1, "made up")])
    before = journal.own(root.ledger).read_text(encoding="utf-8")
    done = sor("submit", file, "--yes", "--runs", tmp_path / "runs")
    assert done.returncode != 0
    words = (
        f"train {train.name}: its training stands at step 40, saved with ZeRO 2 by 4 processes, which cannot"
    )
    assert words in done.stderr
    assert journal.own(root.ledger).read_text(encoding="utf-8") == before
    shutil.rmtree(checkpoints.folder)
    refuse_resumes([train], root)  # nothing is left to go on from: it does not raise


def test_all_trainings_that_could_not_resume_are_named_and_no_others(tmp_path: Path) -> None:
    root, saved_by_two = StudyDir(tmp_path), {"shrunk": 0, "same": 0, "other": 2}
    units = [
        Unit("train", name, {"name": name}, execution=ZERO[0], resources=Resources(tasks_per_node=processes))
        for name, processes in (("new", 1), ("shrunk", 1), ("same", 2), ("other", 2))
    ]
    for unit in units[1:]:
        saved(Checkpoints(root.unit(unit).checkpoints, "1.0"), 4, saved_by_two[unit.name], 2)
    with pytest.raises(Refusal) as caught:
        refuse_resumes(units, root)
    first, second = str(caught.value).splitlines()
    assert first.startswith("train shrunk: its training stands at step 4, saved with ZeRO 0 by 2 processes,")
    assert second.startswith("train other: its training stands at step 4, saved with ZeRO 2 by 2 processes,")


def test_the_newer_run_goes_on_and_nobody_after_the_result(tmp_path: Path) -> None:
    folder = UnitDir(tmp_path / "u-1")
    first = Fence(folder, "1.9")
    assert not first.superseded
    second = Fence(folder, "1.10")
    assert first.superseded
    assert not second.superseded
    Fence(folder, "1.9")  # it begins late
    assert not second.superseded
    folder.out.mkdir()
    write_json(folder.result, {})
    assert second.superseded


def test_publishing_removes_what_dead_runs_had_staged(tmp_path: Path) -> None:
    unit = Unit("generate", "u", {})
    ctx = context(tmp_path, unit, attempt=2, restart=1, worker=3)
    names = {
        "out.1.5.0.0.tmp": False, "out.2.0.3.0.tmp": False, "out.2.0.1.0.tmp": True, "out.2.1.1.0.tmp": True,
        "out.2.2.3.0.tmp": True, "out.3.0.3.0.tmp": True, "out.mine.tmp": True,
    }  # fmt: skip
    for name in names:
        (ctx.folder.path / name).mkdir()
    staged = ctx.staging()
    ctx.publish(staged, {})
    assert ctx.folder.done
    assert {name: (ctx.folder.path / name).exists() for name in names} == names


@pytest.mark.parametrize("processes", [1, 2])
def test_a_rank_with_a_full_disk_leaves_the_others_what_they_write(tmp_path: Path, processes: int) -> None:
    from jobs.training.checkpointer import Saving

    execution = {"deepspeed": {"zero_optimization": {"stage": 1}}, "mtbf_hours": 24.0, "micro_batch": 1}
    unit = Unit("train", "t", {}, execution=execution)
    folder = StudyDir(tmp_path).unit(unit)

    def run(attempt: int, rank: int = 0) -> Saving:
        return Saving(Context(unit, folder, attempt, 0, rank, rank, processes), None)

    run(1)
    failing = run(1, processes - 1)
    writing = Checkpoints(folder.checkpoints, "1.0").aside("step-00000004")
    writing.mkdir()
    with pytest.raises(OSError, match="full"), failing.guarded():
        raise OSError(errno.ENOSPC, "the disk is full")
    assert writing.exists() == (processes == 2)
    run(2)
    assert not writing.exists()
