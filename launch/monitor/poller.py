"""Looking at studies again and again, in a thread of its own: no screen waits for Slurm or a file system.

All studies share the answers of Slurm, and the looks come the more rarely the longer they take. Nothing here
draws or changes anything.
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
from jobs.store.rundir import Damaged, read_json
from launch.commands.wait import INTERVALS
from launch.monitor.data.study_view import Sight
from launch.slurm.backend import Slurm
from launch.slurm.client import Controller
from launch.slurm.parse import NodeGroup, PastJob, QueuedJob
from launch.slurm.text import Table
from launch.state.cache import StatusCache
from launch.state.errors import SlurmUnavailable
from launch.state.status import Snapshot
from launch.study.presets import StudyError
from launch.study.schema import Study
from launch.study_run import Project, planned_again
from launch.submit.bad_nodes import Verdict, verdict

if TYPE_CHECKING:
    from launch.monitor.data.summary import Board

BUSY = 120.0  # times what looks computed is an interval at least: with what is drawn, that is 1 % of a core
WAITED = 20.0  # times what a look waited for Slurm and the file system, likewise,
LONGEST = 300.0  # but not more than so many seconds for that
SOONEST = 2.0  # seconds from one look to the next, also where a person asks for it
LOOKS = 8  # over so many, what they computed is averaged
NODES = 3600.0  # seconds for which the nodes of a cluster are taken to stay the same

WorkOut = Callable[[Project, Snapshot, Verdict, "Board | None", float], "Board"]


class Shared(Controller):
    """Slurm, asked once for all studies that are looked at in the same round."""

    def __init__(self, cluster: str | None = None) -> None:
        super().__init__(cluster=cluster)
        self._nodes: Table[NodeGroup] | None = None
        self._nodes_until = 0.0
        self.new_round()

    def new_round(self) -> None:
        """What was answered until now is old."""
        self._queue: Table[QueuedJob] | SlurmUnavailable | None = None
        self._history: tuple[int, Table[PastJob]] | None = None

    def queue(self) -> Table[QueuedJob]:
        if self._queue is None:
            try:
                self._queue = super().queue()
            except SlurmUnavailable as error:  # and the next study is not to wait for the same
                self._queue = error
        if isinstance(self._queue, SlurmUnavailable):
            raise self._queue
        return self._queue

    def history(self, since: int) -> Table[PastJob]:
        if self._history is None or since < self._history[0]:
            self._history = since, super().history(since)
        return self._history[1]

    def nodes(self) -> Table[NodeGroup]:
        if self._nodes is None or time.monotonic() > self._nodes_until:
            self._nodes, self._nodes_until = super().nodes(), time.monotonic() + NODES
        return self._nodes


class Watcher:
    """Looks at studies until it is closed.

    Args:
        interval: the fewest seconds between two looks; None: 30 where Slurm is asked, else 5.
        work_out: makes the board of a study, given what was seen of it and of nodes, its board before, and
            when.

    Attributes:
        changed: set after each look, to be cleared by who waits for it.
    """

    def __init__(
        self, projects: Sequence[Project], interval: float | None = None, work_out: WorkOut | None = None
    ) -> None:
        self.changed = threading.Event()
        self._floor = interval or max(INTERVALS[project.cluster.backend] for project in projects)
        self._work_out = work_out
        self._slurms: dict[str | None, Shared] = {}  # by cluster
        self._asking = [self._sharing(project) for project in projects]
        self._caches = [StatusCache() for _ in projects]
        self._plans = [_plan_of(project) for project in projects]
        self._sights = [
            Sight(project, None, Verdict(), None, 0.0, None, None, self._floor) for project in projects
        ]
        self._wanted, self._closed = threading.Event(), threading.Event()
        # A daemon: the program may end while a look hangs.
        threading.Thread(target=self._run, name="looking", daemon=True).start()

    def _sharing(self, project: Project) -> Project:
        """The project, with the answers of its Slurm shared with those of others."""
        if not isinstance(project.backend, Slurm):
            return project
        cluster = project.backend.controller.cluster
        return replace(project, backend=Slurm(self._slurms.setdefault(cluster, Shared(cluster))))

    def sights(self) -> tuple[Sight, ...]:
        """The studies as they were seen last; returns at once."""
        return tuple(self._sights)

    def look_now(self) -> None:
        """Look without waiting for the interval to pass."""
        self._wanted.set()

    def close(self) -> None:
        """Look no more; does not wait for a look that is under way."""
        self._closed.set()
        self._wanted.set()

    def _run(self) -> None:
        computed = deque[float](maxlen=LOOKS)
        interval = 0.0
        while not self._closed.is_set():
            self._wanted.clear()
            began, before = time.monotonic(), time.thread_time()
            self._round()
            busy = time.thread_time() - before
            waited = time.monotonic() - began - busy
            if interval:  # not the first time, when everything is new
                computed.append(busy)
            interval = pace(self._floor, mean(computed or [0.0]), waited)
            self._sights = [replace(sight, interval=interval) for sight in self._sights]
            self.changed.set()
            least = min(interval, max(SOONEST, waited))
            self._closed.wait(least)
            self._wanted.wait(interval - least)

    def _round(self) -> None:
        """Look at each study once."""
        began = time.time()
        for slurm in self._slurms.values():
            slurm.new_round()
        self._sights = [replace(sight, asked=began) for sight in self._sights]
        for project, cache in zip(self._asking, self._caches, strict=True):
            with suppress(OSError, Damaged):  # the look comes upon it, too
                cache.read(project.root)
        for number in range(len(self._sights)):
            self._sights[number] = self._look(number, began)
            self.changed.set()

    def _look(self, number: int, began: float) -> Sight:
        """One study. Whatever goes wrong is told: if the thread ended, what is old would look new."""
        sight = self._sights[number]
        try:
            self._plan_again(number)
            project = self._asking[number]
            now, nodes = project.look(self._caches[number]), verdict(project)
            board = self._work_out(project, now, nodes, sight.board, began) if self._work_out else None
        except Exception as error:
            clear = isinstance(error, SlurmUnavailable | StudyError | Damaged)
            return replace(sight, asked=None, trouble=str(error) if clear else named(error))
        return Sight(project, now, nodes, board, began, None, None, sight.interval)

    def _plan_again(self, number: int) -> None:
        """Take up what a person has submitted since, or what the study's rows turned out to be."""
        project, before = self._asking[number], self._plans[number]
        plan = _plan_of(project)
        if plan == before:
            return
        new = plan.submitted not in (None, before.submitted)
        study = Study.model_validate(read_json(project.root.study)) if new else project.study
        if study != project.study or plan.counted != before.counted:
            again = replace(planned_again(project, study), backend=project.backend)
            self._asking[number], self._caches[number] = again, StatusCache()
            for slurm in self._slurms.values():
                slurm.new_round()  # its answer may be older than what the ledger says by now
        self._plans[number] = plan


class _Plan(NamedTuple):
    """What a plan depends on: the study as it was submitted last, and whether its rows have been counted."""

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
    """Seconds from the end of a look to the next one.

    Args:
        floor: the fewest.
        computed: seconds of processor time that looks take, on average.
        waited: seconds that the last one waited for Slurm and the file system.
    """
    return max(floor, BUSY * computed, min(LONGEST, WAITED * waited))
