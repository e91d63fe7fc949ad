"""One clock for all machines that share a run directory: its file server's.

Clocks of nodes differ, by minutes where nobody looks after them. Times in files are the file server's; each
program turns those that it reads into its own machine's time, and its own into the server's when it writes.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

LASTS = 60.0  # seconds for which a difference that was found is taken for granted
EXACT = 2.0  # seconds; a smaller difference is none: file systems round, and answers take their time

_found: dict[int, tuple[float, float]] = {}  # by file system: when it was found, and the difference


def ahead(folder: Path) -> float:
    """How many seconds the clock of a folder's file server is ahead of this machine's.

    It is read off a file made for that, once a minute at most. 0 where no file can be made: somebody else's
    run directory, or one that is not there yet.
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
