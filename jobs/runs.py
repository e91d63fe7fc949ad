"""What attempts.jsonl says of each run of a unit's jobs: how long it took and how it ended.

Pure and light. What follows from the ends is causes.py's business.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from jobs.causes import first_error


@dataclass(frozen=True)
class Run:
    """One run of one worker, all its ranks together; going on after an interruption is another run.

    Args:
        seconds: from the start of its first process; None if nobody knows.
        error: what came first; None if all went well.
        kept: how much the next run need not do again, in whatever the stage counts.
        ended: seconds since the epoch.
    """

    attempt: int
    restart: int
    worker: int
    seconds: float | None
    error: str | None
    cause: str | None
    host: str | None
    kept: int
    ended: float


def runs(lines: Iterable[dict[str, Any]]) -> list[Run]:
    """The runs that lines of attempts.jsonl tell of, in the order in which they were written down."""
    ranks = defaultdict[tuple[int, int, int], list[dict[str, Any]]](list)
    for line in lines:
        ranks[line["attempt"], line["restart"], line["worker"]].append(line)
    return [_run(run, told) for run, told in ranks.items()]


def _run(run: tuple[int, int, int], told: list[dict[str, Any]]) -> Run:
    first = first_error(told) or told[0]
    return Run(
        *run,
        seconds=max((s for rank in told if (s := rank["seconds"]) is not None), default=None),
        error=first["error"],
        cause=first["cause"],
        host=first["host"],
        kept=max(rank["kept"] for rank in told),
        ended=max(rank["time"] for rank in told),
    )
