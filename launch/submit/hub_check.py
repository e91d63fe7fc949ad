"""Refuse units that would find no model and no rows: compute nodes without internet read the cache alone."""

from __future__ import annotations

import os
from collections.abc import Iterable

from jobs.core.unit import Unit
from launch.state.command_line import command
from launch.state.states import State
from launch.state.status import StudyStatus
from launch.study.benchmark_cache import absent as benchmarks_absent
from launch.study.cluster import Cluster
from launch.study.hub_cache import Cache, missing
from launch.study.hub_needs import benchmarks, needs
from launch.study.templates import mentions
from launch.study_run import Project
from launch.submit.limits import Refusal

FOLDERS = ("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE")  # variables that name the cache's folders


def check_hub(project: Project, units: Iterable[Unit]) -> None:
    """Check that the cache has what these units read from the hub, if compute nodes have no internet.

    Raises:
        Refusal: something is missing.
    """
    if lacking := absent(project, units):
        raise Refusal(lacking)


def absent(project: Project, units: Iterable[Unit]) -> str:
    """Return what the cache lacks, and the command that fetches it.

    Returns:
        Empty if nothing is missing, compute nodes can reach the hub, or the template says where the cache is.
    """
    slurm = project.cluster.slurm
    if not slurm.offline or any(mentions(slurm.template, name) for name in FOLDERS):
        return ""
    cache = cache_of(project.cluster)
    units = list(units)
    looked = [(need, missing(cache, need)) for need in needs(units)]
    lines = [f"  {need.kind} {need}: {why}" for need, why in looked if why]
    tasks = [task["task"] for each in benchmarks_absent(cache, benchmarks(units)) for task in each.tasks]
    lines += [f"  data of benchmarks: {', '.join(tasks)}"] if tasks else []
    if not lines:
        return ""
    first = f"compute nodes have no internet ('offline: true'), and the hub's cache in {cache.home} lacks:"
    return "\n".join([first, *lines, f"Fetch it on this machine first: {command(project.root, 'prefetch')}"])


def cache_of(cluster: Cluster) -> Cache:
    """Return the folders of the hub's cache that a cluster's jobs read."""
    return Cache.of({**os.environ, **cluster.slurm.environment})


def unfinished(now: StudyStatus) -> list[Unit]:
    """Return the units that are not done."""
    return [seen.unit for seen in now.units if seen.state is not State.DONE]
