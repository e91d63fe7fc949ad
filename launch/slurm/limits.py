"""Limits of a cluster, as scontrol and sacctmgr print them: partitions, associations and QOS.

Pure: text in, frozen dataclasses out, as in parse.py. Durations are seconds, and None is none or unlimited.
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

from launch.slurm.text import Table, names, number, parse_duration, parse_table, text_of

EVERYBODY = ("ALL",)  # access of a partition that is open to all


class Tres(NamedTuple):
    """Amounts of the resources that Slurm counts, as far as units request them."""

    gpus: int | None = None
    cpus: int | None = None
    nodes: int | None = None


UNLIMITED = Tres()


@dataclass(frozen=True)
class Limits:
    """Limits at one level of a cluster.

    Args:
        jobs: running at once.
        submitted: in the queue, pending and running; each element of an array counts.
        held: in use at once.
        job, job_seconds: per job.
    """

    jobs: int | None = None
    submitted: int | None = None
    held: Tres = UNLIMITED
    job: Tres = UNLIMITED
    job_seconds: int | None = None


@dataclass(frozen=True)
class Access:
    """Access to a partition: all but `denied`, or only `allowed` if that is not empty."""

    allowed: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()

    def admits(self, names: Set[str]) -> bool:
        """Return whether one of these groups, accounts or QOS has access."""
        return not names.isdisjoint(self.allowed) if self.allowed else bool(names - set(self.denied))


@dataclass(frozen=True)
class Partition:
    """One partition of a cluster.

    Args:
        state: "UP", "DOWN" (accepts jobs, starts none), "DRAIN" (starts, accepts none) or "INACTIVE".
        nodes: their total number.
        max_nodes, max_seconds: per job.
        max_memory: per node, in MiB.
        qos: the QOS whose limits apply to all jobs in the partition, besides their own.
    """

    name: str
    default: bool
    state: str
    nodes: int
    max_nodes: int | None
    max_seconds: int | None
    max_memory: int | None = None
    qos: str | None = None
    groups: Access = Access()
    accounts: Access = Access()
    services: Access = Access()


@dataclass(frozen=True)
class Association:
    """Limits of a user under an account, or, without a user, of an account.

    Args:
        parent: the account above; None for a user's row, whose account is the one above.
        own: limits per user, including inherited ones.
        group: limits shared by all below, of this level alone.
        partition: the only one that the row covers; None: all that no other row covers.
    """

    account: str
    user: str | None
    parent: str | None
    own: Limits
    group: Limits
    qos: tuple[str, ...]
    default_qos: str | None
    partition: str | None = None


@dataclass(frozen=True)
class Qos:
    """A quality of service: its limits per user, per account, and for all together.

    Args:
        least: the minimum that a job must request.
        flags: as "OverPartQOS": its limits take precedence over those of the partition's QOS.
    """

    name: str
    limits: tuple[Limits, Limits, Limits]
    least: Tres = UNLIMITED
    flags: tuple[str, ...] = ()


ASSOCIATION = (
    "ID", "Account", "User", "ParentName", "MaxJobs", "MaxSubmit", "GrpJobs", "GrpSubmit", "GrpTRES",
    "MaxTRES", "MaxWall", "Partition",
)  # fmt: skip
SERVICES = ("ID", "QOS", "DefaultQOS")
QOS = (
    "Name", "MaxJobsPU", "MaxSubmitPU", "MaxTRESPU", "MaxJobsPA", "MaxSubmitPA", "MaxTRESPA", "GrpJobs",
    "GrpSubmit", "GrpTRES", "MaxTRES", "MaxWall", "MinTRES", "Flags",
)  # fmt: skip


def parse_partitions(text: str) -> Table[Partition]:
    """Parse the output of `scontrol show partition --oneliner`."""

    def row(fields: Sequence[str]) -> list[Partition]:
        found = dict(field.split("=", 1) for field in fields[0].split(" ") if "=" in field)
        return [Partition(
            name=found["PartitionName"],
            default=found["Default"] == "YES",
            state=found["State"],
            nodes=int(found["TotalNodes"]),
            max_nodes=number(found["MaxNodes"]),
            max_seconds=parse_duration(found["MaxTime"]),
            max_memory=number(found.get("MaxMemPerNode", "")) or None,
            qos=text_of(found.get("QoS", "")),
            groups=_access(found, "Groups"),
            accounts=_access(found, "Accounts"),
            services=_access(found, "Qos"),
        )]  # fmt: skip

    return parse_table(text, 1, row)


def parse_associations(text: str, services: str) -> Table[Association]:
    """Parse sacctmgr's lines in the formats `ASSOCIATION` and, for users, `SERVICES`."""
    defaults = parse_table(services, len(SERVICES), lambda f: [f])
    qos = {id: (names(listed), text_of(default)) for id, listed, default in defaults.rows}

    def row(f: Sequence[str]) -> list[Association]:
        own = Limits(number(f[4]), number(f[5]), job=_tres(f[9]), job_seconds=parse_duration(f[10]))
        group = Limits(number(f[6]), number(f[7]), _tres(f[8]))
        rest = *qos.get(f[0], ((), None)), text_of(f[11])
        return [Association(f[1], text_of(f[2]), text_of(f[3]), own, group, *rest)]

    found = parse_table(text, len(ASSOCIATION), row)
    return Table(found.rows, (*defaults.malformed, *found.malformed))


def parse_qos(text: str) -> Table[Qos]:
    """Parse sacctmgr's lines in the format `QOS`."""

    def row(f: Sequence[str]) -> list[Qos]:
        user = Limits(number(f[1]), number(f[2]), _tres(f[3]), _tres(f[10]), parse_duration(f[11]))
        account, group = (Limits(number(f[i]), number(f[i + 1]), _tres(f[i + 2])) for i in (4, 7))
        return [Qos(f[0], (user, account, group), _tres(f[12]), names(f[13]))]

    return parse_table(text, len(QOS), row)


def _access(found: dict[str, str], what: str) -> Access:
    allowed, denied = names(found.get(f"Allow{what}", "ALL")), names(found.get(f"Deny{what}", ""))
    return Access(() if allowed == EVERYBODY else allowed, denied)


def _tres(text: str) -> Tres:
    """Parse the amounts in `cpu=32,gres/gpu=16,gres/gpu:h100=8`; for GPUs take the fewest of any type."""
    gpus = min((int(n) for n in re.findall(r"gres/gpu(?::[^=,]+)?=(\d+)", text)), default=None)
    cpus, nodes = (re.search(rf"(?:^|,){kind}=(\d+)(?:,|$)", text) for kind in ("cpu", "node"))
    return Tres(gpus, cpus and int(cpus[1]), nodes and int(nodes[1]))
