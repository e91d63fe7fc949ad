"""Slurm's reasons for a pending job: what each means in plain words, and whether the job can still start.

The one table of all reasons that squeue's %r shows in versions 22.05 to 26.05 (Slurm's job_state_reason.c and
the free texts that slurmctld writes instead). An unknown reason is assumed to pass. Pure.
"""

from __future__ import annotations

import re
from enum import Enum
from functools import cache
from typing import NamedTuple


class Wait(Enum):
    """What must happen before a pending job can start.

    PASSES: nothing that requires action. SITE: an administrator must act; the user can only wait. PERSON: the
    job stays in the queue, and starts once somebody releases it or raises a budget. REDO: this job never
    starts, but the same one may if resubmitted. NEVER: no job with the same request ever starts.
    """

    PASSES = "passes"
    SITE = "site"
    PERSON = "person"
    REDO = "redo"
    NEVER = "never"


class Meaning(NamedTuple):
    """Meaning of one pending reason.

    Args:
        words: what the job waits for; for REDO and NEVER, the continuation of "its job ...".
        advice: what to do; {jobs} are the job ids, {scontrol} is the program with the jobs' cluster.
        held: Slurm holds the job for this reason, regardless of other partitions it may start in.
    """

    wait: Wait
    words: str
    advice: str = ""
    held: bool = False


RELEASE = "{scontrol} release {jobs}"
ADMIN = "ask an administrator to run: {scontrol} release {jobs}"
LESS = "request less in the preset, or name another partition, account or QOS in the cluster file"
OTHER = "name another account, QOS or partition in the cluster file; 'sor doctor' lists yours"
NO_DEADLINE = "take 'deadline' out of the cluster file"
NO_RESERVATION = "take 'reservation' out of the cluster file, or name another one"
HOURS = "get more hours, or name another account or QOS in the cluster file and cancel these jobs"

