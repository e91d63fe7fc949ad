"""Limits of a cluster that apply to jobs of one account, QOS and partition. Pure.

Limits exist at several levels. Of the QOS of the partition and that of the job, the first that sets a limit
applies (with the flag OverPartQOS the job's comes first), and a limit of a QOS replaces the association's.
Limits shared by all below an account apply at each account above.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter

from launch.slurm.limits import UNLIMITED, Association, Limits, Partition, Qos, Tres

SUBMITTED: Callable[[Limits], int | None] = attrgetter("submitted")


@dataclass(frozen=True)
class Level:
    """Limits that apply to jobs of one account, QOS and partition.

    Args:
        own: the user's row; None if the cluster keeps no limits, or they are unknown.
        above: the rows of its account and of those above.
        services: QOS in order of precedence.
    """

    own: Association | None
    above: tuple[Association, ...]
    services: tuple[Qos, ...]

    @property
    def limits(self) -> Limits:
        """The effective limits: the smallest of all that apply."""

        def tres(name: str) -> Tres:
            return Tres(*(self._least(attrgetter(f"{name}.{kind}")) for kind in Tres._fields))

        return Limits(
            jobs=self._least(attrgetter("jobs")),
            submitted=self._least(SUBMITTED),
            held=tres("held"),
            job=tres("job"),
            job_seconds=self._least(attrgetter("job_seconds")),
        )

    @property
    def least(self) -> Tres:
        """The minimum that a job must request."""
        return next((q.least for q in self.services if q.least != UNLIMITED), UNLIMITED)

    def quotas(self, partitions: Sequence[Partition], rows: Iterable[Association]) -> list[Quota]:
        """Return the limits on the number of jobs in the queue.

        Args:
            partitions: all of the cluster.
            rows: all of the user's.
        """
        found = list[Quota]()
        for i in range(3):
            service = self._setter(i, SUBMITTED)
            if service is not None:
                name = service.name
                accounts = (self.own.account,) if i == 1 and self.own else None
                inside = frozenset(p.name for p in partitions if p.qos == name)
                found.append(
                    Quota(f"QOS {name}", _number(service.limits[i].submitted), accounts, inside, name)
                )
        if self.own and not any(self._setter(i, SUBMITTED) for i in (0, 1)):
            found += _of_row(self.own, rows)
        if self.own and not self._setter(2, SUBMITTED):
            below = [self.own.account]
            for row in self.above:
                if row.account not in below:
                    below.append(row.account)
                if row.group.submitted is not None:
                    found.append(Quota(f"account {row.account}", row.group.submitted, tuple(below)))
        return found

    def _setter(self, i: int, of: Callable[[Limits], int | None]) -> Qos | None:
        """Return the QOS that sets a limit: per user (0), per account (1), for all together (2)."""
        return next((q for q in self.services if of(q.limits[i]) is not None), None)

    def _least(self, of: Callable[[Limits], int | None]) -> int | None:
        user, account, group = (
            of(service.limits[i]) if (service := self._setter(i, of)) else None for i in range(3)
        )
        found = [user, account, group]
        if self.own and user is None and account is None:
            found.append(of(self.own.own))
        if self.own and group is None:
            found += [of(row.group) for row in (self.own, *self.above)]
        return smallest(found)


@dataclass(frozen=True)
class Quota:
    """Limit on this user's jobs in the queue at once, of some account, partitions or QOS.

    Jobs of others also count toward the limits of accounts and of a QOS as a whole, and are not known here.

    Args:
        name: whose it is, in words.
        accounts: whose jobs count; None: any account's.
        partitions: whose jobs count; with `qos`, in addition to those of that QOS; None: any partition's.
        but: partitions whose jobs do not count.
    """

    name: str
    most: int
    accounts: tuple[str, ...] | None = None
    partitions: frozenset[str] | None = None
    qos: str | None = None
    but: frozenset[str] = frozenset()

    def counts(self, account: str, qos: str, partitions: Iterable[str]) -> bool:
        """Return whether a job of this account and QOS, in one of these partitions, counts."""
        there = set(partitions)
        if self.accounts is not None and account not in self.accounts:
            return False
        if self.qos is not None:
            return qos == self.qos or bool(there & (self.partitions or set()))
        return bool(there & self.partitions if self.partitions is not None else there - self.but)


def level(
    own: Association | None,
    rows: Sequence[Association],
    qos: Sequence[Qos],
    chosen: str | None = None,
    partition: Partition | None = None,
) -> Level:
    """Return the level of jobs under one of a user's rows.

    Args:
        chosen: the QOS that jobs request; None: the default one.
        partition: where they are to run.
    """
    known = {q.name: q for q in qos}
    default = service_of(own, chosen)
    job = known.get(default) if default else None
    of_partition = known.get(partition.qos) if partition and partition.qos else None
    order = (job, of_partition) if job and "OverPartQOS" in job.flags else (of_partition, job)
    services = tuple(dict.fromkeys(q for q in order if q))
    return Level(own, tuple(above(own, rows)), services)


def service_of(own: Association | None, chosen: str | None) -> str | None:
    """Return the name of the QOS that jobs get.

    Returns:
        None if that is not known.
    """
    if chosen or own is None:
        return chosen
    return own.default_qos or (own.qos[0] if len(own.qos) == 1 else None)


def above(own: Association | None, rows: Sequence[Association]) -> list[Association]:
    """Return the row of the user's account and those of the accounts above."""
    accounts = {row.account: row for row in rows if row.user is None}
    found, account = list[Association](), own.account if own else None
    while account in accounts:
        found.append(accounts.pop(account))  # popped, so that a cycle ends
        account = found[-1].parent
    return found


def smallest(numbers: Iterable[int | None]) -> int | None:
    """Return the smallest of the numbers, ignoring None.

    Returns:
        None if there is no number.
    """
    return min((n for n in numbers if n is not None), default=None)


def _of_row(own: Association, rows: Iterable[Association]) -> list[Quota]:
    """Return the limit of a user's row; one without a partition covers all that have no row of their own."""
    if own.own.submitted is None:
        return []
    alike = [row for row in rows if row.account == own.account]
    if own.partition:
        name = f"account {own.account} in partition {own.partition}"
        return [Quota(name, own.own.submitted, (own.account,), frozenset((own.partition,)))]
    others = frozenset(row.partition for row in alike if row.partition)
    return [Quota(f"account {own.account}", own.own.submitted, (own.account,), None, None, others)]


def _number(value: int | None) -> int:
    assert value is not None
    return value
