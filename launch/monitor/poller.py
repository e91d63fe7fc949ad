"""Polls studies in a background thread, so that the screen never waits for Slurm or a file system.

All studies share Slurm's answers, and slow polls are made less often. Nothing here draws or changes anything.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from statistics import mean
from typing import TYPE_CHECKING, NamedTuple

from jobs.core.causes import named
from jobs.store.rundir import Damaged
from launch.commands.wait import INTERVALS
from launch.monitor.data.study_view import StudyView
from launch.slurm.shared import SharedClient
from launch.state.cache import StatusCache
from launch.state.errors import SlurmUnavailable
from launch.state.status import StudyStatus
from launch.study.presets import StudyError
from launch.study_run import Project, last_submitted, planned_again, sharing
from launch.submit.bad_nodes import Verdict, verdict

if TYPE_CHECKING:
    from launch.monitor.data.summary import Summary

BUSY = 120.0  # minimum interval as a multiple of a poll's CPU time: with drawing, 1 % of a core
WAITED = 20.0  # the same for the time that a poll waited for Slurm and the file system,
LONGEST = 300.0  # but at most this many seconds
SOONEST = 2.0  # minimum seconds between polls, even on request
POLLS = 8  # polls over which CPU time is averaged

WorkOut = Callable[[Project, StudyStatus, Verdict, "Summary | None", float], "Summary"]


class Poller:
    """Polls studies until closed.

    Args:
        interval: minimum seconds between polls; None: 30 with Slurm, else 5.
        work_out: builds a study's summary from its status, the bad nodes, its previous summary and the time.

    Attributes:
        changed: set after each poll; cleared by the thread that waits for it.
    """

    def __init__(
        self, projects: Sequence[Project], interval: float | None = None, work_out: WorkOut | None = None
    ) -> None:
        self.changed = threading.Event()
        self._floor = interval or max(INTERVALS[project.cluster.backend] for project in projects)
        self._work_out = work_out
        self._slurms: dict[str | None, SharedClient] = {}  # by cluster
        self._asking = [sharing(project, self._slurms) for project in projects]
        self._caches = [StatusCache() for _ in projects]
        self._plans = [_plan_of(project) for project in projects]
        self._views = [
            StudyView(project, None, Verdict(), None, 0.0, None, None, self._floor) for project in projects
        ]
        self._wanted, self._closed = threading.Event(), threading.Event()
        # A daemon thread: the program may exit while a poll hangs.
        threading.Thread(target=self._run, name="poller", daemon=True).start()

    def views(self) -> tuple[StudyView, ...]:
        """Return the latest state of each study, without blocking."""
        return tuple(self._views)

    def poll_now(self) -> None:
        """Poll without waiting for the interval to pass."""
        self._wanted.set()

    def close(self) -> None:
        """Stop polling; does not wait for a poll in progress."""
        self._closed.set()
        self._wanted.set()

    def _run(self) -> None:
        computed = deque[float](maxlen=POLLS)
        interval = 0.0
        while not self._closed.is_set():
            self._wanted.clear()
            began, before = time.monotonic(), time.thread_time()
            self._round()
            busy = time.thread_time() - before
            waited = time.monotonic() - began - busy
            if interval:  # not the first poll, when nothing is cached
                computed.append(busy)
            interval = pace(self._floor, mean(computed or [0.0]), waited)
            self._views = [replace(view, interval=interval) for view in self._views]
            self.changed.set()
            least = min(interval, max(SOONEST, waited))
            self._closed.wait(least)
            self._wanted.wait(interval - least)

    def _round(self) -> None:
        """Poll each study once."""
        began = time.time()
        for slurm in self._slurms.values():
            slurm.new_round()
        self._views = [replace(view, asked=began) for view in self._views]
        for project, cache in zip(self._asking, self._caches, strict=True):
            with suppress(OSError, Damaged):  # the poll reports it, too
                cache.read(project.root)
        for number in range(len(self._views)):
            self._views[number] = self._poll(number, began)
            self.changed.set()

    def _poll(self, number: int, began: float) -> StudyView:
        """Poll one study. All errors are reported: if the thread died, stale data would pass as current."""
        view = self._views[number]
        try:
            self._plan_again(number)
            project = self._asking[number]
            now, nodes = project.poll(self._caches[number]), verdict(project)
            summary = self._work_out(project, now, nodes, view.summary, began) if self._work_out else None
        except Exception as error:
            clear = isinstance(error, SlurmUnavailable | StudyError | Damaged)
            return replace(view, asked=None, trouble=str(error) if clear else named(error))
        return StudyView(project, now, nodes, summary, began, None, None, view.interval)

    def _plan_again(self, number: int) -> None:
        """Replan if the study was resubmitted, or its rows have been counted since."""
        project, before = self._asking[number], self._plans[number]
        plan = _plan_of(project)
        if plan == before:
            return
        new = plan.submitted not in (None, before.submitted)
        study = last_submitted(project.root) if new else project.study
        if study != project.study or plan.counted != before.counted:
            again = replace(planned_again(project, study), backend=project.backend)
            self._asking[number], self._caches[number] = again, StatusCache()
            for slurm in self._slurms.values():
                slurm.new_round()  # its answers may be older than the ledger
        self._plans[number] = plan


class _Plan(NamedTuple):
    """What a plan depends on: the study as last submitted, and whether its rows have been counted."""

    submitted: tuple[int, int] | None
    counted: bool


def _plan_of(project: Project) -> _Plan:
    collate = next((unit for unit in project.units if unit.stage == "collate"), None)
    counted, submitted = collate is not None and project.root.done(collate), None
    with suppress(FileNotFoundError):
        stat = project.root.study.stat()
        submitted = stat.st_ino, stat.st_mtime_ns
    return _Plan(submitted, counted)


def pace(floor: float, computed: float, waited: float) -> float:
    """Return the seconds from the end of a poll to the next one.

    Args:
        floor: the minimum.
        computed: mean CPU seconds of a poll.
        waited: seconds that the last poll waited for Slurm and the file system.
    """
    return max(floor, BUSY * computed, min(LONGEST, WAITED * waited))
