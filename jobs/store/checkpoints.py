"""Checkpoints of one unit's training on disk: which is the newest, and when the next one is due.

All processes write a checkpoint aside, in a folder whose name only their run uses; the marker is written
last, and one rename makes the checkpoint current. Afterwards it is never changed or replaced, and a folder
without the marker is never read. training/checkpointer.py defines the content; this module imports nothing
heavy, since `sor submit` uses it, too.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from jobs.core.unit import Unit
from jobs.store import schema
from jobs.store.rundir import Damaged, UnitDir, fsync_dir, order, read_json, rename_once, write_json

KEPT = 2  # a fenced run may still be reading the second newest
LONGEST = 30 * 60.0  # maximum seconds between two checkpoints
MARKER = "checkpoint.json"
NAME = re.compile(r"step-(\d{8})")
METRICS = "metrics.jsonl"
ASIDE = re.compile(r".+\.(\d+\.\d+)\.tmp")


@dataclass(frozen=True)
class Meta:
    """A checkpoint's metadata."""

    totals: dict[str, Any]  # progress of the training, as `schedule.Totals`
    world_size: int  # number of processes that wrote it
    zero: int | None  # their ZeRO stage; None without DeepSpeed
    micro_batch: int  # blocks per forward pass of a process
    run: str  # the run that wrote it
    gradients: str = ""  # dtype in which they were added up; "": the model's, by an earlier version


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint."""

    path: Path

    @property
    def step(self) -> int:
        return int(self.path.name.rpartition("-")[2])

    def meta(self) -> Meta:
        """Read its metadata.

        Raises:
            Damaged: The metadata cannot be read.
        """
        found = read_json(self.path / MARKER, schema.MARKER)
        return Meta(**{field.name: found[field.name] for field in fields(Meta) if field.name in found})

    @property
    def complete(self) -> bool:
        """Whether the checkpoint is complete; one with an unreadable marker is not."""
        try:
            self.meta()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except Damaged as error:
            print(f"skipped: {error}", file=sys.stderr, flush=True)
            return False
        return True


@dataclass(frozen=True)
class Checkpoints:
    """The folder of a unit's checkpoints, as seen by one run of the unit."""

    folder: Path
    run: str = ""

    def newest(self) -> Checkpoint | None:
        """Return the complete checkpoint with the most steps, or None."""
        return next(iter(self._complete()), None)

    def at(self, step: int) -> Checkpoint:
        return Checkpoint(self.folder / f"step-{step:08}")

    def aside(self, name: str) -> Path:
        """Return the path for this run's private files."""
        return self.folder / f"{name}.{self.run}.tmp"

    def clear(self) -> None:
        """Remove leftovers of this run and of older ones, which are dead or fenced."""
        for path in self.folder.iterdir():
            found = ASIDE.fullmatch(path.name)
            if found and path.is_dir() and order(found[1]) <= order(self.run):
                shutil.rmtree(path, ignore_errors=True)

    def commit(self, aside: Path, meta: Meta) -> None:
        """Make a flushed folder the checkpoint of its step, unless there is one."""
        write_json(aside / MARKER, asdict(meta))
        fsync_dir(aside / MARKER)
        fsync_dir(aside)
        # A fenced run may have committed first.
        rename_once(aside, self.at(meta.totals["step"]).path, MARKER)
        fsync_dir(self.folder)

    def prune(self) -> None:
        """Remove all but the newest KEPT checkpoints."""
        for old in self._complete()[KEPT:]:
            going = self.aside(old.path.name)
            try:
                os.rename(old.path, going)  # so that a half-removed one is never read
            except FileNotFoundError:  # another run was faster
                continue
            shutil.rmtree(going, ignore_errors=True)

    def _complete(self) -> list[Checkpoint]:
        """Return all complete checkpoints, newest first."""
        names = sorted(os.listdir(self.folder), reverse=True) if self.folder.is_dir() else []
        found = [Checkpoint(self.folder / name) for name in names if NAME.fullmatch(name)]
        return [c for c in found if c.complete]


def metrics_of(folder: UnitDir) -> Path | None:
    """Return a training's metrics file: its result's, else its newest run's; None if there is none yet."""
    if (folder.out / METRICS).exists():
        return folder.out / METRICS
    found = {order(match[1]): path for path in folder.checkpoints.glob(f"{METRICS}.*.tmp")
             if (match := ASIDE.fullmatch(path.name))}  # fmt: skip
    return found[max(found)] if found else None


def interval(cost: float, mtbf: float) -> float:
    """Return the seconds between two checkpoints that lose the least time: sqrt(2 · cost · MTBF).

    A checkpoint every T seconds costs a fraction cost/T of the time; an interruption loses T/2 on average, a
    fraction T/(2 · MTBF). The sum is minimal where both are equal. J. W. Young, A first order approximation
    to the optimum checkpoint interval, CACM 17 (1974); J. T. Daly, A higher order estimate of the optimum
    checkpoint interval for restart dumps, FGCS 22 (2006), whose further terms matter only for costs near the
    MTBF.

    Args:
        cost: Seconds for which a checkpoint blocks the training.
        mtbf: Mean seconds between two interruptions without warning.
    """
    return min(math.sqrt(2 * cost * mtbf), LONGEST)


def zero_stage(execution: dict[str, Any]) -> int | None:
    """Return the ZeRO stage of a training's execution; None without DeepSpeed."""
    deepspeed = execution["deepspeed"]
    return None if deepspeed is None else int(deepspeed["zero_optimization"]["stage"])


def why_not(checkpoint: Checkpoint, unit: Unit, world_size: int) -> str | None:
    """Return why a training, as it is to be run now, cannot resume from a checkpoint; None if it can."""
    meta, zero = checkpoint.meta(), zero_stage(unit.execution)
    stands = f"its training stands at step {checkpoint.step}, saved"
    over = f"remove {checkpoint.path.parent} to start over"
    if meta.zero != zero or (zero == 0 and meta.world_size != world_size):
        then, now = _in_words(meta.zero, meta.world_size), _in_words(zero, world_size)
        words = f"{then}, which cannot be read {now}: set that back in its model's preset, or"
        return f"{stands} {words} {over}"
    if zero in (0, 1) and not meta.gradients and unit.config["recipe"]["dtype"] == "bf16":
        words = f"by an earlier version with another optimizer for ZeRO {zero}: resume with that one, or"
        return f"{stands} {words} {over}"
    return None


def _in_words(zero: int | None, world_size: int) -> str:
    how = "without DeepSpeed" if zero is None else f"with ZeRO {zero}"
    return f"{how} by {world_size} process{'' if world_size == 1 else 'es'}"
