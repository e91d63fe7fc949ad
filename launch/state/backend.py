"""Interface of the backends that run jobs: list live jobs, explain why jobs ended, and cancel jobs.

local/backend.py implements it for this machine, slurm/backend.py for a cluster. A backend knows submissions
and jobs, but no studies. Submitting differs between the two and is not part of the interface.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from launch.state.ledger import Attempt, Job
from launch.state.states import State


class LiveJobs(NamedTuple):
    """A unit's last attempt while any of its jobs is live. A named tuple, since there may be very many.

    Args:
        state: QUEUED, RUNNING or PREEMPTED.
        jobs: the live ones, with their ids; empty while the machine may still be accepting them.
        reason, dead: why the jobs are pending, and whether they can never start.
        nodes: on which they run, in the machine's notation, as `n[1-4]`.
        start: actual or estimated start of the first of them, in seconds since the epoch.
        again: whether the same job may start if resubmitted, although this one never will.
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
    """A machine that runs jobs. Attempts are given by unit id.

    `settle` is the number of seconds after an answer of the machine during which a submission whose submitter
    has died may still appear.
    """

    settle: float

    def live(self, attempts: Mapping[str, Attempt]) -> dict[str, LiveJobs]:
        """Return the attempts that are live, including those of which only the submission's name is known."""

    def exit_reasons(self, attempts: Mapping[str, Attempt]) -> dict[str, str]:
        """Return why attempts ended, in words, as far as the machine knows."""

    def cancel(self, jobs: Iterable[Job]) -> None:
        """Cancel jobs that `live` returned; canceling a job that has ended is not an error."""
