"""Current state of a study: the plan compared with the disk, the ledger and the machine.

Reads only. `poll` returns a `StudyStatus`; reconcile.py decides what to do about it, and views.py shows it.
"""

from __future__ import annotations

import os
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from jobs.core.causes import Cause, cause_of, first_error
from jobs.core.unit import STAGES, Unit
from jobs.store.records import BadLine, Damaged
from jobs.store.rundir import StudyDir, UnitDir
from launch.state.attempt_files import current_progress, last_lines
from launch.state.backend import Backend, LiveJobs
from launch.state.cache import StatusCache
from launch.state.killed import killed_for_memory
from launch.state.ledger import KEEPER, Attempt, Job, Ledger
from launch.state.lock import Held, holder
from launch.state.states import Facts, State, in_vain, state_of

NEVER = "not submitted: the submission was interrupted"
REMOVED = "its result was removed"
IDENTITY = re.compile(rb"\b[0-9a-f]{12}\b")  # of a unit


class UnitStatus(NamedTuple):
    """Status of one unit. A named tuple, since there may be very many.

    Args:
        attempt: the last one.
        live: its state on the machine, while any of its jobs is live.
        in_vain: its job waits for something that can never happen.
        written: the line of attempts.jsonl with the first error of its last run.
    """

    unit: Unit
    root: StudyDir
    state: State
    reason: str | None
    attempt: Attempt | None
    live: LiveJobs | None
    in_vain: bool
    published: bool
    progress: dict[str, Any] | None
    written: dict[str, Any] | None = None

    @property
    def cause(self) -> Cause | None:
        """Why it failed; None if it has not."""
        if self.state != State.FAILED:
            return None
        return Cause(self.written["cause"]) if self.written else cause_of(self.reason or "")

    @property
    def folder(self) -> UnitDir:
        return self.root.unit(self.unit)

    @property
    def requested(self) -> int:
        """The memory that its last attempt requested, or its next one will, in MiB per node."""
        return self.attempt.memory if self.attempt and self.attempt.memory else self.unit.resources.memory

    @property
    def jobs(self) -> tuple[Job, ...]:
        """The jobs of its last attempt; live ones have ids, even if none was recorded."""
        known = (*(self.attempt.jobs if self.attempt else ()), *(self.live.jobs if self.live else ()))
        return tuple({(job.submission, job.element): job for job in known}.values())

    @property
    def unconfirmed(self) -> bool:
        """Whether its last attempt was about to be submitted, and may or may not have been accepted."""
        if self.published or self.attempt is None or self.attempt.ended or self.state == State.FAILED:
            return False
        return all(job.array is None for job in self.jobs)

    def to_json(self, log: list[str] | None) -> dict[str, Any]:
        """Return the unit as `sor status --json` prints it; `log` holds a failed unit's last output lines."""
        p, used = self.progress, (self.written or self.progress or {}).get("memory")
        return {
            "id": self.unit.id,
            "stage": self.unit.stage,
            "name": self.unit.name,
            "state": self.state,
            "job": self.jobs[-1].id if self.jobs else None,
            "attempts": self.attempt.number if self.attempt else 0,
            "reason": self.reason,
            "cause": self.cause,
            "log": log,
            "progress": {k: p[k] for k in ("done", "total", "unit")} if p and p["total"] else None,
            "phase": p.get("phase") if p else None,
            "memory": {"asked": self.requested or None, "used": used},
            "gpus": p.get("gpus") if p and self.state in (State.RUNNING, State.STALLED) else None,
            "updated": p["updated"] if p else self.attempt.started if self.attempt else None,
        }


READ = 500  # results that one poll reads to check them; the next polls read the others
# Causes that Slurm knows of a job whose processes only received a signal.
TOLD_APART = frozenset({Cause.CANCELLED, Cause.NODE, Cause.MEMORY, Cause.TIME_LIMIT})


@dataclass(frozen=True)
class Keeper:
    """The last keeper of a study; `live` is its state on the machine while it is live."""

    attempt: Attempt
    live: LiveJobs | None


@dataclass(frozen=True)
class StudyStatus:
    """A study at the time of one poll, in the order of its plan.

    Args:
        former: live jobs of units that the study no longer has, since it was edited.
        harm: damaged records that cannot be attributed to a unit.
        submitting: the submit, or the run on this machine, that is in progress.
        keeping: the `sor keep` that runs.
    """

    root: StudyDir
    units: tuple[UnitStatus, ...]
    former: tuple[Job, ...] = ()
    keeper: Keeper | None = None
    submitting: Held | None = None
    harm: tuple[str, ...] = ()
    keeping: Held | None = None

    @property
    def continued(self) -> bool:
        """Whether a keeper's job is live, or `sor keep` runs."""
        return self.kept is not None or self.keeping is not None

    @property
    def kept(self) -> LiveJobs | None:
        """The keeper's state on the machine, while it is live."""
        return self.keeper.live if self.keeper else None

    def of(self, *states: State) -> list[UnitStatus]:
        """Return the units in these states."""
        return [u for u in self.units if u.state in states]

    def stages(self) -> list[dict[str, Any]]:
        """Return, for each stage that has units, its total and how many are in each state."""
        states = defaultdict[str, list[State]](list)
        for seen in self.units:
            states[seen.unit.stage].append(seen.state)
        return [
            {"stage": stage, "total": len(found), **{state.value: found.count(state) for state in State}}
            for stage in STAGES
            if (found := states.get(stage))
        ]


