"""What runs under the faults: the shipped demo with one size of student, trained on two nodes.

And the same study for the foreground of this machine, in as many processes: its units have the same ids, and
their results should be the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from jobs.core.unit import Unit
from launch.study.cluster import load_cluster
from launch.study.plan import plan
from launch.study.presets import CONFIGS
from launch.study.schema import load_study

MEMORY = 2000  # MiB that a job gets for each CPU: a little more than the largest stage needs


@dataclass(frozen=True)
class Demo:
    """A study on disk.

    Args:
        file: the study's.
        cluster: the file of the cluster that it runs on, or the name of one that is shipped.
    """

    file: Path
    cluster: str

    def units(self) -> list[Unit]:
        return plan(load_study(str(self.file)), load_cluster(self.cluster))

    def submit(self, runs: Path) -> list[str]:
        """Arguments of `sor` that submit it."""
        return ["submit", str(self.file), "--cluster", self.cluster, "--yes", "--runs", str(runs)]


@dataclass(frozen=True)
class Work:
    """How much there is to do.

    Args:
        prompts: how many the teacher is asked, in both modes.
        epochs: of each training.
        shares: of reasoning in what a student learns from; a student each.
    """

    prompts: int
    epochs: int
    shares: tuple[float, ...]


def on_slurm(folder: Path, work: Work) -> Demo:
    """Write the study, and a cluster file, for a cluster of the tests."""
    generic = _read("clusters/generic")
    # A job of a higher partition ends theirs at once, except for training, which it gives 15 s.
    slurm = {
        "sbatch": {"partition": "low", "mem-per-cpu": f"{MEMORY}M"},
        "stages": {"train": {"partition": "lowgrace"}},
    }
    file = _write(folder, work, nodes=2, tasks_per_node=1)
    cluster = folder / "cluster.yaml"
    often = {
        "mtbf_hours": 60 / 3600
    }  # as often as they are hit here, so that they save as often as it is worth
    cluster.write_text(
        yaml.safe_dump({**generic, **often, "slurm": {**generic["slurm"], **slurm}}), encoding="utf-8"
    )
    return Demo(file, str(cluster))


def on_this_machine(folder: Path, work: Work) -> Demo:
    """Write the same study for the foreground."""
    return Demo(_write(folder, work, nodes=1, tasks_per_node=2), "local")


def _write(folder: Path, work: Work, **training: int) -> Path:
    folder.mkdir()
    demo = _read("studies/demo")
    demo["prepare"]["args"] |= {"items": 20, "prompts": {1: 100, 2: 300, 5: 300}}
    demo["prompts"]["count"] = work.prompts
    demo |= {"students": ["toy-s.yaml"], "mixtures": {"shares": [*work.shares]}}
    demo["training"] |= {"batch": 4, "epochs": work.epochs}
    student = _read("models/toy-s")
    student["training"] |= {"zero": 2, "micro_batch": 2, **training}
    (folder / "toy-s.yaml").write_text(yaml.safe_dump(student), encoding="utf-8")
    file = folder / "demo.yaml"
    file.write_text(yaml.safe_dump(demo), encoding="utf-8")
    return file


def _read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    return found
