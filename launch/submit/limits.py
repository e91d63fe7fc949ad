"""Checks of units before submission: the cluster's limits for this user, and checkpoints of trainings.

Units that can never run are refused with all reasons at once; those that there is no room for yet are not.
"""

from __future__ import annotations

import grp
import os
import pwd
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache

from jobs.core.unit import Resources, Unit
from jobs.core.wording import count, some
from jobs.store.checkpoints import Checkpoints, why_not
from jobs.store.rundir import StudyDir
from launch.slurm.client import SlurmClient
from launch.slurm.levels import Level, Quota, level, service_of, smallest
from launch.slurm.limits import UNLIMITED, Access, Association, Limits, Partition, Qos, Tres
from launch.slurm.parse import Config, NodeGroup, Place
from launch.state.errors import SlurmUnavailable
from launch.study.cluster import Cluster
from launch.study.memory import TWICE
from launch.study.plan import MARGIN
from launch.submit.arrays import Pool, Rules

ADVICE = "request less in the preset, or name another partition, account or QOS in the cluster file"
OTHER = "name another partition, account or QOS in the cluster file"


class NeverRuns(ValueError):
    """The cluster would never run this unit."""


class Refusal(ValueError):
    """Units that can never run on this cluster as they are; the message holds each reason once."""


def refuse_resumes(units: Sequence[Unit], root: StudyDir) -> None:
    """Refuse trainings that could not resume from their checkpoints as they are to be run now.

    Raises:
        Refusal: there are any.
    """
    found = []
    for unit in units:
        newest = Checkpoints(root.unit(unit).checkpoints).newest() if unit.stage == "train" else None
        if newest and (why := why_not(newest, unit, unit.resources.world_size)):
            found.append(f"{unit.stage} {unit.name}: {why}")
    if found:
        raise Refusal("\n".join(found))


