"""Log files of units: their paths, and their last lines. Reads only; prints nothing."""

from __future__ import annotations

from pathlib import Path

from jobs.core.plain import plain
from jobs.store.rundir import StudyDir
from launch.state.states import State
from launch.state.status import StudyStatus, UnitStatus

TAIL = 20  # lines of each failed unit
SHOWN = 3  # failed units whose lines `sor status` shows
ENOUGH = 800  # bytes read from a log's end per line
WIDEST = 300  # characters per line


def last_words(now: StudyStatus) -> dict[str, list[str]]:
    """Return the last lines of output of the first few failed units, by unit id."""
    said = {seen.unit.id: words_of(seen) for seen in now.of(State.FAILED)[:SHOWN]}
    return {id: lines for id, lines in said.items() if lines is not None}


def words_of(seen: UnitStatus, most: int = TAIL) -> list[str] | None:
    """Return a unit's last lines of output, from the rank that failed first.

    Returns:
        None if there is no log.
    """
    line = seen.written or {"worker": 0, "rank": 0}
    jobs = seen.jobs[line["worker"] :] or seen.jobs
    logs = seen.root.logs(jobs[0].submission, jobs[0].id) if jobs else []
    mine = [log for log in logs if log.name.endswith(f"_{line['rank']}_log.out")] or logs
    return tail(mine[0], most) if mine else None


def tail(log: Path, most: int = TAIL) -> list[str]:
    """Return the last lines of a log, without terminal control sequences."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - most * ENOUGH))
        text = file.read().decode(errors="replace")
    lines = (plain(line.rstrip("\r").rpartition("\r")[2])[:WIDEST] for line in text.split("\n"))
    return [line for line in lines if line.strip()][-most:]


def has_log(seen: UnitStatus) -> bool:
    """Return whether there is a log of a unit's last attempt."""
    return bool(logs_of(seen, seen.root))


def logs_of(seen: UnitStatus, root: StudyDir) -> list[Path]:
    """Return the log files of a unit's last attempt, one per rank, worker by worker."""
    return [log for job in seen.jobs for log in root.logs(job.submission, job.id)]
