"""Print the logs of a unit's last attempt, all ranks, and go on with what is added."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TextIO

from launch.backends import Local
from launch.observe import Seen

PAUSE = 0.5  # seconds between two looks for more


def print_logs(seen: Seen, follow: bool) -> int:
    """Print them to standard output; returns the exit code."""
    jobs = [job.id for job in seen.attempt.jobs] if seen.attempt else []
    if not seen.folder.logs_of(jobs) and not follow:
        print(f"no log yet: {seen.unit.stage} {seen.unit.name} is {seen.state}", file=sys.stderr)
        return 1
    backend, streams, shown = Local(), dict[Path, TextIO](), None
    while True:
        # Asked before the logs are read: what a job that has ended wrote is all there then.
        alive = seen.attempt is not None and backend.state(seen.attempt, seen.folder) is not None
        for path in seen.folder.logs_of(jobs):
            if path not in streams:
                streams[path] = path.open(errors="replace")
        for path, stream in streams.items():
            shown = _copy(path, stream, shown, len(streams) > 1)
        if not follow or not alive:
            return 0
        time.sleep(PAUSE)


def _copy(path: Path, stream: TextIO, shown: Path | None, several: bool) -> Path | None:
    """Print what was added to one log, under its name where the last words came from another one."""
    text = stream.read()
    if not text:
        return shown
    if several and path != shown:
        print(f"==> {path} <==")
    print(text, end="" if text.endswith("\n") else "\n", flush=True)
    return path
