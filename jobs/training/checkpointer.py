"""Coordinated saving, stopping and resuming of a training's processes.

All of this happens between steps, where all processes are in the same state; one small exchange agrees on
what comes next. Signal handlers do none of it. Writing to the page cache blocks the training, flushing to
disk does not: a thread on every node flushes during the following steps, and once all have finished, the
checkpoint becomes current.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jobs.runtime.context import Context
from jobs.runtime.fence import Fence, Superseded
from jobs.runtime.signals import Interrupted
from jobs.store.checkpoints import METRICS, Checkpoint, Checkpoints, Meta, interval, why_not, zero_stage
from jobs.store.rundir import fsync_tree
from jobs.training import stable
from jobs.training.distributed import agreed
from jobs.training.schedule import Totals

FIRST_COST = 0.02  # seconds; assumed before the first checkpoint, which thus comes early and is measured
OTHERS = 2  # from this place on, the sources of a state are other units'
POLL = 1.0  # seconds between checks of a checkpoint's conversion


class Saving:
    """One process's part in the checkpoints of a training.

    Attributes:
        log: Metrics file of this run, written by rank 0; includes those of earlier runs.
        events: Folder of TensorBoard's event files of all runs.
    """

    def __init__(self, ctx: Context, accelerator: Any) -> None:
        self._ctx, self._accelerator = ctx, accelerator
        self._first = ctx.rank == 0
        self._execution = ctx.unit.execution
        self._checkpoints = Checkpoints(ctx.folder.checkpoints, ctx.run)
        self.log, self.events = self._checkpoints.aside(METRICS), ctx.folder.events
        self._thread = ThreadPoolExecutor(1)
        self._stable = Checkpoints(ctx.folder.stable, ctx.run)
        before = stable.before(ctx)
        # Where a state to resume from may be: this unit's own, and that of the training it continues.
        self._sources = (self._checkpoints, self._stable, *([before] if before else []))
        self._aside: tuple[Checkpoints, Path, Totals] | None = None  # written, but not yet current
        self._on_disk: Future[None] | None = None
        self._saved: int  # last saved step; set by `resume`, as is the time of the next checkpoint
        self._cost = FIRST_COST
        self._due: float
        self._fence = Fence(ctx.folder, ctx.run)
        if self._first:
            ctx.folder.checkpoints.mkdir(exist_ok=True)  # the fence has created the parent folder
            self._checkpoints.clear()
            self.log.unlink(missing_ok=True)
        if not ctx.unit.execution["deepspeed"]:
            _keep_names(accelerator)

    def resume(self, prepare: Callable[[], Any]) -> tuple[Any, Totals]:
        """Prepare model and optimizer, and restore them from the newest checkpoint.

        Returns:
            What `prepare`, which calls `Accelerator.prepare`, returned, and the totals so far.

        Raises:
            ValueError: These processes cannot read the newest checkpoint.
            Interrupted, Superseded: As for `boundary`.
        """
        # Other nodes' view may be stale.
        step, source = self._newest() if self._first else (0, 0)
        step, source, stop, superseded = self._agreed(step, source, self._told, self._fenced)
        if superseded:
            raise self._superseded()
        if stop:
            raise self._interrupted()
        totals = Totals()
        if step:
            checkpoint = self._sources[source].at(step)
            why = why_not(checkpoint, self._ctx.unit, self._ctx.world_size)
            if why:
                raise ValueError(why)
            readable = self._readable(checkpoint)
            prepared = prepare()
            _load(self._accelerator, readable, prepared[1])
            totals = Totals(**checkpoint.meta().totals)
            if source >= OTHERS:
                totals.shared_flops = totals.flops
            if self._first:
                shutil.copy(checkpoint.path / METRICS, self.log)
            print(f"resumed from {checkpoint.path}", flush=True)
        else:
            prepared = prepare()
        self._saved = self._ctx.progress.kept = totals.step
        self._plan_next()
        return prepared, totals

    def boundary(self, totals: Totals) -> None:
        """Between two steps, make a flushed checkpoint current, save if due, and stop if asked to.

        Raises:
            Interrupted: A process was asked to stop; the work so far is saved.
            Superseded: A newer run of the unit has started.
        """
        due = self._first and time.monotonic() >= self._due
        writing = self._on_disk is not None and not self._on_disk.done()
        fenced = self._first and (due or self._told or self._aside is not None) and self._fence.superseded
        due, stop, writing, fenced = map(bool, self._agreed(due, self._told, writing, fenced))
        if fenced:
            raise self._superseded()
        if self._aside and not writing:
            self._commit()
        if stop:
            if self._aside:
                self._finish()
            if totals.step > self._saved:
                self._save(totals, self._checkpoints)
                self._finish()
            raise self._interrupted()
        if due and not self._aside and totals.step > self._saved:
            self._save(totals, self._checkpoints)

    def keep(self, totals: Totals) -> None:
        """Save the state before the cooldown, if another training is to continue from it, and wait for that.

        Called between two steps, after `boundary`.

        Raises:
            Superseded: A newer run of the unit has started.
        """
        wanted = self._first and self._stable.newest() is None and stable.wanted(self._ctx)
        wanted, superseded = map(bool, self._agreed(wanted, self._fenced))
        if superseded:
            raise self._superseded()
        if wanted:
            if self._aside:
                self._finish()
            self._save(totals, self._stable)
            self._finish()

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Clean up after errors in the training.

        A single process removes a half-written checkpoint, which may have filled the disk. With several,
        others may still be writing into the same folder, and a removal would make them fail first; the next
        run removes the leftovers when it starts. In a superseded run, the newer run may have caused the error
        by removing files.

        Raises:
            Superseded: The training failed and a newer run has started.
        """
        try:
            yield
        except (Interrupted, Superseded):
            raise
        except Exception as error:
            if self._fence.superseded:
                raise self._superseded() from error
            if self._ctx.world_size == 1:
                self._checkpoints.clear()
            raise

    def close(self) -> None:
        """Finish after the last step; a pending checkpoint is no longer needed. Raises as `boundary`."""
        self._thread.shutdown()
        (superseded,) = self._agreed(self._fenced)
        if superseded:
            raise self._superseded()

    @property
    def _told(self) -> bool:
        return self._ctx.preemption.reason is not None

    @property
    def _fenced(self) -> bool:
        return self._first and self._fence.superseded

    def _agreed(self, *values: int) -> list[int]:
        return agreed(self._accelerator, values)

    def _interrupted(self) -> Interrupted:
        return Interrupted(self._ctx.preemption.reason or "another of its processes was asked to stop")

    def _superseded(self) -> Superseded:
        return Superseded(f"a newer run than {self._ctx.run} has started, or the unit is done")

    def _newest(self) -> tuple[int, int]:
        """Return the most steps of a state to resume from, 0 if there is none, and its place in `_sources`.

        A state of another unit that these processes cannot read does not count.
        """
        found = [(0, 0)]
        for place, source in enumerate(self._sources):
            if (state := source.newest()) is None:
                continue
            why = why_not(state, self._ctx.unit, self._ctx.world_size)
            if why and place >= OTHERS:
                print(f"not continued from {state.path}: {why}", flush=True)
            else:
                found.append((state.step, -place))
        step, place = max(found)
        return step, -place

    def _save(self, totals: Totals, to: Checkpoints) -> None:
        """Write a checkpoint aside and start flushing it to disk."""
        began = time.monotonic()
        aside = to.aside(f"step-{totals.step:08}")
        if self._first:
            to.folder.mkdir(exist_ok=True)
            to.clear()
            aside.mkdir()
            shutil.copy(self.log, aside / METRICS)
        self._agreed()
        self._accelerator.save_state(str(aside))
        self._agreed()
        if self._ctx.local_rank == 0:
            self._on_disk = self._thread.submit(fsync_tree, aside)
        self._aside = to, aside, Totals(**asdict(totals))
        self._saved = totals.step
        self._cost = time.monotonic() - began
        self._plan_next()

    def _finish(self) -> None:
        """Wait until the checkpoint being written is current."""
        if self._on_disk:
            self._on_disk.result()
        self._agreed()
        self._commit()
        self._agreed()

    def _commit(self) -> None:
        """Make the written checkpoint current; all processes have flushed their parts."""
        assert self._aside is not None
        to, aside, totals = self._aside
        self._aside = None
        if self._on_disk:
            self._on_disk.result()
        if self._first:
            size, zero = self._ctx.world_size, zero_stage(self._execution)
            micro_batch = self._execution["micro_batch"]
            meta = Meta(asdict(totals), size, zero, micro_batch, self._ctx.run, gradients="fp32")
            to.commit(aside, meta)
            self._thread.submit(to.prune)
        self._ctx.progress.kept = totals.step

    def _plan_next(self) -> None:
        self._due = time.monotonic() + interval(self._cost, 3600 * self._execution["mtbf_hours"])

    def _readable(self, checkpoint: Checkpoint) -> Path:
        """Return the checkpoint's path, or that of its conversion to another number of ZeRO processes."""
        if checkpoint.meta().zero is None or checkpoint.meta().world_size == self._ctx.world_size:
            return checkpoint.path
        converted = self._checkpoints.aside("universal")
        process = None
        if self._first:
            process = _convert(checkpoint.path, converted)
        # Blocking in one long collective would hit its timeout.
        while any(self._agreed(process is not None and process.poll() is None)):
            time.sleep(POLL)
        (failed,) = self._agreed(process is not None and process.returncode != 0)
        if failed:
            raise RuntimeError(
                f"DeepSpeed could not convert {checkpoint.path} for {self._ctx.world_size} processes"
            )
        self._accelerator.state.deepspeed_plugin.deepspeed_config["checkpoint"] = {"load_universal": True}
        return converted


