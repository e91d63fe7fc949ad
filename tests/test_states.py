"""Every row of the table of states, and that the disk comes first."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from launch.state.states import STALLED_AFTER, STALLED_OUTSIDE, Facts, State, state_of

DONE, FAILED, BLOCKED, WAITING, RUNNING = (
    State.DONE, State.FAILED, State.BLOCKED, State.WAITING, State.RUNNING,
)  # fmt: skip

ROWS: dict[str, tuple[dict[str, Any], State, str | None]] = {
    "never tried": ({}, WAITING, None),
    "input to do": ({"missing": (("tokenize t", WAITING),)}, WAITING, "needs tokenize t"),
    "inputs to do": ({"missing": (("a", RUNNING), ("b", WAITING))}, WAITING, "needs a and 1"),
    "queued": ({"job": State.QUEUED, "attempts": 1}, State.QUEUED, None),
    "running": ({"job": RUNNING, "attempts": 1}, RUNNING, None),
    "running, heard of": ({"job": RUNNING, "attempts": 1, "silence": STALLED_AFTER - 1}, RUNNING, None),
    "silent": ({"job": RUNNING, "attempts": 1, "silence": 1200.0}, State.STALLED, "no heartbeat for 20"),
    "loading": ({"job": RUNNING, "silence": STALLED_OUTSIDE - 1, "outside": True}, RUNNING, None),
    "frozen": ({"job": RUNNING, "silence": 7260.0, "outside": True}, State.STALLED, "no heartbeat for 121"),
    "load hangs": ({"job": RUNNING, "silence": 1.0, "outside": True, "stalled": "at 0"}, State.STALLED, "at"),
    "stands still": ({"job": RUNNING, "silence": 1.0, "stalled": "at 3 of 9"}, State.STALLED, "at 3 of 9"),
    "no progress": ({"job": State.QUEUED, "silence": 1.0, "stalled": "at 3 of 9"}, State.QUEUED, None),
    "silent in the queue": ({"job": State.QUEUED, "attempts": 2, "silence": 9999.0}, State.QUEUED, None),
    "preempted": ({"job": State.PREEMPTED, "attempts": 1, "silence": 9999.0}, State.PREEMPTED, None),
    "published": ({"published": True}, DONE, None),
    "published, job still ending": ({"published": True, "job": RUNNING, "attempts": 1}, DONE, None),
    "published, attempt failed after": ({"published": True, "attempts": 1, "error": "E"}, DONE, None),
    "published, input to do": ({"published": True, "missing": (("a", WAITING),)}, WAITING, "needs a"),
    "published, input failed": ({"published": True, "missing": (("a", FAILED),)}, BLOCKED, "needs a, which"),
    "failed": ({"attempts": 2, "error": "ValueError: no"}, FAILED, "ValueError: no"),
    "failed without a word": ({"attempts": 1}, FAILED, "without an error"),
    "cancelled": ({"attempts": 1, "put_off": "cancelled", "error": "KeyboardInterrupt: "}, WAITING, "cancel"),
    "queued, says why": ({"job": State.QUEUED, "waits_for": "Priority"}, State.QUEUED, "Priority"),
    "held": ({"job": State.QUEUED, "dead": True, "waits_for": "is held"}, WAITING, "its job is held"),
    "queued, input failed": ({"job": State.QUEUED, "missing": (("a", FAILED),)}, BLOCKED, "needs a, which"),
    "queued, input gone": ({"job": State.QUEUED, "missing": (("a", WAITING),)}, WAITING, "needs a"),
    "queued, input at work": ({"job": State.QUEUED, "missing": (("a", RUNNING),)}, State.QUEUED, None),
    "input failed": ({"missing": (("a", FAILED), ("b", WAITING))}, BLOCKED, "needs a, which failed"),
    "input blocked": ({"missing": (("a", BLOCKED), ("b", FAILED))}, BLOCKED, "needs a and 1 more, which"),
    "failed, now its input too": ({"attempts": 1, "error": "E", "missing": (("a", FAILED),)}, BLOCKED, "a"),
    "running, input removed": ({"job": RUNNING, "attempts": 1, "missing": (("a", WAITING),)}, RUNNING, None),
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
def test_row(row: str) -> None:
    facts, state, reason = ROWS[row]
    found, said = state_of(Facts(**{"published": False, **facts}))
    assert found == state
    if reason is None:
        assert said is None
    else:
        assert said is not None
        assert reason in said


def test_done_is_published_and_made_of_done_inputs_whatever_else_is_known() -> None:
    seen = set()
    for published, job, dead, attempts, silence, put_off, error, of_input, harm in product(
        (True, False), (None, State.QUEUED, RUNNING, State.PREEMPTED), (True, False), (0, 1),
        (None, 0.0, 1e6), (None, "cancelled"), (None, "E"), (None, *(s for s in State if s != DONE)),
        (None, "a line is damaged"),
    ):  # fmt: skip
        missing = ((("a", of_input),)) if of_input else ()
        facts = Facts(published, job, None, dead, attempts, silence, None, put_off, error, missing, harm)
        state, reason = state_of(facts)
        seen.add(state)
        assert (state == DONE) == (published and of_input is None)
        assert (reason is not None) or state not in (State.STALLED, FAILED, BLOCKED)
    assert seen == set(State)
