"""Ledger of submissions and of how they ended: one journal per study (jobs/store/journal.py).

The intent is recorded before a submission, under a name that the machine keeps, and the job's id after it: a
job whose id was lost in a crash between the two can be found by that name. The ledger never records that a
unit is done; only the disk does.
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jobs.core.secrets import hide
from jobs.store import by_hand, journal
from jobs.store.records import BadLine, open_regular
from jobs.store.rundir import StudyDir
from jobs.store.schema import event
from launch.state.errors import SlurmUnavailable
from launch.state.job_ids import parse_id

KEEPER = "keeper"  # replaces the unit's id in the attempts of the keeper, which is a job like others

Version = tuple[tuple[str, int, int, int], ...]  # of a ledger's files: name, inode, size, mtime


class Job(NamedTuple):
    """One job of an attempt. A named tuple, since there may be very many.

    Args:
        submission: the name under which it was submitted, also that of its folder.
        array: the machine's id of the submission: a Slurm array or a process. None: no id was recorded, and
            the machine may not have accepted it.
        host: where it was submitted.
        element: its index in the array; None where the submission is one job.
        slurm_cluster: the one of Slurm's several clusters that has it; None: the one of this machine.
    """

    submission: str
    array: str | None
    host: str
    element: int | None = None
    slurm_cluster: str | None = None

    @property
    def id(self) -> str | None:
        """The machine's id: a process, or an element of an array, as `123_4`."""
        return self.array if self.array is None or self.element is None else f"{self.array}_{self.element}"


class Attempt(NamedTuple):
    """The last attempt at a unit, or, under the id KEEPER, the last keeper; counted from 1.

    A named tuple, since there may be very many.

    Args:
        started: seconds since the epoch.
        ended: how it ended, once that is recorded; `Ledger.ended` lists the values.
        memory: MiB per node that its jobs requested; None if they requested none.
    """

    number: int
    started: float
    cluster: str
    jobs: tuple[Job, ...] = ()
    ended: str | None = None
    reason: str | None = None
    memory: int | None = None


@dataclass(frozen=True)
class Started:
    """One unit's share of a submission: one of the workers of one attempt."""

    unit: str
    attempt: int
    index: int | None = None


def new_name(what: str) -> str:
    """Return a unique name for a submission."""
    return f"{what}-{os.urandom(4).hex()}"


def unfenced() -> None:
    """Do nothing: the fence of readers."""


class Ledger:
    """The ledger of one study.

    Args:
        cluster, slurm_cluster: where submissions recorded from now on go: the source of the cluster file, and
            `Cluster.slurm_cluster`.
        fence: called before every write; raises `lock.Lost` if another process has taken over.
    """

    def __init__(
        self,
        path: Path,
        cluster: str = "local",
        slurm_cluster: str | None = None,
        fence: Callable[[], None] = unfenced,
    ) -> None:
        self._path = path
        self._cluster = cluster
        self._slurm_cluster = slurm_cluster
        self._by_hand = StudyDir(path.parent).by_hand
        self.fence = fence

    def attempts(self) -> Mapping[str, Attempt]:
        """Return the last attempt at every unit ever started, by unit id; not to be modified.

        A keeper that the machine did not accept does not count: the one before it remains the last.
        """
        return self._read().attempts

    def damage(self) -> Sequence[BadLine]:
        """Return the lines that are not valid records; their contents are unknown."""
        return self._read().bad

    def _read(self) -> Read:
        entered, harmed = by_hand.survey(self._by_hand)
        version = (_version(self._path), len(entered), len(harmed))
        known = _last_read.get(self._path)
        if known is None or version != known.version:
            records, bad = journal.survey(self._path, event)
            attempts = _attempts(records, entered)
            known = _last_read[self._path] = Read(version, attempts, [*bad, *harmed])
        return known

    def submissions(self) -> dict[str, float]:
        """Return when each submission was due, in seconds since the epoch, by name."""
        by_jobs, _ = by_hand.survey(self._by_hand)
        entered = {r["submission"]: r["time"] for r in by_jobs if "submission" in r}
        records, _ = journal.survey(self._path, event)
        return entered | {r["submission"]: r["time"] for r in records if r["event"] == "intent"}

    def attempts_since(self, since: float) -> Counter[str]:
        """Return the number of attempts at each unit since a time, without those that the machine refused."""
        records = [r for r in journal.survey(self._path, event)[0] if r["time"] >= since]
        started = {(e[0], e[1]) for r in records if r["event"] == "intent" for e in r["elements"]}
        refused = {(a[0], a[1]) for r in records if r["event"] == "refused" for a in r["attempts"]}
        return Counter(unit for unit, _ in started - refused)

    def intent(self, submission: str, elements: Sequence[Started], memory: int | None = None) -> None:
        """Record that a submission is about to be made.

        Args:
            memory: MiB per node that each of its jobs requests.

        Raises:
            SlurmUnavailable: jobs submitted by hand have just started with these numbers.
        """
        self.fence()
        if not by_hand.reserve(self._by_hand, {e.unit: e.attempt for e in elements if e.unit != KEEPER}):
            raise SlurmUnavailable(
                "jobs of scripts written by --out have just started on the same units, so this was not "
                "submitted. Run the same command again: it leaves these units to them"
            )
        listed = [[e.unit, e.attempt, *([] if e.index is None else [e.index])] for e in elements]
        where = {"cluster": self._cluster, "host": socket.gethostname()}
        if self._slurm_cluster is not None:
            where["slurm_cluster"] = self._slurm_cluster
        more: dict[str, Any] = {"memory": memory} if memory else {}
        self._append("intent", submission=submission, **where, **more, elements=listed)

    def submitted(self, submission: str, job: str) -> None:
        """Record that the machine accepted a submission, under this id; see `job_ids.JobId`."""
        assert parse_id(job), job
        self._append("submitted", submission=submission, job=job)

    def ended(self, how: str, attempts: Iterable[tuple[str, int, str]]) -> None:
        """Record that attempts ended without a result.

        Args:
            how: "failed"; "cancelled" by a person; "withdrawn", since it would have waited forever;
                "outdated": the result was set aside; "refused" by the machine on submission; "lost": the
                machine never accepted it; "over": the keeper had nothing left to do.
            attempts: (unit, number, reason) of each.
        """
        listed = [[unit, number, hide(reason)] for unit, number, reason in attempts]
        if listed:
            self._append(how, attempts=listed)

    def _append(self, what: str, **more: Any) -> None:
        self.fence()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        journal.append(self._path, {"event": what, **more})