def _load(accelerator: Any, folder: Path, optimizer: Any) -> None:
    """Load weights, optimizer state and RNG states, and correct what the libraries get wrong."""
    kept = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    accelerator.load_state(str(folder))
    accelerator.step = 0  # counts micro-batches, whose number per step may have changed
    # From a universal checkpoint, ZeRO 3 gives all groups the first one's settings and a shared step counter,
    # which each of them would increment.
    for group, settings in zip(optimizer.param_groups, kept, strict=True):
        group.update(settings)
    for state in optimizer.state.values():
        state["step"] = state["step"].clone()


def _keep_names(accelerator: Any) -> None:
    """Save weights under the names of the unwrapped model, so that any number of processes can load them."""
    from accelerate.utils import extract_model_from_parallel

    def saving(models: list[Any], weights: list[dict[str, Any]], folder: str) -> None:
        weights[:] = [extract_model_from_parallel(model).state_dict() for model in models]

    def loading(models: list[Any], folder: str) -> None:
        models[:] = [extract_model_from_parallel(model) for model in models]

    accelerator.register_save_state_pre_hook(saving)
    accelerator.register_load_state_pre_hook(loading)


def _convert(path: Path, converted: Path) -> subprocess.Popen[bytes]:
    """Start converting a ZeRO checkpoint to DeepSpeed's universal format, which any world size can read."""
    from accelerate.utils import MODEL_NAME

    converted.mkdir()
    folders = [f"--input_folder={path / MODEL_NAME}", f"--output_folder={converted / MODEL_NAME}"]
    program = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
    return subprocess.Popen([*program, *folders])