PASSES = {
    "None": "Slurm has not considered it yet",
    "Priority": "other jobs have a higher priority",
    "Resources": "it is next, and waits for free nodes",
    "Dependency": "waits for the jobs that make its input",
    "BeginTime": "was requeued, and starts again in two minutes at the earliest",
    "Cleaning": "Slurm is still cleaning up after its last run",
    "JobArrayTaskLimit": "as many of its array run as may at once",
    "JobArrayTaskLimitReached": "as many of its array run as may at once",
    "JobLaunchFailure": "it could not be started on its node",
    "NodeDown": "a node that it needs is down",
    "NODE_FAIL": "its node failed",
    "ReqNodeNotAvail": "nodes that it needs are down, drained or reserved",
    "Nodes required for job are DOWN": "nodes that it needs are down, drained or reserved",
    "Constraints": "no node has what it requests at the moment",
    "Reservation": "waits for its reservation to start",
    "Licenses": "waits for a license",
    "BurstBufferResources": "waits for room in the burst buffer",
    "BurstBufferStageIn": "its data are being brought into the burst buffer",
    "AssociationJobLimit": "your account is at its limit of running jobs",
    "AssociationResourceLimit": "your account is at its limit of resources",
    "QOSJobLimit": "its QOS is at its limit of running jobs",
    "QOSResourceLimit": "its QOS is at its limit of resources",
    "QOSUsageThreshold": "the usage that its QOS allows is reached",
    "InactiveLimit": "the job was inactive for too long",
    "Prolog": "its node is being prepared",
    "SchedDefer": "Slurm starts no job at the moment of its submission here",
    "SystemFailure": "Slurm, a file system or the network failed",
    "FedJobLock": "clusters are agreeing on who starts it",
    "MaxPoweredUpNodes": "as many nodes are powered up as may be at once",
    "MpiPortsBusy": "the ports that its steps need are in use",
    "NvidiaImexChannels": "the IMEX channels that it needs are in use",
    "PowerNotAvail": "the cluster's power does not allow for it now",
    "PowerReserved": "the cluster's power is reserved",
    "BlockMaxError": "its nodes have had too many errors",
    "BlockFreeAction": "its nodes are being freed",
    "NonZeroExitCode": "its last run ended with an error",
    "RaisedSignal": "its last run was ended by a signal",
    "TimeLimit": "its last run reached its time limit",
    "OutOfMemory": "its last run used more memory than it requested",
    "AccountingPolicy": "a limit of your account or of its QOS is reached",
}
OTHERS = {
    "PartitionDown": Meaning(Wait.SITE, "its partition is down until an administrator brings it up"),
    "PartitionInactive": Meaning(Wait.SITE, "its partition is inactive until an administrator brings it up"),
    "FrontEndDown": Meaning(Wait.SITE, "no front end of the cluster is up"),
    "JobHeldUser": Meaning(Wait.PERSON, "you hold it", RELEASE),
    "JobHeldAdmin": Meaning(Wait.PERSON, "an administrator holds it", ADMIN),
    "JobHoldMaxRequeue": Meaning(Wait.PERSON, "Slurm holds it, since it was requeued too often", RELEASE),
    "MaxRequeue": Meaning(Wait.PERSON, "Slurm holds it, since it was requeued too often", RELEASE),
    "job requeued in held state": Meaning(Wait.PERSON, "it is held", RELEASE),
    "job requeued in special exit state": Meaning(Wait.PERSON, "it is held after a special exit", RELEASE),
    "AssociationTimeLimit": Meaning(Wait.PERSON, "your account has used its time", HOURS),
    "QOSTimeLimit": Meaning(Wait.PERSON, "its QOS has used its time", HOURS),
    "DependencyNeverSatisfied": Meaning(Wait.REDO, "waits for one that failed"),
    "launch failed requeued held": Meaning(Wait.REDO, "is held by Slurm, which could not start it on a node"),
    "launch failure limit exceeded requeued held": Meaning(
        Wait.REDO, "is held by Slurm, which could not start it on several nodes"
    ),
    "user env retrieval failed requeued held": Meaning(
        Wait.REDO, "is held by Slurm, which could not read your login environment"
    ),
    "BurstBufferOperation": Meaning(Wait.REDO, "is held by Slurm, since its burst buffer failed"),
    "DeadLine": Meaning(Wait.NEVER, "cannot end before its deadline", NO_DEADLINE),
    "PartitionNodeLimit": Meaning(Wait.NEVER, "requests more nodes than its partition allows", LESS),
    "PartitionTimeLimit": Meaning(
        Wait.NEVER, "requests more time than its partition allows",
        "lower 'max_hours', or name another partition, in the cluster file",
    ),
    "PartitionConfig": Meaning(Wait.NEVER, "is not allowed in its partition", OTHER),
    "BadConstraints": Meaning(Wait.NEVER, "requests what no node has", LESS, held=True),
    "MaxMemPerLimit": Meaning(Wait.NEVER, "requests more memory than its partition allows", LESS),
    "InvalidAccount": Meaning(Wait.NEVER, "has an account that is not valid", OTHER),
    "InvalidQOS": Meaning(Wait.NEVER, "has a QOS that is not valid", OTHER),
    "AccountNotAllowed": Meaning(Wait.NEVER, "has an account that may not use its partition", OTHER),
    "QOSNotAllowed": Meaning(Wait.NEVER, "has a QOS that may not be used in its partition", OTHER),
    "ReservationDeleted": Meaning(
        Wait.NEVER, "is held, since its reservation was deleted", NO_RESERVATION, held=True
    ),
    "ReservationInvalid": Meaning(
        Wait.NEVER, "is held, since its reservation is not valid", NO_RESERVATION, held=True
    ),
}  # fmt: skip
MEANINGS = {code: Meaning(Wait.PASSES, words) for code, words in PASSES.items()} | OTHERS
FREE = {  # free texts instead of a code
    r"Reservation \S+ was deleted": "ReservationDeleted",
    r"Reservation \S+ is invalid": "ReservationInvalid",
    r"uid \d+ not in group permitted to use this partition.*": "AccountNotAllowed",
    r"Job's account not permitted to use this partition.*": "AccountNotAllowed",
    r"Job's QOS not permitted to use this partition.*": "QOSNotAllowed",
}

