"""One clock for all machines that share a run directory: that of its file server.

Clocks of nodes differ, by minutes if unattended. Times in files are the file server's; each program converts
them to its machine's time when it reads, and back when it writes.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

LASTS = 60.0  # seconds for which a measured difference is reused
EXACT = 2.0  # seconds; smaller differences are rounding and latency and count as 0

_found: dict[int, tuple[float, float]] = {}  # by file system: when it was measured, and the difference


def ahead(folder: Path) -> float:
    """Return how many seconds the clock of a folder's file server is ahead of this machine's.

    Measured on a temporary file, at most once a minute. 0 if no file can be created: the run directory
    belongs to another user or does not exist yet.
    """
    try:
        device = os.stat(folder).st_dev
        at, difference = _found.get(device, (-LASTS, 0.0))
        if time.monotonic() - at > LASTS:
            difference = _ask(folder)
            _found[device] = time.monotonic(), difference
    except OSError:
        return 0.0
    return difference


def _ask(folder: Path) -> float:
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock.") as probe:
        difference = os.fstat(probe.fileno()).st_mtime - time.time()
    return difference if abs(difference) > EXACT else 0.0
