"""How a training's processes save together, stop together and begin again where they were.

All of it happens between two steps, where every process has done the same. They agree there, by one small
exchange, on what comes next. Nothing is done inside a signal handler. Writing to the page cache holds the
training up; bringing that to disk does not: a thread on every node does it while the next steps are taken,
and once all have finished, the checkpoint becomes current.
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
from jobs.training.distributed import agreed
from jobs.training.schedule import Totals

FIRST_COST = 0.02  # seconds: taken for the first one's cost, so that it comes early and shows the true one
POLL = 1.0  # seconds between two looks at the conversion of a checkpoint


class Saving:
    """One process's part in the checkpoints of a training.

    Attributes:
        log: where the first process writes the metrics of this run; those of earlier ones are in it, too.
    """

    def __init__(self, ctx: Context, accelerator: Any) -> None:
        self._ctx, self._accelerator = ctx, accelerator
        self._first = ctx.rank == 0
        self._execution = ctx.unit.execution
        self._checkpoints = Checkpoints(ctx.folder.checkpoints, ctx.run)
        self.log = self._checkpoints.aside(METRICS)
        self._thread = ThreadPoolExecutor(1)
        self._aside: tuple[Path, Totals] | None = None  # written, but not current yet
        self._on_disk: Future[None] | None = None
        self._saved: int  # the step that was saved last; resume sets it, and when the next one is due
        self._cost = FIRST_COST
        self._due: float
        self._fence = Fence(ctx.folder, ctx.run)
        if self._first:
            ctx.folder.checkpoints.mkdir(exist_ok=True)  # in the folder that the fence has made
            self._checkpoints.clear()
            self.log.unlink(missing_ok=True)
        if not ctx.unit.execution["deepspeed"]:
            _keep_names(accelerator)

    def resume(self, prepare: Callable[[], Any]) -> tuple[Any, Totals]:
        """Prepare model and optimizer, and bring them to where the newest checkpoint was.

        Returns:
            What `prepare`, which calls `Accelerator.prepare`, returned, and what was done so far.

        Raises:
            ValueError: the newest checkpoint cannot be read by these processes.
            Interrupted, Superseded: as `boundary`.
        """
        newest = self._checkpoints.newest() if self._first else None  # other nodes may see less
        step, stop, superseded = self._agreed(newest.step if newest else 0, self._told, self._fenced)
        if superseded:
            raise self._superseded()
        if stop:
            raise self._interrupted()
        totals = Totals()
        if step:
            checkpoint = self._checkpoints.at(step)
            why = why_not(checkpoint, self._execution, self._ctx.world_size)
            if why:
                raise ValueError(why)
            readable = self._readable(checkpoint)
            prepared = prepare()
            _load(self._accelerator, readable, prepared[1])
            totals = Totals(**checkpoint.meta().totals)
            if self._first:
                shutil.copy(checkpoint.path / METRICS, self.log)
            print(f"resumed from {checkpoint.path}", flush=True)
        else:
            prepared = prepare()
        self._saved = self._ctx.progress.kept = totals.step
        self._plan_next()
        return prepared, totals

    def boundary(self, totals: Totals) -> None:
        """Between two steps: make current what is on disk by now, save if that is due, stop if told to.

        Raises:
            Interrupted: a process was told to stop; what was done is saved.
            Superseded: a newer run of the unit has begun.
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
                self._save(totals)
                self._finish()
            raise self._interrupted()
        if due and not self._aside and totals.step > self._saved:
            self._save(totals)

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Around the training: what goes wrong in it leaves no half-written checkpoint, which may have filled
        the disk; in a run that is fenced, it went wrong since a newer one took such a thing away.

        Of several processes the others may be writing into the same folder still, and would fail for that
        first. What they leave the next run removes when it begins.

        Raises:
            Superseded: that is so.
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
        """The last step is done: what is being written is not needed any more. Raises as `boundary`."""
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
        return Interrupted(self._ctx.preemption.reason or "another of its processes was told to stop")

    def _superseded(self) -> Superseded:
        return Superseded(f"a newer run than {self._ctx.run} has begun, or the unit is done")

    def _save(self, totals: Totals) -> None:
        """Write a checkpoint aside, and begin to bring it to disk."""
        began = time.monotonic()
        aside = self._checkpoints.aside(f"step-{totals.step:08}")
        if self._first:
            self._checkpoints.clear()
            aside.mkdir()
            shutil.copy(self.log, aside / METRICS)
        self._agreed()
        self._accelerator.save_state(str(aside))
        self._agreed()
        if self._ctx.local_rank == 0:
            self._on_disk = self._thread.submit(fsync_tree, aside)
        self._aside = aside, Totals(**asdict(totals))
        self._saved = totals.step
        self._cost = time.monotonic() - began
        self._plan_next()

    def _finish(self) -> None:
        """Wait until the checkpoint that is being written is current."""
        if self._on_disk:
            self._on_disk.result()
        self._agreed()
        self._commit()
        self._agreed()

    def _commit(self) -> None:
        """Make the written checkpoint current; all processes have brought their part to disk."""
        assert self._aside is not None
        aside, totals = self._aside
        self._aside = None
        if self._on_disk:
            self._on_disk.result()
        if self._first:
            size, zero = self._ctx.world_size, zero_stage(self._execution)
            meta = Meta(asdict(totals), size, zero, self._execution["micro_batch"], self._ctx.run)
            self._checkpoints.commit(aside, meta)
            self._thread.submit(self._checkpoints.prune)
        self._ctx.progress.kept = totals.step

    def _plan_next(self) -> None:
        self._due = time.monotonic() + interval(self._cost, 3600 * self._execution["mtbf_hours"])

    def _readable(self, checkpoint: Checkpoint) -> Path:
        """The checkpoint, or where it is converted to for another number of ZeRO's processes."""
        if checkpoint.meta().zero is None or checkpoint.meta().world_size == self._ctx.world_size:
            return checkpoint.path
        converted = self._checkpoints.aside("universal")
        process = None
        if self._first:
            process = _convert(checkpoint.path, converted)
        # A process that waited in one long exchange would be ended by its time limit.
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
    """Read weights, optimizer and random numbers, and put right what the libraries make of them."""
    kept = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    accelerator.load_state(str(folder))
    accelerator.step = 0  # it counts micro-batches, of which a step may have had others then
    # From a universal checkpoint, ZeRO 3 gives all groups the first one's settings, and one count of steps,
    # which each of them raises.
    for group, settings in zip(optimizer.param_groups, kept, strict=True):
        group.update(settings)
    for state in optimizer.state.values():
        state["step"] = state["step"].clone()


def _keep_names(accelerator: Any) -> None:
    """Have weights saved under the names that they have in a model that is not spread, so that any number of
    processes can read them."""
    from accelerate.utils import extract_model_from_parallel

    def saving(models: list[Any], weights: list[dict[str, Any]], folder: str) -> None:
        weights[:] = [extract_model_from_parallel(model).state_dict() for model in models]

    def loading(models: list[Any], folder: str) -> None:
        models[:] = [extract_model_from_parallel(model) for model in models]

    accelerator.register_save_state_pre_hook(saving)
    accelerator.register_load_state_pre_hook(loading)


def _convert(path: Path, converted: Path) -> subprocess.Popen[bytes]:
    """Start to turn a ZeRO checkpoint into DeepSpeed's universal one, which any number of processes reads."""
    from accelerate.utils import MODEL_NAME

    converted.mkdir()
    folders = [f"--input_folder={path / MODEL_NAME}", f"--output_folder={converted / MODEL_NAME}"]
    program = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
    return subprocess.Popen([*program, *folders])