class Ended(NamedTuple):
    """Known facts about an attempt that has neither a live job nor a result.

    Args:
        error: why it ended, where the ledger does not say so.
        written: the line of attempts.jsonl that says so.
        put_off: why it is not a failure.
        harm: which of the unit's files cannot be read, so that none of that is known.
    """

    error: str | None
    written: dict[str, Any] | None
    put_off: str | None
    harm: str | None = None


def poll(
    units: list[Unit], root: StudyDir, backend: Backend, cache: StatusCache | None = None
) -> StudyStatus:
    """Poll every unit once.

    Args:
        cache: findings of earlier polls of these units; this poll adds its own.

    Raises:
        SlurmUnavailable: the cluster's scheduler does not answer, so that the live jobs are unknown.
    """
    cache = cache or StatusCache()
    submitting = holder(root.lock)  # asked first: if it ends now, its work is in the ledger
    attempts = cache.attempts(root)
    keeper = attempts.get(KEEPER)
    published, harmed = _published(units, root)
    planned = {unit.id: unit for unit in units}
    unknown = _attributed(Ledger(root.ledger).damage(), planned, harmed)
    started = {id: a for id, a in attempts.items() if id in planned and id not in published}
    former = {id: a for id, a in attempts.items() if a.ended is None and id not in planned and id != KEEPER}
    asked = started | former | ({KEEPER: keeper} if keeper and keeper.ended is None else {})
    live = backend.live(asked)
    if KEEPER in asked and KEEPER not in live and cache.attempts(root).get(KEEPER) != keeper:
        return poll(units, root, backend, cache)  # it submitted the next, and ended meanwhile
    over = [planned[id] for id in started if id not in live]
    # Check the disk again after the jobs: one that ended meanwhile published its result first.
    published |= {u.id for u in over if _appeared(root.unit(u))}
    unread = [u for u in units if u.id in published and u.id not in cache.sound]
    last = {id: place for place, id in enumerate(cache.unreadable)}
    unread.sort(key=lambda u: last.get(u.id, -1))  # new ones first, then what was read longest ago
    fresh = {u.id: u for u in unread[:READ]}
    before = {id: why for id, why in cache.unreadable.items() if id in published and id not in fresh}
    cache.unreadable = before | _unreadable(fresh.values(), root)
    harmed |= cache.unreadable
    published -= harmed.keys()
    cache.sound = published & (cache.sound | fresh.keys())
    ended = _ended([u for u in over if u.id not in published], started, root, backend)
    seen: dict[str, UnitStatus] = {}
    for unit in units:
        id = unit.id
        facts = attempts.get(id), live.get(id), id in published, ended.get(id)
        seen[id] = _unit_status(unit, root, *facts, seen, harmed.get(id))
    left = tuple(job for id in former if id in live for job in live[id].jobs)
    kept = Keeper(keeper, live.get(KEEPER)) if keeper else None
    keeping = holder(root.keep_lock)
    return StudyStatus(root, tuple(seen.values()), left, kept, submitting, unknown, keeping)


def _ended(
    over: list[Unit],
    attempts: Mapping[str, Attempt],
    root: StudyDir,
    backend: Backend,
) -> dict[str, Ended]:
    """Return the known facts about attempts without a live job and without a result, by unit id."""
    units = {unit.id: unit for unit in over}
    found = {id: _end(root.unit(unit), attempts[id]) for id, unit in units.items()}
    silent = {
        id: attempts[id]
        for id, end in found.items()
        if not (_is_sure(end.written) or end.harm) and attempts[id].ended is None
    }
    words = backend.exit_reasons(silent) if silent else {}
    words |= {id: said for id in silent if (said := killed_for_memory(root, silent[id], words.get(id)))}
    for id, attempt in silent.items():
        if words.get(id) != found[id].error:
            found[id] = _end(root.unit(units[id]), attempt, words.get(id))
    for id, end in found.items():
        recorded = end.written and end.written["cause"] == Cause.MEMORY  # perhaps by a run before the last
        if recorded and (said := killed_for_memory(root, attempts[id], None)):
            found[id] = end._replace(error=said)
    return found


