"""How much a user may have in the queue: all levels of a cluster's limits, brought down to five numbers.

Pure. The levels are the association (user and account), every account above it, and the default quality of
service; the smallest number counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from jobs.unit import Resources
from launch.plan import MARGIN
from launch.slurm import Association, Limits, NodeGroup, Partition, Qos

ADVICE = "ask for less in the preset, or name another partition, account or QOS in the cluster file"


class NeverRuns(ValueError):
    """A unit that the cluster would never run."""


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
    able = [n for n in nodes if n.cpus >= cpus and sum(count for _, count in n.gpus) >= r.gpus_per_node]
    if sum(n.count for n in able if n.partition == partition.name) < r.nodes:
        wanted = _some(cpus, "core") + (f" and {_some(r.gpus_per_node, 'GPU')}" if r.gpus_per_node else "")
        raise NeverRuns(f"needs {_some(r.nodes, 'node')} with {wanted}, and {name} has not so many: {ADVICE}")
    gpus = r.nodes * r.gpus_per_node
    allowed = _smallest([found.job_gpus, found.gpus]) if found else None
    if allowed is not None and gpus > allowed:
        raise NeverRuns(f"needs {_some(gpus, 'GPU')}, and your account may use {allowed}: {ADVICE}")
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


def in_words(found: Limits) -> str:
    """The limits as a person reads them."""
    numbers = {
        "jobs in the queue": found.submitted, "jobs running": found.jobs, "GPUs in use": found.gpus,
        "GPUs a job": found.job_gpus, "h a job": found.job_seconds and found.job_seconds / 3600,
    }  # fmt: skip
    words = [f"{number:g} {what}" for what, number in numbers.items() if number is not None]
    return f"at most {', '.join(words)}" if words else "no limits"


def _some(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count > 1)}"


def _smallest(numbers: Iterable[int | None]) -> int | None:
    return min((n for n in numbers if n is not None), default=None)
