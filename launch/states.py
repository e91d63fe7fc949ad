"""The states that people see, and the one table that maps what is known of a unit to them.

Pure: what is known comes from observe.py. Disk comes first: a published result is done whatever a
scheduler or the ledger says.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

STALLED_AFTER = 900.0  # seconds without a sign of life from a job that gave some before


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


ACTIVE = (State.QUEUED, State.RUNNING, State.STALLED, State.PREEMPTED)  # a job has it in hand


@dataclass(frozen=True)
class Facts:
    """What is known of one unit.

    Args:
        published: its result is on disk.
        job: what the machine says of its last attempt's jobs: State.QUEUED, RUNNING or PREEMPTED while any
            of them lives, None when none does.
        attempts: how many were begun.
        silence: seconds since the running attempt's last sign of life; None before the first.
        cancelled: a person ended the last attempt.
        removed: the last attempt had published, and its result is gone: a person's doing, or set aside.
        error: why the last attempt ended, as far as anyone knows.
        inputs: (name, state) of what it reads.
    """

    published: bool
    job: State | None = None
    attempts: int = 0
    silence: float | None = None
    cancelled: bool = False
    removed: bool = False
    error: str | None = None
    inputs: tuple[tuple[str, State], ...] = field(default=())


def state_of(facts: Facts) -> tuple[State, str | None]:
    """The unit's state, and its reason where one helps.

    A result whose inputs are not all done (any more) is not done: it was made from something else.
    """
    missing = [(name, state) for name, state in facts.inputs if state != State.DONE]
    if facts.published and not missing:
        return State.DONE, None
    if facts.job == State.RUNNING and facts.silence is not None and facts.silence > STALLED_AFTER:
        return State.STALLED, f"no sign of life for {facts.silence / 60:.0f} minutes"
    if facts.job is not None:
        return facts.job, None
    if missing:
        broken = [name for name, state in missing if state in (State.FAILED, State.BLOCKED)]
        if broken:
            return State.BLOCKED, f"needs {_some(broken)}, which failed"
        return State.WAITING, f"needs {_some([name for name, _ in missing])}"
    if facts.cancelled:
        return State.WAITING, "cancelled"
    if facts.removed:
        return State.WAITING, "its result was removed"
    if facts.attempts:
        return State.FAILED, facts.error or "ended without a result and without saying why: killed?"
    return State.WAITING, None


def _some(names: list[str]) -> str:
    """The first name and how many more there are."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
