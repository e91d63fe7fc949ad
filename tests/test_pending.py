"""Every reason for which Slurm lets a job wait: whether it can still start, and who has to do something."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import made_status as made
import pytest

from jobs.core.unit import Unit
from jobs.store.rundir import StudyDir
from launch.monitor.data.problems import problems
from launch.slurm.backend import _how
from launch.state.backend import LiveJobs
from launch.state.ledger import Attempt, Job
from launch.state.lock import Held
from launch.state.pending_reasons import LIMIT, MEANINGS, Wait, meaning
from launch.state.states import State
from launch.state.status import Keeper, StudyStatus
from launch.state.waits import advice, waiting
from launch.submit.bad_nodes import Verdict
from launch.views import keeper_line, waiting_line

# The names that squeue has for `enum job_state_reason` in Slurm 22.05, 24.11 and 26.05; {what} is any of the
# resources that limits know.
WHAT = ("BB", "Billing", "Cpu", "CPU", "Energy", "GRES", "License", "Mem", "Memory", "Node", "Unknown")
REASONS = {
    Wait.PASSES: """
        None Priority Dependency Resources BeginTime Licenses AssociationJobLimit AssociationResourceLimit
        Reservation ReqNodeNotAvail NvidiaImexChannels SchedDefer NodeDown SystemFailure JobLaunchFailure
        NonZeroExitCode TimeLimit InactiveLimit QOSUsageThreshold QOSJobLimit QOSResourceLimit RaisedSignal
        Cleaning Prolog QOSGrpJobsLimit QOSGrpSubmitJobsLimit QOSMaxJobsPerUserLimit
        QOSMaxSubmitJobPerUserLimit AssocGrpJobsLimit AssocGrpSubmitJobsLimit AssocMaxJobsLimit
        AssocMaxSubmitJobLimit JobArrayTaskLimit BurstBufferResources BurstBufferStageIn FedJobLock
        OutOfMemory MaxJobsPerAccount
        MaxSubmitJobsPerAccount Constraints MaxPoweredUpNodes MpiPortsBusy PowerNotAvail
        PowerReserved BlockMaxError BlockFreeAction AccountingPolicy
        QOSGrp{what} QOSGrp{what}Limit QOSGrp{what}RunMinutes QOSGrp{what}RunMinutesLimit QOSMax{what}PerUser
        QOSMax{what}PerUserLimit AssocGrp{what} AssocGrp{what}Limit AssocGrp{what}RunMinutes
        AssocGrp{what}RunMinutesLimit Max{what}PerAccount Max{what}RunMinsPerAccount Max{what}RunMinsPerUser
        """,
    Wait.SITE: "PartitionDown PartitionInactive FrontEndDown",
    Wait.PERSON: """
        JobHeldAdmin JobHeldUser JobHoldMaxRequeue AssociationTimeLimit QOSTimeLimit QOSGrpWallLimit
        AssocGrpWallLimit QOSGrp{what}Minutes QOSGrp{what}MinutesLimit AssocGrp{what}Minutes
        AssocGrp{what}MinutesLimit
        """,
    Wait.REDO: "DependencyNeverSatisfied BurstBufferOperation",
    Wait.NEVER: """
        PartitionNodeLimit PartitionTimeLimit PartitionConfig BadConstraints InvalidAccount InvalidQOS
        QOSNotAllowed AccountNotAllowed DeadLine ReservationDeleted ReservationInvalid MaxMemPerLimit
        QOSMinCpuNotSatisfied QOSMin{what} QOSMax{what}PerJob QOSMax{what}PerJobLimit QOSMax{what}PerNode
        QOSMax{what}MinutesPerJob QOSMax{what}MinutesPerJobLimit QOSMaxWallDurationPerJobLimit
        AssocMax{what}PerJob AssocMax{what}PerJobLimit AssocMax{what}PerNode AssocMax{what}MinutesPerJob
        AssocMax{what}MinutesPerJobLimit AssocMaxWallDurationPerJobLimit
        """,
}
CODES = [
    (code.format(what=what), wait)
    for wait, codes in REASONS.items()
    for code in codes.split()
    for what in (WHAT if "{what}" in code else ("",))
]
ROOT = StudyDir(Path("s"))
UNIT = Unit("train", "a", {})


@pytest.mark.parametrize(
    ("text", "wait"),
    [
        *CODES,
        # Texts that slurmctld writes in place of a code, with spaces or underscores by version.
        ("ReqNodeNotAvail, UnavailableNodes:n[1-2]", Wait.PASSES),
        ("ReqNodeNotAvail, Reserved for maintenance", Wait.PASSES),
        ("ReqNodeNotAvail, May be reserved for other job", Wait.PASSES),
        ("Nodes required for job are DOWN, DRAINED or reserved for jobs in higher", Wait.PASSES),
        ("Nodes_required_for_job_are_DOWN,_DRAINED_or_reserved_for_jobs_in_higher", Wait.PASSES),
        ("launch failed requeued held", Wait.REDO),
        ("launch_failed_requeued_held", Wait.REDO),
        ("launch failure limit exceeded requeued held", Wait.REDO),
        ("user env retrieval failed requeued held", Wait.REDO),
        ("job requeued in held state", Wait.PERSON),
        ("job requeued in special exit state", Wait.PERSON),
        ("Reservation weekly was deleted", Wait.NEVER),
        ("Reservation weekly is invalid", Wait.NEVER),
        ("uid 1000 not in group permitted to use this partition (gpu). groups allowed: ml", Wait.NEVER),
        ("Job's account not permitted to use this partition (gpu allows a,b not c)", Wait.NEVER),
        ("Job's QOS not permitted to use this partition (gpu denies long including long)", Wait.NEVER),
        ("SomethingOfTomorrow", Wait.PASSES),
    ],
)  # fmt: skip
def test_each_reason_says_whether_the_job_can_start(text: str, wait: Wait) -> None:
    assert meaning(text).wait is wait
    if wait in (Wait.PERSON, Wait.NEVER):
        assert meaning(text).advice


def test_no_code_is_left_to_chance() -> None:
    assert [code for code, _ in CODES if code not in MEANINGS and not LIMIT.fullmatch(code)] == []
    assert len({code for code, _ in CODES}) == len(CODES)


def how(*reasons: str, partition: str = "main") -> LiveJobs:
    return _how(tuple(("PENDING", reason, None, None, partition) for reason in reasons))


@pytest.mark.parametrize(
    ("live", "dead", "again", "words"),
    [
        (how("PartitionTimeLimit"), True, False, "requests more time than its partition allows: main"),
        (how("DependencyNeverSatisfied"), True, True, "waits for one that failed"),
        (how("PartitionTimeLimit", "Priority"), False, True, "PartitionTimeLimit, main"),
        # Of several partitions Slurm shows why the one tried last does not do; another may.
        (how("PartitionTimeLimit", partition="small,big"), False, True, "PartitionTimeLimit, small,big"),
        (how("BadConstraints", partition="small,big"), True, False, "requests what no node has"),
        (how("PartitionDown"), False, True, "PartitionDown, main"),
        (how("Priority"), False, True, "Priority"),
    ],
)
def test_a_unit_is_dead_once_none_of_its_jobs_can_start(
    live: LiveJobs, dead: bool, again: bool, words: str
) -> None:
    assert (live.dead, live.again, live.reason) == (dead, again, words)


def shown(
    live: LiveJobs, state: State = State.QUEUED, cluster: str | None = None
) -> tuple[str, list[tuple[str, str, bool]]]:
    """What `sor status` and the monitor say of a unit with such a job, on one of Slurm's clusters."""
    vain = live.dead
    reason = live.reason or ""
    attempt = Attempt(1, 1.0, "generic", (Job("s", "7", "c", 0, cluster),))
    unit = made.seen(
        ROOT, UNIT, State.WAITING if vain else state, reason=reason, attempt=attempt, in_vain=vain
    )
    now = StudyStatus(ROOT, (unit._replace(live=live),))
    lines = [waiting_line(w).plain for w in waiting(now)]
    found = [(p.title, " ".join(p.advice), p.grave) for p in problems(now, Verdict(), (), {})]
    return "\n".join(lines), found


