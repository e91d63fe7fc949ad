"""What the cluster lets this user do, and what a training has begun with: held against every unit before it
is handed over. What can never run is refused with all reasons at once.

Limits stand at several levels, the association (user and account), every account above it, and the quality of
service; the smallest number counts.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache

from jobs.checkpoint import Checkpoints, why_not
from jobs.rundir import StudyDir
from jobs.unit import Resources, Unit
from launch.arrays import Rules
from launch.cluster import Cluster
from launch.controller import Controller
from launch.memory import TWICE
from launch.plan import MARGIN
from launch.slurm import Association, Config, Limits, NodeGroup, Partition, Qos, SlurmUnavailable
from launch.states import some

ADVICE = "ask for less in the preset, or name another partition, account or QOS in the cluster file"


class NeverRuns(ValueError):
    """A unit that the cluster would never run."""


class Refusal(ValueError):
    """Units that can never run on this cluster as they are; the message holds each reason once."""


def refuse_resumes(units: Sequence[Unit], root: StudyDir) -> None:
    """Refuse trainings whose checkpoints they could not read as they are to be run now.

    Raises:
        Refusal: there are such.
    """
    found = []
    for unit in units:
        newest = Checkpoints(root.unit(unit).checkpoints).newest() if unit.stage == "train" else None
        if newest and (why := why_not(newest, unit.execution, unit.resources.world_size)):
            found.append(f"{unit.stage} {unit.name}: {why}")
    if found:
        raise Refusal("\n".join(found))


@dataclass(frozen=True)
class Admission:
    """A cluster's settings, as far as they bear on submitting.

    Args:
        associations: None where the accounts do not answer: what they limit is left to the controller then.
    """

    cluster: Cluster
    config: Config
    partitions: tuple[Partition, ...]
    nodes: tuple[NodeGroup, ...]
    associations: tuple[Association, ...] | None
    qos: tuple[Qos, ...]

    @classmethod
    def ask(cls, cluster: Cluster, controller: Controller) -> Admission:
        """Ask the cluster."""
        config = controller.config()
        associations: tuple[Association, ...] | None = ()
        qos: tuple[Qos, ...] = ()
        with ThreadPoolExecutor() as pool:  # Slurm 22.05 takes a quarter of a second for some of these
            partitions, nodes = pool.submit(controller.partitions), pool.submit(controller.nodes)
            if config.accounting and config.enforced:
                kinds = pool.submit(controller.qos)
                try:
                    associations, qos = controller.associations(config.cluster).rows, kinds.result().rows
                except SlurmUnavailable:
                    associations = None
            return cls(cluster, config, partitions.result().rows, nodes.result().rows, associations, qos)

    def admit(self, units: Sequence[Unit]) -> list[Unit]:
        """The units, with time limits that the cluster allows.

        Raises:
            Refusal: some can never run.
        """

        @cache  # many units of a stage need the same
        def allowed(stage: str, resources: Resources) -> Resources:
            if not (self.config.tracks_memory and self.cluster.asks_memory(stage)):
                resources = replace(resources, memory=0)
            return fitted(resources, self._partition(stage), self.nodes, self.limits(stage))

        admitted, refused = [], dict[str, list[str]]()
        for unit in units:
            try:
                resources = allowed(unit.stage, unit.resources)
                admitted.append(unit if resources == unit.resources else replace(unit, resources=resources))
            except NeverRuns as error:
                refused.setdefault(str(error), []).append(f"{unit.stage} {unit.name}")
        if refused:
            raise Refusal("\n".join(f"{some(names)}: {why}" for why, names in refused.items()))
        return admitted

    def rules(self, stages: Sequence[str], queued: int) -> Rules:
        """What arrays have to keep to, with so many of the user's jobs in the queue."""
        found = [self.limits(stage) for stage in set(stages)]
        most = [self.config.max_jobs, *(f.submitted for f in found if f and f.submitted is not None)]
        slurm = self.cluster.slurm
        room = max(0, min(most) - queued)
        return Rules(self.config.max_array_size, room, slurm.max_jobs, slurm.max_gpus)

    def limits(self, stage: str) -> Limits | None:
        """The limits of jobs of this stage; None where the cluster keeps none, or nobody tells.

        Raises:
            NeverRuns: the user has no account, or not the one that is asked for.
        """
        if self.associations is None:
            return None
        mine = [row for row in self.associations if row.user]
        account = self._option(stage, "account")
        chosen = [row for row in mine if account in (None, row.account)]
        if not chosen and "associations" in self.config.enforced:
            if not mine:
                words = "you have no account on this cluster, and it refuses jobs without one: ask for one"
                raise NeverRuns(words)
            names = ", ".join(sorted({row.account for row in mine}))
            raise NeverRuns(f"account {account!r} is none of yours: {names}. Set it in the cluster file")
        if not chosen or not {"limits", "qos", "safe"} & set(self.config.enforced):
            return None
        qos = self._option(stage, "qos")
        found = [limits(row, self.associations, self.qos, qos) for row in chosen]
        return min(found, key=lambda f: (f.submitted is None, f.submitted or 0))

    def _partition(self, stage: str) -> Partition:
        wanted = self._option(stage, "partition")
        known = {p.name: p for p in self.partitions}
        if wanted is None:
            default = next((p for p in self.partitions if p.default), None)
            if default is None:
                words = "name one in the cluster file, as 'sbatch: {partition: …}'. There are"
                raise NeverRuns(f"this cluster has no default partition: {words} {', '.join(known)}")
            return default
        found = [known[name] for name in wanted.split(",") if name in known]
        if not found:
            raise NeverRuns(f"there is no partition {wanted!r}: there are {', '.join(known)}")
        return max(found, key=lambda p: (p.max_seconds is None, p.max_seconds or 0))

    def _option(self, stage: str, name: str) -> str | None:
        """An option of sbatch as it will be read: the environment goes before the script."""
        given = self.cluster.sbatch_options(stage, 0).get(name)
        return os.environ.get(f"SBATCH_{name.upper()}") or (None if given is None else str(given))


