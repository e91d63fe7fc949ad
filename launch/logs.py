"""Print the logs of units' last attempts, all ranks, and go on with what is added."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import TextIO

from jobs.plain import plain, say
from jobs.rundir import StudyDir
from launch.observe import Seen, Snapshot
from launch.project import Project
from launch.states import State

PAUSE = 0.5  # seconds between two looks for more
SLURM_PAUSE = 10.0  # seconds between two questions to Slurm whether the job still lives
TAIL = 20  # lines of each failed unit
SHOWN = 3  # failed units of which `sor status` shows these lines
ENOUGH = 800  # bytes of a log's end for each line of it
WIDEST = 300  # characters of a line


def print_logs(seen: Seen, project: Project, follow: bool) -> int:
    """Print those of one unit to standard output; returns the exit code."""
    if not logs_of(seen, project.root) and not (follow and seen.live):
        say(f"no log yet: {seen.unit.stage} {seen.unit.name} is {seen.state}", error=True)
        return 1
    streams, shown = dict[Path, TextIO](), None
    patience, looked = PAUSE if project.cluster.backend == "local" else SLURM_PAUSE, time.monotonic()
    while True:
        # Asked before the logs are read: what a job that has ended wrote is all there then.
        alive = seen.live is not None
        for path in logs_of(seen, project.root):
            if path not in streams:
                streams[path] = path.open(errors="replace", encoding="utf-8")
        for path, stream in streams.items():
            shown = _copy(path, stream, shown, len(streams) > 1)
        if not follow or not alive:
            return 0
        time.sleep(PAUSE)
        if time.monotonic() - looked > patience:
            seen = next(s for s in project.look().units if s.unit.id == seen.unit.id)
            looked = time.monotonic()


def print_failed(now: Snapshot) -> int:
    """Print the end of the log of each failed unit; returns the exit code."""
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


def last_words(now: Snapshot) -> dict[str, list[str]]:
    """The last lines that the first few failed units printed, by their ids."""
    said = {seen.unit.id: words_of(seen) for seen in now.of(State.FAILED)[:SHOWN]}
    return {id: lines for id, lines in said.items() if lines is not None}


def words_of(seen: Seen, most: int = TAIL) -> list[str] | None:
    """The last lines that a unit printed, of the rank that failed first; None where there is no log."""
    line = seen.written or {"worker": 0, "rank": 0}
    jobs = seen.jobs[line["worker"] :] or seen.jobs
    logs = seen.root.logs(jobs[0].submission, jobs[0].id) if jobs else []
    mine = [log for log in logs if log.name.endswith(f"_{line['rank']}_log.out")] or logs
    return tail(mine[0], most) if mine else None


def tail(log: Path, most: int = TAIL) -> list[str]:
    """The last lines of a log, without what a terminal would take for more than text."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - most * ENOUGH))
        text = file.read().decode(errors="replace")
    lines = (plain(line.rstrip("\r").rpartition("\r")[2])[:WIDEST] for line in text.split("\n"))
    return [line for line in lines if line.strip()][-most:]


def logs_of(seen: Seen, root: StudyDir) -> list[Path]:
    """The log files of a unit's last attempt, a file a rank, worker by worker."""
    return [log for job in seen.jobs for log in root.logs(job.submission, job.id)]


def _copy(path: Path, stream: TextIO, shown: Path | None, several: bool) -> Path | None:
    """Print what was added to one log, under its name where the last words came from another one."""
    text = stream.read()
    if not text:
        return shown
    if several and path != shown:
        say(f"==> {path} <==")
    say(text.removesuffix("\n"))
    return path
