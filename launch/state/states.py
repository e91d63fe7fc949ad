"""The states that people see, and the one table that maps what is known of a unit to them.

Pure: what is known comes from status.py. Disk comes first: a published result is done whatever a
scheduler or the ledger says.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

STALLED_AFTER = 900.0  # seconds without a heartbeat from a job that gave some before


class State(StrEnum):
    """States of a unit, in the order in which `sor status` counts them."""

    WAITING = "waiting"
    QUEUED = "queued"
    RUNNING = "running"
    STALLED = "stalled"
    PREEMPTED = "preempted"
    DONE = "done"
    FAILED = "failed"
    BLOCKED = "blocked"
    DAMAGED = "damaged"  # one of its files is not what it should be: a person has to see to that first


ACTIVE = (State.QUEUED, State.RUNNING, State.STALLED, State.PREEMPTED)  # a job has it in hand


class Facts(NamedTuple):
    """What is known of one unit. A named tuple, which is made four times as fast as a frozen dataclass.

    Args:
        job: what the machine says of its last attempt's jobs: State.QUEUED, RUNNING or PREEMPTED while any
            of them lives, None when none does.
        waits_for: what the machine says of a job that waits.
        dead: the job waits for something that can never come; `waits_for` goes on "its job ...".
        attempts: how many were begun.
        silence: seconds since the running attempt's last heartbeat; None before the first.
        stalled: what a job that runs says of itself while it stands still.
        put_off: why there is something to do without anything having failed: cancelled, removed, refused.
        error: why the last attempt ended, as far as anyone knows.
        harm: which of its files is not what it should be, what it is, and what to do.
        missing: (what, state) of all that it reads and that is not done; str(what) is what people are told.
    """

    published: bool
    job: State | None = None
    waits_for: str | None = None
    dead: bool = False
    attempts: int = 0
    silence: float | None = None
    stalled: str | None = None
    put_off: str | None = None
    error: str | None = None
    missing: Sequence[tuple[object, State]] = ()
    harm: str | None = None


def state_of(facts: Facts) -> tuple[State, str | None]:
    """The unit's state, and its reason where one helps.

    A result whose inputs are not all done (any more) is not done: it was made from something else. A job that
    waits for an input which no job has in hand any more will wait forever, and does not count.
    """
    missing = facts.missing
    if facts.published and not missing:
        return State.DONE, None
    if facts.job is State.RUNNING and facts.silence is not None and facts.silence > STALLED_AFTER:
        return State.STALLED, f"no heartbeat for {facts.silence / 60:.0f} minutes"
    if facts.job is State.RUNNING and facts.stalled:
        return State.STALLED, facts.stalled
    if facts.job is not None and not in_vain(facts):
        return facts.job, facts.waits_for or facts.harm
    if facts.harm:
        return State.DAMAGED, facts.harm
    if missing:
        broken = [name for name, state in missing if state in (State.FAILED, State.BLOCKED)]
        damaged = [name for name, state in missing if state is State.DAMAGED]
        if broken or damaged:
            which = f"{some(broken)}, which failed" if broken else f"{some(damaged)}, which is damaged"
            return State.BLOCKED, f"needs {which}"
        return State.WAITING, f"needs {some([name for name, _ in missing])}"
    if facts.job is not None:
        why = facts.waits_for if facts.dead else "waits for one that failed"
        return State.WAITING, f"its job {why}: the next 'sor submit' withdraws it"
    if facts.put_off:
        return State.WAITING, facts.put_off
    if facts.attempts:
        return State.FAILED, facts.error or "ended without a result and without saying why: killed?"
    return State.WAITING, None


def in_vain(facts: Facts) -> bool:
    """Whether a job waits for something that can never come."""
    if facts.job is not State.QUEUED:
        return False
    return facts.dead or bool([name for name, state in facts.missing if state not in ACTIVE])


def some(names: Sequence[object]) -> str:
    """The first name and how many more there are."""
    return str(names[0]) if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
