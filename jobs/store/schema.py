"""Shapes of the records in a run directory: the keys that this version reads, and their kinds."""

from __future__ import annotations

from typing import Any

from jobs.core.causes import Cause
from jobs.store.records import (
    ANY_NUMBER,
    COUNT,
    FLAG,
    NAME,
    NUMBER,
    OBJECT,
    TEXT,
    TIME,
    Kind,
    Shape,
    list_of,
    maybe,
    optional,
)  # fmt: skip

_CAUSES = frozenset(map(str, Cause))
CAUSE = Kind("a cause", lambda value: value in _CAUSES if type(value) is str else value is None)

# attempts.jsonl: how a process of a run ended
ATTEMPT: Shape = {
    "attempt": COUNT, "restart": COUNT, "worker": COUNT, "rank": COUNT, "host": maybe(TEXT), "time": TIME,
    "seconds": maybe(NUMBER), "cause": CAUSE, "error": maybe(TEXT), "kept": NUMBER,
    "micro_batch": maybe(COUNT), "memory": optional(maybe(COUNT)), "asked": optional(maybe(COUNT)),
}  # fmt: skip


def _is_gpu(value: object) -> bool:
    """Whether it is the use of one GPU: counts or null."""
    if type(value) is not dict:
        return False
    return all(value.get(key) is None or COUNT.fits(value[key]) for key in ("busy", "used", "total"))


# progress.json
PROGRESS: Shape = {
    "done": NUMBER, "total": NUMBER, "unit": TEXT, "started": TIME, "updated": TIME, "kept": optional(NUMBER),
    "attempt": optional(COUNT), "restart": optional(COUNT), "loss": optional(maybe(ANY_NUMBER)),
    "tokens_per_second": optional(ANY_NUMBER), "phase": optional(TEXT), "stalled": optional(TEXT),
    "memory": optional(maybe(COUNT)), "outside": optional(FLAG), "working_since": optional(TIME),
    "gpus": optional(maybe(list_of(Kind("the use of a GPU", _is_gpu)))),
}  # fmt: skip

# metrics.jsonl of a training
METRICS: Shape = {"loss": ANY_NUMBER, "tokens_per_second": ANY_NUMBER, "flops": NUMBER, "seconds": NUMBER}


def _is_element(value: object) -> bool:
    """Whether it is [unit, attempt number], with an optional index."""
    if type(value) is not list or len(value) not in (2, 3):
        return False
    return NAME.fits(value[0]) and all(map(COUNT.fits, value[1:]))


def _is_ending(value: object) -> bool:
    """Whether it is [unit, attempt number, reason]."""
    if type(value) is not list or len(value) != 3:
        return False
    return NAME.fits(value[0]) and COUNT.fits(value[1]) and (value[2] is None or TEXT.fits(value[2]))


_ENDED: Shape = {
    "event": TEXT, "time": TIME, "attempts": list_of(Kind("[unit, attempt, reason]", _is_ending)),
}  # fmt: skip
_INTENT: Shape = {
    "time": TIME, "submission": NAME, "cluster": TEXT, "host": TEXT,
    "elements": list_of(Kind("[unit, attempt, index]", _is_element)),
}  # fmt: skip
_SUBMITTED: Shape = {"time": TIME, "submission": NAME, "job": TEXT}


def event(record: dict[str, Any]) -> Shape:
    """Return the shape of a ledger.jsonl record by its event; all but two say how attempts ended."""
    kind = record.get("event")
    if kind == "intent":
        return _INTENT
    return _SUBMITTED if kind == "submitted" else _ENDED


# nodes/NAME.jsonl, notified.jsonl, lock
FAILURE: Shape = {"time": TIME, "unit": TEXT, "partition": maybe(TEXT), "error": TEXT}
NOTE: Shape = {"time": TIME, "told": FLAG, "topic": TEXT, "keys": list_of(TEXT)}
OWNER: Shape = {
    "host": TEXT, "began": optional(TIME), "user": optional(TEXT), "token": optional(TEXT),
    "since": optional(TEXT), "seized": optional(TEXT),
    "pid": Kind("a process id", lambda value: type(value) is int and 0 < value < 2**31),
}  # fmt: skip

# submitted.json, the marker of a checkpoint
HANDED_OVER: Shape = {
    "time": TIME, "asked": list_of(TEXT), "only": maybe(TEXT), "units": TEXT, "source": TEXT,
    "cluster": OBJECT,
}  # fmt: skip
MARKER: Shape = {
    "totals": OBJECT, "world_size": COUNT, "zero": maybe(COUNT), "micro_batch": COUNT, "run": TEXT,
    "gradients": optional(TEXT),
}  # fmt: skip
