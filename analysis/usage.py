"""What a study took: hours of jobs and of GPUs by stage, with those of runs that came to nothing.

From what the jobs themselves wrote down, so that it can be read anywhere, long after the scheduler forgot.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from jobs.causes import runs
from jobs.rundir import StudyDir, UnitDir, read_json, read_jsonl
from jobs.unit import STAGES

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
}


def usage(path: str | Path) -> pd.DataFrame:
    """What every stage of a study took, in the order of stages; all that was run counts, wanted still or not.

    Args:
        path: a run directory of this project; any other folder gives an empty table.

    Returns:
        The columns of USAGE.
    """
    study = StudyDir(Path(path))
    rows = []
    for stage in STAGES:
        folders = [UnitDir(found.parent) for found in sorted(study.path.glob(f"{stage}/*/attempts.jsonl"))]
        if folders:
            flops = sum(_flops(stage, folder) for folder in folders if folder.done)
            rows.append({"stage": stage, "units": len(folders), **_sums(folders), "flops": flops})
    return pd.DataFrame(rows, columns=list(USAGE)).astype(USAGE)


def _sums(folders: list[UnitDir]) -> dict[str, float]:
    found = [
        (run, gpus)
        for folder in folders
        for gpus in (_gpus(folder),)
        for run in runs(read_jsonl(folder.attempts))
    ]
    timed = [(run.seconds / 3600, gpus, run.error) for run, gpus in found if run.seconds is not None]
    return {
        "runs": len(found),
        "interrupted": sum(run.error is not None for run, _ in found),
        "untimed": len(found) - len(timed),
        "hours": sum(h for h, _, _ in timed),
        "gpu_hours": sum(h * gpus for h, gpus, _ in timed),
        "interrupted_gpu_hours": sum(h * gpus for h, gpus, error in timed if error is not None),
    }


def _gpus(folder: UnitDir) -> int:
    """GPUs that each run of a unit held."""
    needs = folder.unit().resources
    return needs.nodes * needs.gpus_per_node


def _flops(stage: str, folder: UnitDir) -> float:
    """Those of a published result; 0 where no model computed."""
    result = read_json(folder.result)
    if stage == "evaluate":
        return sum(row["flops_per_item"] * row["n"] for row in result["benchmarks"])
    return float(result.get("flops", 0))
