"""What every machine that runs jobs can do: say which of them live, why others ended, and end one.

local/backend.py does it on this machine, slurm/backend.py on a cluster. A backend knows submissions and jobs,
not what a study is; how work is handed over differs between the two, and is not here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from launch.state.ledger import Attempt, Job
from launch.state.states import State


class Live(NamedTuple):
    """A unit's last attempt while any of its jobs lives. A named tuple, since there may be very many.

    Args:
        state: QUEUED, RUNNING or PREEMPTED.
        jobs: those that live, with their ids; none while the machine may still be taking them.
        reason, dead: why they wait, and whether for something that can never come.
        nodes: on which they run, in the machine's notation, as `n[1-4]`.
        start: when the first of them began, or will by the machine's guess; seconds since the epoch.
        again: whether the same job, submitted again, may start although this one never will.
        advice: what to do about a job that never starts.
    """

    state: State
    jobs: tuple[Job, ...]
    reason: str | None = None
    dead: bool = False
    nodes: str | None = None
    start: int | None = None
    again: bool = True
    advice: str = ""


class Backend(Protocol):
    """A machine that runs jobs. Attempts are given by their units' ids.

    `settle` is for how many seconds, from an answer of the machine on, it may still show a submission whose
    submitter has died.
    """

    settle: float

    def live(self, attempts: Mapping[str, Attempt]) -> dict[str, Live]:
        """Those of the attempts that live, also where only the name of the submission is known."""

    def ends(self, attempts: Mapping[str, Attempt]) -> dict[str, str]:
        """Why attempts ended, in words, as far as the machine knows."""

    def cancel(self, jobs: Iterable[Job]) -> None:
        """End jobs that `live` told of; ending one that has ended is no error."""
