"""Pending jobs that a person has to know of: which cannot start, why, and what to do. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from launch.state.command_line import command
from launch.state.pending_reasons import Wait, meaning
from launch.state.states import State
from launch.state.status import StudyStatus, UnitStatus


@dataclass(frozen=True)
class Waiting:
    """Units whose jobs wait for the same reason.

    Args:
        words: the reason.
        advice: what to do, with the command; empty where only the site can act.
    """

    units: tuple[UnitStatus, ...]
    words: str
    advice: str


def submit_again(now: StudyStatus) -> str:
    """Return how an advice to submit a study ends: with the command, and when that is not refused."""
    when = ", once the submit in progress has ended" if now.submitting else ""
    return f"{when}: {command(now.root, 'submit')}"


def stuck(now: StudyStatus) -> list[UnitStatus]:
    """Return the units whose job can never start, and will not be replaced by a live keeper or submit."""
    helped = now.continued or now.submitting is not None
    vain = [s for s in now.units if s.in_vain and s.live is not None and s.live.dead]
    return [s for s in vain if s.live and not (s.live.again and helped)]


def held(now: StudyStatus) -> list[UnitStatus]:
    """Return the units with a job that waits until somebody releases it or raises a budget."""
    return _of(now, Wait.PERSON)


def waiting(now: StudyStatus) -> list[Waiting]:
    """Return the units that cannot start as things stand, by reason, those that need a person first."""
    groups = [
        (words, units)
        for found in (stuck(now), held(now), _of(now, Wait.SITE))
        for words, units in _by_reason(found).items()
    ]
    return [Waiting(units, words, advice(units, now)) for words, units in groups]


def advice(units: Sequence[UnitStatus], now: StudyStatus) -> str:
    """Return what to do about units that are stuck or held for the same reason."""
    live = units[0].live
    if live and live.dead:
        return f"{f'{live.advice}; then' if live.advice else 'to submit again'}{submit_again(now)}"
    jobs = [job for seen in units for job in seen.jobs if job.array]
    arrays = ",".join(dict.fromkeys(str(job.array) for job in jobs))
    where = f"--clusters={jobs[0].slurm_cluster} " if jobs and jobs[0].slurm_cluster else ""
    return meaning(units[0].reason or "").advice.format(scontrol=f"scontrol {where}".strip(), jobs=arrays)


def _of(now: StudyStatus, wait: Wait) -> list[UnitStatus]:
    queued = now.of(State.QUEUED, State.PREEMPTED)
    return [s for s in queued if s.reason and meaning(s.reason).wait is wait]


def _by_reason(units: list[UnitStatus]) -> dict[str, tuple[UnitStatus, ...]]:
    groups = defaultdict[str, tuple[UnitStatus, ...]](tuple)
    for seen in units:
        reason = seen.live.reason if seen.live and seen.live.dead else meaning(seen.reason or "").words
        groups[reason or ""] += (seen,)
    return groups
