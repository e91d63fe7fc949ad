"""Progress of a running job: how far it is, at what rate, and that it is alive.

One small file per unit, replaced atomically and at most every few seconds, so that the load on a shared file
system is low and readers never see a partial file. Nothing here makes decisions.
"""

from __future__ import annotations

import time
from collections.abc import Callable
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
        gpus: Returns the use of the job's GPUs (jobs/runtime/gpu_use.py), or None; called at each write.

    Attributes:
        beats: Number of heartbeats so far; the watchdog (jobs/runtime/watchdog.py) acts if they stop.
        kept: Maximum reported work that a later run need not repeat.
        memory: Peak host memory of this rank.
    """

    def __init__(
        self,
        path: Path | None,
        attempt: int = 0,
        restart: int = 0,
        gpus: Callable[[], list[dict[str, int | None]] | None] = lambda: None,
    ) -> None:
        self._path = path
        self._run = {"attempt": attempt, "restart": restart}
        self._written = 0.0
        self._started = time.time()
        self._working: float | None = None  # time of the first update: the work has started
        self._record: dict[str, Any] = {"done": 0, "total": 0, "unit": "steps"}
        self._read_gpus = gpus
        self._gpus: list[dict[str, int | None]] | None = None
        self.beats = 0
        self.kept = 0
        self.memory = Peak()

    @property
    def within(self) -> bool:
        """Whether the work has started and is not over, so that heartbeats should come regularly."""
        return not self._record.get("outside") and 0 < self._record["done"] < self._record["total"]

    def __str__(self) -> str:
        phase = f" ({self._record['phase']})" if self._record.get("outside") else ""
        return "{done} of {total} {unit}".format_map(self._record) + phase

    def beat(self) -> None:
        """Record a heartbeat: this rank is not stuck. Costs nothing."""
        self.beats += 1

    def outside(self, phase: str, done: int = 0, total: int = 0, unit: str = "steps") -> None:
        """Report a phase outside of the work, such as "loading the model", in which nothing gets done.

        It may last long without another report, and its time does not count in the speed of the work. The
        first `update` says that the work has started.
        """
        now = time.time()
        self.beat()
        same = self._record.get("phase") == phase
        self._record = {
            "done": done, "total": total, "unit": unit, "kept": self.kept, "phase": phase, "outside": True,
        }  # fmt: skip
        if self._path is not None and not (same and now - self._written < INTERVAL):
            self._gpus = self._read_gpus()
            self._write(now)

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
            metrics: Additional values to show, such as loss=0.31 or phase="training".
        """
        now = time.time()
        self._working = self._working or now
        self.beat()
        self.kept = max(self.kept, done if kept is None else kept)
        self._record = {"done": done, "total": total, "unit": unit, "kept": self.kept, **metrics}
        if self._path is None or (now - self._written < INTERVAL and not force):
            return
        self._gpus = self._read_gpus()
        self._write(now)

    def stalled(self, reason: str) -> None:
        """Report a stall, shown until the next update.

        Called by the watchdog's thread. GPUs are not read: their driver may be what hangs.
        """
        if self._path is not None:
            self._write(time.time(), stalled=reason)

    def _write(self, now: float, **more: Any) -> None:
        assert self._path is not None
        self._written = now
        skew = ahead(self._path.parent)
        times = {"started": self._started + skew, "updated": now + skew, "memory": self.memory.most or None}
        if self._working is not None:
            times["working_since"] = self._working + skew
        if self._gpus:
            more["gpus"] = self._gpus
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
    times = ("started", "updated", "working_since")
    return {**found, **{key: found[key] - skew for key in times if key in found}}
