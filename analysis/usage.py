"""What a study took: hours of jobs and of GPUs by stage, with those of runs that came to nothing.

From what the jobs themselves wrote down, so that it can be read anywhere, long after the scheduler forgot.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

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
            runs = [run for folder in folders for run in _runs(folder)]
            flops = sum(_flops(folder) for folder in folders if folder.done)
            rows.append({"stage": stage, "units": len(folders), **_sums(runs), "flops": flops})
    return pd.DataFrame(rows, columns=list(USAGE)).astype(USAGE)


def _runs(folder: UnitDir) -> list[dict[str, Any]]:
    """Of each run of each worker: GPUs, seconds (None if nobody knows), and whether it was interrupted."""
    needs = folder.unit().resources
    lines: dict[tuple[int, int, int], list[dict[str, Any]]] = {}
    for line in read_jsonl(folder.attempts):
        lines.setdefault((line["attempt"], line["restart"], line["worker"]), []).append(line)
    return [
        {
            "gpus": needs.nodes * needs.gpus_per_node,
            "seconds": max((s for rank in ranks if (s := rank["seconds"]) is not None), default=None),
            "interrupted": any(rank["error"] for rank in ranks),
        }
        for ranks in lines.values()
    ]


def _sums(runs: list[dict[str, Any]]) -> dict[str, float]:
    timed = [run for run in runs if run["seconds"] is not None]
    hours = [(run["seconds"] / 3600, run["gpus"], run["interrupted"]) for run in timed]
    return {
        "runs": len(runs),
        "interrupted": sum(run["interrupted"] for run in runs),
        "untimed": len(runs) - len(timed),
        "hours": sum(h for h, _, _ in hours),
        "gpu_hours": sum(h * gpus for h, gpus, _ in hours),
        "interrupted_gpu_hours": sum(h * gpus for h, gpus, interrupted in hours if interrupted),
    }


def _flops(folder: UnitDir) -> float:
    """Those of a published result; 0 where no model computed."""
    result = read_json(folder.result)
    benchmarks = result.get("benchmarks", [])
    return result.get("flops", 0) + sum(row["flops_per_item"] * row["n"] for row in benchmarks)
