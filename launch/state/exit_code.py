"""Exit codes that report to scripts how a study will continue without intervention. Pure.

A study that continues by itself is left alone; one that can never finish by itself needs a person, even while
other units are still queued or running.
"""

from __future__ import annotations

from enum import IntEnum

from jobs.core.causes import ANSWERS, Cause
from launch.state.states import ACTIVE, State
from launch.state.status import REMOVED, StudyStatus, UnitStatus
from launch.state.waits import held, stuck


class Outlook(IntEnum):
    """Exit codes of `sor status`; 1 and 2 are taken by errors of the program itself."""

    DONE = 0
    CONTINUES = 3
    NEEDS_ATTENTION = 4


def outlook(now: StudyStatus) -> Outlook:
    """Return whether a study is done, continues by itself, or needs a person.

    Waiting units that nothing is going to submit need a person only once nothing is in progress: until then
    another submit would most likely find no room for them, either.
    """
    if all(seen.state == State.DONE for seen in now.units):
        return Outlook.NEEDS_ATTENTION if now.harm else Outlook.DONE
    if now.of(State.STALLED, State.DAMAGED) or now.harm or not in_progress(now):
        return Outlook.NEEDS_ATTENTION
    if lost(now) or held(now) or stuck(now):
        return Outlook.NEEDS_ATTENTION
    return Outlook.CONTINUES


def in_progress(now: StudyStatus) -> bool:
    """Return whether anything is in progress: a keeper, a submit, or queued or running jobs."""
    return now.continued or now.submitting is not None or bool(now.of(*ACTIVE))


def lost(now: StudyStatus) -> list[UnitStatus]:
    """Return the failed units that will not be retried. Units that need them stay blocked for as long."""
    return [seen for seen in now.of(State.FAILED) if not _comes_again(seen, now)]


def _comes_again(seen: UnitStatus, now: StudyStatus) -> bool:
    if now.submitting is not None and seen.attempt and seen.attempt.started < now.submitting.since:
        return True  # the submit in progress has not reached it yet
    return (now.continued or now.submitting is not None) and may_help(seen)


def may_help(seen: UnitStatus) -> bool:
    """Return whether retrying a unit may help: its attempt ended for a transient cause.

    Units that a person canceled or removed are left alone, and so are results made from removed ones. A job
    that requests more than the cluster offers would only wait again.
    """
    attempt = seen.attempt
    if seen.published or attempt is None or hopeless(seen):
        return False
    if seen.cause is Cause.MEMORY and (attempt.memory or 0) > seen.unit.resources.memory:
        return False  # twice the memory was not enough
    if seen.cause is not None:
        return ANSWERS[seen.cause].fruitless is not None
    return attempt.ended not in ("cancelled", "outdated") and seen.reason != REMOVED


def hopeless(seen: UnitStatus) -> bool:
    """Return whether the unit's job can never start, nor any other job with the same request."""
    return seen.live is not None and seen.live.dead and not seen.live.again
