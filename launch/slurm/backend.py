"""Jobs of one study on a Slurm cluster: list the live ones, explain why others ended, and cancel some.

The queue determines which jobs are live, in one call for all. Accounting only explains those that have left
it, and may be missing. A job belongs to the study if its name is that of a submission in the ledger, which no
other job has: an id alone proves nothing, since a controller that was reset counts from 1 again, as other
clusters do. Of jobs that share a name, as where a wrapper submits twice, the one with the id in the ledger
counts.
"""

from __future__ import annotations

import pwd
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Set
from contextlib import suppress
from functools import lru_cache

from launch.slurm.client import SlurmClient
from launch.slurm.parse import ENDED, PastJob, Place, QueuedJob, elements_of, latest, live_state, places
from launch.slurm.text import Table
from launch.state.backend import LiveJobs
from launch.state.errors import SlurmUnavailable
from launch.state.ledger import Attempt, Job
from launch.state.pending_reasons import Wait, meaning
from launch.state.states import State

# Seconds after an answer at which a submission that the queue does not show will not appear any more. sbatch
# dies with `sor`, but a controller that hung accepts a job however late, and answers other requests before.
SETTLE = 15.0
AGAIN = 60.0  # seconds until accounting is asked again about a job that it did not know
Telling = tuple[str, str | None, int | None, str | None, str]  # a QueuedJob without its ids and name
Alive = Mapping[str, Mapping[str, Mapping[int | None, Telling]]]  # by name, array and element
NEAR = 0.9  # of the memory requested: a job killed while using this much was killed for memory
MANY = 500  # jobs per call of scancel

ENDS = {
    "TIMEOUT": "reached its time limit",
    "OUT_OF_MEMORY": "ran out of memory",
    "NODE_FAIL": "its node failed",
    "BOOT_FAIL": "its node did not boot",
    "PREEMPTED": "was preempted, and Slurm did not requeue it",
    "DEADLINE": "could not have ended before its deadline",
    "COMPLETED": "succeeded according to Slurm, but left no result",
}


class Slurm:
    """Jobs of one study on a Slurm cluster."""

    settle = SETTLE

    def __init__(self, client: SlurmClient) -> None:
        self.client = client
        self._queue: Table[QueuedJob] | None = None  # of the last poll
        # All by job name and id:
        self._ended: dict[tuple[str, str], QueuedJob] = {}  # in the last answer
        self._past: dict[tuple[str, str], PastJob] = {}  # from accounting, of jobs that had left the queue
        self._memory: dict[tuple[str, str], tuple[int, int]] = {}  # requested and used by killed ones
        self._asked: set[tuple[str, str]] = set()  # jobs that accounting was asked about
        self._again = 0.0  # when it may be asked again about those that it did not know

    def places(self, without: Collection[str]) -> list[Place]:
        """Return the places that this user has taken in the queue, in any study, but for some job ids.

        They are counted in the queue as the last poll found it, if that asked for it.
        """
        queue, self._queue = self._queue or self.client.queue(), None  # submissions follow, which change it
        found = list[Place]()
        for place in places(queue):
            if place.elements is None:
                found += [place] if place.array not in without else []
            else:
                kept = [i for i in place.elements if f"{place.array}_{i}" not in without]
                found.append(place._replace(elements=kept))
        return found

    def live(self, attempts: Mapping[str, Attempt]) -> dict[str, LiveJobs]:
        self._queue = None
        if not attempts:
            return {}
        rows = self._rows({job.submission for a in attempts.values() for job in a.jobs})
        alive: dict[str, dict[str, dict[int | None, Telling]]] = {}
        for row in rows:
            if row.state not in ENDED:
                elements = alive.setdefault(row.name, {}).setdefault(row.array, {})
                elements.update(dict.fromkeys(row.elements or (None,), row[2:7]))
        self._past = {key: job for key, job in self._past.items() if not _lives(*key, alive)}
        self._ended = {(row.name, id): row for row in rows if row.state in ENDED for id in row.ids}
        found = {}
        for unit, attempt in attempts.items():
            living = [lives for job in attempt.jobs if (lives := _alive(job, alive))]
            if living:
                how = _how(tuple(said for _, said in living))
                jobs = tuple(job for job, _ in living)
                found[unit] = how._replace(jobs=jobs)
            elif attempt.ended is None and any(job.array is None for job in attempt.jobs):
                if time.time() - attempt.started < SETTLE:
                    found[unit] = LiveJobs(State.QUEUED, (), "is being submitted")
        return found

    def _rows(self, names: Set[str]) -> list[QueuedJob]:
        """Return the queue's rows for jobs of these names.

        Raises:
            SlurmUnavailable: a line about one of them cannot be parsed, or the queue cannot be read.
        """
        table = self._queue = self.client.queue()
        for line in table.malformed:
            if line.endswith(tuple(names)):
                raise SlurmUnavailable(f"cannot parse squeue's line about a job of this study: {line!r}")
        return [row for row in table.rows if row.name in names]

    def exit_reasons(self, attempts: Mapping[str, Attempt]) -> dict[str, str]:
        keys = {u: [(job.submission, job.id) for job in a.jobs if job.id] for u, a in attempts.items()}
        self._explain(
            {key for each in keys.values() for key in each}, min(a.started for a in attempts.values())
        )
        past: Mapping[tuple[str, str], PastJob | QueuedJob] = {**self._ended, **self._past}
        words = {
            unit: [_end(past[key], self._memory.get(key)) for key in each if key in past]
            for unit, each in keys.items()
        }
        return {unit: said[0] for unit, said in words.items() if said}

    def _explain(self, jobs: set[tuple[str, str]], since: float) -> None:
        """Ask accounting about jobs that the queue has dropped, unless it was asked a moment ago."""
        lacking = jobs - self._ended.keys() - self._past.keys()
        if not lacking or (lacking <= self._asked and time.monotonic() < self._again):
            return
        self._asked, self._again = lacking, time.monotonic() + AGAIN
        with suppress(SlurmUnavailable):  # without accounting, or its answer, the reason stays unknown
            rows = self.client.history(int(since) - 60).rows  # accounting lags by seconds
            last = latest(row for row in rows if (row.name, row.id) in jobs)
            self._past |= {(job.name, id): job for id, job in last.items() if job.state in ENDED}
            killed = [job.id for job in last.values() if job.state in ENDED and _killed(job)]
            self._memory |= self.client.memory(killed, int(since) - 60) if killed else {}

    def cancel(self, jobs: Iterable[Job]) -> None:
        """Cancel jobs, by the ids that the queue shows under their names right now, and no others.

        The order is kept by submission: each is canceled at its last job's place.
        """
        wanted = dict.fromkeys((job.submission, job.element) for job in jobs)
        places = {name: place for place, (name, _) in enumerate(wanted)}
        found = defaultdict[str, list[str]](list)  # elements by array; empty for a job without an array
        for row in sorted(self._rows(places.keys()) if wanted else (), key=lambda row: places[row.name]):
            indices = [i for i in row.elements or (None,) if (row.name, i) in wanted]
            if indices and row.state not in ENDED:
                found[row.array] += [str(i) for i in indices if i is not None]
        ids = [f"{array}_[{','.join(each)}]" if each else array for array, each in found.items()]
        for first in range(0, len(ids), MANY):
            self.client.cancel(ids[first : first + MANY])


