"""Unit states as shown to people, and the one table that derives them from the known facts.

Pure: the facts come from status.py. The disk takes precedence: a published result is done regardless of the
scheduler and the ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from jobs.core.wording import some

STALLED_AFTER = 900.0  # seconds without a heartbeat from a job that sent some before
# Outside of the work, while models are loaded, no heartbeats come, and the job's own watchdog reports a hang
# (after an hour). This is for jobs that cannot: it allows as much as the watchdog does before it ends them.
STALLED_OUTSIDE = 7200.0


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
    DAMAGED = "damaged"  # one of its files is invalid: a person has to fix it first


ACTIVE = (State.QUEUED, State.RUNNING, State.STALLED, State.PREEMPTED)  # a job is queued or running


class Facts(NamedTuple):
    """Known facts about one unit. A named tuple, which is created four times as fast as a frozen dataclass.

    Args:
        job: state of its last attempt's jobs on the machine: State.QUEUED, RUNNING or PREEMPTED while any of
            them is live, None when none is.
        waits_for: the machine's reason for a pending job.
        dead: the job waits for something that can never happen; `waits_for` continues "its job ...".
        attempts: how many were started.
        silence: seconds since the running attempt's last heartbeat; None before the first.
        outside: its last heartbeat came from outside of the work: it was loading its model, say.
        stalled: what a running job reports about itself while it makes no progress.
        put_off: why there is work although nothing failed: canceled, removed, refused.
        error: why the last attempt ended, as far as known.
        harm: which of its files is invalid, how, and what to do.
        missing: (what, state) of each input that is not done; str(what) is its name for people.
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
    outside: bool = False


def state_of(facts: Facts) -> tuple[State, str | None]:
    """Return the unit's state, and its reason where one helps.

    A result whose inputs are not all done (any more) is not done: it was made from different ones. A job that
    waits for an input without a live job would wait forever, and does not count.
    """
    missing = facts.missing
    if facts.published and not missing:
        return State.DONE, None
    allowed = STALLED_OUTSIDE if facts.outside else STALLED_AFTER
    if facts.job is State.RUNNING and facts.silence is not None and facts.silence > allowed:
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
        return State.WAITING, f"its job {why}; it is canceled and resubmitted with the next submit"
    if facts.put_off:
        return State.WAITING, facts.put_off
    if facts.attempts:
        return State.FAILED, facts.error or "ended without a result and without an error: killed?"
    return State.WAITING, None


def in_vain(facts: Facts) -> bool:
    """Return whether a job waits for something that can never happen."""
    if facts.job is not State.QUEUED:
        return False
    return facts.dead or bool([name for name, state in facts.missing if state not in ACTIVE])
