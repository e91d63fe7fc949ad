"""Seconds of each of the demo's stages, from its finished run directory, with the versions that made it.

`make bench` includes them. Alone, after `make demo`: .venv/bin/python tests/benchmarks/bench_demo.py
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from jobs.core.causes import runs
from jobs.core.unit import STAGES, Unit
from jobs.store import journal
from jobs.store.rundir import StudyDir, read_json
from jobs.store.schema import ATTEMPT
from launch.state.command_line import RUNS
from launch.study_run import open_project

RESULTS = Path(__file__).with_name("results.json")
MADE_BY = ("python", "code", "packages", "hardware")  # of a unit's provenance


class Unmeasured(Exception):
    """Why there is nothing to measure, and what to do."""


def measured(folder: Path) -> dict[str, Any]:
    """The part of results.json about the demo.

    Raises:
        Unmeasured: it did not run, has not ended, or several versions or machines made its results.
    """
    demo = open_project("demo", None, folder)
    todo = [unit for unit in demo.units if not demo.root.done(unit)]
    if todo:
        raise Unmeasured(f"{len(todo)} of {len(demo.units)} units of {demo.root.path} are to do: make demo")
    made = [read_json(demo.root.unit(unit).out / "provenance.json") for unit in demo.units]
    for one in made:  # GPUs are noted only by stages that load torch; the demo uses none
        one["hardware"] = {
            key: one["hardware"][key] for key in one["hardware"] if key not in ("gpus", "cuda")
        }
    versions = {json.dumps({key: one[key] for key in MADE_BY}, sort_keys=True): one for one in made}
    if len(versions) > 1:
        raise Unmeasured(
            f"several versions or machines made {demo.root.path}: move it away, then run make demo"
        )
    [one] = versions.values()
    return {**{key: one[key] for key in MADE_BY}, **seconds(demo.root, demo.units)}


def seconds(root: StudyDir, units: list[Unit]) -> dict[str, Any]:
    """From the first start to the last end; and of each stage, all of its runs and its longest unit."""
    stages, spans = [], list[tuple[float, float]]()
    for stage in STAGES:
        took = {}
        for unit in (unit for unit in units if unit.stage == stage):
            lines = journal.read(root.unit(unit).attempts, ATTEMPT)
            took[unit.name] = sum(run.seconds or 0.0 for run in runs(lines))
            spans += [(line["time"] - (line["seconds"] or 0.0), line["time"]) for line in lines]
        if took:
            longest = max(took, key=lambda name: took[name])
            stages.append(
                {"stage": stage, "units": len(took), "seconds": round(sum(took.values()), 1),
                 "longest_unit": longest, "longest": round(took[longest], 1)}
            )  # fmt: skip
    wall = max(end for _, end in spans) - min(start for start, _ in spans)
    return {"wall_seconds": round(wall, 1), "stages": stages}


def line(stage: dict[str, Any]) -> str:
    """One stage in words."""
    return (
        f"demo, {stage['stage']}: {stage['seconds']} s in {stage['units']} units; longest: "
        f"{stage['longest_unit']}, {stage['longest']} s"
    )


def update(kept: dict[str, Any]) -> int:
    """Put the demo into the results, or say why an earlier record of it stays; returns the exit code."""
    try:
        kept["demo"] = measured(Path(os.environ.get("SOR_RUNS") or RUNS))
    except Unmeasured as why:
        print(f"demo: not measured: {why}; then .venv/bin/python {os.path.relpath(__file__)}")
        return 1
    for stage in kept["demo"]["stages"]:
        print(line(stage))
    return 0


def main() -> int:
    """Measure the demo alone; everything else in results.json stays."""
    kept = json.loads(RESULTS.read_text(encoding="utf-8"))
    if not (code := update(kept)):
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        print(f"written to {RESULTS}")
    return code


if __name__ == "__main__":
    sys.exit(main())
