"""What one process of a training does between two steps, with an accelerator that only notes what it is told.

Real trainings that are interrupted are in test_resume.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.core.unit import CONTINUES, Unit
from jobs.runtime.context import Context
from jobs.runtime.fence import Fence, Superseded
from jobs.runtime.signals import Interrupted, Preemption
from jobs.store.checkpoints import LONGEST, Checkpoint, Checkpoints, Meta
from jobs.store.rundir import StudyDir
from jobs.training import checkpointer
from jobs.training.checkpointer import Saving
from jobs.training.schedule import Totals

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

DAY = 24 * 3600.0
TOLD = "it was preempted or cancelled"


class Clock:
    """The monotonic clock, which stands still unless it is put forward."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        patch.setattr(time, "monotonic", lambda: self.now)


class Training:
    """A process's accelerator, whose state is a text; a save takes two seconds."""

    device = "cpu"

    def __init__(self, clock: Clock) -> None:
        self.clock, self.weights, self.step = clock, "as they began", 3
        self.hooks: list[Any] = []
        self.register_save_state_pre_hook = self.register_load_state_pre_hook = self.hooks.append
        self.state = SimpleNamespace(deepspeed_plugin=SimpleNamespace(deepspeed_config={"kept": "as it is"}))

    def save_state(self, folder: str) -> None:
        (Path(folder) / "weights").write_text(self.weights, encoding="utf-8")
        self.clock.now += 2.0

    def load_state(self, folder: str) -> None:
        self.weights = (Path(folder) / "weights").read_text(encoding="utf-8")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def context(root: Path, run: str = "1.0", zero: int | None = None, **place: int) -> Context:
    deepspeed = None if zero is None else {"zero_optimization": {"stage": zero}}
    execution = {"deepspeed": deepspeed, "mtbf_hours": 24.0, "micro_batch": 2}
    unit = Unit("train", "t", {}, execution=execution)
    attempt, restart = map(int, run.split("."))
    return Context(unit, StudyDir(root).unit(unit), attempt, restart, preemption=Preemption(), **place)


def started(ctx: Context, clock: Clock) -> tuple[Saving, Training]:
    """A process of a training that has started, or gone on, and what it trains with."""
    training = Training(clock)
    saving = Saving(ctx, training)
    made = ("model", optimizer())
    prepared, _ = saving.resume(lambda: made)
    assert prepared is made
    if ctx.rank == 0:
        saving.log.write_text("metrics", encoding="utf-8")
    return saving, training


def optimizer(steps: Any = None, **settings: float) -> Any:
    return SimpleNamespace(
        param_groups=[{"params": ["w"], **settings}],
        state={"w": {"step": steps}} if steps is not None else {},
    )


def others_say(monkeypatch: pytest.MonkeyPatch, *more: int) -> None:
    """From now on another process says these in every exchange of as many numbers."""

    def agreed(_: Any, values: tuple[int, ...]) -> list[int]:
        said = more if len(values) == len(more) else (0,) * len(values)
        return [int(max(pair)) for pair in zip(values, said, strict=True)]

    monkeypatch.setattr(checkpointer, "agreed", agreed)


def on_disk(saving: Saving) -> None:
    """Wait until its thread has nothing left to do."""
    saving._thread.submit(lambda: None).result()


def checkpoints(ctx: Context) -> Checkpoints:
    return Checkpoints(ctx.folder.checkpoints, ctx.run)


def names(ctx: Context) -> set[str]:
    return {path.name for path in ctx.folder.checkpoints.iterdir()}


def newest(ctx: Context) -> Checkpoint:
    found = checkpoints(ctx).newest()
    assert found is not None
    return found


