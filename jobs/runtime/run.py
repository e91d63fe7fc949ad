"""The function that every job runs: one attempt at one unit, as one of its processes.

It finds its place among the ranks, runs the unit's stage and writes down how the attempt ended. What a
stage does stands in the stage's own module; who starts jobs is launch's business. SOR_HANG_SECONDS is for how
long a rank may stand still within its work, at least.
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
    word: Path | None = None,
) -> None:
    """Run one process of one attempt.

    Args:
        spec: the unit, as `Unit.to_json` gives it.
        root: the study's folder.
        place: of this process among those of its job.
        word: the file in which the job's script looks for what to do next; None where there is no script.
    """
    planned = Unit.from_json(spec)
    folder = StudyDir(Path(root)).unit(planned)
    if folder.done:
        print(f"{folder.path} is done already: nothing to do.", flush=True)
        return
    set_environment(place, planned.resources.cpus_per_task)
    if word is None:  # so that a stage which does not listen for it ends with a line in attempts.jsonl
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    restart = int(os.environ.get("SLURM_RESTART_COUNT", 0)) if word else 0
    unit = _as_it_fits(planned, folder)
    ctx = Context(unit, folder, attempt, restart, place.rank, place.local_rank, place.size, worker)
    if word is not None and unit.stage in STARTS_OVER:
        ctx.preemption.unwind(STARTS_OVER[unit.stage])
    ending = Ending(ctx, word, planned.execution.get("micro_batch"))
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
        Watchdog(ctx.progress, lambda words: ending.badly(Cause.HANG, words), floor).start()
        with node_failures.told(StudyDir(Path(root)), unit.id, ctx.local_rank), ending.dated():
            importlib.import_module(STAGE_MODULES[unit.stage]).run(ctx)
    except BaseException as error:
        print(hide(traceback.format_exc()), file=sys.stderr, flush=True)
        ending.by(error)
    ending.well()


def _as_it_fits(unit: Unit, folder: UnitDir) -> Unit:
    """The unit with half of its micro-batch, if a run before has found that the whole does not fit."""
    configured = unit.execution.get("micro_batch")
    micro_batch = fitting(configured, journal.read(folder.attempts, ATTEMPT))
    if micro_batch == configured:
        return unit
    print(f"micro_batch {micro_batch}, since {configured} did not fit into the GPU", flush=True)
    return replace(unit, execution={**unit.execution, "micro_batch": micro_batch})


def set_environment(place: Place, cpus: int) -> None:
    """Set what torch.distributed and the numeric libraries read, before a stage loads them.

    Who is who among the processes is never inherited. The number of threads is: a person may have a reason.
    """
    for name in [name for name in os.environ if foreign(name)]:
        del os.environ[name]
    os.environ.update(place.variables)
    threads = {
        "OMP_NUM_THREADS": str(cpus),
        "RAYON_NUM_THREADS": str(cpus),  # of the tokenizers
        "TOKENIZERS_PARALLELISM": "true" if cpus > 1 else "false",
    }
    for name, value in threads.items():
        os.environ.setdefault(name, value)