class Read(NamedTuple):
    """Contents of a ledger, and the version of the files they were read from."""

    version: tuple[Version, int, int]  # and the numbers of valid and damaged records entered by hand
    attempts: Mapping[str, Attempt]
    bad: Sequence[BadLine]


def _entered(records: Sequence[by_hand.Record]) -> dict[str, Attempt]:
    """Return the last attempts of jobs that were submitted by hand."""
    last: dict[str, Attempt] = {}
    for record in records:
        if "submission" in record and (id := parse_id(record["job"])):
            for unit, (number, indices) in record["attempts"].items():
                jobs = (Job(record["submission"], id.array, record["host"], i, id.cluster) for i in indices)
                last[unit] = Attempt(number, record["time"], record["cluster"], tuple(jobs))
    return last


def _attempts(records: Sequence[dict[str, Any]], entered: Sequence[by_hand.Record]) -> dict[str, Attempt]:
    # A malformed id is ignored: the job is found by its submission's name.
    ids = ((r["submission"], r["job"]) for r in records if r["event"] == "submitted")
    taken = {name: id for name, job in ids if (id := parse_id(job))}
    last = _entered(entered)
    former: Attempt | None = None  # the keeper before the last one
    for record in records:
        if record["event"] == "intent":
            name, host, id = record["submission"], record["host"], taken.get(record["submission"])
            array = id.array if id else None
            slurm_cluster = (id and id.cluster) or record.get("slurm_cluster")
            for unit, number, *index in record["elements"]:
                job = Job(name, array, host, index[0] if index else None, slurm_cluster)
                attempt = last.get(unit)
                former = attempt if unit == KEEPER else former
                if attempt and attempt.number > number and unit != KEEPER:
                    continue  # jobs submitted by hand are newer, or a suspended submit was overtaken
                if attempt is None or attempt.number != number:
                    last[unit] = Attempt(
                        number, record["time"], record["cluster"], (job,), memory=record.get("memory")
                    )
                else:
                    last[unit] = attempt._replace(jobs=(*attempt.jobs, job))
        elif record["event"] != "submitted":
            for unit, number, reason in record["attempts"]:
                if unit not in last:
                    continue  # the line that recorded its start is damaged
                if unit == KEEPER and record["event"] in ("refused", "lost"):
                    del last[unit]
                    last |= {unit: former} if former else {}
                elif last[unit].number == number:  # `by_hand` may have been removed
                    last[unit] = last[unit]._replace(ended=record["event"], reason=reason)
    return last


def _version(path: Path) -> Version:
    """Return a value that changes when the files grow.

    Opening a file makes a network file system revalidate its attributes.
    """
    version = []
    for name in journal.files(path):
        with open_regular(name) as file:
            stat = os.fstat(file.fileno())
        version.append((name.name, stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return tuple(version)


_last_read: dict[Path, Read] = {}  # of each ledger that this process has read
