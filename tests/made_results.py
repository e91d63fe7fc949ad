"""Run directories with evaluations of made-up students, for the tests of analysis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs.rundir import StudyDir, write_json
from jobs.unit import Unit


def benchmark(task: str, accuracy: float, **other: Any) -> dict[str, Any]:
    """One entry of an evaluation's benchmarks."""
    entry = {
        "task": task, "domain": "general", "format": "open-ended", "metric": "exact_match",
        "filter": "strict", "accuracy": accuracy, "stderr": 0.01, "n": 100, "task_version": "1",
        "prompt_tokens": 10.0, "output_tokens": 20.0, "reasoning_tokens": 5.0, "flops_per_item": 1e9,
    }  # fmt: skip
    return entry | other


def evaluation(
    root: Path, student: str, flops: int | None, benchmarks: list[dict[str, Any]], **other: Any
) -> Unit:
    """Publish an evaluation below `root`, with the training that it comes from."""
    study = StudyDir(root)
    root.mkdir(parents=True, exist_ok=True)
    write_json(study.study, {})
    who = {"name": student, "size": "1B", "share": 0.0, "order": "sequential", "seed": 0} | other
    train = Unit("train", student, who)
    unit = Unit("evaluate", f"{student}-group", who | {"tasks": benchmarks}, (train.as_input(),))
    for made, result in (
        (train, {"flops": flops}),
        (unit, {"student": who, "training": {"flops": flops}, "benchmarks": benchmarks}),
    ):
        folder = study.unit(made)
        staged = folder.staging("0")
        staged.mkdir(parents=True)
        write_json(folder.spec, made.to_json())
        write_json(staged / "result.json", result)
        code = {"commit": "0123456789abcdef", "dirty": made.stage == "train"}
        hardware = {"cpu": "A processor", "cores": 2, "gpus": ["NVIDIA H100"] * 2}
        packages = {"torch": "2.13.0"}
        write_json(
            staged / "provenance.json",
            {"python": "3.11", "code": code, "hardware": hardware, "packages": packages},
        )
        folder.publish(staged)
    return unit
