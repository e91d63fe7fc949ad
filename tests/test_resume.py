"""A training that was interrupted goes on as if it had not been, whoever goes on."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from small_study import wait_for
from small_training import (
    ALONE,
    FROZEN,
    KILLED,
    PREEMPTED,
    Study,
    busy_gloo,
    disk_full,
    load,
    losses,
    save_for_ever,
    server,
    wait,
    zero,
)

from jobs.core.unit import Unit
from jobs.store.checkpoints import Checkpoints
from jobs.store.rundir import UnitDir, read_json, read_jsonl

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

OFTEN = {"micro_batch": 2, "mtbf_hours": 1e-12}  # a checkpoint whenever the last one is on disk
KILLS = 100


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def whole(study: Study) -> Unit:
    """A training that nothing happened to."""
    unit = study.unit("whole", {"epochs": 2}, {"micro_batch": 2})
    assert study.run(unit, 1) == "done"
    return unit


def step(study: Study, unit: Unit) -> int:
    """The step of a training's newest checkpoint; 0: there is none."""
    newest = Checkpoints(study.root.unit(unit).checkpoints).newest()
    return newest.step if newest else 0


def same(study: Study, unit: Unit, other: Unit) -> None:
    """Two students are the same to the last bit, and so is what is written of their training; nothing is left
    but that."""
    folders = [study.root.unit(u) for u in (unit, other)]
    curves = [list(read_jsonl(folder.out / "metrics.jsonl")) for folder in folders]
    results = [read_json(folder.result) for folder in folders]
    for line in (*curves[0], *curves[1], *results):
        for key in ("seconds", "tokens_per_second"):
            line.pop(key, None)
    assert curves[0] == curves[1]
    assert results[0] == results[1]
    weights = [load(folder.out) for folder in folders]
    assert weights[0].keys() == weights[1].keys()
    for name, weight in weights[0].items():
        assert torch.equal(weight, weights[1][name]), name
    for folder in folders:
        assert not folder.checkpoints.exists()
        assert not list(folder.path.glob("out.*.tmp"))


def alike(study: Study, unit: Unit, whole: Unit) -> None:
    """A student is the same but for rounding, since more processes add up in another order.

    What is rounding in the first steps grows with those that follow: Adam divides by small numbers.
    """
    curves = [losses(study.root.unit(u).out) for u in (unit, whole)]
    assert len(curves[0]) == len(curves[1])
    assert curves[0][:8] == pytest.approx(curves[1][:8], rel=1e-5)
    assert curves[0] == pytest.approx(curves[1], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "processes", "sharing"), [(None, 1, None), (None, 2, None), (2, 1, None), (2, 2, 2)]
)
def test_an_interrupted_training_goes_on_to_the_same_weights(
    study: Study, stage: int | None, processes: int, sharing: int | None
) -> None:
    execution = {"micro_batch": 2, "sequence_parallel": sharing, **({} if stage is None else zero(stage))}
    units = [study.unit(f"{n}-{stage}-{processes}", {}, execution, processes) for n in ("at-once", "parts")]
    assert study.run(units[0], 1) == "done"
    assert study.run(units[1], 1, until=3) == "Interrupted"
    assert [p.name for p in study.root.unit(units[1]).checkpoints.glob("step*")] == ["step-00000003"]
    assert study.run(units[1], 2, until=7, event=PREEMPTED) == "Interrupted"
    assert step(study, units[1]) == 7
    assert study.run(units[1], 3) == "done"
    same(study, *units)


def test_told_to_stop_before_its_first_step_it_leaves_what_there_was(study: Study, whole: Unit) -> None:
    unit = study.unit("early", {"epochs": 2}, {"micro_batch": 2})
    assert study.run(unit, 1, until=0) == "Interrupted"
    assert step(study, unit) == 0
    assert study.run(unit, 2, until=5) == "Interrupted"
    assert study.run(unit, 3, until=0) == "Interrupted"
    assert step(study, unit) == 5
    assert study.run(unit, 4) == "done"
    same(study, unit, whole)


def test_killed_in_the_middle_it_goes_on_from_its_last_checkpoint(study: Study, whole: Unit) -> None:
    unit = study.unit("killed", {"epochs": 2}, OFTEN)
    reached = 0
    for attempt, until in enumerate((6, 13, 19), 1):
        assert study.run(unit, attempt, until=until, event=KILLED) == "killed"
        assert reached < step(study, unit) < until
        reached = step(study, unit)
        kept = sorted(study.root.unit(unit).checkpoints.glob("step-????????"))
        assert len(kept) == 2
    assert study.run(unit, 4) == "done"
    same(study, unit, whole)


