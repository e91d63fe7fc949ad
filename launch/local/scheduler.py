"""Run a study on this machine, in the foreground: start units that are ready and fit, until none is left.

Stages run in order, and in each the largest units first, so that no long job is left for the end. A unit
whose input failed is skipped; the others continue. Units that ended for a transient cause are retried.
"""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field

from jobs.core.causes import Run, goes_on, last_run
from jobs.core.unit import STAGES, Unit
from jobs.store import journal
from jobs.store.rundir import Damaged
from jobs.store.schema import ATTEMPT
from launch.local.backend import Local
from launch.local.machine import fits
from launch.state.attempt_files import end_of
from launch.state.ledger import Attempt, Job, Ledger, Started, new_name
from launch.state.reconcile import Difference
from launch.state.states import State
from launch.state.status import StudyStatus, UnitStatus

TICK = 0.2  # seconds between polls of the running jobs
PATIENCE = 2.0  # seconds that jobs wait for imports without a word
PEERS_GRACE = 30.0  # seconds for the other ranks to end once one has failed


@dataclass
class Running:
    """A unit with running jobs."""

    seen: UnitStatus
    attempt: Attempt
    jobs: tuple[Job, ...]
    cores: int
    gpus: tuple[str, ...]
    started: float = field(default_factory=time.time)


@dataclass(frozen=True)
class Event:
    """An event that the user wants to see: "imports", "started", "done", "again" or "failed"."""

    kind: str
    unit: Unit
    text: str = ""


