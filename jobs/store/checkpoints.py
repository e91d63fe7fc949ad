"""The checkpoints of one unit's training on disk: which is the newest, and when is the next one due.

A checkpoint is a folder that is written aside, by all processes, under a name that its run alone uses; the
marker comes last, and one rename makes it current. It is never changed or replaced after that, and a folder
without the marker is never read. What the processes put into it is training/checkpointer.py's business; this
module loads nothing heavy, since `sor submit` asks it, too.
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

from jobs.store import schema
from jobs.store.rundir import Damaged, UnitDir, fsync_dir, order, read_json, rename_once, write_json

KEPT = 2  # a run that was fenced may be reading the last but one
LONGEST = 30 * 60.0  # seconds between two checkpoints at most
MARKER = "checkpoint.json"
NAME = re.compile(r"step-(\d{8})")
METRICS = "metrics.jsonl"
ASIDE = re.compile(r".+\.(\d+\.\d+)\.tmp")


@dataclass(frozen=True)
class Meta:
    """What a checkpoint says of itself."""

    totals: dict[str, Any]  # what the training had done, as `schedule.Totals`
    world_size: int  # processes that wrote it
    zero: int | None  # their ZeRO stage; None: without DeepSpeed
    micro_batch: int  # blocks that a process took at once
    run: str  # who wrote it


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint."""

    path: Path

    @property
    def step(self) -> int:
        return int(self.path.name.rpartition("-")[2])

    def meta(self) -> Meta:
        """What it says of itself.

        Raises:
            Damaged: that cannot be read.
        """
        found = read_json(self.path / MARKER, schema.MARKER)
        return Meta(**{field.name: found[field.name] for field in fields(Meta)})

    @property
    def complete(self) -> bool:
        """Whether all of it is there; one whose marker cannot be read is as good as none."""
        try:
            self.meta()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except Damaged as error:
            print(f"left out: {error}", file=sys.stderr, flush=True)
            return False
        return True


@dataclass(frozen=True)
class Checkpoints:
    """The folder of a unit's checkpoints, as one run of the unit sees it."""

    folder: Path
    run: str = ""

    def newest(self) -> Checkpoint | None:
        """The complete checkpoint with the most steps."""
        return next(iter(self._complete()), None)

    def at(self, step: int) -> Checkpoint:
        return Checkpoint(self.folder / f"step-{step:08}")

    def aside(self, name: str) -> Path:
        """Where this run writes what is not to be read by any other."""
        return self.folder / f"{name}.{self.run}.tmp"

    def clear(self) -> None:
        """Remove what this run and older ones left aside. Those are dead, or about to find that they are
        fenced."""
        for path in self.folder.iterdir():
            found = ASIDE.fullmatch(path.name)
            if found and path.is_dir() and order(found[1]) <= order(self.run):
                shutil.rmtree(path, ignore_errors=True)

    def commit(self, aside: Path, meta: Meta) -> None:
        """Make a folder with a state that is on disk the checkpoint of its step, unless there is one."""
        write_json(aside / MARKER, asdict(meta))
        fsync_dir(aside / MARKER)
        fsync_dir(aside)
        # A run that is fenced may have been faster.
        rename_once(aside, self.at(meta.totals["step"]).path, MARKER)
        fsync_dir(self.folder)

    def prune(self) -> None:
        """Remove all but the newest few."""
        for old in self._complete()[KEPT:]:
            going = self.aside(old.path.name)
            try:
                os.rename(old.path, going)  # so that a half-removed one is never read
            except FileNotFoundError:  # another run was faster
                continue
            shutil.rmtree(going, ignore_errors=True)

    def _complete(self) -> list[Checkpoint]:
        """All complete checkpoints, the newest first."""
        names = sorted(os.listdir(self.folder), reverse=True) if self.folder.is_dir() else []
        found = [Checkpoint(self.folder / name) for name in names if NAME.fullmatch(name)]
        return [c for c in found if c.complete]


def metrics_of(folder: UnitDir) -> Path | None:
    """The metrics of a training: its result's, else those of its newest run; None before the first."""
    if (folder.out / METRICS).exists():
        return folder.out / METRICS
    found = {order(match[1]): path for path in folder.checkpoints.glob(f"{METRICS}.*.tmp")
             if (match := ASIDE.fullmatch(path.name))}  # fmt: skip
    return found[max(found)] if found else None


def interval(cost: float, mtbf: float) -> float:
    """Seconds between two checkpoints that lose the least time: sqrt(2 · cost · MTBF).

    A checkpoint every T seconds costs a share cost/T of the time; an interruption loses T/2 on average, a
    share T/(2 · MTBF). The sum is least where both are equal. J. W. Young, A first order approximation to the
    optimum checkpoint interval, CACM 17 (1974); J. T. Daly, A higher order estimate of the optimum checkpoint
    interval for restart dumps, FGCS 22 (2006), whose further terms matter only where cost nears the MTBF.

    Args:
        cost: seconds that a checkpoint holds up the training.
        mtbf: mean seconds between two interruptions without warning.
    """
    return min(math.sqrt(2 * cost * mtbf), LONGEST)


def zero_stage(execution: dict[str, Any]) -> int | None:
    """The ZeRO stage of a training's execution; None: without DeepSpeed."""
    deepspeed = execution["deepspeed"]
    return None if deepspeed is None else int(deepspeed["zero_optimization"]["stage"])


def why_not(checkpoint: Checkpoint, execution: dict[str, Any], world_size: int) -> str | None:
    """Why a training cannot go on in this way from a checkpoint; None if it can."""
    meta, zero = checkpoint.meta(), zero_stage(execution)
    if meta.zero == zero and (zero != 0 or meta.world_size == world_size):
        return None
    then, now = _in_words(meta.zero, meta.world_size), _in_words(zero, world_size)
    return (
        f"its training stands at step {checkpoint.step}, saved {then}, which cannot be read {now}: set that "
        f"back in its model's preset, or remove {checkpoint.path.parent} to begin again"
    )


def _in_words(zero: int | None, world_size: int) -> str:
    how = "without DeepSpeed" if zero is None else f"with ZeRO {zero}"
    return f"{how} by {world_size} process{'' if world_size == 1 else 'es'}"
