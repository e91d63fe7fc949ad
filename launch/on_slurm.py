"""The jobs of one study on a Slurm cluster: which live, why others ended, ending some.

The queue decides what lives, in one call for all. The accounts only explain what has left it, and may be
missing. What is in the queue under the name of a submission whose id nobody wrote down is that submission.
"""

from __future__ import annotations

import pwd
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import lru_cache

from launch.backends import Live
from launch.controller import Controller
from launch.ledger import Attempt, Job
from launch.slurm import ENDED, PastJob, QueuedJob, SlurmUnavailable, elements_of, latest, live_state
from launch.states import State

# Seconds, from an answer on, after which a submission that the queue does not show will not come any more.
# sbatch dies with `sor`, but a controller that hung takes a job however late, and answers others before.
SETTLE = 15.0
AGAIN = 60.0  # seconds after which the accounts are asked again for a job that they did not know
Telling = tuple[str, str | None, int | None, str | None]  # a QueuedJob between its elements and its name
NEVER = {  # why a job waits that would wait for ever
    "DependencyNeverSatisfied": "waits for one that failed",
    "launch failed requeued held": "is held by Slurm, which could not start it on a node",
}
MANY = 500  # jobs that are named in one call of scancel

ENDS = {
    "TIMEOUT": "reached its time limit",
    "OUT_OF_MEMORY": "ran out of memory",
    "NODE_FAIL": "its node failed",
    "BOOT_FAIL": "its node did not boot",
    "PREEMPTED": "was preempted, and Slurm did not put it back",
    "DEADLINE": "could not have ended before its deadline",
    "COMPLETED": "ended well by Slurm's account, but left no result",
}


class Slurm:
    """The jobs of one study on a cluster."""

    settle = SETTLE

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self._ended: dict[str, QueuedJob] = {}  # of the last answer
        self._past: dict[str, PastJob] = {}  # what the accounts told of jobs that had left the queue
        self._asked: set[str] = set()  # jobs that they were asked for
        self._again = 0.0  # when they may be asked again for those that they did not know

    def queued(self) -> int:
        """How many jobs of this user, of whatever study, are in the queue."""
        table = self.controller.queue()
        alive = [row.elements for row in table.rows if live_state(row.state) is not None]
        return len(table.malformed) + sum(1 if elements is None else len(elements) for elements in alive)

    def live(self, attempts: Mapping[str, Attempt]) -> dict[str, Live]:
        rows = self._rows(attempts)
        alive = defaultdict[str | None, dict[int | None, Telling]](dict)  # by array and element
        for row in rows:
            if row.state not in ENDED:
                alive[row.array].update(dict.fromkeys(row.elements or (None,), row[2:6]))
        self._past = {id: job for id, job in self._past.items() if not _lives(id, alive)}
        self._ended = {id: row for row in rows if row.state in ENDED for id in row.ids}
        unnamed = {job.submission for a in attempts.values() for job in a.jobs if job.array is None}
        arrays = {row.name: row.array for row in rows if row.name in unnamed}
        found = {}
        for unit, attempt in attempts.items():
            jobs = tuple(_identified(job, arrays) for job in attempt.jobs) if unnamed else attempt.jobs
            living = [said for job in jobs if (said := alive[job.array].get(job.element))]
            if living:
                all_live = len(living) == len(jobs)
                mine = jobs if all_live else tuple(job for job in jobs if job.element in alive[job.array])
                how = _how(tuple(living))
                found[unit] = Live(how.state, mine, how.reason, how.dead, how.nodes, how.start)
            elif attempt.ended is None and any(job.array is None for job in jobs):
                if time.time() - attempt.begun < SETTLE:
                    found[unit] = Live(State.QUEUED, (), "is being submitted")
        return found

    def _rows(self, attempts: Mapping[str, Attempt]) -> tuple[QueuedJob, ...]:
        """The queue; a line of one of the study's jobs that cannot be read is no answer."""
        table = self.controller.queue()
        ours = {job.submission for a in attempts.values() for job in a.jobs} if table.malformed else set()
        for line in table.malformed:
            if line.endswith(tuple(ours)):
                raise SlurmUnavailable(
                    f"a line of squeue's about a job of this study makes no sense: {line!r}"
                )
        return table.rows

    def ends(self, attempts: Mapping[str, Attempt]) -> dict[str, str]:
        ids = {unit: [job.id for job in a.jobs if job.id] for unit, a in attempts.items()}
        self._explain({id for each in ids.values() for id in each}, min(a.begun for a in attempts.values()))
        past: Mapping[str, PastJob | QueuedJob] = {**self._ended, **self._past}
        words = {unit: [_end(past[id]) for id in each if id in past] for unit, each in ids.items()}
        return {unit: said[0] for unit, said in words.items() if said}

    def _explain(self, ids: set[str], since: float) -> None:
        """Ask the accounts why jobs ended, if the queue forgot some, and they were not asked a moment ago."""
        lacking = ids - self._ended.keys() - self._past.keys()
        if not lacking or (lacking <= self._asked and time.monotonic() < self._again):
            return
        self._asked, self._again = lacking, time.monotonic() + AGAIN
        with suppress(SlurmUnavailable):  # where no accounts are kept, or answer, it stays unknown
            told = latest(self.controller.history(int(since) - 60).rows)  # some seconds behind
            self._past |= {id: job for id, job in told.items() if id in ids and job.state in ENDED}

    def cancel(self, jobs: Iterable[Job]) -> None:
        elements = defaultdict[str, list[str]](list)
        for job in jobs:
            if job.array:
                elements[job.array].append(str(job.element))
        names = [f"{array}_[{','.join(found)}]" for array, found in elements.items()]
        for first in range(0, len(names), MANY):
            self.controller.cancel(names[first : first + MANY])


