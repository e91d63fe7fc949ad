"""Submission of keepers, which continue a study unattended: one job at a time, started when others end.

keeper.py implements what a keeper does. It is in the ledger like any other job, under KEEPER, and only the
last one in the ledger may act: everything here happens under the study's lock.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jobs.core.unit import Resources, Unit
from jobs.store.clock import ahead
from jobs.store.rundir import write_json
from launch.slurm.backend import Slurm
from launch.state.command_line import command
from launch.state.ledger import KEEPER, Started, new_name
from launch.state.reconcile import Difference
from launch.state.status import StudyStatus, UnitStatus
from launch.study import memory
from launch.study_run import Project
from launch.submit.array_jobs import SCRIPT, submit_one
from launch.submit.arrays import Array
from launch.submit.script import sbatch_script
from launch.submit.throttles import LATER

STAGE = "report"  # whose options the keeper uses: that stage needs little, too
NEEDS = Resources(hours=0.25, memory=memory.keeping())
MANY = 100  # jobs per dependency
UNIT = Unit(STAGE, KEEPER, {}, resources=NEEDS)  # what limits on the queue count it as
GRACE = 60.0  # seconds for a keeper to end


def record(project: Project, only: str | None, submit: Sequence[UnitStatus]) -> None:
    """Record how a person submits a study to Slurm now, for keepers and `sor keep` to continue from."""
    if project.cluster.backend == "local":
        return
    submitted = {
        "time": time.time() + ahead(project.root.path),
        "asked": [seen.unit.id for seen in submit],
        "only": only,
        "units": digest(project.units),
        "source": project.cluster.source,
        "cluster": project.cluster.to_json(),
    }
    write_json(project.root.submitted, submitted)


def forget(project: Project) -> None:
    """Forget what a person asked for, since the study is canceled: `sor keep` ends at its next round."""
    project.fence()
    project.root.submitted.unlink(missing_ok=True)


def digest(units: list[Unit]) -> str:
    """Return a digest that distinguishes two plans."""
    return hashlib.sha256(" ".join(u.id for u in units).encode()).hexdigest()[:12]


def wanted(project: Project, difference: Difference) -> bool:
    """Return whether there should be a keeper once the difference is submitted."""
    return project.cluster.slurm.keeper is not None and bool(difference.submit or difference.active)


def dismiss(project: Project, now: StudyStatus, why: str) -> bool:
    """Cancel the keeper and wait until it is gone; return whether there was one."""
    if now.keeper is None or now.kept is None:
        return False
    # Recorded first: a keeper that starts meanwhile finds this, and does nothing.
    project.ledger.ended("cancelled", [(KEEPER, now.keeper.attempt.number, why)])
    until = time.monotonic() + GRACE
    alone = {KEEPER: now.keeper.attempt}
    while (live := project.backend.live(alone).get(KEEPER)) and time.monotonic() < until:
        project.backend.cancel(live.jobs)
        time.sleep(0.5)
    return True


def submit_next(
    project: Project,
    number: int,
    live: Sequence[tuple[str, int | None]],
    code: Path,
    room: bool,
    avoid: Sequence[str],
) -> str:
    """Submit the next keeper, which starts when a live job has ended, or soon. Raises what `submit_one` does.

    Args:
        number: counts the keepers of the study from 1.
        live: the study's jobs in the queue, each as its array and the index in it.
        code: the snapshot of the code that it runs from.
        room: units were held until other jobs end.
        avoid: nodes that it must not run on.

    Returns:
        The id of its job.
    """
    assert isinstance(project.backend, Slurm)
    name = new_name(f"{KEEPER}-{project.study.name}")
    tracked = project.backend.client.config().tracks_memory
    needs = NEEDS if tracked else replace(NEEDS, memory=0)
    folder = project.root.submission(name)
    script = sbatch_script(
        project.cluster, STAGE, needs, folder=folder, study=project.root.path,
        code=code, array=None, dependency=first_end(live, room),
        module="launch.commands.keeper", begin=f"now+{project.cluster.slurm.keeper}", exclude=avoid,
    )  # fmt: skip
    folder.mkdir(parents=True)
    (folder / SCRIPT).write_text(script, encoding="utf-8")
    return submit_one(project, name, [Started(KEEPER, number)])


def waits_for_room(held: Sequence[tuple[Unit, str]]) -> bool:
    """Return whether some units were held only until other jobs end."""
    return any(LATER in why for _, why in held)


def advice(project: Project, now: StudyStatus) -> str | None:
    """Return who submits units that wait for room, or the command that does so.

    Returns:
        None if the cluster file has a keeper, which does.
    """
    if now.keeping is not None:
        return f"'sor keep' of {now.keeping.who} submits these as jobs end"
    if project.cluster.slurm.keeper is not None:
        return None
    return f"to have these submitted as jobs end, in tmux or with nohup: {command(project.root, 'keep')}"


def in_queue(difference: Difference, submitted: Sequence[tuple[str, Array]]) -> list[tuple[str, int | None]]:
    """Return the jobs in the queue, as array and index: live ones, then those of arrays just submitted."""
    live = [(job.array, job.element) for s in difference.active if s.live for job in s.live.jobs if job.array]
    new = [(id, None if array.plain else e.index) for id, array in submitted for e in array.elements]
    return live + new


def first_end(live: Sequence[tuple[str, int | None]], room: bool) -> str | None:
    """Return the end of any of these arrays as a value of sbatch's --dependency.

    Args:
        room: use the end of any of their elements, up to MANY, since others wait for their places.

    Returns:
        None if there is none.
    """
    each = [array if index is None else f"{array}_{index}" for array, index in live[:MANY]]
    ids = each if room else dict.fromkeys(array for array, _ in live)
    return "?".join(f"afterany:{id}" for id in ids) or None
