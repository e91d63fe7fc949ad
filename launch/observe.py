"""What is so right now: the plan held against the disk, the ledger and the machine.

Reads only. The result of one look is a `Snapshot`; what to do about it is reconcile.py's business, how it
is shown show.py's.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from jobs.rundir import StudyDir, UnitDir, read_json, read_jsonl
from jobs.unit import STAGES, Unit
from launch.backends import Backend
from launch.ledger import Attempt, Ledger
from launch.states import Facts, State, state_of


@dataclass(frozen=True)
class Seen:
    """One unit as it is now."""

    unit: Unit
    folder: UnitDir
    state: State
    reason: str | None
    attempt: Attempt | None
    published: bool
    progress: dict[str, Any] | None

    def to_json(self) -> dict[str, Any]:
        """The unit as `sor status --json` prints it."""
        p = self.progress
        return {
            "id": self.unit.id,
            "stage": self.unit.stage,
            "name": self.unit.name,
            "state": self.state,
            "job": self.attempt.jobs[-1].id if self.attempt and self.attempt.jobs else None,
            "attempts": self.attempt.number if self.attempt else 0,
            "reason": self.reason,
            "progress": {k: p[k] for k in ("done", "total", "unit")} if p else None,
            "updated": p["updated"] if p else self.attempt.begun if self.attempt else None,
        }


@dataclass(frozen=True)
class Snapshot:
    """A study as it is now, in the order of its plan."""

    root: StudyDir
    units: tuple[Seen, ...]

    def of(self, *states: State) -> list[Seen]:
        """The units in these states."""
        return [u for u in self.units if u.state in states]

    def stages(self) -> list[dict[str, Any]]:
        """For each stage that has units: its total and how many are in each state."""
        rows = []
        for stage in STAGES:
            states = [u.state for u in self.units if u.unit.stage == stage]
            if states:
                counts = {state.value: states.count(state) for state in State}
                rows.append({"stage": stage, "total": len(states), **counts})
        return rows


def observe(units: list[Unit], root: StudyDir, backend: Backend) -> Snapshot:
    """Look at every unit once."""
    attempts = Ledger(root.ledger).attempts()
    states: dict[str, State] = {}
    seen = []
    for unit in units:
        one = _look(unit, root.unit(unit), attempts.get(unit.id), backend, states)
        states[unit.id] = one.state
        seen.append(one)
    return Snapshot(root, tuple(seen))


def _look(
    unit: Unit, folder: UnitDir, attempt: Attempt | None, backend: Backend, states: dict[str, State]
) -> Seen:
    # The job first: one that ends during the look has published before it does.
    job = backend.state(attempt, folder) if attempt and not attempt.ended else None
    published = folder.done
    inputs = tuple((f"{i.stage} {i.name}", states[i.id]) for i in unit.inputs)
    progress = current_progress(folder, attempt) if attempt and not published else None
    facts = Facts(
        published=published,
        job=job,
        attempts=attempt.number if attempt else 0,
        silence=time.time() - progress["updated"] if progress else None,
        cancelled=attempt is not None and attempt.ended == "cancelled",
        removed=attempt is not None and not published and job is None and removed(folder, attempt),
        error=error_of(folder, attempt) if attempt and not published and job is None else None,
        inputs=inputs,
    )
    state, reason = state_of(facts)
    return Seen(unit, folder, state, reason, attempt, published, progress)


def current_progress(folder: UnitDir, attempt: Attempt) -> dict[str, Any] | None:
    """What the attempt said of its progress; None before its first word."""
    try:
        progress: dict[str, Any] = read_json(folder.progress)
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return progress if progress["updated"] >= attempt.begun else None


def removed(folder: UnitDir, attempt: Attempt) -> bool:
    """Whether the attempt published a result that is not there any more."""
    if attempt.ended == "outdated" or not folder.path.exists():
        return True
    ends = [e for e in read_jsonl(folder.attempts) if e["attempt"] == attempt.number]
    return bool(ends) and not any(e["error"] for e in ends)


def error_of(folder: UnitDir, attempt: Attempt) -> str | None:
    """Why the attempt ended: the first error that one of its processes wrote down, else the ledger's word."""
    ends = [e for e in read_jsonl(folder.attempts) if e["attempt"] == attempt.number and e["error"]]
    if not ends:
        return attempt.reason
    first = min(ends, key=lambda e: float(e["time"]))
    return str(first["error"])
