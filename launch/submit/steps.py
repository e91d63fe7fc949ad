"""Steps that `sor submit`, its preview, `sor cancel` and the keeper share: gather, decide, apply.

Gathering asks the disk, the ledger, the machine and its limits. Deciding is pure. Applying records each step
before taking it, so that a crash at any line loses nothing and starts nothing twice.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace

from rich.console import Console

from jobs.core.causes import Cause
from jobs.core.plain import say
from jobs.core.secrets import FILE, missing_secrets
from jobs.core.unit import Unit
from launch.slurm.backend import Slurm
from launch.slurm.parse import Place
from launch.state.killed import with_more
from launch.state.ledger import Ledger
from launch.state.reconcile import Difference
from launch.state.states import State
from launch.state.status import NEVER, StudyStatus, UnitStatus
from launch.study_run import Project
from launch.submit import next_keeper
from launch.submit.arrays import ArrayPlan, plan_arrays
from launch.submit.limits import ClusterLimits, Refusal
from launch.submit.site import ask_site

WITHDRAWN = "its job would have waited forever"


# Gather


def settled(project: Project, console: Console) -> StudyStatus:
    """Return the study's state once the outcome of every submission is known and recorded."""
    now = project.poll()
    if project.backend.settle and any(s.unconfirmed for s in now.units):
        console.print("an earlier submit was interrupted: waiting to see which of its jobs Slurm accepted")
    until = time.monotonic() + project.backend.settle
    while any(s.unconfirmed for s in now.units) and time.monotonic() < until:
        time.sleep(1)
        now = project.poll()
    lost = [(s.unit.id, s.attempt.number, NEVER) for s in now.units if s.attempt and s.unconfirmed]
    if lost:
        project.ledger.ended("lost", lost)
        now = project.poll()
    write_down(project, now)
    return now


def ask_limits(project: Project) -> ClusterLimits:
    """Ask the cluster for its limits."""
    assert isinstance(project.backend, Slurm)
    return ClusterLimits.ask(project.cluster, project.backend.client)


def arrays(
    project: Project, now: StudyStatus, difference: Difference, asked: Future[ClusterLimits] | None = None
) -> ArrayPlan:
    """Plan a difference's job arrays under the cluster's limits; `asked`: these limits, if already requested.

    Raises:
        Refusal: some units can never run, or a secret has no value.
    """
    if not difference.submit:
        return ArrayPlan((), ())
    missing = missing_secrets(project.cluster.slurm.secrets)
    if missing:
        raise Refusal(
            f"no value for {', '.join(missing)}, a secret of the cluster file: export it, or add it to {FILE}"
        )
    assert isinstance(project.backend, Slurm)
    limits = asked.result() if asked else ask_limits(project)
    if limits.associations is None:
        print(
            "sor: Slurm's database (slurmdbd) does not answer, so your limits are unknown. Slurm may refuse "
            "jobs that exceed them, or never start them",
            file=sys.stderr,
        )
    ends = {job.id for s in difference.withdraw if s.live for job in s.live.jobs if job.id}
    units = [with_time(with_more(s), s, project.cluster.max_hours) for s in difference.submit]
    limits = ask_site(limits, units, project.backend.client, project.root.path)
    allowed = limits.admit(units)
    for notice in limits.notices(allowed):
        say(f"sor: {notice}", error=True)
    return decide(now, difference, limits, allowed, project.backend.places(ends))


# Decide


def decide(
    now: StudyStatus,
    difference: Difference,
    limits: ClusterLimits,
    allowed: Sequence[Unit],
    taken: Sequence[Place],
) -> ArrayPlan:
    """Decide which arrays to submit, and which units to hold. Pure.

    Args:
        allowed: the units to submit, as the limits let them run.
        taken: the places in the queue that this user has taken, without those of jobs to be withdrawn.
    """
    fitted = {unit.id: unit for unit in allowed}
    units = [fitted.get(s.unit.id, s.unit) for s in now.units]
    live = {s.unit.id: tuple(j.id for j in s.live.jobs if j.id) for s in difference.active if s.live}
    keeper = next_keeper.UNIT if limits.cluster.slurm.keeper is not None else None
    rules = limits.rules(allowed, taken, keeper)
    return plan_arrays(units, {s.unit.id for s in difference.submit}, live, rules)


def with_time(unit: Unit, seen: UnitStatus, most: float) -> Unit:
    """Return the unit, with the maximum hours if its last run hit the time limit."""
    if seen.cause != Cause.TIME_LIMIT:
        return unit
    return replace(unit, resources=replace(unit.resources, hours=most))


# Apply


def write_down(project: Project, now: StudyStatus) -> None:
    """Record in the ledger what the scheduler and disk say: missing ids, and how attempts ended."""
    taken: dict[str, str] = {}
    for seen in now.units:
        if seen.live and seen.attempt:
            unknown = {job.submission for job in seen.attempt.jobs if job.array is None}
            for job in seen.live.jobs:
                if job.submission in unknown and job.array:
                    taken[job.submission] = job.array
    for submission, array in taken.items():
        project.ledger.submitted(submission, array)
    failed = [(s, s.attempt) for s in now.of(State.FAILED) if s.attempt and s.attempt.ended is None]
    project.ledger.ended("failed", [(s.unit.id, attempt.number, s.reason or "") for s, attempt in failed])


def withdraw(project: Project, units: Sequence[UnitStatus], how: str, why: str) -> list[Unit]:
    """End the jobs of these units, record how and why, and return the units that had jobs."""
    found = [s for s in units if s.live is not None or s.unconfirmed]
    # Recorded first, so that a submit waiting for a job on this machine learns why it ended.
    project.ledger.ended(how, [(s.unit.id, s.attempt.number, why) for s in found if s.attempt])
    # Readers first: one that waits for its input to end in any way must not be released by this.
    project.backend.cancel([job for s in reversed(found) if s.live for job in s.live.jobs])
    return [s.unit for s in found]


def set_aside(seen: UnitStatus, ledger: Ledger) -> None:
    """Rename a result whose inputs are made again, so that it is kept."""
    ledger.fence()
    number = seen.attempt.number if seen.attempt else 0
    aside = seen.folder.new_superseded(number)
    for part in (seen.folder.work, seen.folder.out):
        if part.exists():
            os.rename(part, aside / part.name)
    if seen.attempt:
        ledger.ended("outdated", [(seen.unit.id, number, "its inputs were made again")])
