"""Jobs killed for exceeding their memory limit: how to recognize them, and how much to request next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.core import memory
from jobs.core.causes import Cause, cause_of
from jobs.core.unit import Unit
from jobs.store.rundir import StudyDir
from launch.state.ledger import Attempt
from launch.study.memory import TWICE

if TYPE_CHECKING:
    from launch.state.status import UnitStatus


def killed_for_memory(root: StudyDir, attempt: Attempt, words: str | None) -> str | None:
    """Return why an attempt ended, if one of its jobs was killed for memory and no process could record it.

    The job's script records the kill. If the script was killed, too, Slurm's messages end its log.

    Args:
        words: the machine's explanation; anything more specific than "killed" takes precedence.
    """
    if words and cause_of(words) is not Cause.KILLED:
        return None
    for element in _elements(root, attempt):
        if limit := memory.noted(element):
            return f"ran out of memory: killed at its limit of {limit} MiB per node"
        if line := memory.killed_for_memory(element.with_name(f"{element.name}_0_log.out")):
            return f"ran out of memory: {line}"
    return None


def limit_of(seen: UnitStatus) -> int | None:
    """Return the limit, in MiB per node, at which a unit's last attempt was killed for memory.

    Returns:
        None if it was not killed for that, or requested no memory.
    """
    if seen.cause is not Cause.MEMORY or seen.attempt is None:
        return None
    written = seen.written or {}
    notes = [memory.noted(element) for element in _elements(seen.root, seen.attempt)]
    return max(n or 0 for n in (seen.attempt.memory, written.get("asked"), *notes)) or None


def with_more(seen: UnitStatus) -> Unit:
    """Return the unit, to be raised to twice the memory at which its last attempt was killed, if it was."""
    limit = limit_of(seen)
    if limit is None:
        return seen.unit
    return replace(seen.unit, resources=replace(seen.unit.resources, raised=TWICE * limit))


def _elements(root: StudyDir, attempt: Attempt) -> Iterator[Path]:
    """Return the common path prefix of the files of each of an attempt's jobs."""
    return (root.submission(job.submission) / job.id for job in attempt.jobs if job.id)
