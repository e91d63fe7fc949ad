"""What a running job tells the world: how far it is, at what rate, and that it is alive.

One small file a unit, replaced atomically and at most once in a few seconds, so that a shared file
system hardly notices and a reader never sees half of it. Nothing here decides anything.
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
    """Progress of one unit, written by one process of it.

    Args:
        path: the unit's progress file; None writes nothing (every rank but the first).
        attempt, restart: the run that writes it.

    Attributes:
        beats: heartbeats so far; a rank in which they stand still is watched (jobs/runtime/watchdog.py).
        kept: the most that a later run need not do again, of all that was said here.
        memory: the most host memory that this rank has held.
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
        """Whether the work has begun and is not over: beats should come regularly."""
        return 0 < self._record["done"] < self._record["total"]

    def __str__(self) -> str:
        return "{done} of {total} {unit}".format_map(self._record)

    def beat(self) -> None:
        """A heartbeat: this rank does not stand still. Costs nothing."""
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
        """Say that `done` of `total` are done, counted in `unit` ("steps", "rows", "items" …).

        Args:
            force: write now, also when the last write was a moment ago.
            kept: how much a later run need not do again, counted in anything; `done` unless told.
            metrics: what else a person may want to see, such as loss=0.31 or phase="loading model".
        """
        now = time.time()
        self.beat()
        self.kept = max(self.kept, done if kept is None else kept)
        self._record = {"done": done, "total": total, "unit": unit, "kept": self.kept, **metrics}
        if self._path is None or (now - self._written < INTERVAL and not force):
            return
        self._write(now)

    def stalled(self, reason: str) -> None:
        """Have it shown that nothing moves, until the next update."""
        if self._path is not None:
            self._write(time.time(), stalled=reason)

    def _write(self, now: float, **more: Any) -> None:
        assert self._path is not None
        self._written = now
        skew = ahead(self._path.parent)
        told = {"started": self._started + skew, "updated": now + skew, "memory": self.memory.most or None}
        write_json(self._path, {**self._record, **self._run, **told, **more})


def read_progress(path: Path) -> dict[str, Any] | None:
    """What was said last, its times by this machine's clock; None: nothing.

    Raises:
        Damaged: the file cannot be read.
    """
    try:
        found: dict[str, Any] = read_json(path, PROGRESS)
    except FileNotFoundError:
        return None
    skew = ahead(path.parent)
    return {**found, "started": found["started"] - skew, "updated": found["updated"] - skew}