@dataclass(frozen=True)
class ClusterLimits:
    """A cluster's settings that matter for submitting.

    Args:
        associations: None if accounting does not answer: its limits are then left to the controller.
    """

    cluster: Cluster
    config: Config
    partitions: tuple[Partition, ...]
    nodes: tuple[NodeGroup, ...]
    associations: tuple[Association, ...] | None
    qos: tuple[Qos, ...]

    @classmethod
    def ask(cls, cluster: Cluster, client: SlurmClient) -> ClusterLimits:
        """Query the cluster."""
        config = client.config()
        associations: tuple[Association, ...] | None = ()
        qos: tuple[Qos, ...] = ()
        with ThreadPoolExecutor() as pool:  # Slurm 22.05 takes a quarter of a second for some of these
            partitions, nodes = pool.submit(client.partitions), pool.submit(client.nodes)
            if config.accounting and config.enforced:
                kinds = pool.submit(client.qos)
                try:
                    associations, qos = client.associations(config.cluster).rows, kinds.result().rows
                except SlurmUnavailable:
                    associations = None
            return cls(cluster, config, partitions.result().rows, nodes.result().rows, associations, qos)

    def admit(self, units: Sequence[Unit]) -> list[Unit]:
        """Return the units, with time limits that the cluster allows.

        Raises:
            Refusal: some can never run.
        """

        @cache  # many units of a stage need the same
        def allowed(stage: str, resources: Resources) -> Resources:
            if not (self.config.tracks_memory and self.cluster.asks_memory(stage)):
                resources = replace(resources, memory=0)
            return self._fitted(stage, resources)

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

    def rules(self, stages: Iterable[str], taken: Sequence[Place], keeper: str | None) -> Rules:
        """Return the limits that arrays must observe.

        Args:
            taken: the places in the queue that this user has taken.
            keeper: the stage whose options a keeper is submitted with, which takes a place; None: no keeper.

        Raises:
            Refusal: one of the stages has no partition or account.
        """
        quotas = dict[Quota, set[str]]()
        for stage in {*stages, *([keeper] if keeper else [])}:
            try:
                levels = self._levels(stage)
            except NeverRuns as error:
                raise Refusal(f"jobs of stage {stage}: {error}") from error
            for at, _ in levels:
                for quota in at.quotas(self.partitions, self.associations or ()):
                    quotas.setdefault(quota, set()).add(stage)
        pools = []
        for quota, of_stages in quotas.items():
            count = sum(_count_of(p) for p in taken if quota.counts(p.account, p.qos, p.partitions))
            room = quota.most - count - (keeper in of_stages)
            pools.append(Pool(quota.name, max(0, room), frozenset(of_stages)))
        room = max(0, self.config.max_jobs - sum(map(_count_of, taken)) - (keeper is not None))
        slurm = self.cluster.slurm
        size = self.config.max_array_size
        return Rules(size, room, slurm.max_jobs, slurm.max_gpus, tuple(pools))

    def notices(self, stages: Iterable[str]) -> list[str]:
        """Return what a person should know about the partitions of these stages before submitting."""
        down = {p.name for stage in stages for _, p in self._levels(stage) if p.state == "DOWN"}
        return [
            f"partition {name} is DOWN: it accepts jobs, which start once an administrator brings it up"
            for name in sorted(down)
        ]

    def _fitted(self, stage: str, resources: Resources) -> Resources:
        """Return the resources fitted to one of the stage's partitions, or to all where that is required."""
        found, reasons = dict[str, Resources](), dict[str, None]()
        levels = self._levels(stage)
        for at, partition in levels:
            try:
                self._check_access(stage, at, partition)
                bounds = _without_bounds(partition, at.services)
                fits = fitted(resources, bounds, self.nodes, at.limits, at.least)
            except NeverRuns as error:
                reasons[str(error)] = None
                continue
            if partition.name not in found or fits.hours > found[partition.name].hours:
                found[partition.name] = fits
        missing = {p.name for _, p in levels} - found.keys()
        if not found or (missing and self.config.all_partitions):
            raise NeverRuns("; ".join(reasons))
        best = min if self.config.all_partitions else max
        return best(found.values(), key=lambda fits: fits.hours)

    def _levels(self, stage: str) -> list[tuple[Level, Partition]]:
        """Return the partitions that jobs of a stage may start in, with the limits of each possible account.

        Raises:
            NeverRuns: there is no such partition, or the user has no account for one.
        """
        qos, all_rows = self._option(stage, "qos"), self.associations or ()
        found, reasons = list[tuple[Level, Partition]](), dict[str, None]()
        for partition in self._partitions(stage):
            try:
                rows = self._rows(stage, partition)
            except NeverRuns as error:
                reasons[str(error)] = None
                continue
            found += [(level(row, all_rows, self.qos, qos, partition), partition) for row in rows]
        if not found:
            raise NeverRuns("; ".join(reasons))
        return found

    def _rows(self, stage: str, partition: Partition) -> Sequence[Association | None]:
        """Return the user's rows that may apply to jobs of a stage; one None where no limits are kept."""
        if self.associations is None:
            return [None]
        mine = [row for row in self.associations if row.user]
        account = self._option(stage, "account")
        chosen = [row for row in mine if account is None or row.account.lower() == account.lower()]
        here = [row for row in chosen if row.partition == partition.name]
        rows = here or [row for row in chosen if row.partition is None]
        if not rows and "associations" in self.config.enforced:
            raise NeverRuns(_no_account(mine, chosen, account, partition))
        if not {"limits", "qos", "safe"} & set(self.config.enforced):
            return [None]
        return rows or [None]

    def _check_access(self, stage: str, at: Level, partition: Partition) -> None:
        """Refuse a partition that is closed to the user, the account or the QOS, or accepts no jobs now."""
        name = f"partition {partition.name}"
        if partition.state in ("DRAIN", "INACTIVE"):
            raise NeverRuns(
                f"{name} is in state {partition.state} and accepts no jobs: name another one in the cluster "
                "file, or submit again once an administrator has brought it up"
            )
        groups = user_groups()
        if groups and not partition.groups.admits(groups):
            raise NeverRuns(f"{name} is for the groups {', '.join(partition.groups.allowed)} only: {ADVICE}")
        if at.own:
            account, above = at.own.account, {row.account for row in at.above}
            denied = {account, *above} if self.config.denies_below else {account}
            _refuse(name, "account", account, partition.accounts, {account, *above}, denied)
        service = service_of(at.own, self._option(stage, "qos"))
        if service and "qos" in self.config.enforced:
            _refuse(name, "QOS", service, partition.services, {service}, {service})

    def _partitions(self, stage: str) -> list[Partition]:
        wanted = self._option(stage, "partition")
        known = {p.name: p for p in self.partitions}
        if wanted is None:
            default = next((p for p in self.partitions if p.default), None)
            if default is None:
                words = "name one in the cluster file, as 'sbatch: {partition: …}'. Available:"
                raise NeverRuns(f"this cluster has no default partition: {words} {', '.join(known)}")
            return [default]
        for name in wanted.split(","):
            if name not in known:  # Slurm refuses a list with one of these, too
                raise NeverRuns(f"no partition {name!r}; available: {', '.join(known)}")
        return [known[name] for name in wanted.split(",")]

    def _option(self, stage: str, name: str) -> str | None:
        """Return the effective value of an sbatch option: the environment overrides the script."""
        given = self.cluster.sbatch_options(stage, 0).get(name)
        return os.environ.get(f"SBATCH_{name.upper()}") or (None if given is None else str(given))


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
    """Return the advice for a training, with a process for each GPU, on nodes that have fewer GPUs."""
    most = max((sum(n for _, n in g.gpus) for g in nodes if g.partition == partition.name), default=0)
    training = resources.tasks_per_node == resources.gpus_per_node > most > 0
    return f"set 'gpus_per_node: {most}' in the cluster file, " if training else ""


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


