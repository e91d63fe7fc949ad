"""Slurm's reasons for a job to wait, in plain words: what it waits for, and for how long. Pure."""

from __future__ import annotations

import re

from launch.observe import Seen
from launch.states import State

WORDS = {
    "None": "Slurm has not looked at it yet",
    "Priority": "other jobs have a higher priority",
    "Resources": "it is next, and waits for nodes to become free",
    "Dependency": "waits for jobs that make its input",
    "DependencyNeverSatisfied": "waits for a job that failed: it will never start",
    "BeginTime": "was put back into the queue, and begins again in two minutes",
    "Cleaning": "Slurm is still cleaning up after its last run",
    "JobArrayTaskLimit": "as many of its array run as may at once",
    "JobArrayTaskLimitReached": "as many of its array run as may at once",
    "JobHeldUser": "you hold it: 'scontrol release JOB' lets it go",
    "JobHeldAdmin": "an administrator holds it",
    "JobHoldMaxRequeue": "Slurm holds it, since it was put back too often: 'scontrol release JOB' lets it go",
    "MaxRequeue": "Slurm holds it, since it was put back too often: 'scontrol release JOB' lets it go",
    "JobLaunchFailure": "it could not be started on its node",
    "NodeDown": "a node that it needs is down",
    "PartitionDown": "its partition takes no jobs now",
    "PartitionInactive": "its partition starts no jobs now",
    "PartitionNodeLimit": "it asks for more nodes than its partition allows",
    "PartitionTimeLimit": "it asks for more time than its partition allows",
    "ReqNodeNotAvail": "nodes that it needs are down, drained or reserved",
    "Reservation": "waits for its reservation to begin",
    "ReservationDeleted": "its reservation was deleted",
    "Licenses": "waits for a licence",
    "BadConstraints": "no node has what it asks for",
    "BurstBufferResources": "waits for room in the burst buffer",
    "BurstBufferStageIn": "its data are being brought into the burst buffer",
    "InvalidAccount": "its account is not valid: 'sor doctor' shows yours",
    "AccountNotAllowed": "its account may not use this partition",
    "InvalidQOS": "its QOS is not valid: 'sor doctor' shows yours",
    "QOSNotAllowed": "its QOS may not be used in this partition",
    "QOSUsageThreshold": "the usage that its QOS allows is reached",
    "AssociationJobLimit": "your account runs as many jobs as it may at once",
    "AssociationResourceLimit": "your account holds as much as it may at once",
    "AssociationTimeLimit": "your account has used its time",
    "InactiveLimit": "the job was inactive for too long",
    "Prolog": "its node is being prepared",
    "SchedDefer": "Slurm starts no job at the moment of its submission here",
    "SystemFailure": "Slurm, a file system or the network failed",
    "FedJobLock": "clusters are agreeing on who starts it",
    "DeadLine": "it cannot end before its deadline",
    "NODE_FAIL": "its node failed",
    "job requeued in held state": "it is held: 'scontrol release JOB' lets it go",
}
WHOSE = {"Assoc": "your account", "QOS": "its QOS"}
AMONG = {
    "Grp": " for all who share it", "User": " for each user", "Job": " for one job", "Node": " for one node",
    "Account": " for each account", "": "",
}  # fmt: skip
WHAT = {
    "cpu": "cores", "mem": "memory", "memory": "memory", "node": "nodes", "gres": "GPUs",
    "jobs": "jobs at once", "submitjobs": "jobs in the queue", "submitjob": "jobs in the queue",
    "wall": "hours of jobs", "wallduration": "the time of a job", "cpuminutes": "core hours",
    "cpurunminutes": "core hours of running jobs", "gresminutes": "GPU hours",
    "gresrunminutes": "GPU hours of running jobs", "billing": "billing units",
    "billingminutes": "billed hours", "license": "licences",
}  # fmt: skip
LIMIT = re.compile(
    r"(?P<whose>Assoc|QOS)(?P<kind>Grp|Max|Min)(?P<what>[A-Za-z]+?)(Per(?P<each>User|Account|Acct|Job|Node))?(Limit)?"
)


def in_words(reason: str) -> str:
    """A reason of Slurm's in plain words; other words stay as they are."""
    code, _, more = reason.partition(",")
    if code in WORDS:
        nodes = more.strip().removeprefix("UnavailableNodes:")
        return WORDS[code] + (f": {nodes}" if nodes else "")
    match = LIMIT.fullmatch(code)
    if match is None:
        return reason
    what = WHAT.get(match["what"].lower(), match["what"])
    each = {"Acct": "Account"}.get(match["each"], match["each"] or "")
    among = AMONG["Grp" if match["kind"] == "Grp" else each]
    bound = "least" if match["kind"] == "Min" else "limit"
    return f"{WHOSE[match['whose']]} is at its {bound} of {what}{among} ({code})"


def why(seen: Seen, at: float) -> str:
    """Why a unit is in its state, and when Slurm expects its job to start.

    Args:
        at: when it was seen, in seconds since the epoch.
    """
    words = in_words(seen.reason or "")
    start = seen.live.start if seen.live and seen.state in (State.QUEUED, State.PREEMPTED) else None
    if start is None or start <= at:
        return words
    return f"{words}{'; ' if words else ''}Slurm expects it to start in {_span((start - at) / 3600)}"


def _span(hours: float) -> str:
    if hours < 1.5:
        return f"{hours * 60:.0f} min"
    return f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} days"
