"""What an interruption of a training costs: to save, to start over, and to have been prepared for it."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from measure import Ratio, seconds

sys.path.append(str(Path(__file__).parent.parent))
import accelerate
import torch
from small_study import lives, wait_for
from small_training import ALONE, ARCHITECTURE, PRESET, Study

from jobs.core.unit import Unit
from jobs.runtime.context import Context
from jobs.store.checkpoints import Checkpoints, interval
from jobs.store.rundir import UnitDir, read_json
from jobs.training.checkpointer import Saving
from launch.local.backend import Local

DAY = 24 * 3600.0
WIDTH = 4096  # of a square matrix, which with Adam's states makes 200 MB
TURNS = 5
LARGER = {**ARCHITECTURE, "hidden_size": 512, "num_hidden_layers": 8, "intermediate_size": 1536}  # 24M


def ratios() -> Iterator[Ratio]:
    """All measurements of this file."""
    with tempfile.TemporaryDirectory() as folder:
        yield from of_a_job(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        yield from of_a_checkpoint(Path(folder))


def of_a_job(folder: Path) -> Iterator[Ratio]:
    """A training of 24M parameters on one core, told to stop, and begun again."""
    study = Study(folder)
    small = study.unit("student", {"epochs": 1000}, {})
    model = {**PRESET, "architecture": LARGER}
    unit = Unit("train", "student", {**small.config, "model": model}, small.inputs, small.execution)
    unit_dir, local = study.root.unit(unit), Local(study.root)
    checkpoints = Checkpoints(unit_dir.checkpoints)

    def begin(attempt: int, done: int) -> tuple[str, float]:
        """Start it; returns the job, and the seconds until more steps are done."""
        began = time.time()
        job = local.submit(unit, f"student-{attempt}", attempt, 0, ())
        wait_for(lambda: _steps(unit_dir, began) > done, "a step", 300)
        return job, time.time() - began

    def stop(job: str) -> float:
        """Tell it to stop; returns the seconds until it has saved."""
        before = checkpoints.newest()
        told = time.time()
        (rank,) = Path(f"/proc/{job}/task/{job}/children").read_text(encoding="utf-8").split()
        os.kill(int(rank), signal.SIGTERM)
        wait_for(lambda: checkpoints.newest() != before, "a checkpoint", 120)
        took = time.time() - told
        wait_for(lambda: not lives(int(job)), "the job to end", 120)  # it writes until then
        return took

    job, cold = begin(1, 0)
    saved = [stop(job)]
    for attempt in range(2, 4):
        newest = checkpoints.newest()
        assert newest is not None
        job, resumed = begin(attempt, newest.step)
        saved.append(stop(job))
    lost = interval(median(saved), DAY) / 2
    yield Ratio(
        "training: SIGTERM to a saved checkpoint",
        "what is lost without, on average",
        median(saved),
        lost,
        "s",
    )
    yield Ratio("training: start to the first new step", "to the first step of all", resumed, cold, "s")


def _steps(folder: UnitDir, since: float) -> int:
    """Steps that a run which began at a time has told of."""
    progress = read_json(folder.progress) if folder.progress.exists() else {"started": 0.0}
    return int(progress["done"]) if progress["started"] > since else 0


def of_a_checkpoint(folder: Path) -> Iterator[Ratio]:
    """How long a checkpoint of 200 MB holds a training up, and which share of a day that makes."""
    execution = {**ALONE, "mtbf_hours": 1e-12}  # one whenever the last one is on disk
    ctx = Context(Unit("train", "u", {}, execution=execution), UnitDir(folder / "u-1"), attempt=1)
    accelerator = accelerate.Accelerator(cpu=True)
    saving, matrix = Saving(ctx, accelerator), torch.nn.Linear(WIDTH, WIDTH)
    optimizer = torch.optim.AdamW(matrix.parameters())
    (model, optimizer), totals = saving.resume(lambda: accelerator.prepare(matrix, optimizer))
    saving.log.touch()
    model(torch.ones(1, WIDTH)).sum().backward()
    optimizer.step()
    overlapped, in_line = [], []
    for _ in range(TURNS):
        totals.step += 1
        overlapped.append(seconds(lambda: saving.boundary(totals)))
        in_line.append(overlapped[-1] + seconds(lambda: _current(saving, totals, ctx)))
    saving.close()
    costs = median(overlapped), median(in_line)
    yield Ratio("checkpoint of 200 MB: brought to disk meanwhile", "at once", *costs, "s")
    ours, theirs = (100 * cost / interval(cost, DAY) for cost in costs)
    yield Ratio("checkpoints: overhead, brought to disk meanwhile", "at once", ours, theirs, "% of the time")


def _current(saving: Saving, totals: Any, ctx: Context) -> None:
    """Wait until the checkpoint of this step is current."""
    while not Checkpoints(ctx.folder.checkpoints).at(totals.step).path.exists():
        saving.boundary(totals)
        time.sleep(0.001)


if __name__ == "__main__":
    for ratio in ratios():
        print(ratio)
