"""Checks of `sor doctor --cluster` before any job: architectures of nodes, and requests of memory."""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from jobs.core.unit import Resources, Unit
from jobs.runtime.node_check import Finding
from launch.slurm.client import SlurmClient
from launch.slurm.hardware import DefaultMemory, Node
from launch.state.errors import SlurmUnavailable
from launch.study.cluster import Cluster
from launch.study.presets import StudyError
from launch.study.slurm_section import MEMORY
from launch.study.templates import placeholders
from launch.submit.script import sbatch_script

warning, problem = (partial(Finding, verdict) for verdict in ("warning", "problem"))

LITTLE = 1024  # MiB that any node has
SMALL = 0.5  # of a node's memory for each core: a default below this is meant to make users request memory


def of_nodes(cluster: Cluster, jobs: Sequence[Unit], client: SlurmClient, folder: Path) -> Iterator[Finding]:
    """Yield what keeps jobs from running on the nodes of their partitions.

    Args:
        jobs: one of each stage, as the limits let them run.
        folder: named in scripts that Slurm is asked about; nothing is written there.
    """
    used = _partitions(cluster, jobs, client)
    try:
        nodes = client.each_node().rows
    except SlurmUnavailable:  # some sites keep nodes private
        return
    there = {name: [node for node in nodes if name in node.partitions] for name in used}
    if "python" in placeholders(cluster.slurm.template):
        chosen = {name for name, units in used.items() if all(_constrained(cluster, job) for job in units)}
        yield from other_architectures(there, cluster.slurm.template, platform.machine(), chosen)
    if client.config().tracks_memory:
        # Plugins of some sites set the memory of jobs with GPUs.
        known = [job for job in jobs if not (client.config().filtered and job.resources.gpus_per_node)]
        bare = {
            name: [job for job in units if job in known and _bare(cluster, job)]
            for name, units in used.items()
        }
        defaults = client.default_memory()
        if any(small_memory(bare, there, defaults)):  # unless the site refuses such requests
            able = {job.id for job in jobs if _may_ask(cluster, job, client, folder)}
            bare = {name: [job for job in units if job.id in able] for name, units in bare.items()}
            yield from small_memory(bare, there, defaults)


def other_architectures(
    there: Mapping[str, Sequence[Node]], template: str, here: str, chosen: Collection[str] = ()
) -> Iterator[Finding]:
    """Yield partitions whose nodes cannot run this machine's Python, or only some of them.

    Args:
        there: the nodes of each partition.
        here: the architecture of this machine.
        chosen: partitions whose nodes all jobs choose among by a constraint.
    """
    for name, nodes in there.items():
        kinds = {node.architecture for node in nodes} - {None}
        if others := sorted(str(kind) for kind in kinds if kind != here):
            them = f"partition {name}: its nodes are {' and '.join(others)}"
            if here in kinds and name in chosen:
                continue
            if here in kinds:
                yield warning(
                    f"{them} and {here}, and jobs need {here}, as this machine is: name a constraint or "
                    "another partition in the cluster file"
                )
            else:
                yield problem(f"{them}, this machine is {here}. {elsewhere(template, name)}")


def elsewhere(template: str, partition: str | None = None) -> str:
    """Return what to do where nodes cannot run this machine's Python."""
    option = f"--partition={partition} " if partition else ""
    return (
        f"The template {template!r} runs this machine's Python: install sor once more on a node of that "
        f"kind, in another folder, and submit from there (srun {option}--pty bash); or use a template with "
        "a container (apptainer, pyxis)"
    )


