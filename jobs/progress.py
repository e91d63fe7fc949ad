"""What a running job tells the world: how far it is, at what rate, and that it is alive.

One small file a unit, replaced atomically and at most once in a few seconds, so that a shared file
system hardly notices and a reader never sees half of it. Nothing here decides anything.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from jobs.rundir import write_json

INTERVAL = 2.0  # seconds between two writes


class Progress:
    """Progress of one unit, written by one process of it.

    Args:
        path: the unit's progress file; None writes nothing (every rank but the first).
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._written = 0.0
        self._started = time.time()

    def update(self, done: int, total: int, unit: str, *, force: bool = False, **metrics: Any) -> None:
        """Say that `done` of `total` are done, counted in `unit` ("steps", "rows", "items" …).

        Args:
            force: write now, also when the last write was a moment ago.
            metrics: what else a person may want to see, such as loss=0.31 or phase="loading model".
        """
        now = time.time()
        if self._path is None or (now - self._written < INTERVAL and not force):
            return
        self._written = now
        record = {"done": done, "total": total, "unit": unit, "started": self._started, "updated": now}
        write_json(self._path, {**record, **metrics})
