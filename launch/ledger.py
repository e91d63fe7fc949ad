"""What was submitted and how it ended: one append-only file of JSON lines a study.

The intent is written before a job is started and the job's id after it, so that a crash between the two
can be told from no attempt at all. The ledger never says that a unit is done: the disk does.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs.rundir import append_jsonl, read_jsonl
from jobs.unit import Unit


@dataclass(frozen=True)
class Job:
    """One job of an attempt: its id on the machine that runs it."""

    id: str
    host: str


@dataclass(frozen=True)
class Attempt:
    """The last attempt at a unit.

    Args:
        number: counted from 1.
        begun: seconds since the epoch.
        ended: "failed", "cancelled" or "outdated" once somebody wrote that down.
    """

    number: int
    begun: float
    jobs: tuple[Job, ...] = ()
    ended: str | None = None
    reason: str | None = None


class Ledger:
    """The ledger of one study."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def attempts(self) -> dict[str, Attempt]:
        """The last attempt at every unit that was ever begun, by the unit's id."""
        last: dict[str, Attempt] = {}
        for record in read_jsonl(self._path):
            event, unit = record["event"], record["unit"]
            if event == "intent":
                last[unit] = Attempt(record["attempt"], record["time"])
            elif event == "submitted":
                job = Job(record["job"], record["host"])
                last[unit] = replace(last[unit], jobs=(*last[unit].jobs, job))
            elif last[unit].number == record["attempt"]:
                last[unit] = replace(last[unit], ended=event, reason=record["reason"])
        return last

    def intent(self, unit: Unit, attempt: int) -> None:
        """An attempt is about to be started."""
        self._append("intent", unit, attempt, stage=unit.stage, name=unit.name)

    def submitted(self, unit: Unit, attempt: int, job: str) -> None:
        """One of the attempt's jobs was started on this host."""
        self._append("submitted", unit, attempt, job=job, host=socket.gethostname())

    def failed(self, unit: Unit, attempt: int, reason: str) -> None:
        """The attempt ended without a result."""
        self._append("failed", unit, attempt, reason=reason)

    def cancelled(self, unit: Unit, attempt: int) -> None:
        """A person ended the attempt."""
        self._append("cancelled", unit, attempt, reason="cancelled")

    def outdated(self, unit: Unit, attempt: int) -> None:
        """The attempt's result was set aside, since its inputs are made again."""
        self._append("outdated", unit, attempt, reason="its inputs were made again")

    def _append(self, event: str, unit: Unit, attempt: int, **more: Any) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        record = {"event": event, "unit": unit.id, "attempt": attempt, "time": time.time(), **more}
        append_jsonl(self._path, record)