def small_memory(
    bare: Mapping[str, Sequence[Unit]],
    there: Mapping[str, Sequence[Node]],
    defaults: Mapping[str, DefaultMemory],
) -> Iterator[Finding]:
    """Yield partitions where jobs that request no memory get little.

    Args:
        bare: the jobs that request none, by partition.
        there: the nodes of each partition.
        defaults: what such jobs get, by partition.
    """
    for name, jobs in bare.items():
        nodes, default = there[name], defaults.get(name, DefaultMemory())
        if default.per_gpu:
            jobs = [job for job in jobs if not job.resources.gpus_per_node]
        if jobs and nodes and (words := _little(default, nodes)):
            stages = ", ".join(dict.fromkeys(job.stage for job in jobs))
            yield warning(
                f"partition {name}: a job that requests no memory gets only {words}, and the cluster file "
                f"has these stages request none: {stages}. Set 'memory: mem' (or mem-per-cpu, mem-per-gpu) "
                "under 'slurm'"
            )


def _little(default: DefaultMemory, nodes: Sequence[Node]) -> str | None:
    """Return a default in words if it is a small part of what the smallest node has."""
    each = min(node.memory / node.cpus for node in nodes)
    least = min(node.memory for node in nodes)
    if default.per_cpu and default.per_cpu < SMALL * each:
        return f"{default.per_cpu} MiB for each core, of {each:.0f}"
    if default.per_node and default.per_node < SMALL * least:
        return f"{default.per_node} MiB of each node's {least}"
    return None


def memory_refused(
    cluster: Cluster, stage: str, kinds: Iterable[Resources], client: SlurmClient, folder: Path
) -> Iterator[Finding]:
    """Yield that the site refuses jobs for the memory that they request, if it does.

    Args:
        kinds: what jobs of the stage may request.
        folder: as in `of_nodes`.
    """

    def refused(needs: Resources) -> bool:
        return _refused(cluster, stage, needs, client, folder)

    with suppress(StudyError, SlurmUnavailable):  # which were reported before
        for needs in kinds:
            asked = cluster.memory_option(stage, needs)
            if asked and refused(needs) and not refused(replace(needs, memory=0, raised=0)):
                options = " ".join(f"--{name}={value}" for name, value in asked.items())
                yield problem(
                    f"the same job without {options} is accepted: set 'memory: off' under 'slurm' in the "
                    "cluster file, or 'memory: cores' if jobs get memory with their cores"
                )
                return


def _refused(cluster: Cluster, stage: str, needs: Resources, client: SlurmClient, folder: Path) -> bool:
    """Return whether the site would refuse a job."""
    return bool(client.would(sbatch_script(
        cluster, stage, needs, folder=folder / "test", study=folder, code=folder, array=None,
        dependency=None, once=True,
    )).refused)  # fmt: skip


def _may_ask(cluster: Cluster, job: Unit, client: SlurmClient, folder: Path) -> bool:
    """Return whether the site would accept a job that requests memory."""
    asking = cluster.model_copy(update={"slurm": cluster.slurm.model_copy(update={"memory": "mem"})})
    needs = replace(job.resources, memory=LITTLE)
    return not _refused(asking, job.stage, needs, client, folder)


def _partitions(cluster: Cluster, jobs: Sequence[Unit], client: SlurmClient) -> dict[str, list[Unit]]:
    """Return the jobs by the partitions that they may start in, but for jobs whose site chooses one."""
    default = list[str]()
    if not client.config().filtered:
        default = [partition.name for partition in client.partitions().rows if partition.default]
    found = defaultdict[str, list[Unit]](list)
    for job in jobs:
        named = cluster.sbatch_options(job.stage, job.resources).get("partition")
        for name in str(named).split(",") if named else default:
            found[name].append(job)
    return dict(found)


def _constrained(cluster: Cluster, job: Unit) -> bool:
    return "constraint" in cluster.sbatch_options(job.stage, job.resources)


def _bare(cluster: Cluster, job: Unit) -> bool:
    """Return whether a job requests no memory, nor cores for it."""
    if cluster.slurm.memory == "cores":
        return False
    options = cluster.sbatch_options(job.stage, job.resources)
    return not (cluster.memory_option(job.stage, job.resources) or any(name in options for name in MEMORY))
