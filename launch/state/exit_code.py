"""What becomes of a study if nobody does anything, in one number for scripts. Pure.

A study that goes on by itself is left alone; one that will never be done by itself needs a person, also while
other units are still at work.
"""

from __future__ import annotations

from enum import IntEnum

from jobs.core.causes import ANSWERS, Cause
from launch.state.states import ACTIVE, State
from launch.state.status import REMOVED, Seen, Snapshot
from launch.state.waits import held, stuck


class Outlook(IntEnum):
    """The exit codes of `sor status`; 1 and 2 are taken by errors of the program itself."""

    DONE = 0
    GOES_ON = 3
    NEEDS_YOU = 4


def outlook(now: Snapshot) -> Outlook:
    """Whether a study is done, goes on by itself, or needs a person.

    Units that wait for nobody need one once nothing is in hand: until then another submit would most likely
    find no room for them, either.
    """
    if all(seen.state == State.DONE for seen in now.units):
        return Outlook.NEEDS_YOU if now.harm else Outlook.DONE
    if now.of(State.STALLED, State.DAMAGED) or now.harm or not in_hand(now):
        return Outlook.NEEDS_YOU
    if lost(now) or held(now) or stuck(now):
        return Outlook.NEEDS_YOU
    return Outlook.GOES_ON


def in_hand(now: Snapshot) -> bool:
    """Whether something still happens by itself."""
    return now.kept is not None or now.submitting is not None or bool(now.of(*ACTIVE))


def lost(now: Snapshot) -> list[Seen]:
    """The failed units that nobody begins again. What waits for them is blocked for as long."""
    return [seen for seen in now.of(State.FAILED) if not _comes_again(seen, now)]


def _comes_again(seen: Seen, now: Snapshot) -> bool:
    if now.submitting is not None and seen.attempt and seen.attempt.begun < now.submitting:
        return True  # whoever submits now has not come to it yet
    return (now.kept is not None or now.submitting is not None) and may_help(seen)


def may_help(seen: Seen) -> bool:
    """Whether to begin a unit again may help it: it ended for a cause that passes.

    What somebody cancelled or removed is left so, and so is a result that was made from what was removed. A
    job that asks for what the cluster does not give would wait again.
    """
    attempt = seen.attempt
    if seen.published or attempt is None or hopeless(seen):
        return False
    if seen.cause is Cause.MEMORY and (attempt.memory or 0) > seen.unit.resources.memory:
        return False  # twice as much was not enough
    if seen.cause is not None:
        return ANSWERS[seen.cause].fruitless is not None
    return attempt.ended not in ("cancelled", "outdated") and seen.reason != REMOVED


def hopeless(seen: Seen) -> bool:
    """Whether its job never starts, and neither would another that asks for the same."""
    return seen.live is not None and seen.live.dead and not seen.live.again
