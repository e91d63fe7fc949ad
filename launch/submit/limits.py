"""Checks of units before submission: the cluster's limits for this user, and checkpoints of trainings.

Units that can never run are refused with all reasons at once; those that there is no room for yet are not.
Nothing is decided by a default partition that a site's plugins may replace: site.py asks what they do.
"""

from __future__ import annotations

import grp
import os
import pwd
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from typing import NamedTuple

from jobs.core.unit import Resources, Unit
from jobs.core.wording import some
from jobs.store.checkpoints import Checkpoints, why_not
from jobs.store.rundir import StudyDir
from launch.slurm.answers import Answer
from launch.slurm.client import SlurmClient
from launch.slurm.levels import Level, Quota, level, service_of
from launch.slurm.limits import Access, Association, Limits, Partition, Qos
from launch.slurm.parse import Config, NodeGroup, Place
from launch.state.errors import SlurmUnavailable
from launch.study.cluster import Cluster
from launch.submit.arrays import Pool, Rules
from launch.submit.fitting import ADVICE, NeverRuns, fitted

OTHER = "name another partition, account or QOS in the cluster file"


class Request(NamedTuple):
    """What a job requests: its stage, whose options it has, and its resources."""

    stage: str
    resources: Resources

    @property
    def shape(self) -> Request:
        """The same without time and memory, by which few sites decide, and which fitting changes."""
        return Request(self.stage, replace(self.resources, hours=0, memory=0, raised=0))


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
        answers: what the site would do with requests that are open (see `is_open`), and with others of their
            shape.
    """

    cluster: Cluster
    config: Config
    partitions: tuple[Partition, ...]
    nodes: tuple[NodeGroup, ...]
    associations: tuple[Association, ...] | None
    qos: tuple[Qos, ...]
    answers: Mapping[Request, Answer] = field(default_factory=dict)
    _requests: dict[Request, Request] = field(default_factory=dict, init=False, compare=False, repr=False)

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
            groups = _with_gpus(nodes.result().rows, cluster)
            return cls(cluster, config, partitions.result().rows, groups, associations, qos)

    def request(self, unit: Unit) -> Request:
        """Return what decides on a unit's options and limits; many units of a stage have the same."""
        given = Request(unit.stage, unit.resources)
        if (found := self._requests.get(given)) is None:
            needs = unit.resources
            if not (self.config.tracks_memory and self.cluster.asks_memory(unit.stage, needs)):
                needs = replace(needs, memory=0, raised=0)
            needs = self.cluster.with_cores(unit.stage, needs)
            found = self._requests[given] = Request(unit.stage, replace(needs, workers=1))
        return found

    def is_open(self, request: Request) -> bool:
        """Return whether only the site knows what it would do with such jobs.

        Its plugins may refuse them, choose another partition than the default one, and rename accounts.
        """
        unnamed = self._option(request, "partition") is None
        nowhere = unnamed and not any(p.default for p in self.partitions)
        return self.config.filtered or nowhere or bool(self._unknown_account(request))

    def admit(self, units: Sequence[Unit]) -> list[Unit]:
        """Return the units, with time limits that the cluster allows.

        Raises:
            Refusal: some can never run.
        """
        fitted_to = cache(self._fitted)
        admitted, refused = [], dict[str, list[str]]()
        for unit in units:
            try:
                fits = fitted_to(self.request(unit))
                if unit.resources.workers > 1:
                    fits = replace(fits, workers=unit.resources.workers)
                admitted.append(unit if fits == unit.resources else replace(unit, resources=fits))
            except NeverRuns as error:
                refused.setdefault(str(error), []).append(f"{unit.stage} {unit.name}")
        if refused:
            raise Refusal("\n".join(f"{some(names)}: {why}" for why, names in refused.items()))
        return admitted

    def rules(self, units: Sequence[Unit], taken: Sequence[Place], keeper: Unit | None) -> Rules:
        """Return the limits that arrays must observe.

        Args:
            units: those to submit.
            taken: the places in the queue that this user has taken.
            keeper: a unit with the request of a keeper, which takes a place; None: no keeper.

        Raises:
            Refusal: one of the units has no partition or account.
        """
        alike = defaultdict[Request, set[str]](set)
        for unit in [*units, *([keeper] if keeper else [])]:
            alike[self.request(unit)].add(unit.id)
        quotas = defaultdict[Quota, set[str]](set)
        numbers, kinds = dict[frozenset[tuple[str, str | bool]], int](), dict[str, int]()
        for request, ids in alike.items():
            options = frozenset(self.cluster.sbatch_options(*request).items())
            kinds |= dict.fromkeys(ids, numbers.setdefault(options, len(numbers)))
            try:
                levels = self._levels(request)
            except NeverRuns as error:
                raise Refusal(f"jobs of stage {request.stage}: {error}") from error
            for at, _ in self._sure(levels):
                for quota in at.quotas(self.partitions, self.associations or ()):
                    quotas[quota] |= ids
        pools = []
        for quota, of_units in quotas.items():
            count = sum(_count_of(p) for p in taken if quota.counts(p.account, p.qos, p.partitions))
            room = quota.most - count - (keeper is not None and keeper.id in of_units)
            pools.append(Pool(quota.name, max(0, room), frozenset(of_units)))
        room = max(0, self.config.max_jobs - sum(map(_count_of, taken)) - (keeper is not None))
        slurm = self.cluster.slurm
        size = self.config.max_array_size
        return Rules(size, room, slurm.max_jobs, slurm.max_gpus, tuple(pools), kinds)

    def notices(self, units: Sequence[Unit]) -> list[str]:
        """Return what a person should know about the partitions and accounts of these units beforehand."""
        requests = dict.fromkeys(map(self.request, units))
        down = {p.name for r in requests for _, p in self._sure(self._levels(r)) if p.state == "DOWN"}
        found = [
            f"partition {name} is DOWN: it accepts jobs, which start once an administrator brings it up"
            for name in sorted(down)
        ]
        unsure = [r for r in requests if not self._answer(r).partition]
        accounts = sorted({name for r in unsure if (name := self._unknown_account(r))})
        unless = "Slurm refuses it, unless this site renames accounts"
        return found + [f"{self._not_yours(account)}: {unless}" for account in accounts]

    def _fitted(self, request: Request) -> Resources:
        """Return the resources fitted to one of the partitions, or to all where that is required.

        Of partitions among which the site chooses, the default one is preferred, where the request fits it.
        """
        if refused := self._answer(request).refused:
            why = f"this cluster refuses such a job and says: {'; '.join(refused)}"
            if account := self._unknown_account(request):
                why += f"; {self._not_yours(account)}: set another one in the cluster file"
            raise NeverRuns(why)
        found, reasons = dict[str, Resources](), dict[str, None]()
        levels = self._levels(request)
        for at, partition in levels:
            try:
                self._check_access(request, at, partition)
                bounds = _without_bounds(partition, at.services)
                fits = fitted(request.resources, bounds, self.nodes, at.limits, at.least)
            except NeverRuns as error:
                reasons[str(error)] = None
                continue
            if partition.name not in found or fits.hours > found[partition.name].hours:
                found[partition.name] = fits
        named = self._option(request, "partition") is not None
        missing = {p.name for _, p in levels} - found.keys()
        if not found or (missing and named and self.config.all_partitions):
            raise NeverRuns("; ".join(reasons))
        default = next((p.name for _, p in levels if p.default and p.name in found), None)
        if default and not named:
            return found[default]
        best = min if self.config.all_partitions else max
        return best(found.values(), key=lambda fits: fits.hours)

    def _levels(self, request: Request) -> list[tuple[Level, Partition]]:
        """Return the partitions that jobs may start in, with the limits of each possible account.

        Raises:
            NeverRuns: there is no such partition, or the user has no account for one.
        """
        qos, all_rows = self._option(request, "qos"), self.associations or ()
        found, reasons = list[tuple[Level, Partition]](), dict[str, None]()
        for partition in self._partitions(request):
            try:
                rows = self._rows(request, partition)
            except NeverRuns as error:
                reasons[str(error)] = None
                continue
            found += [(level(row, all_rows, self.qos, qos, partition), partition) for row in rows]
        if not found:
            raise NeverRuns("; ".join(reasons))
        return found

    def _sure(self, levels: Sequence[tuple[Level, Partition]]) -> Sequence[tuple[Level, Partition]]:
        """Return the levels of the default partition if the site may choose among all, or else all levels."""
        if {p.name for _, p in levels} == {p.name for p in self.partitions}:
            return [(at, p) for at, p in levels if p.default] or levels
        return levels

    def _rows(self, request: Request, partition: Partition) -> Sequence[Association | None]:
        """Return the user's rows that may apply to jobs; one None where no limits are kept."""
        if self.associations is None:
            return [None]
        mine, account = self._mine, self._option(request, "account")
        chosen = [row for row in mine if account is None or _is_account(row, account)]
        if account and not chosen:  # a site that renames accounts adds to their names, as m1 to m1_g
            chosen = [row for row in mine if row.account.lower().startswith(f"{account.lower()}_")]
        here = [row for row in chosen if row.partition == partition.name]
        rows = here or [row for row in chosen if row.partition is None]
        if not rows and "associations" in self.config.enforced and (chosen or not mine):
            raise NeverRuns(_no_account(mine, chosen, account, partition))
        if not {"limits", "qos", "safe"} & set(self.config.enforced):
            return [None]
        return rows or [None]

    @property
    def _mine(self) -> list[Association]:
        return [row for row in self.associations or () if row.user]

    def _unknown_account(self, request: Request) -> str | None:
        """Return the account of jobs if the user has others, but not this one, and Slurm would check it."""
        account = self._option(request, "account")
        if account is None or not self._mine or "associations" not in self.config.enforced:
            return None
        return None if any(_is_account(row, account) for row in self._mine) else account

    def _not_yours(self, account: str) -> str:
        mine = ", ".join(sorted({row.account for row in self._mine}))
        return f"account {account!r} is not one of yours ({mine})"

    def _check_access(self, request: Request, at: Level, partition: Partition) -> None:
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
        service = service_of(at.own, self._option(request, "qos"))
        if service and "qos" in self.config.enforced:
            _refuse(name, "QOS", service, partition.services, {service}, {service})

    def _partitions(self, request: Request) -> Sequence[Partition]:
        """Return the named partitions; otherwise where the site would start such jobs; otherwise the default.

        Where that is open, it is all of them.
        """
        wanted = self._option(request, "partition")
        known = {p.name: p for p in self.partitions}
        if wanted is None:
            if (there := self._answer(request).partition) in known:
                return [known[there]]
            default = [p for p in self.partitions if p.default]
            return default if default and not self.config.filtered else self.partitions
        for name in wanted.split(","):
            if name not in known:  # Slurm refuses a list with one of these, too
                raise NeverRuns(f"no partition {name!r}; available: {', '.join(known)}")
        return [known[name] for name in wanted.split(",")]

    def _answer(self, request: Request) -> Answer:
        return self.answers.get(request) or self.answers.get(request.shape, Answer())

    def _option(self, request: Request, name: str) -> str | None:
        given = self.cluster.sbatch_options(request.stage, request.resources).get(name)
        return None if given is None else str(given)


def _with_gpus(nodes: tuple[NodeGroup, ...], cluster: Cluster) -> tuple[NodeGroup, ...]:
    """Return the nodes, with GPUs that the cluster file knows of and Slurm does not."""
    if cluster.slurm.gpu_option or cluster.gpus_per_node is None:
        return nodes
    return tuple(replace(group, gpus=(("gpu", cluster.gpus_per_node),)) for group in nodes)


def _is_account(row: Association, account: str) -> bool:
    return row.account.lower() == account.lower()  # Slurm keeps them in lower case, and takes any


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