def _without_bounds(partition: Partition, services: Sequence[Qos]) -> Partition:
    """Return the partition without those of its limits that a QOS overrides."""
    flags = {flag for service in services for flag in service.flags}
    return replace(
        partition,
        max_seconds=None if "PartitionTimeLimit" in flags else partition.max_seconds,
        max_nodes=None if "PartitionMaxNodes" in flags else partition.max_nodes,
    )


def _refuse(partition: str, what: str, name: str, access: Access, names: set[str], denied: set[str]) -> None:
    """Refuse an account or a QOS that a partition does not accept.

    Args:
        names: its own and those above, which newer versions of Slurm accept as well.
        denied: those of them whose denial this version extends to it.
    """
    if access.allowed and not names & set(access.allowed):
        allowed = ", ".join(access.allowed)
        raise NeverRuns(f"{partition} does not take {what} {name}, only {allowed}: {OTHER}")
    if denied & set(access.denied):
        raise NeverRuns(f"{partition} does not take {what} {name}: {OTHER}")


def _no_account(
    mine: Sequence[Association], chosen: Sequence[Association], account: str | None, partition: Partition
) -> str:
    """Return why there is no account for a job."""
    if not mine:
        return "you have no account on this cluster, which refuses jobs without one: ask for one"
    names = ", ".join(sorted({row.account for row in mine}))
    if not chosen:
        return f"account {account!r} is not one of yours ({names}): set another one in the cluster file"
    there = ", ".join(sorted({row.partition for row in chosen if row.partition}))
    whose = f"account {account}" if account else f"your accounts ({names})"
    return f"{whose} may use the partitions {there}, not {partition.name}: {OTHER}"


@cache
def user_groups() -> frozenset[str]:
    """Return the names of this user's groups; none for root, whom every partition accepts."""
    user = pwd.getpwuid(os.getuid())
    found = []
    for number in os.getgrouplist(user.pw_name, user.pw_gid) if user.pw_uid else ():
        with suppress(KeyError):
            found.append(grp.getgrgid(number).gr_name)
    return frozenset(found)


def _count_of(place: Place) -> int:
    return 1 if place.elements is None else len(place.elements)


def in_words(found: Limits) -> str:
    """Return a description of the limits for a person."""
    numbers = {
        "jobs in the queue": found.submitted, "jobs running": found.jobs, "GPUs in use": found.held.gpus,
        "cores in use": found.held.cpus, "nodes in use": found.held.nodes, "GPUs per job": found.job.gpus,
        "cores per job": found.job.cpus, "nodes per job": found.job.nodes,
        "h per job": found.job_seconds and found.job_seconds / 3600,
    }  # fmt: skip
    words = [f"{number:g} {what}" for what, number in numbers.items() if number is not None]
    return f"at most {', '.join(words)}" if words else "no limits"
