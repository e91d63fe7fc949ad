"""The function that every job runs: one attempt at one unit, as one of its processes.

It finds its place among the ranks, runs the unit's stage and writes down how the attempt ended. What a
stage does stands in the stage's own module; who starts jobs is launch's business.
"""

from __future__ import annotations

import importlib
import os
import socket
import time
import traceback
from pathlib import Path
from typing import Any

import submitit

from jobs import nodes
from jobs.context import Context
from jobs.rundir import StudyDir, append_jsonl, write_json
from jobs.unit import Unit

STAGE_MODULES = {
    "prepare": "jobs.prepare",
    "generate": "jobs.generate",
    "collate": "jobs.collate",
    "pack": "jobs.pack",
    "train": "jobs.train",
    "evaluate": "jobs.evaluate",
    "report": "analysis.report",
}


def run_unit(spec: dict[str, Any], root: str, attempt: int, worker: int = 0) -> None:
    """Run one process of one attempt.

    Args:
        spec: the unit, as `Unit.to_json` gives it.
        root: the study's folder.
        attempt: its number, counted from 1.
        worker: place among the workers that share the unit.
    """
    place = submitit.JobEnvironment()
    unit = Unit.from_json(spec)
    unit_dir = StudyDir(Path(root)).unit(unit)
    if unit_dir.done:
        print(f"{unit_dir.path} is done already: nothing to do.", flush=True)
        return
    unit_dir.path.mkdir(parents=True, exist_ok=True)
    if place.global_rank == 0:
        write_json(unit_dir.spec, spec)
    set_environment(place, unit.resources.cpus_per_task)
    restart = int(os.environ.get("SLURM_RESTART_COUNT", 0))
    ctx = Context(
        unit, unit_dir, attempt, restart, place.global_rank, place.local_rank, place.num_tasks, worker
    )
    print(
        f"{unit.stage} {unit.name} ({unit.id}), attempt {ctx.run}, rank {ctx.rank} of {ctx.world_size}",
        flush=True,
    )
    try:
        with nodes.told(StudyDir(Path(root)), unit.id, ctx.local_rank):
            importlib.import_module(STAGE_MODULES[unit.stage]).run(ctx)
    except BaseException as error:
        traceback.print_exc()
        append_jsonl(unit_dir.attempts, ended(ctx, f"{type(error).__name__}: {error}"))
        # Not an exception: a peer that waits for this rank, or a thread of a library, would keep it alive.
        os._exit(1)
    append_jsonl(unit_dir.attempts, ended(ctx, None))


def ended(ctx: Context, error: str | None) -> dict[str, Any]:
    """How this process's attempt ended, as a line of attempts.jsonl; `error` is None if all went well."""
    return {
        "attempt": ctx.attempt,
        "worker": ctx.worker,
        "rank": ctx.rank,
        "host": socket.gethostname(),
        "time": time.time(),
        "error": error,
    }


def set_environment(place: submitit.JobEnvironment, cpus: int) -> None:
    """What torch.distributed and the numeric libraries read; a value that is set already stays."""
    values: dict[str, Any] = {
        "OMP_NUM_THREADS": cpus,
        "RAYON_NUM_THREADS": cpus,  # of the tokenizers
        "TOKENIZERS_PARALLELISM": "true" if cpus > 1 else "false",
    }
    if place.num_tasks > 1:
        values |= distributed(place)
    for name, value in values.items():
        os.environ.setdefault(name, str(value))


def distributed(place: submitit.JobEnvironment) -> dict[str, Any]:
    """What a process must know to find the other ranks of its job."""
    local_size = place.num_tasks // place.num_nodes
    # Of the node that srun was called on, the first one. A name that Slurm has for it may not resolve.
    first = os.environ.get("SLURM_LAUNCH_NODE_IPADDR") or place.hostnames[0]
    return {
        "MASTER_ADDR": "127.0.0.1" if place.num_nodes == 1 else first,
        "MASTER_PORT": port(place.raw_job_id),
        "RANK": place.global_rank,
        "WORLD_SIZE": place.num_tasks,
        "LOCAL_RANK": place.local_rank,
        "LOCAL_WORLD_SIZE": local_size,
        "LOCAL_SIZE": local_size,
    }


def port(job_id: str) -> int:
    """A port that all ranks of a job agree on, and that jobs on one machine rarely share.

    Args:
        job_id: its number; an element of an array has one of its own.
    """
    return 20000 + int(job_id) % 20000
