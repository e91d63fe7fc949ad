"""The launcher against what its users would otherwise wait for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from measure import Ratio, median, seconds

from jobs.store.rundir import UnitDir, write_json

SOR = str(Path(sys.executable).with_name("sor"))


def ratios() -> Iterator[Ratio]:
    """All measurements of this file."""
    yield Ratio(
        "sor --help", "python -c 'import typer, rich'",
        process([SOR, "--help"]), process([sys.executable, "-c", "import typer, rich"]), "s",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as runs:
        yield Ratio(
            "sor plan scale-or-reason", "python -c 'import submitit, pydantic, rich'",
            process([SOR, "plan", "scale-or-reason", "--runs", runs]),
            process([sys.executable, "-c", "import submitit, pydantic, rich"]), "s",
        )  # fmt: skip
    yield planning()
    yield writing()
    yield publishing()


def process(command: list[str]) -> float:
    """Median seconds that a program takes."""
    return median(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL), times=7)


def planning() -> Ratio:
    """A study's plan in memory, ids included, against YAML's reading of the same study and its presets."""
    import yaml

    from launch.study.cluster import load_cluster
    from launch.study.plan import plan
    from launch.study.presets import CONFIGS
    from launch.study.schema import load_study

    study, cluster = load_study("scale-or-reason"), load_cluster("local")
    files = [CONFIGS / "studies" / "scale-or-reason.yaml"]
    files += [CONFIGS / "models" / f"{m.name}.yaml" for m in study.students]
    files += [CONFIGS / "evals" / f"{g.name}.yaml" for g in study.benchmarks]
    ours = median(lambda: [u.id for u in plan(study, cluster)])
    return Ratio(
        "plan of scale-or-reason", "yaml.safe_load of its files",
        ours, median(lambda: [yaml.safe_load(f.read_text(encoding="utf-8")) for f in files]), "s",
    )  # fmt: skip


def writing() -> Ratio:
    """An atomic write, as of each progress file, against a plain one that a reader may see half of."""
    data = {"done": 1, "total": 2, "unit": "steps", "metrics": list(range(20))}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "progress.json")

        def plain() -> None:
            path.write_text(json.dumps(data, indent=1), encoding="utf-8")

        def of_one(write: Callable[[], object]) -> float:
            return seconds(lambda: [write() for _ in range(500)]) / 500

        ours, theirs = of_one(lambda: write_json(path, data)), of_one(plain)
    return Ratio("write_json", "Path.write_text of the same", ours, theirs, "s")


def publishing() -> Ratio:
    """A result of ten files, had on disk and renamed, against the rename alone."""
    times = 50

    def folders(root: Path) -> list[UnitDir]:
        found = [UnitDir(root / str(i)) for i in range(times)]
        for folder in found:
            folder.staging("1").mkdir(parents=True)
            for name in range(10):
                (folder.staging("1") / str(name)).write_bytes(bytes(10_000))
        return found

    with tempfile.TemporaryDirectory() as ours, tempfile.TemporaryDirectory() as theirs:
        mine, others = folders(Path(ours)), folders(Path(theirs))

        def rename_all() -> None:
            for folder in others:
                os.rename(folder.staging("1"), folder.out)

        value = seconds(lambda: [f.publish(f.staging("1")) for f in mine]) / times
        other = seconds(rename_all) / times
    return Ratio("publish of 10 files", "os.rename without fsync", value, other, "s")


if __name__ == "__main__":
    for ratio in ratios():
        print(ratio)
