"""`sor logs`: print the logs of units' last attempts, all ranks, and follow them."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import TextIO

from jobs.core.plain import say
from launch.state.log_files import TAIL, logs_of
from launch.state.states import State
from launch.state.status import StudyStatus, UnitStatus
from launch.study_run import Project

PAUSE = 0.5  # seconds between checks for new output
SLURM_PAUSE = 10.0  # seconds between asking Slurm whether the job is alive


def print_logs(seen: UnitStatus, project: Project, follow: bool) -> int:
    """Print one unit's logs to standard output, and return the exit code."""
    if not logs_of(seen, project.root) and not (follow and seen.live):
        say(f"no log yet: {seen.unit.stage} {seen.unit.name} is {seen.state}", error=True)
        return 1
    streams, shown = dict[Path, TextIO](), None
    patience, polled = PAUSE if project.cluster.backend == "local" else SLURM_PAUSE, time.monotonic()
    while True:
        # Checked before the logs are read: the output of an ended job is complete then.
        alive = seen.live is not None
        for path in logs_of(seen, project.root):
            if path not in streams:
                streams[path] = path.open(errors="replace", encoding="utf-8")
        for path, stream in streams.items():
            shown = _copy(path, stream, shown, len(streams) > 1)
        if not follow or not alive:
            return 0
        time.sleep(PAUSE)
        if time.monotonic() - polled > patience:
            seen = next(s for s in project.poll().units if s.unit.id == seen.unit.id)
            polled = time.monotonic()


def print_failed(now: StudyStatus) -> int:
    """Print the end of each failed unit's log, and return the exit code."""
    failed = now.of(State.FAILED)
    for seen in failed:
        say(f"==> {seen.unit.stage} {seen.unit.name}: {seen.reason}")
        for path in logs_of(seen, now.root):
            say(f"--> {path}")
            with path.open(errors="replace", encoding="utf-8") as lines:
                say("".join(deque(lines, TAIL)))
    if not failed:
        print("no unit has failed")
    return 0


def _copy(path: Path, stream: TextIO, shown: Path | None, several: bool) -> Path | None:
    """Print new output of a log, under its name if the previous output came from another one."""
    text = stream.read()
    if not text:
        return shown
    if several and path != shown:
        say(f"==> {path} <==")
    say(text.removesuffix("\n"))
    return path