def _alive(job: Job, alive: Alive) -> tuple[Job, Telling] | None:
    """Return the job with its id, and its fields in the queue.

    Returns:
        None if it is not live.
    """
    arrays = alive.get(job.submission)
    if arrays is None:
        return None
    if job.array and (said := arrays.get(job.array, {}).get(job.element)):
        return job, said
    for array, elements in arrays.items():
        if said := elements.get(job.element):
            return job._replace(array=array), said
    return None


def _lives(name: str, id: str, alive: Alive) -> bool:
    array, elements = elements_of(id)
    return bool(alive.get(name, {}).get(array, {}).keys() & set(elements or (None,)))


@lru_cache(maxsize=10_000)  # thousands of pending jobs have the same fields
def _how(living: tuple[Telling, ...]) -> LiveJobs:
    """Return the state of a live unit from the rows of its jobs; the most advanced of its workers decides."""
    states = [live_state(state) for state, *_ in living]
    for state in (State.RUNNING, State.PREEMPTED):
        rows = [row for row, its in zip(living, states, strict=True) if its == state]
        if rows:
            nodes = ",".join(dict.fromkeys(nodes for _, _, _, nodes, _ in rows if nodes))
            return LiveJobs(state, (), nodes=nodes or None, start=_first(rows))
    reasons = [reason for _, reason, *_ in living]
    start = _first(living)
    waits = [_wait(reason or "", partition) for _, reason, _, _, partition in living]
    if set(reasons) == {"BeginTime"}:  # units request no begin time: these were requeued
        words = "was requeued, and starts again in two minutes at the earliest"
        return LiveJobs(State.PREEMPTED, (), words, start=start)
    reason = _located(reasons[0], living[0][-1])
    if all(wait in (Wait.REDO, Wait.NEVER) for wait in waits):
        said, again = meaning(reason or ""), Wait.NEVER not in waits
        return LiveJobs(State.QUEUED, (), said.words, True, start=start, again=again, advice=said.advice)
    return LiveJobs(State.QUEUED, (), reason, start=start)


def _wait(reason: str, partition: str) -> Wait:
    """Return what a pending job waits for. With several partitions, the reason is that of the last tried."""
    wait = meaning(reason).wait
    if wait is Wait.NEVER and "," in partition and not meaning(reason).held:
        return Wait.PASSES
    return wait


def _located(reason: str | None, partition: str) -> str | None:
    """Return a reason, with the partition's name if it is about the partition."""
    return f"{reason}, {partition}" if reason and reason.startswith("Partition") else reason


def _first(rows: Iterable[Telling]) -> int | None:
    """Return the actual or estimated start of the first of them."""
    return min((start for _, _, start, *_ in rows if start), default=None)


def _killed(job: PastJob) -> bool:
    """Return whether a job ended for its memory, or by SIGKILL, which Slurm versions report in four ways."""
    return job.state == "OUT_OF_MEMORY" or job.signal == 9 or job.exit_code in (9, 128 + 9)


def _end(job: PastJob | QueuedJob, memory: tuple[int, int] | None = None) -> str:
    """Return why a job ended, in words; `memory` is what it requested and used, where that is known."""
    past = job if isinstance(job, PastJob) else None
    if memory and memory[0] and (job.state == "OUT_OF_MEMORY" or memory[1] >= NEAR * memory[0]):
        return f"ran out of memory: it requested {memory[0]} MiB per node, and used {memory[1]}"
    if words := ENDS.get(job.state):
        return words
    if job.state == "CANCELLED":
        by = _user(past.cancelled_by) if past and past.cancelled_by is not None else None
        return f"was cancelled in Slurm{f' by {by}' if by else ''}"
    if past and _killed(past):
        return "was killed by signal 9"
    if past and past.signal:
        return f"was killed by signal {past.signal}"
    if past and past.exit_code:
        return f"ended with exit code {past.exit_code} without an error message"
    return f"ended as {job.state} according to Slurm"


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"