WHOSE = {"Assoc": "your account", "QOS": "its QOS", None: "its QOS"}
AMONG = {
    "Grp": " for all who share it", "User": " for each user", "Job": " for one job", "Node": " for one node",
    "Account": " for each account", "": "",
}  # fmt: skip
WHAT = {
    "cpu": "cores", "mem": "memory", "memory": "memory", "node": "nodes", "gres": "GPUs",
    "jobs": "jobs at once", "submitjobs": "jobs in the queue", "submitjob": "jobs in the queue",
    "wall": "hours of jobs", "wallduration": "time", "billing": "billing units", "license": "licences",
    "bb": "burst buffer", "energy": "energy",
}  # fmt: skip
LIMIT = re.compile(
    r"(?P<whose>Assoc|QOS)?(?P<kind>Grp|Max|Min)(?P<what>[A-Za-z]+?)(?P<run>Run)?(?P<time>Minutes|Mins)?"
    r"(Per(?P<each>User|Account|Acct|Job|Node))?(Limit|NotSatisfied)?"
)


@cache
def meaning(reason: str) -> Meaning:
    """Return the meaning of a reason, which a comma and names of nodes or of the partition may follow."""
    text = reason.replace("_", " ")  # as some versions write a free text
    for pattern, code in FREE.items():
        if re.fullmatch(pattern, text):
            return MEANINGS[code]
    code, _, more = reason.partition(",")
    known = MEANINGS.get(code) or MEANINGS.get(code.replace("_", " "))
    if known:
        names = more.strip().removeprefix("UnavailableNodes:")
        plain = names and not names.startswith(("DRAINED", "_DRAINED"))
        return known._replace(words=f"{known.words}: {names}") if plain else known
    match = LIMIT.fullmatch(code)
    return _of_limit(code, match) if match else Meaning(Wait.PASSES, reason)


def in_words(reason: str) -> str:
    """Return a Slurm reason in plain words; other text is returned unchanged."""
    return meaning(reason).words


def _of_limit(code: str, match: re.Match[str]) -> Meaning:
    """Return the meaning of a limit of the user's association or of a QOS.

    Limits per job, or per node of a job, block the job permanently. So does a budget of hours, which includes
    past jobs, until somebody adds to it. All others count queued or running jobs, and free up; jobs that
    exceed one of these alone are refused before submission (submit/limits.py).
    """
    whose, kind, each = WHOSE[match["whose"]], match["kind"], match["each"] or ""
    each = {"Acct": "Account"}.get(each, each)
    what = WHAT.get(match["what"].lower(), match["what"])
    if match["time"]:
        single = {"cores": "core", "GPUs": "GPU", "nodes": "node", "billing units": "billed"}.get(what, what)
        what = f"{single} hours{' of running jobs' if match['run'] else ''}"
    if kind == "Min":
        return Meaning(Wait.NEVER, f"requests less {what} than {whose} requires ({code})", OTHER)
    if each in ("Job", "Node"):
        words = f"requests more {what} than {whose} allows{AMONG[each]} ({code})"
        return Meaning(Wait.NEVER, words, LESS)
    used_up = kind == "Grp" and (match["what"] == "Wall" or match["time"] is not None) and not match["run"]
    if used_up:
        return Meaning(Wait.PERSON, f"{whose} has used up its {what} ({code})", HOURS)
    among = AMONG["Grp" if kind == "Grp" else each]
    return Meaning(Wait.PASSES, f"{whose} is at its limit of {what}{among} ({code})")