def _end(folder: UnitDir, attempt: Attempt, words: str | None = None) -> Ended:
    """Return the known facts about one attempt that is over; `words` are the machine's explanation."""
    try:
        lines = last_lines(folder, attempt)
    except Damaged as harm:
        return Ended(None, None, None, str(harm))
    line = first_error(lines)
    if line and words and not _is_sure(line) and (cause := cause_of(words)) in TOLD_APART:
        line = {**line, "cause": cause, "error": words}
    error = str(line["error"]) if line else words
    return Ended(error, line, _put_off(folder, attempt, error, lines))


def _is_sure(line: dict[str, Any] | None) -> bool:
    """Return whether a process knew how its run ended: the preemption signal is the same for every cause."""
    return line is not None and line["cause"] != Cause.PREEMPTED


def _published(units: list[Unit], root: StudyDir) -> tuple[set[str], dict[str, str]]:
    """Return the units with a result, and those with something else in its place, with a description of it.

    Only units with a folder are checked; at first few have one.
    """
    started, published, harmed = root.with_folders(), set[str](), dict[str, str]()
    for unit in units:
        if unit.id not in started:
            continue
        there, harm = root.look_at(unit)
        if there:
            published.add(unit.id)
        elif harm:
            harmed[unit.id] = harm
    return published, harmed


def _unreadable(units: Iterable[Unit], root: StudyDir) -> dict[str, str]:
    """Return those of these units whose result cannot be read, and why."""
    found = {}
    for unit in units:
        try:
            with suppress(FileNotFoundError):  # removed a moment ago
                root.unit(unit).read_result()
        except Damaged as error:
            found[unit.id] = f"{error}. Move {root.unit(unit).out} away, then submit again to remake it"
    return found


def _attributed(
    bad: Sequence[BadLine], planned: Mapping[str, Unit], harmed: dict[str, str]
) -> tuple[str, ...]:
    """Add damaged records of the ledger to `harmed` for each unit that one names, since it may have a job.

    Returns:
        Why each record that names none is damaged.
    """
    unknown = []
    for line in bad:
        why = f"{line.why}. Remove {line.what}, and check with squeue whether the job that it names is live"
        named = {id.decode() for id in IDENTITY.findall(line.text)} & planned.keys()
        harmed |= dict.fromkeys(named, why)
        if not named:
            unknown.append(why)
    return tuple(unknown)


def _appeared(folder: UnitDir) -> bool:
    """Return whether the result of a unit whose job has ended exists by now.

    A client of a network file system may cache its absence for a minute: opening the folder makes the client
    ask again.
    """
    with suppress(FileNotFoundError, NotADirectoryError):
        return folder.out.name in os.listdir(folder.path) and folder.done
    return False


def _unit_status(
    unit: Unit,
    root: StudyDir,
    attempt: Attempt | None,
    live: LiveJobs | None,
    published: bool,
    ended: Ended | None,
    seen: Mapping[str, UnitStatus],
    harm: str | None = None,
) -> UnitStatus:
    """Return the status of one unit; `seen` holds that of its inputs."""
    tells = ended or (live and live.state == State.RUNNING and not published)
    progress = None
    try:
        progress = current_progress(root.unit(unit), attempt) if attempt and tells else None
    except Damaged as error:
        harm = harm or str(error)
    facts = Facts(
        published=published,
        job=live.state if live else None,
        waits_for=live.reason if live else None,
        dead=live is not None and live.dead,
        attempts=attempt.number if attempt else 0,
        silence=time.time() - progress["updated"] if progress else None,
        stalled=progress.get("stalled") if progress else None,
        put_off=ended.put_off if ended else None,
        error=(ended.error or attempt.reason) if ended and attempt else None,
        harm=harm or (ended.harm if ended else None),
        missing=[
            (i, state)
            for i in (unit.made_from if published else unit.inputs)
            if (state := seen[i.id].state) is not State.DONE
        ],
        outside=bool(progress and progress.get("outside")),
    )
    written = ended.written if ended else None
    state, reason = state_of(facts)
    vain = state is not State.QUEUED and in_vain(facts)  # a job that counts as queued can still start
    return UnitStatus(unit, root, state, reason, attempt, live, vain, published, progress, written)


def _put_off(folder: UnitDir, attempt: Attempt, error: str | None, ends: list[dict[str, Any]]) -> str | None:
    """Return why an attempt without a result is not a failure; `ends` are the lines about its last run."""
    if attempt.ended in ("cancelled", "withdrawn", "refused", "lost"):
        return attempt.reason
    if all(job.array is None for job in attempt.jobs) and not ends:
        return NEVER
    if attempt.ended == "outdated" or (ends and not any(e["error"] for e in ends)):
        return REMOVED
    if error is None and attempt.ended is None and not folder.path.exists():
        return "no trace of it: its job ended before it started working, or its folder was removed"
    return None
