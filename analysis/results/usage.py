"""What a study used: hours of jobs and of GPUs by stage, including those of interrupted runs.

Based on the jobs' own records, so that it is available anywhere, long after the scheduler's are gone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from analysis.results.collect import warn
from jobs.core.causes import runs
from jobs.core.unit import STAGES
from jobs.store import journal
from jobs.store.rundir import Damaged, StudyDir, UnitDir, read_json
from jobs.store.schema import ATTEMPT

USAGE = {
    "stage": "str",
    "units": "int64",  # units that were started
    "runs": "int64",  # runs of jobs; a resumed job is another run
    "interrupted": "int64",  # runs that ended without a result
    "untimed": "int64",  # interrupted runs of unknown duration
    "hours": "float64",  # of all timed runs, from the start of their first process
    "gpu_hours": "float64",  # hours times the GPUs of each run
    "interrupted_gpu_hours": "float64",  # part of gpu_hours in interrupted runs, whose work was partly kept
    "flops": "float64",  # model FLOPs of published results
    "joules": "float64",  # of all runs, from Slurm accounting; NaN if unknown
}


def usage(path: str | Path, joules: Mapping[str, float] | None = None) -> pd.DataFrame:
    """Return the usage of every stage, in order of stages, including units the study no longer wants.

    Args:
        path: A run directory of this project; any other folder gives an empty table.
        joules: Energy by stage, where known; run directories do not record it.

    Returns:
        The columns of USAGE.
    """
    study = StudyDir(Path(path))
    rows = []
    for stage in STAGES:
        started = {found.parent for found in study.path.glob(f"{stage}/*/attempts.*jsonl")}
        folders = [UnitDir(folder) for folder in sorted(started)]
        if folders:
            used = (joules or {}).get(stage, math.nan)
            rows.append({"stage": stage, "units": len(folders), **_sums(stage, folders), "joules": used})
    return pd.DataFrame(rows, columns=list(USAGE)).astype(USAGE)


def _sums(stage: str, folders: list[UnitDir]) -> dict[str, float]:
    """Return the columns of USAGE between the first two and the last, over some units of one stage."""
    sums = dict.fromkeys(list(USAGE)[2:-1], 0.0)
    for folder in folders:
        try:
            needs, lines = folder.unit().resources, journal.read(folder.attempts, ATTEMPT)
        except (Damaged, FileNotFoundError) as error:
            warn(f"what {folder.path.name} took is left out: {error}")
            continue
        for run in runs(lines):
            interrupted, hours = run.error is not None, (run.seconds or 0.0) / 3600
            gpu_hours = hours * needs.nodes * needs.gpus_per_node
            sums["runs"] += 1
            sums["interrupted"] += interrupted
            sums["untimed"] += run.seconds is None
            sums["hours"] += hours
            sums["gpu_hours"] += gpu_hours
            sums["interrupted_gpu_hours"] += gpu_hours if interrupted else 0.0
        sums["flops"] += _flops(stage, folder) if folder.done else 0.0
    return sums


def _flops(stage: str, folder: UnitDir) -> float:
    """Return the FLOPs that a published result took; 0 if no model was run."""
    result = read_json(folder.result)
    if stage == "evaluate":
        return sum(row["flops_per_item"] * row["n"] for row in result["benchmarks"])
    return float(result.get("flops", 0) - result.get("shared_flops", 0))
