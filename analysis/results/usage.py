"""What a study took: hours of jobs and of GPUs by stage, with those of runs that came to nothing.

From what the jobs themselves wrote down, so that it can be read anywhere, long after the scheduler forgot.
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
    "units": "int64",  # that were begun
    "runs": "int64",  # of jobs; one that goes on after an interruption is another
    "interrupted": "int64",  # runs that ended without a result
    "untimed": "int64",  # of these, how many left no word of how long they had run
    "hours": "float64",  # of all runs that did, from the start of their first process
    "gpu_hours": "float64",  # the same, times the GPUs that each held
    "interrupted_gpu_hours": "float64",  # of it, in interrupted runs, whose work was in part kept
    "flops": "float64",  # model FLOPs of what is published
    "joules": "float64",  # that the scheduler's accounts tell of, of all runs; NaN: they tell nothing
}


def usage(path: str | Path, joules: Mapping[str, float] | None = None) -> pd.DataFrame:
    """What every stage of a study took, in the order of stages; all that was run counts, wanted still or not.

    Args:
        path: a run directory of this project; any other folder gives an empty table.
        joules: energy by stage, as far as it is known; no file of a run directory tells of it.

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
    """The columns of USAGE between the first two and the last, over some units of one stage."""
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
    """Those of a published result; 0 where no model computed."""
    result = read_json(folder.result)
    if stage == "evaluate":
        return sum(row["flops_per_item"] * row["n"] for row in result["benchmarks"])
    return float(result.get("flops", 0))