def _lives(id: str, alive: Mapping[str | None, Mapping[int | None, Telling]]) -> bool:
    array, elements = elements_of(id)
    return bool(alive.get(array, {}).keys() & set(elements or (None,)))


def _identified(job: Job, arrays: Mapping[str, str]) -> Job:
    """The job with its id, if the queue holds its submission's name."""
    return job if job.array else job._replace(array=arrays.get(job.submission))


@lru_cache(maxsize=10_000)  # thousands wait alike
def _how(living: tuple[Telling, ...]) -> Live:
    """How a unit lives, by what the rows of its jobs say; it is as far as the farthest of its workers."""
    states = [live_state(state) for state, *_ in living]
    for state in (State.RUNNING, State.PREEMPTED):
        rows = [row for row, its in zip(living, states, strict=True) if its == state]
        if rows:
            nodes = ",".join(dict.fromkeys(nodes for *_, nodes in rows if nodes))
            return Live(state, (), nodes=nodes or None, start=_first(rows))
    reasons = [reason for _, reason, *_ in living]
    start = _first(living)
    if set(reasons) == {"BeginTime"}:  # nothing of a study asks for a later begin: they ran before
        words = "was put back into the queue, and is begun again in two minutes"
        return Live(State.PREEMPTED, (), words, start=start)
    dead = all(reason in NEVER for reason in reasons)
    return Live(State.QUEUED, (), NEVER[str(reasons[0])] if dead else reasons[0], dead, start=start)


def _first(rows: Iterable[Telling]) -> int | None:
    """When the first of them began, or will by Slurm's guess."""
    return min((start for _, _, start, _ in rows if start), default=None)


def _end(job: PastJob | QueuedJob) -> str:
    """Why a job ended, in words."""
    if words := ENDS.get(job.state):
        return words
    past = job if isinstance(job, PastJob) else None
    if job.state == "CANCELLED":
        by = _user(past.cancelled_by) if past and past.cancelled_by is not None else None
        return f"was cancelled in Slurm{f' by {by}' if by else ''}"
    if past and past.signal:
        return f"was killed by signal {past.signal}"
    if past and past.exit_code:
        return f"ended with exit code {past.exit_code} without saying why"
    return f"ended as {job.state} by Slurm's account"


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"