def test_a_checkpoint_is_written_when_it_is_due_and_current_once_it_is_on_disk(
    tmp_path: Path, clock: Clock
) -> None:
    ctx = context(tmp_path, "2.1")
    saving, training = started(ctx, clock)
    first = (2 * 0.02 * DAY) ** 0.5  # what an imagined cost of 0.02 s lets one wait
    clock.now += first - 0.01
    saving.boundary(Totals(step=1))
    assert names(ctx) == {"metrics.jsonl.2.1.tmp"}
    clock.now += 0.01
    training.weights = "after two steps"
    saving.boundary(Totals(step=2, tokens=7))
    assert names(ctx) == {"metrics.jsonl.2.1.tmp", "step-00000002.2.1.tmp"}
    assert ctx.progress.kept == 0
    on_disk(saving)
    saving.boundary(Totals(step=3))
    found = newest(ctx)
    totals = {"step": 2, "tokens": 7, "answer_tokens": 0, "flops": 0, "shared_flops": 0, "seconds": 0.0}
    meta = found.meta()
    assert meta.totals.pop("loss") != meta.totals.get("loss")  # not a number yet
    assert meta == Meta(totals, world_size=1, zero=None, micro_batch=2, run="2.1", gradients="fp32")
    assert (found.path / "weights").read_text(encoding="utf-8") == "after two steps"
    assert (found.path / "metrics.jsonl").read_text(encoding="utf-8") == "metrics"
    assert ctx.progress.kept == 2
    assert names(ctx) == {"metrics.jsonl.2.1.tmp", "step-00000002"}
    clock.now += (2 * 2.0 * DAY) ** 0.5 - 0.01  # since that save, which cost two seconds
    saving.boundary(Totals(step=4))
    assert names(ctx) == {"metrics.jsonl.2.1.tmp", "step-00000002"}
    clock.now += 0.01
    saving.boundary(Totals(step=5))
    assert names(ctx) == {"metrics.jsonl.2.1.tmp", "step-00000002", "step-00000005.2.1.tmp"}