@pytest.mark.parametrize(
    ("live", "line", "advice"),
    [
        (
            how("QOSMaxWallDurationPerJobLimit"),
            "cannot start: train a: requests more time than its QOS allows for one job (QOSMaxWall.*Limit)",
            "request less in the preset, or name another .*; then: sor submit s",
        ),
        (
            how("launch failed requeued held"),
            "cannot start: train a: is held by Slurm, which could not start it on a node",
            "to submit again: sor submit s",
        ),
        (how("JobHeldUser"), "cannot start: train a: you hold it", "scontrol release 7"),
        (
            how("AssocGrpGRESMinutes"),
            r"cannot start: train a: your account has used up its GPU hours \(AssocGrpGRESMinutes\)",
            "get more hours, or name another account or QOS in the cluster file and cancel these jobs",
        ),
        (
            how("PartitionDown", partition="gpu"),
            "cannot start: train a: its partition is down until an administrator brings it up: gpu",
            "",
        ),
    ],
)
def test_people_are_told_what_cannot_start_why_and_what_to_do(live: LiveJobs, line: str, advice: str) -> None:
    said, [(title, what, grave)] = shown(live)
    first, _, second = said.partition("\n  ")
    assert re.fullmatch(line.replace("(QOS", r"\(QOS").replace("Limit)", r"Limit\)"), first)
    assert re.fullmatch(advice, second)
    assert re.fullmatch(advice, what)
    assert title.startswith("1 cannot start: a: ")
    assert grave == bool(advice)


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("JobHeldUser", "scontrol --clusters=other release 7"),
        ("JobHeldAdmin", "ask an administrator to run: scontrol --clusters=other release 7"),
    ],
)
def test_advice_names_the_cluster_of_the_jobs(reason: str, advice: str) -> None:
    said, [(_, what, _)] = shown(how(reason), cluster="other")
    assert what == said.partition("\n  ")[2] == advice


@pytest.mark.parametrize("reason", ["QOSMaxWallDurationPerJobLimit", "launch failed requeued held"])
def test_no_second_submit_is_advised_while_one_is_in_progress(reason: str) -> None:
    keeper = Keeper(Attempt(1, 1.0, "generic", (Job("k", "9", "c"),)), None)
    unit = made.seen(ROOT, UNIT, State.WAITING, reason="x", in_vain=True)._replace(live=how(reason))
    now = StudyStatus(ROOT, (unit,), keeper=keeper, submitting=Held(1.0, "somebody"))
    lines = [advice((unit,), now), keeper_line(now).plain]
    lines += [waiting_line(w).plain for w in waiting(now)]  # if the submit in progress will not help
    later = ", once the submit in progress has ended: sor submit s"
    assert all(line.endswith(later) for line in lines)
    now = replace(now, submitting=None)
    lines = [advice((unit,), now), keeper_line(now).plain]
    assert not any("once the submit" in line for line in lines)
    assert all(line.endswith(": sor submit s") for line in lines)


def test_who_only_waits_is_not_shown() -> None:
    assert shown(how("Priority")) == ("", [])