class Foreground:
    """One run of a difference.

    Args:
        cores: how many it may use.
        gpus: those that it may use, as CUDA_VISIBLE_DEVICES names them.
        report: called for every event.
        tick: called after every poll of the jobs.

    Attributes:
        running: units with running jobs, by unit id.
        done: ids of units with a result.
        failures: units that ended without one, with their last attempt and the reason.
        blocked: units skipped because of these.
    """

    def __init__(
        self,
        backend: Local,
        ledger: Ledger,
        cores: int,
        gpus: Sequence[str],
        report: Callable[[Event], None],
        tick: Callable[[], None],
    ) -> None:
        self._backend, self._ledger, self._report, self._tick = backend, ledger, report, tick
        self._cores, self._gpus = cores, tuple(gpus)
        self.running: dict[str, Running] = {}
        self.done: set[str] = set()
        self.failures: list[UnitStatus] = []
        self.blocked: list[UnitStatus] = []
        self._waiting: list[UnitStatus] = []
        self._importing: dict[str, float] = {}  # since when a unit could start but for imports, by stage
        self._failed: dict[str, list[Run]] = {}  # how attempts ended, by the unit's id

    def run(self, now: StudyStatus, difference: Difference) -> None:
        """Do all the work of a difference; `failures` and `blocked` then hold what could not be done."""
        self._waiting = sorted(difference.submit, key=_order)
        for seen in difference.active:  # from an earlier submit that was killed: wait for them, too
            self._adopt(seen)
        self.done = {s.unit.id for s in now.of(State.DONE)}
        with closing(self._backend):
            while self._waiting or self.running:
                self._reap()
                self._start()
                self._tick()
                if self.running or self._waiting:
                    time.sleep(TICK)

    def cancel(self, hurried: threading.Event) -> None:
        """End the running jobs; see `Local.cancel`."""
        running = self.running.values()
        self._ledger.ended("cancelled", [(r.seen.unit.id, r.attempt.number, "cancelled") for r in running])
        self._backend.cancel([job for r in running for job in r.jobs], hurried)

    def leave(self, hurried: threading.Event) -> None:
        """End the running jobs that the process which took over has given up; it now owns the others."""
        attempts = self._ledger.attempts()
        given_up = [
            job
            for id, running in self.running.items()
            if (last := attempts.get(id)) and (last.number > running.attempt.number or last.ended)
            for job in running.jobs
        ]
        self._backend.cancel(given_up, hurried)

    def _start(self) -> None:
        full: set[bool] = set()  # kinds, with GPUs or without, of which a larger unit waits for room
        for seen in list(self._waiting):
            inputs = {i.id for i in seen.unit.inputs}
            failed = inputs & {s.unit.id for s in (*self.failures, *self.blocked)}
            impossible = fits(seen.unit.resources, self._cores, len(self._gpus))
            if failed:
                self._waiting.remove(seen)
                self.blocked.append(seen)
            elif impossible:
                self._waiting.remove(seen)
                self._fail(seen, None, impossible)
            elif inputs <= self.done and (kind := seen.unit.resources.gpus > 0) not in full:
                if self._room(seen.unit) and self._ready(seen.unit):
                    self._waiting.remove(seen)
                    self._submit(seen)
                else:
                    full.add(kind)  # smaller ones would starve it
        if self._waiting and not full:
            self._backend.ready(self._waiting[0].unit)  # or will be, by the time that its inputs are done

    def _ready(self, unit: Unit) -> bool:
        ready = self._backend.ready(unit)
        since = self._importing.setdefault(unit.stage, time.monotonic())
        if not ready and time.monotonic() > since + PATIENCE:
            self._importing[unit.stage] = math.inf
            self._report(Event("imports", unit, "waits for imports, done once for all jobs"))
        return ready

    def _free(self) -> tuple[int, list[str]]:
        """Return how many cores, and which GPUs, no running unit holds."""
        held = {gpu for running in self.running.values() for gpu in running.gpus}
        cores = self._cores - sum(running.cores for running in self.running.values())
        return cores, [gpu for gpu in self._gpus if gpu not in held]

    def _room(self, unit: Unit) -> bool:
        (cores, gpus), (free_cores, free_gpus) = _wants(unit), self._free()
        return cores <= free_cores and gpus <= len(free_gpus)

    def _submit(self, seen: UnitStatus) -> None:
        unit = seen.unit
        number = seen.attempt.number + 1 if seen.attempt else 1
        attempt = Attempt(number, time.time(), "local")
        for worker in range(unit.resources.workers):
            if worker and not self._room(unit):
                break  # the workers that fit do the work of all
            running = self._take(seen, attempt)
            gpus = running.gpus[-unit.resources.gpus_per_node :] if unit.resources.gpus_per_node else ()
            name = new_name(f"{unit.stage}-{unit.name}")
            self._ledger.intent(name, [Started(unit.id, number)])
            self._ledger.fence()
            id = self._backend.submit(unit, name, number, worker, gpus)
            self._ledger.submitted(name, id)
            running.jobs = (*running.jobs, Job(name, id, socket.gethostname()))
            attempt = running.attempt = attempt._replace(jobs=running.jobs)
        self._report(Event("started", unit, f"job {', '.join(j.id or '' for j in running.jobs)}"))

    def _take(self, seen: UnitStatus, attempt: Attempt) -> Running:
        """Reserve room for one worker of a unit."""
        cores, gpus = _wants(seen.unit)
        held = self.running.setdefault(seen.unit.id, Running(seen, attempt, (), 0, ()))
        held.cores += cores
        held.gpus += tuple(self._free()[1][:gpus])
        return held

    def _adopt(self, seen: UnitStatus) -> None:
        """Take over a unit with live jobs, and the cores and GPUs that they hold."""
        assert seen.attempt is not None
        assert seen.live is not None
        jobs = seen.live.jobs
        gpus = tuple(gpu for job in jobs for gpu in self._backend.gpus(job))
        self.running[seen.unit.id] = Running(seen, seen.attempt, jobs, len(jobs) * _wants(seen.unit)[0], gpus)

    def _reap(self) -> None:
        live = self._backend.live({id: running.attempt for id, running in self.running.items()})
        for id, running in list(self.running.items()):
            seen, attempt = running.seen, running.attempt
            if id in live:
                self._end_peers(running)
                continue
            del self.running[id]
            if seen.folder.done:
                self.done.add(id)
                self._report(Event("done", seen.unit, f"{time.time() - running.started:.0f} s"))
            elif self._ledger.attempts()[id].ended == "cancelled":
                self._fail(seen, attempt, "cancelled")
            else:
                self._ended(seen, attempt)

    def _ended(self, seen: UnitStatus, attempt: Attempt) -> None:
        """Record why an attempt ended without a result, and retry the unit where that helps."""
        end = end_of(seen.folder, attempt)
        reason = end.error or ""
        self._ledger.ended("failed", [(seen.unit.id, attempt.number, reason)])
        failed = self._failed.setdefault(seen.unit.id, [])
        failed.append(end)
        if goes_on(failed, seen.unit.execution.get("micro_batch")):
            self._waiting.append(seen._replace(attempt=attempt, live=None))
            self._waiting.sort(key=_order)
            self._report(Event("again", seen.unit, f"{end.cause}: {reason}"))
        else:
            self._fail(seen, attempt, reason)

    def _end_peers(self, running: Running) -> None:
        """End ranks that wait for a failed one, which they may do for half an hour."""
        folder, number = running.seen.folder, running.attempt.number
        with suppress(Damaged):  # reported once the unit has ended
            ends = [e for e in last_run(journal.read(folder.attempts, ATTEMPT), number) if e["error"]]
            if ends and time.time() - max(e["time"] for e in ends) > PEERS_GRACE:
                self._backend.kill(running.jobs)

    def _fail(self, seen: UnitStatus, attempt: Attempt | None, reason: str) -> None:
        self.failures.append(seen._replace(state=State.FAILED, reason=reason, attempt=attempt, live=None))
        self._report(Event("failed", seen.unit, reason))


def _order(seen: UnitStatus) -> tuple[int, int]:
    """Return the sort key: stage by stage, in each the largest first."""
    return STAGES.index(seen.unit.stage), -(seen.unit.flops or 0)


def _wants(unit: Unit) -> tuple[int, int]:
    """Return the cores and GPUs of one worker; with GPUs, cores are not the scarce resource."""
    r = unit.resources
    return (0 if r.gpus_per_node else r.tasks_per_node * r.cpus_per_task), r.gpus_per_node
