"""The function that every job runs: one process of one attempt at a unit.

It sets up the process's rank, runs the unit's stage and records how the attempt ended. The stages are in
jobs/stages; launch starts the jobs. SOR_HANG_SECONDS sets the minimum time a rank may stand still during its
work before it counts as hung.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs.core.causes import Cause, fitting
from jobs.core.place import Place, foreign
from jobs.core.secrets import hide
from jobs.core.unit import STAGES, Unit
from jobs.runtime import node_failures
from jobs.runtime.context import Context
from jobs.runtime.exit import Ending
from jobs.runtime.signals import STARTS_OVER
from jobs.runtime.watchdog import FLOOR, Watchdog
from jobs.store import journal
from jobs.store.rundir import StudyDir, UnitDir, write_json
from jobs.store.schema import ATTEMPT

STAGE_MODULES = {stage: f"jobs.stages.{stage}" for stage in STAGES} | {"report": "analysis.report"}


def run_unit(
    spec: dict[str, Any],
    root: str,
    attempt: int,
    worker: int,
    place: Place,
    verdict: Path | None = None,
) -> None:
    """Run one process of one attempt.

    Args:
        spec: The unit, as returned by `Unit.to_json`.
        root: The study's folder.
        place: This process's rank among those of its job.
        verdict: File for the requeue verdict; None without a job script.
    """
    planned = Unit.from_json(spec)
    folder = StudyDir(Path(root)).unit(planned)
    if folder.done:
        print(f"{folder.path} is already done: nothing to do.", flush=True)
        return
    set_environment(place, planned.resources.cpus_per_task)
    if verdict is None:  # a stage without its own handler then ends with a line in attempts.jsonl
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    restart = int(os.environ.get("SLURM_RESTART_COUNT", 0)) if verdict else 0
    unit = _as_it_fits(planned, folder)
    ctx = Context(unit, folder, attempt, restart, place.rank, place.local_rank, place.size, worker)
    if verdict is not None and unit.stage in STARTS_OVER:
        ctx.preemption.unwind(STARTS_OVER[unit.stage])
    ending = Ending(ctx, verdict, planned.execution.get("micro_batch"))
    print(
        f"{unit.stage} {unit.name} ({unit.id}), attempt {ctx.run}, rank {ctx.rank} of {ctx.world_size}",
        flush=True,
    )
    try:
        if ctx.rank == 0:
            folder.path.mkdir(parents=True, exist_ok=True)
            write_json(folder.spec, spec)
            ending.check_budget()
        floor = float(os.environ.get("SOR_HANG_SECONDS", FLOOR))
        Watchdog(ctx.progress, lambda words: ending.fail(Cause.HANG, words), floor).start()
        with node_failures.recorded(StudyDir(Path(root)), unit.id, ctx.local_rank), ending.dated():
            importlib.import_module(STAGE_MODULES[unit.stage]).run(ctx)
    except BaseException as error:
        print(hide(traceback.format_exc()), file=sys.stderr, flush=True)
        ending.fail_with(error)
    ending.succeed()


def _as_it_fits(unit: Unit, folder: UnitDir) -> Unit:
    """Return the unit with a smaller micro-batch if an earlier run ran out of GPU memory."""
    configured = unit.execution.get("micro_batch")
    micro_batch = fitting(configured, journal.read(folder.attempts, ATTEMPT))
    if micro_batch == configured:
        return unit
    print(f"micro_batch {micro_batch}, since {configured} did not fit on the GPU", flush=True)
    return replace(unit, execution={**unit.execution, "micro_batch": micro_batch})


def set_environment(place: Place, cpus: int) -> None:
    """Set what torch.distributed and the numeric libraries read, before a stage imports them.

    Variables that identify ranks are never inherited. Thread counts are, since users may set them on purpose.
    """
    for name in [name for name in os.environ if foreign(name)]:
        del os.environ[name]
    os.environ.update(place.variables)
    threads = {
        "OMP_NUM_THREADS": str(cpus),
        "RAYON_NUM_THREADS": str(cpus),  # used by the tokenizers
        "TOKENIZERS_PARALLELISM": "true" if cpus > 1 else "false",
    }
    for name, value in threads.items():
        os.environ.setdefault(name, value)
    if "torch" in sys.modules:  # in a forked job, which has read the variables already
        sys.modules["torch"].set_num_threads(int(os.environ["OMP_NUM_THREADS"].split(",")[0]))
