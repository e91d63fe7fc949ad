"""The units that a table lists, and their order. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from launch.state.states import State
from launch.state.status import StudyStatus, UnitStatus

PROBLEMS_FIRST = (
    State.DAMAGED, State.FAILED, State.STALLED, State.BLOCKED, State.PREEMPTED, State.RUNNING, State.QUEUED,
    State.WAITING, State.DONE,
)  # fmt: skip
RANK = {state: number for number, state in enumerate(PROBLEMS_FIRST)}


class Sort(StrEnum):
    """Sort orders of a table; ties stay in plan order."""

    STATE = "state, problems first"
    PLAN = "the order of the plan"
    NAME = "name"
    PROGRESS = "progress, the least first"
    HEARD = "last heartbeat, the oldest first"
    ATTEMPTS = "attempts, the most first"
    NODE = "node"

    @property
    def next(self) -> Sort:
        every = list(Sort)
        return every[(every.index(self) + 1) % len(every)]


KEYS: dict[Sort, Callable[[UnitStatus], Any]] = {
    Sort.STATE: lambda seen: RANK[seen.state],
    Sort.NAME: lambda seen: seen.unit.name,
    Sort.PROGRESS: lambda seen: _part(seen),
    Sort.HEARD: lambda seen: seen.progress["updated"] if seen.progress else float("inf"),
    Sort.ATTEMPTS: lambda seen: -(seen.attempt.number if seen.attempt else 0),
    Sort.NODE: lambda seen: _nodes(seen) or "~",  # units without a node come last
}


@dataclass(frozen=True)
class Listing:
    """The rows of a table, and what they were made from."""

    now: StudyStatus
    wanted: str
    sort: Sort
    rows: tuple[UnitStatus, ...]

    def made_from(self, now: StudyStatus, wanted: str, sort: Sort) -> bool:
        return self.now is now and (self.wanted, self.sort) == (wanted, sort)


def listing(now: StudyStatus, wanted: str, sort: Sort) -> Listing:
    """Return the units that match every word of `wanted`, sorted."""
    words = wanted.lower().split()
    rows = [seen for seen in now.units if _fits(seen, words)] if words else list(now.units)
    if sort in KEYS:
        rows.sort(key=KEYS[sort])
    return Listing(now, wanted, sort, tuple(rows))


def _fits(seen: UnitStatus, words: list[str]) -> bool:
    unit = seen.unit
    text = f"{unit.stage} {unit.name} {unit.id} {seen.state} {seen.cause or ''} {_nodes(seen)}".lower()
    return all(word in text for word in words)


def _nodes(seen: UnitStatus) -> str:
    return (seen.live and seen.live.nodes) or ""


def _part(seen: UnitStatus) -> float:
    """Return the share of a unit that is done, as far as it reports."""
    if seen.state == State.DONE:
        return 1.0
    p = seen.progress
    return p["done"] / p["total"] if p and p["total"] else 0.0
