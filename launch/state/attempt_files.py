"""What an attempt left in its unit's folder: its progress, and how it ended. Reads only."""

from __future__ import annotations

from typing import Any

from jobs.core.causes import Cause, Run, failures, first_error, last_run
from jobs.store import journal
from jobs.store.progress import read_progress
from jobs.store.records import Damaged
from jobs.store.rundir import UnitDir
from jobs.store.schema import ATTEMPT
from launch.state.ledger import Attempt


def current_progress(folder: UnitDir, attempt: Attempt) -> dict[str, Any] | None:
    """Return the progress that an attempt has reported.

    Returns:
        None before its first report.

    Raises:
        Damaged: the file cannot be read.
    """
    progress = read_progress(folder.progress)
    if progress is None:
        return None
    if "attempt" in progress:
        return progress if progress["attempt"] == attempt.number else None
    return progress if progress["updated"] >= attempt.started else None  # written by an older version


def last_lines(folder: UnitDir, attempt: Attempt) -> list[dict[str, Any]]:
    """Return what the processes of an attempt's last run recorded when they ended."""
    return last_run(journal.read(folder.attempts, ATTEMPT), attempt.number)


def end_of(folder: UnitDir, attempt: Attempt) -> Run:
    """Return how an attempt ended without a result, even where it could not record that itself."""
    try:
        lines, progress = journal.read(folder.attempts, ATTEMPT), current_progress(folder, attempt)
    except Damaged as error:
        return Run(Cause.CODE, str(error), 0)
    if written := failures(lines, since=attempt.number):
        return written[-1]
    kept = (progress or {}).get("kept", 0)
    if line := first_error(last_run(lines, attempt.number)):  # of a worker other than the first
        return Run(Cause(line["cause"]), line["error"], kept)
    return Run(Cause.KILLED, "ended without an error message: killed?", kept)