def test_a_save_that_fails_leaves_nothing_half_written(study: Study, whole: Unit) -> None:
    unit = study.unit("full", {"epochs": 2}, OFTEN)
    assert study.run(unit, 1, until=5, event=disk_full) == "exit code 1"
    assert 0 < step(study, unit) <= 5
    assert not list(study.root.unit(unit).checkpoints.glob("step-*.tmp"))
    assert study.run(unit, 2) == "done"
    same(study, unit, whole)


def test_another_micro_batch_goes_on_with_the_same_batches(study: Study, whole: Unit) -> None:
    for attempt, micro_batch in enumerate((4, 1, 2), 1):
        unit = study.unit("halved", {"epochs": 2}, {"micro_batch": micro_batch})
        study.run(unit, attempt, until=5 * attempt if attempt < 3 else None)
    alike(study, unit, whole)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [None, 1, 2, 3])
def test_other_numbers_of_processes_go_on(study: Study, whole: Unit, stage: int | None) -> None:
    execution = {"micro_batch": 2, **({} if stage is None else zero(stage))}
    for attempt, (processes, sharing, until) in enumerate(((2, 2, 7), (1, None, 14), (2, None, None)), 1):
        how = {**execution, "sequence_parallel": sharing}
        unit = study.unit(f"other-{stage}", {"epochs": 2}, how, processes)
        ended = study.run(unit, attempt, until)
        assert ended == ("Interrupted" if until else "done")
    alike(study, unit, whole)
    weights = [load(study.root.unit(u).out) for u in (unit, whole)]
    for name, weight in weights[1].items():  # DeepSpeed saves tied ones twice
        assert torch.allclose(weight, weights[0][name], atol=1e-3), name


def test_a_run_refuses_what_it_cannot_read(study: Study) -> None:
    unit = study.unit("refused", {}, {"micro_batch": 2})
    assert study.run(unit, 1, until=3) == "Interrupted"
    assert study.run(study.unit("refused", {}, {"micro_batch": 2, **zero(1)}), 2) == "exit code 1"
    (end,) = read_jsonl(study.root.unit(unit).path / "failed.jsonl")
    assert end["error"].startswith("its training stands at step 3, saved without DeepSpeed")
    assert study.run(unit, 3) == "done"


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("started", [False, True])
def test_a_run_that_comes_back_finds_that_a_newer_one_has_started(
    study: Study, whole: Unit, started: bool, processes: int
) -> None:
    unit = study.unit(f"back-{started}-{processes}", {"epochs": 2}, OFTEN, processes)
    folder = study.root.unit(unit)
    older = study.start(unit, 1, until=5, event=FROZEN)
    wait_for(lambda: all(frozen(process.pid) for process in older), "the older run to be cut off", 60)
    newer = study.start(unit, 2)
    if started:
        wait_for((folder.runs / "2.0").exists, "the newer run to begin")
    else:
        assert wait(newer) == "done"
    for process in older:
        os.kill(process.pid, signal.SIGCONT)
    assert wait(older) == "Superseded"
    assert wait(newer) == "done"
    same(study, unit, whole) if processes == 1 else alike(study, unit, whole)


def test_a_process_group_that_is_busy_does_not_keep_a_training_from_its_end(study: Study) -> None:
    assert study.run(study.unit("parted", {}, {"micro_batch": 2}, 2), 1, until=1, event=busy_gloo) == "done"


def frozen(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "T"


@pytest.mark.parametrize("processes", [1, 2])
def test_of_two_runs_at_once_one_makes_the_result(study: Study, whole: Unit, processes: int) -> None:
    unit = study.unit(f"two-{processes}", {"epochs": 2}, OFTEN, processes)
    runs = [study.start(unit, attempt) for attempt in (2, 1)]
    assert sorted(map(wait, runs)) == ["Superseded", "done"]
    same(study, unit, whole) if processes == 1 else alike(study, unit, whole)


@pytest.mark.slow
def test_killed_during_saves_a_hundred_times_it_reads_none_that_is_half_written(tmp_path: Path) -> None:
    """The weights of the small training are its step, so that a mixture of two would show."""
    folder, rng, reached, halves = UnitDir(tmp_path / "unit-0"), random.Random(0), 0, 0
    for attempt in range(1, KILLS + 1):
        told = tmp_path / f"{attempt}.resumed"
        process = server().Process(target=save_for_ever, args=(folder.path, ALONE | OFTEN, attempt, told))
        process.start()
        wait_for(told.exists, "the training to resume")
        assert int(told.read_text(encoding="utf-8")) >= reached
        time.sleep(rng.uniform(0.0, 0.1))  # of which a save takes about 0.02 s
        process.kill()
        process.join()
        halves += any(folder.checkpoints.glob("step-*.tmp"))
        newest = Checkpoints(folder.checkpoints).newest()
        assert newest is None or newest.step >= reached
        reached = newest.step if newest else 0
    assert halves > KILLS / 4, "hardly a kill came during a save: this shows nothing"
    assert reached > KILLS / 2
