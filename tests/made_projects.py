"""Projects of units made by hand on a real Slurm, for what no study of a few models brings about."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from small_study import write_study

from jobs.core.unit import Unit
from jobs.store.rundir import StudyDir
from launch.study.cluster import load_cluster
from launch.study.schema import load_study
from launch.study_run import Project, backend_of


def cluster_file(folder: Path, **slurm: Any) -> Path:
    """A cluster file that says what is given."""
    file = folder / "made.yaml"
    efficiency = dict.fromkeys(("generate", "train", "evaluate"), 0.1)
    data = {
        "backend": "slurm", "gpu": "h100", "efficiency": efficiency, "cpu_gflops": 15, "cpus_per_gpu": 1,
        "max_hours": 24, "slurm": slurm,
    }  # fmt: skip
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    return file


def made_project(folder: Path, units: Sequence[Unit], name: str = "small", **slurm: Any) -> Project:
    """A project of these units on the Slurm that SLURM_CONF tells of.

    Args:
        folder: where its files are to be, and its run directory.
        name: of the study.
        slurm: the part of the cluster file.
    """
    study = load_study(str(write_study(folder, name=name)))
    cluster = load_cluster(str(cluster_file(folder, **slurm)))
    root = StudyDir(folder / "runs" / study.name)
    return Project(study, cluster, root, list(units), backend_of(cluster, root))