def test_while_one_is_brought_to_disk_no_other_is_started(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = context(tmp_path)
    saving, _ = started(ctx, clock)
    clock.now += LONGEST
    others_say(monkeypatch, 0, 0, 1, 0)  # its part is not on disk
    saving.boundary(Totals(step=1))
    on_disk(saving)
    clock.now += LONGEST
    saving.boundary(Totals(step=2))
    assert names(ctx) == {"metrics.jsonl.1.0.tmp", "step-00000001.1.0.tmp"}
    others_say(monkeypatch)
    saving.boundary(Totals(step=3))
    assert names(ctx) == {"metrics.jsonl.1.0.tmp", "step-00000001", "step-00000003.1.0.tmp"}


@pytest.mark.parametrize("told", [False, True])
def test_what_cannot_be_brought_to_disk_is_never_current(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    def fails(folder: Path) -> None:
        raise OSError(f"{folder.name} is not on disk")

    ctx = context(tmp_path)
    saved, _ = started(ctx, clock)
    monkeypatch.setattr(checkpointer, "fsync_tree", fails)
    clock.now += LONGEST
    saved.boundary(Totals(step=1))
    on_disk(saved)
    if told:
        ctx.preemption.reason = TOLD
    with pytest.raises(OSError, match=r"step-00000001\.1\.0\.tmp is not on disk"):
        saved.boundary(Totals(step=2))
    assert checkpoints(ctx).newest() is None


def test_old_ones_are_removed_when_a_new_one_is_current(tmp_path: Path, clock: Clock) -> None:
    ctx = context(tmp_path)
    saving, _ = started(ctx, clock)
    for step in range(1, 6):
        clock.now += LONGEST
        saving.boundary(Totals(step=step))
        on_disk(saving)
    assert names(ctx) == {
        "metrics.jsonl.1.0.tmp", "step-00000003", "step-00000004", "step-00000005.1.0.tmp",
    }  # fmt: skip


def test_told_to_stop_it_saves_where_it_is_and_ends(tmp_path: Path, clock: Clock) -> None:
    ctx = context(tmp_path)
    saving, _ = started(ctx, clock)
    clock.now += LONGEST
    saving.boundary(Totals(step=1))
    ctx.preemption.reason = TOLD
    with pytest.raises(Interrupted, match=TOLD):
        saving.boundary(Totals(step=2))
    assert {"step-00000001", "step-00000002"} <= names(ctx)
    assert (newest(ctx).step, ctx.progress.kept) == (2, 2)


def test_told_to_stop_after_a_save_it_saves_no_second_time(tmp_path: Path, clock: Clock) -> None:
    ctx = context(tmp_path)
    saving, training = started(ctx, clock)
    clock.now += LONGEST
    saving.boundary(Totals(step=1))
    ctx.preemption.reason, training.weights, saved_by = TOLD, "changed", clock.now
    with pytest.raises(Interrupted):
        saving.boundary(Totals(step=1))
    assert clock.now == saved_by, "a save takes time"
    assert (newest(ctx).path / "weights").read_text(encoding="utf-8") == "as they began"
    assert names(ctx) == {"metrics.jsonl.1.0.tmp", "step-00000001"}


def test_it_stops_with_the_others(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = context(tmp_path, rank=0, world_size=2)
    saving, _ = started(ctx, clock)
    others_say(monkeypatch, 0, 1, 0, 0)
    with pytest.raises(Interrupted, match="another of its processes was asked to stop"):
        saving.boundary(Totals(step=4))
    assert newest(ctx).meta().world_size == 2


def test_another_process_than_the_first_writes_its_part_alone(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = context(tmp_path, rank=1, local_rank=1, world_size=2)
    aside = checkpoints(ctx).aside("step-00000001")
    aside.mkdir(parents=True)  # by the first
    (ctx.folder.checkpoints / "metrics.jsonl.1.0.tmp").touch()
    saving, _ = started(ctx, clock)
    clock.now += LONGEST
    saving.boundary(Totals(step=1))
    assert list(aside.iterdir()) == [], "the first says when one is due"
    others_say(monkeypatch, 1, 0, 0, 0)
    saving.boundary(Totals(step=1))
    assert [path.name for path in aside.iterdir()] == ["weights"]
    assert saving._on_disk is None, "the first process of its node brings all of the node's to disk"
    saving.boundary(Totals(step=1))
    assert names(ctx) == {"metrics.jsonl.1.0.tmp", aside.name}
    assert ctx.progress.kept == 1


@pytest.mark.parametrize("told", [False, True])
def test_a_newer_run_is_seen_before_anything_is_written(tmp_path: Path, clock: Clock, told: bool) -> None:
    ctx = context(tmp_path)
    saving, _ = started(ctx, clock)
    clock.now += LONGEST
    saving.boundary(Totals(step=1))
    on_disk(saving)
    saving.boundary(Totals(step=2))
    Fence(ctx.folder, "2.0")
    saving.boundary(Totals(step=3))  # writes nothing, and does not look
    if told:
        ctx.preemption.reason = TOLD
    else:
        clock.now += LONGEST
    with pytest.raises(Superseded, match=r"a newer run than 1\.0 has started"):
        saving.boundary(Totals(step=4))
    assert names(ctx) == {"metrics.jsonl.1.0.tmp", "step-00000001"}


def test_a_step_after_which_nothing_is_written_reads_nothing_from_the_disk(
    tmp_path: Path, clock: Clock
) -> None:
    ctx = context(tmp_path)
    saving, _ = started(ctx, clock)
    Fence(ctx.folder, "2.0")
    saving.boundary(Totals(step=1))  # a look at the disk would find the newer run
    clock.now += LONGEST
    with pytest.raises(Superseded):
        saving.boundary(Totals(step=2))


def test_a_newer_run_is_seen_before_what_is_written_is_current(tmp_path: Path, clock: Clock) -> None:
    ctx = context(tmp_path)
    saving, _ = started(ctx, clock)
    clock.now += LONGEST
    saving.boundary(Totals(step=1))
    Fence(ctx.folder, "2.0")
    on_disk(saving)
    with pytest.raises(Superseded):
        saving.boundary(Totals(step=2))
    assert checkpoints(ctx).newest() is None


def test_a_process_ends_where_another_one_saw_a_newer_run(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = context(tmp_path, rank=0, world_size=2)
    saving, _ = started(ctx, clock)
    others_say(monkeypatch, 0, 0, 0, 1)
    with pytest.raises(Superseded):
        saving.boundary(Totals(step=1))
    others_say(monkeypatch, 1)
    with pytest.raises(Superseded):
        saving.close()


def test_at_its_end_it_looks_for_a_newer_run_and_not_for_a_signal(tmp_path: Path, clock: Clock) -> None:
    ctx = context(tmp_path)
    saving, _ = started(ctx, clock)
    ctx.preemption.reason = TOLD
    saving.close()
    with pytest.raises(RuntimeError):
        saving._thread.submit(lambda: None)
    Fence(ctx.folder, "1.1")
    with pytest.raises(Superseded):
        saving.close()


def test_what_fails_since_a_newer_run_has_started_says_that(tmp_path: Path, clock: Clock) -> None:
    ctx = context(tmp_path)
    saving, _ = started(ctx, clock)
    for error in (Interrupted("told"), Superseded("by itself")):
        with pytest.raises(type(error), match=str(error)), saving.guarded():
            raise error
    Fence(ctx.folder, "2.0")
    with pytest.raises(Superseded, match=r"a newer run than 1\.0 ") as found, saving.guarded():
        raise FileNotFoundError("what the newer one took away")
    assert isinstance(found.value.__cause__, FileNotFoundError)


def kept(ctx: Context, clock: Clock, step: int) -> None:
    """Run until a step is saved."""
    saving, training = started(ctx, clock)
    training.weights = f"after step {step}"
    ctx.preemption.reason = TOLD
    with pytest.raises(Interrupted):
        saving.boundary(Totals(step=step, tokens=10 * step))


def test_it_goes_on_from_the_newest_with_what_was_measured_until_then(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    kept(context(tmp_path, "1.0"), clock, 4)
    ctx = context(tmp_path, "1.1")
    training, steps = Training(clock), torch.tensor(4.0)
    saving = Saving(ctx, training)
    made = ("model", optimizer(steps, lr=0.5))
    prepared, totals = saving.resume(lambda: made)
    assert prepared is made
    assert (totals.step, totals.tokens, training.weights) == (4, 40, "after step 4")
    assert saving.log.read_text(encoding="utf-8") == "metrics"
    assert saving.log.name == "metrics.jsonl.1.1.tmp"
    assert training.step == 0
    assert made[1].state["w"]["step"] is not steps
    assert made[1].state["w"]["step"] == steps
    assert ctx.progress.kept == 4
    assert f"resumed from {newest(ctx).path}" in capsys.readouterr().out
    clock.now += LONGEST
    saving.boundary(totals)  # due, but it is saved
    assert not any(name.startswith("step-00000004.") for name in names(ctx))


def test_each_group_keeps_its_settings_whatever_is_read(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(context(tmp_path, "1.0"), clock, 4)
    made = optimizer(lr=0.5, weight_decay=0.1)

    def read(training: Training, folder: str) -> None:
        made.param_groups[0] |= {"params": ["of the checkpoint"], "lr": 7.0, "weight_decay": 7.0}

    monkeypatch.setattr(Training, "load_state", read)
    Saving(context(tmp_path, "1.1"), Training(clock)).resume(lambda: ("model", made))
    assert made.param_groups == [{"params": ["of the checkpoint"], "lr": 0.5, "weight_decay": 0.1}]
    monkeypatch.setattr(Training, "load_state", lambda *_: made.param_groups.append({"params": ["more"]}))
    with pytest.raises(ValueError, match="zip"):
        Saving(context(tmp_path, "1.2"), Training(clock)).resume(lambda: ("model", made))


def test_a_new_run_begins_without_what_older_ones_left_aside(tmp_path: Path, clock: Clock) -> None:
    older = context(tmp_path, "1.0")
    started(older, clock)
    checkpoints(older).aside("step-00000009").mkdir()
    Saving(context(tmp_path, "1.0"), Training(clock))
    assert names(older) == set()


@pytest.mark.parametrize(("told", "error"), [(True, Interrupted), (False, Superseded)])
def test_a_run_that_is_to_end_prepares_nothing(
    tmp_path: Path, clock: Clock, told: bool, error: type[Exception]
) -> None:
    ctx = context(tmp_path)
    saving = Saving(ctx, Training(clock))
    if told:
        ctx.preemption.reason = TOLD
    else:
        Fence(ctx.folder, "1.1")
    with pytest.raises(error):
        saving.resume(lambda: pytest.fail("it was prepared"))


def test_processes_go_on_from_where_the_first_does(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run, step in (("1.0", 4), ("1.1", 6)):
        kept(context(tmp_path, run), clock, step)
    ctx = context(tmp_path, "2.0", rank=1, local_rank=1, world_size=2)
    others_say(monkeypatch, 4, 0, 0, 0)  # the first does not see the newer one yet
    training = Training(clock)
    _, totals = Saving(ctx, training).resume(lambda: ("model", optimizer()))
    assert (totals.step, training.weights) == (4, "after step 4")
    assert not (ctx.folder.checkpoints / "metrics.jsonl.2.0.tmp").exists()


def test_what_cannot_be_read_is_refused(tmp_path: Path, clock: Clock) -> None:
    kept(context(tmp_path, zero=0, world_size=2), clock, 4)
    with pytest.raises(ValueError, match="by 2 processes, which cannot be read with ZeRO 0 by 1 process:"):
        started(context(tmp_path, "2.0", zero=0), clock)


class Conversion:
    """DeepSpeed's program, which takes three looks."""

    def __init__(self, path: Path, converted: Path, code: int) -> None:
        self.left, self.code = 3, code
        self.returncode: int | None = None
        converted.mkdir()
        (converted / "weights").write_text(f"of {path.name}, converted", encoding="utf-8")

    def poll(self) -> int | None:
        self.left -= 1
        if not self.left:
            self.returncode = self.code
        return self.returncode


@pytest.mark.parametrize("code", [0, 1])
def test_a_checkpoint_of_zero_is_converted_for_another_number_of_processes(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    kept(context(tmp_path, zero=2, world_size=2), clock, 4)
    ctx = context(tmp_path, "2.0", zero=2, world_size=4)
    (ctx.folder.checkpoints / "universal.2.0.tmp").mkdir()
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    monkeypatch.setattr(checkpointer, "_convert", lambda path, converted: Conversion(path, converted, code))
    training = Training(clock)
    saved = Saving(ctx, training)
    if code:
        with pytest.raises(RuntimeError, match=r"could not convert .*step-00000004 for 4 processes"):
            saved.resume(lambda: ("model", optimizer()))
        return
    saved.resume(lambda: ("model", optimizer()))
    assert training.weights == "of step-00000004, converted"
    assert training.state.deepspeed_plugin.deepspeed_config == {
        "kept": "as it is", "checkpoint": {"load_universal": True},
    }  # fmt: skip
    assert waited == [1.0, 1.0]


def test_where_the_first_process_converts_the_others_wait_for_it(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(context(tmp_path, zero=2, world_size=2), clock, 4)
    ctx = context(tmp_path, "2.0", zero=2, rank=1, local_rank=1, world_size=4)
    converted = checkpoints(ctx).aside("universal")
    converted.mkdir()
    (converted / "weights").write_text("converted by the first", encoding="utf-8")
    monkeypatch.setattr(checkpointer, "_convert", lambda *_: pytest.fail("it converts, too"))
    others_say(monkeypatch, 4, 0, 0, 0)
    training = Training(clock)
    Saving(ctx, training).resume(lambda: ("model", optimizer()))
    assert training.weights == "converted by the first"


@pytest.mark.parametrize(("zero", "world"), [(2, 2), (None, 4)])
def test_what_these_processes_can_read_is_not_converted(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, zero: int | None, world: int
) -> None:
    kept(context(tmp_path, zero=zero, world_size=2), clock, 4)
    monkeypatch.setattr(checkpointer, "_convert", lambda *_: pytest.fail("it is converted"))
    _, training = started(context(tmp_path, "2.0", zero=zero, world_size=world), clock)
    assert training.weights == "after step 4"


def test_deepspeed_converts_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate.utils import MODEL_NAME

    started: list[list[str]] = []
    monkeypatch.setattr(subprocess, "Popen", started.append)
    checkpointer._convert(tmp_path / "step-00000004", tmp_path / "universal")
    assert (tmp_path / "universal").is_dir()
    assert started == [[
        sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state",
        f"--input_folder={tmp_path}/step-00000004/{MODEL_NAME}",
        f"--output_folder={tmp_path}/universal/{MODEL_NAME}",
    ]]  # fmt: skip


def test_weights_have_the_names_of_a_model_that_is_not_spread(tmp_path: Path, clock: Clock) -> None:
    plain, spread = Training(clock), Training(clock)
    Saving(context(tmp_path / "zero", zero=1), spread)
    assert spread.hooks == [], "DeepSpeed has its own"
    Saving(context(tmp_path / "plain"), plain)
    saves, loads = plain.hooks
    model = torch.nn.Linear(2, 2)
    weights = [{"module.weight": None}]
    saves([torch.nn.DataParallel(model)], weights, "")
    assert weights[0].keys() == {"weight", "bias"}
    models = [torch.nn.DataParallel(model)]
    loads(models, "")
    assert models == [model]


def continued(ctx: Context) -> Context:
    """The same process of a training from which another one is to continue."""
    larger = Unit("train", "larger", {}).as_input()
    execution = {**ctx.unit.execution, "continued_by": larger._asdict()}
    return replace(ctx, unit=replace(ctx.unit, execution=execution))


def test_the_state_before_the_cooldown_is_on_disk_before_the_next_step(tmp_path: Path, clock: Clock) -> None:
    ctx = continued(context(tmp_path))
    saving, training = started(ctx, clock)
    clock.now += LONGEST
    saving.boundary(Totals(step=3))  # a checkpoint is on its way
    training.weights = "before the cooldown"
    saving.keep(Totals(step=4))
    assert newest(ctx).step == 3
    (state,) = ctx.folder.stable.iterdir()
    assert (state.name, (state / "weights").read_text(encoding="utf-8")) == (
        "step-00000004",
        training.weights,
    )
    assert ctx.progress.kept == 4
    taken = clock.now
    saving.keep(Totals(step=4))
    assert clock.now == taken, "it was saved already"
    # Its own next run continues from there, as from the newest checkpoint.
    other = Training(clock)
    _, totals = Saving(replace(ctx, attempt=2), other).resume(lambda: ("model", optimizer()))
    assert (totals.step, totals.shared_flops, other.weights) == (4, 0, "before the cooldown")


def test_another_training_continues_from_it_unless_it_is_further_itself(tmp_path: Path, clock: Clock) -> None:
    small = continued(context(tmp_path))
    saving, training = started(small, clock)
    training.weights = "before the cooldown"
    saving.keep(Totals(step=4, flops=70))
    unit = replace(small.unit, name="larger", inputs=(small.unit.as_input(CONTINUES),))
    ctx = replace(small, unit=unit, folder=StudyDir(tmp_path).unit(unit))
    saving, training = started(ctx, clock)
    assert training.weights == "before the cooldown"
    clock.now += LONGEST
    training.weights = "further"
    saving.boundary(Totals(step=6, flops=90, shared_flops=70))
    on_disk(saving)
    saving.boundary(Totals(step=7))
    training = Training(clock)
    _, totals = Saving(replace(ctx, attempt=2), training).resume(lambda: ("model", optimizer()))
    assert (totals.step, totals.flops, totals.shared_flops, training.weights) == (6, 90, 70, "further")


def test_nothing_is_kept_for_nobody_nor_by_a_run_that_is_too_late(tmp_path: Path, clock: Clock) -> None:
    ctx = context(tmp_path)
    saving, _ = started(ctx, clock)
    saving.keep(Totals(step=4))
    assert not ctx.folder.stable.exists()
    Fence(ctx.folder, "2.0")
    with pytest.raises(Superseded):
        saving.keep(Totals(step=4))
