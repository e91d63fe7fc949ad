"""How much a user may have in the queue: all levels of a cluster's limits, brought down to five numbers.

Pure. The levels are the association (user and account), every account above it, and the default quality of
service; the smallest number counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from launch.slurm import Association, Qos


@dataclass(frozen=True)
class Limits:
    """What holds for one user under one account; None is no limit.

    Args:
        jobs: that run at once.
        submitted: in the queue, waiting and running; each element of an array counts.
        gpus: in use at once.
        job_gpus, job_seconds: of one job.
    """

    jobs: int | None
    submitted: int | None
    gpus: int | None
    job_gpus: int | None
    job_seconds: int | None


def limits(own: Association, associations: Sequence[Association], qos: Sequence[Qos]) -> Limits:
    """The limits of a user's row among all rows. Jobs of others also count towards a limit of a group."""
    chain = [own]
    above = {row.account: row for row in associations if row.user is None}
    account: str | None = own.account
    while account in above:
        chain.append(above.pop(account))  # popped, so that a circle ends
        account = chain[-1].parent
    name = own.default_qos or (own.qos[0] if len(own.qos) == 1 else None)
    service = [q for q in qos if q.name == name]
    caps = [
        own.own,
        *(row.group for row in chain),
        *(c for q in service for c in (q.user, q.account, q.group)),
    ]
    jobs: list[Association | Qos] = [own, *service]
    return Limits(
        jobs=_smallest(cap.jobs for cap in caps),
        submitted=_smallest(cap.submitted for cap in caps),
        gpus=_smallest(cap.gpus for cap in caps),
        job_gpus=_smallest(row.job_gpus for row in jobs),
        job_seconds=_smallest(row.job_seconds for row in jobs),
    )


def in_words(found: Limits) -> str:
    """The limits as a person reads them."""
    numbers = {
        "jobs in the queue": found.submitted, "jobs running": found.jobs, "GPUs in use": found.gpus,
        "GPUs a job": found.job_gpus, "h a job": found.job_seconds and found.job_seconds / 3600,
    }  # fmt: skip
    words = [f"{number:g} {what}" for what, number in numbers.items() if number is not None]
    return f"at most {', '.join(words)}" if words else "no limits"


def _smallest(numbers: Iterable[int | None]) -> int | None:
    return min((n for n in numbers if n is not None), default=None)
