"""A unit's request, fitted to a partition: nodes, cores, GPUs, memory and time that it allows. Pure."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace

from jobs.core.unit import Resources
from jobs.core.wording import count
from launch.slurm.levels import smallest
from launch.slurm.limits import UNLIMITED, Limits, Partition, Tres
from launch.slurm.parse import NodeGroup
from launch.study.memory import TWICE
from launch.study.plan import MARGIN

ADVICE = "request less in the preset, or name another partition, account or QOS in the cluster file"


class NeverRuns(ValueError):
    """The cluster would never run this unit."""


def fitted(
    resources: Resources,
    partition: Partition,
    nodes: Iterable[NodeGroup],
    found: Limits,
    least: Tres = UNLIMITED,
) -> Resources:
    """Return the resources of a unit, with a time limit that is allowed if its expected time is, too.

    Raises:
        NeverRuns: it would be refused, or wait forever; the message says why.
    """
    r, name = resources, f"partition {partition.name}"
    most = partition.nodes if partition.max_nodes is None else partition.max_nodes
    if r.nodes > most:
        raise NeverRuns(f"needs {r.nodes} nodes, and {name} allows at most {most}: {ADVICE}")
    cpus = r.tasks_per_node * r.cpus_per_task
    able = [
        n
        for n in nodes
        if n.partition == partition.name
        and n.cpus >= cpus
        and sum(count for _, count in n.gpus) >= r.gpus_per_node
    ]
    gpus = f" and {count(r.gpus_per_node, 'GPU')}" if r.gpus_per_node else ""
    wanted = f"{count(r.nodes, 'node')} with {count(cpus, 'core')}{gpus}"
    if sum(n.count for n in able) < r.nodes:
        advice = _spread(r, partition, nodes) + ADVICE
        raise NeverRuns(f"needs {wanted}, and {name} does not have that many: {advice}")
    r = _in_memory(r, partition, able, wanted)
    asked = Tres(r.nodes * r.gpus_per_node, r.nodes * cpus, r.nodes)
    for what, number, of_job, held, at_least in zip(
        ("GPU", "core", "node"), asked, found.job, found.held, least, strict=True
    ):
        allowed = smallest([of_job, held])
        if allowed is not None and number is not None and number > allowed:
            raise NeverRuns(f"needs {count(number, what)}, and your account may use {allowed}: {ADVICE}")
        if at_least is not None and number is not None and number < at_least:
            words = f"requests {count(number, what)}, and its QOS requires at least {at_least}"
            raise NeverRuns(f"{words}: name another QOS or partition in the cluster file")
    if 0 in (found.jobs, found.submitted):
        raise NeverRuns("your account may not run any job: name another one in the cluster file")
    seconds = smallest([partition.max_seconds, found.job_seconds])
    if seconds is None or r.hours * 3600 <= seconds:
        return r
    if r.hours / MARGIN * 3600 > seconds:
        raise NeverRuns(
            f"is estimated to take {r.hours / MARGIN:.1f} h, and {name} or your account allows "
            f"{seconds / 3600:g} h per job: {ADVICE}, or lower 'max_hours' there if that is enough"
        )
    return replace(r, hours=seconds / 3600)


def _spread(resources: Resources, partition: Partition, nodes: Iterable[NodeGroup]) -> str:
    """Return the advice for a unit with more GPUs than a node has: trainings and engines can be spread."""
    most = max((sum(n for _, n in g.gpus) for g in nodes if g.partition == partition.name), default=0)
    return f"set 'gpus_per_node: {most}' in the cluster file, " if resources.gpus_per_node > most > 0 else ""


def _in_memory(r: Resources, partition: Partition, able: Sequence[NodeGroup], wanted: str) -> Resources:
    """Return the resources with the memory to request after a kill for memory, as far as nodes have it.

    If they come with one, from an attempt that was killed, it is requested now, and not raised again.

    Args:
        able: the groups of nodes that have everything else.
        wanted: how many nodes with what, in words.

    Raises:
        NeverRuns: too few nodes have the requested memory.
    """
    if not r.memory:
        return replace(r, raised=0)
    most = partition.max_memory or sys.maxsize
    sizes = sorted((min(n.memory, most) for n in able for _ in range(min(n.count, r.nodes))), reverse=True)
    largest = sizes[r.nodes - 1]
    if r.memory > largest:
        raise NeverRuns(
            f"is estimated to need {_gib(r.memory)} of memory on {wanted}, and partition {partition.name} "
            f"has only {_gib(largest)} there. Name another partition in the cluster file; or change the "
            "preset (fewer tasks or GPUs of a node, a smaller micro_batch, a higher ZeRO); or, if you know "
            f"that less is enough, set 'sbatch: {{mem: {largest}M}}' in the cluster file"
        )
    if r.raised:
        return replace(r, memory=max(r.memory, min(r.raised, largest)), raised=0)
    raised = min(TWICE * r.memory, largest)
    return replace(r, raised=raised if raised > r.memory else 0)


def _gib(memory: int) -> str:
    return f"{memory / 1024:.1f} GiB"