def limits(
    own: Association, associations: Sequence[Association], qos: Sequence[Qos], chosen: str | None = None
) -> Limits:
    """The limits of a user's row among all rows. Jobs of others also count towards a limit of a group.

    Args:
        chosen: the quality of service that jobs ask for; None: the default one.
    """
    levels = [own.own, own.group]
    accounts = {row.account: row for row in associations if row.user is None}
    account: str | None = own.account
    while account in accounts:
        above = accounts.pop(account)  # popped, so that a circle ends
        levels.append(above.group)
        account = above.parent
    name = chosen or own.default_qos or (own.qos[0] if len(own.qos) == 1 else None)
    for service in qos:
        if service.name == name:
            levels += service.limits
    return Limits(
        jobs=_smallest(level.jobs for level in levels),
        submitted=_smallest(level.submitted for level in levels),
        gpus=_smallest(level.gpus for level in levels),
        job_gpus=_smallest(level.job_gpus for level in levels),
        job_seconds=_smallest(level.job_seconds for level in levels),
    )


def fitted(
    resources: Resources, partition: Partition, nodes: Iterable[NodeGroup], found: Limits | None
) -> Resources:
    """What a unit asks for, with a time limit that is allowed where its expected time is, too.

    Raises:
        NeverRuns: it would be refused, or wait for ever; the message says why.
    """
    r, name = resources, f"partition {partition.name}"
    most = partition.max_nodes or partition.nodes
    if r.nodes > most:
        raise NeverRuns(f"needs {r.nodes} nodes, and {name} gives at most {most}: {ADVICE}")
    cpus = r.tasks_per_node * r.cpus_per_task
    able = [
        n
        for n in nodes
        if n.partition == partition.name
        and n.cpus >= cpus
        and sum(count for _, count in n.gpus) >= r.gpus_per_node
    ]
    wanted = _count(cpus, "core") + (f" and {_count(r.gpus_per_node, 'GPU')}" if r.gpus_per_node else "")
    if sum(n.count for n in able) < r.nodes:
        raise NeverRuns(
            f"needs {_count(r.nodes, 'node')} with {wanted}, and {name} has not so many: {ADVICE}"
        )
    r = _in_memory(r, partition, able, f"{_count(r.nodes, 'node')} with {wanted}")
    gpus = r.nodes * r.gpus_per_node
    allowed = _smallest([found.job_gpus, found.gpus]) if found else None
    if allowed is not None and gpus > allowed:
        raise NeverRuns(f"needs {_count(gpus, 'GPU')}, and your account may use {allowed}: {ADVICE}")
    if found and 0 in (found.jobs, found.submitted):
        raise NeverRuns("your account may not run any job: name another one in the cluster file")
    seconds = _smallest([partition.max_seconds, found.job_seconds if found else None])
    if seconds is None or r.hours * 3600 <= seconds:
        return r
    if r.hours / MARGIN * 3600 > seconds:
        raise NeverRuns(
            f"is estimated to take {r.hours / MARGIN:.1f} h, and {name} or your account allows "
            f"{seconds / 3600:g} h a job: {ADVICE}, or lower 'max_hours' there if that is enough"
        )
    return replace(r, hours=seconds / 3600)


def _in_memory(r: Resources, partition: Partition, able: Sequence[NodeGroup], wanted: str) -> Resources:
    """Resources with the memory that they may be raised to after a kill for memory: as far as nodes have it.

    Where they come with one, of an attempt that was killed, that is asked for now, and not raised again.

    Args:
        able: the groups of nodes that have everything else.
        wanted: how many nodes with what, in words.

    Raises:
        NeverRuns: too few nodes have the memory that is asked for.
    """
    if not r.memory:
        return replace(r, raised=0)
    most = partition.max_memory or sys.maxsize
    sizes = sorted((min(n.memory, most) for n in able for _ in range(n.count)), reverse=True)
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


def in_words(found: Limits) -> str:
    """The limits as a person reads them."""
    numbers = {
        "jobs in the queue": found.submitted, "jobs running": found.jobs, "GPUs in use": found.gpus,
        "GPUs a job": found.job_gpus, "h a job": found.job_seconds and found.job_seconds / 3600,
    }  # fmt: skip
    words = [f"{number:g} {what}" for what, number in numbers.items() if number is not None]
    return f"at most {', '.join(words)}" if words else "no limits"


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count > 1)}"


def _smallest(numbers: Iterable[int | None]) -> int | None:
    return min((n for n in numbers if n is not None), default=None)
