"""The cluster file: where jobs run and what estimates may assume of the machine."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from launch.study import CONFIGS, Mistake, Name, Strict, StudyError, known_names, read_yaml, validate

Positive = Annotated[float, Field(gt=0)]


class Efficiency(Strict):
    """Share of the peak FLOP/s that a stage reaches."""

    generate: Positive
    train: Positive
    evaluate: Positive


class Cluster(Strict):
    """A preset of configs/clusters."""

    name: Name
    backend: Literal["local"]
    gpu: str
    efficiency: Efficiency
    cpu_gflops: Positive
    cpus_per_gpu: Annotated[int, Field(gt=0)]
    max_hours: Positive


def load_cluster(name: str) -> Cluster:
    """Read a cluster file.

    Raises:
        StudyError: there is none of this name, or it holds mistakes.
    """
    file = CONFIGS / "clusters" / f"{name}.yaml"
    if not file.is_file():
        raise StudyError([Mistake(file, "", f"no such cluster; known are {known_names('clusters')}")])
    data, mistakes = read_yaml(file)
    cluster = None if mistakes else validate(Cluster, {"name": name, **data}, file, mistakes)
    if cluster is None:
        raise StudyError(mistakes)
    return cluster
