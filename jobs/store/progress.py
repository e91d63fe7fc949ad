"""Progress of a running job: how far it is, at what rate, and that it is alive.

One small file per unit, replaced atomically and at most every few seconds, so that the load on a shared file
system is low and readers never see a partial file. Nothing here makes decisions.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from jobs.core.memory import Peak
from jobs.store.clock import ahead
from jobs.store.records import read_json
from jobs.store.rundir import write_json
from jobs.store.schema import PROGRESS

INTERVAL = 2.0  # seconds between two writes


class Progress:
    """Progress of one unit, as written by one of its processes.

    Args:
        path: The unit's progress file; None writes nothing (every rank but the first).
        attempt, restart: Identify the run that writes.

    Attributes:
        beats: Number of heartbeats so far; the watchdog (jobs/runtime/watchdog.py) acts if they stop.
        kept: Maximum reported work that a later run need not repeat.
        memory: Peak host memory of this rank.
    """

    def __init__(self, path: Path | None, attempt: int = 0, restart: int = 0) -> None:
        self._path = path
        self._run = {"attempt": attempt, "restart": restart}
        self._written = 0.0
        self._started = time.time()
        self._record: dict[str, Any] = {"done": 0, "total": 0, "unit": "steps"}
        self.beats = 0
        self.kept = 0
        self.memory = Peak()

    @property
    def within(self) -> bool:
        """Whether the work has started and is not over, so that heartbeats should come regularly."""
        return 0 < self._record["done"] < self._record["total"]

    def __str__(self) -> str:
        return "{done} of {total} {unit}".format_map(self._record)

    def beat(self) -> None:
        """Record a heartbeat: this rank is not stuck. Costs nothing."""
        self.beats += 1

    def update(
        self,
        done: int,
        total: int,
        unit: str,
        *,
        force: bool = False,
        kept: int | None = None,
        **metrics: Any,
    ) -> None:
        """Report that `done` of `total` are done, counted in `unit` ("steps", "rows", "items" …).

        Args:
            force: Write now, even if the last write was a moment ago.
            kept: Work that a later run need not repeat, in any unit; defaults to `done`.
            metrics: Additional values to show, such as loss=0.31 or phase="loading model".
        """
        now = time.time()
        self.beat()
        self.kept = max(self.kept, done if kept is None else kept)
        self._record = {"done": done, "total": total, "unit": unit, "kept": self.kept, **metrics}
        if self._path is None or (now - self._written < INTERVAL and not force):
            return
        self._write(now)

    def stalled(self, reason: str) -> None:
        """Report a stall, shown until the next update."""
        if self._path is not None:
            self._write(time.time(), stalled=reason)

    def _write(self, now: float, **more: Any) -> None:
        assert self._path is not None
        self._written = now
        skew = ahead(self._path.parent)
        times = {"started": self._started + skew, "updated": now + skew, "memory": self.memory.most or None}
        write_json(self._path, {**self._record, **self._run, **times, **more})


def read_progress(path: Path) -> dict[str, Any] | None:
    """Return the last report, with times by this machine's clock; None if there is none.

    Raises:
        Damaged: The file cannot be read.
    """
    try:
        found: dict[str, Any] = read_json(path, PROGRESS)
    except FileNotFoundError:
        return None
    skew = ahead(path.parent)
    return {**found, "started": found["started"] - skew, "updated": found["updated"] - skew}
