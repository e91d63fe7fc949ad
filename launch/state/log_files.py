"""The log files of units: which they are, and their last lines. It reads, and prints nothing."""

from __future__ import annotations

from pathlib import Path

from jobs.core.plain import plain
from jobs.store.rundir import StudyDir
from launch.state.states import State
from launch.state.status import Seen, Snapshot

TAIL = 20  # lines of each failed unit
SHOWN = 3  # failed units of which `sor status` shows these lines
ENOUGH = 800  # bytes of a log's end for each line of it
WIDEST = 300  # characters of a line


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
