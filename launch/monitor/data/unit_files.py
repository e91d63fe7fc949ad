"""Data from the small files of units that have run: hours, accuracies, last log lines. Each is read once.

Files are read gradually: of tens of thousands present at startup, each poll reads some.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from jobs.core.budget import compared_flops
from jobs.core.causes import Run, runs
from jobs.core.gpus import peak_flops
from jobs.core.unit import Unit
from jobs.store import journal
from jobs.store.checkpoints import metrics_of
from jobs.store.rundir import Damaged, StudyDir, read_jsonl
from jobs.store.schema import ATTEMPT, METRICS
from launch.state.ledger import Ledger
from launch.state.log_files import words_of
from launch.state.states import State
from launch.state.status import StudyStatus, UnitStatus

BUDGET = 0.25  # seconds per poll for reading files; costs 1 % of a core
UNTOUCHED = (State.WAITING, State.QUEUED, State.BLOCKED)


@dataclass(frozen=True)
class Took:
    """Totals over the finished runs of a unit.

    Args:
        seconds: of the slowest worker, over all its runs.
        gpu_seconds: of all workers.
        kept: what the last run saved for the next one, as the stage counts.
        ended: when the last run ended, in seconds since the epoch.
    """

    seconds: float
    gpu_seconds: float
    runs: int
    kept: int
    ended: float


@dataclass(frozen=True)
class Story:
    """Data on a unit's page that a poll does not read.

    Args:
        runs: finished ones, oldest first.
        losses, rates: of a training, over its steps; `rates` in tokens per second.
        utilisation: of a training, the model FLOPs utilization (MFU) of its GPUs.
    """

    runs: Sequence[Run] = ()
    losses: Sequence[float] = ()
    rates: Sequence[float] = ()
    utilisation: float | None = None


def read_story(seen: UnitStatus, gpu: str) -> Story:
    """Read a unit's own files; called in a background thread.

    Args:
        gpu: the cluster's GPU type.
    """
    metrics, attempts = list[dict[str, Any]](), list[dict[str, Any]]()
    with suppress(OSError, Damaged):  # the unit's reason says so, too
        metrics = list(read_jsonl(path, METRICS)) if (path := metrics_of(seen.folder)) else []
    with suppress(OSError, Damaged):
        attempts = journal.read(seen.folder.attempts, ATTEMPT)
    last, gpus = metrics[-1] if metrics else None, seen.unit.resources.gpus
    peak = peak_flops(gpu, seen.unit.config["recipe"]["dtype"]) * gpus if last and gpus else None
    return Story(
        runs(attempts),
        [line["loss"] for line in metrics],
        [line["tokens_per_second"] for line in metrics],
        last["flops"] / last["seconds"] / peak if last and peak else None,
    )


class UnitFiles:
    """Data about a study's units from files that no longer change.

    Attributes:
        started: when the first unit was submitted, in seconds since the epoch.
        took: by unit id.
        gpu_seconds: of all finished runs.
        finished: seconds that done units took, by stage, then unit id.
        accuracies: of each student so far, (number of benchmarks, their mean).
        training: training FLOPs of each evaluated student.
        words: the last log lines of one failed unit per cause, by unit id.
        unread: units whose files are left for a later poll.
    """

    def __init__(self, root: StudyDir) -> None:
        self._root = root
        self._states: dict[str, State] = {}
        self._read: dict[str, tuple[object, ...]] = {}  # the unit's state and run when its files were read
        self._todo: dict[str, UnitStatus] = {}
        self._early: list[UnitStatus] = []  # done, but the end of the last run was not recorded yet
        self._late: set[str] = set()  # those reread for that reason
        self._folders: set[str] | None = None  # ids of units that had a folder at the first poll
        self._scores = defaultdict[str, dict[str, float]](dict)  # by student, then benchmark
        self._heard: dict[tuple[str, int], list[str]] = {}
        self.started: float | None = None
        self.took: dict[str, Took] = {}
        self.gpu_seconds = 0.0
        self.finished = defaultdict[str, dict[str, float]](dict)
        self.accuracies: dict[str, tuple[int, float]] = {}
        self.training: dict[str, float] = {}
        self.words: dict[str, list[str]] = {}

    @property
    def unread(self) -> int:
        return len(self._todo)

    def update(self, now: StudyStatus, budget: float = BUDGET) -> None:
        """Read what has changed since the last poll.

        Args:
            budget: seconds after which the rest is left for the next poll.
        """
        if self.started is None:
            self.started = min(Ledger(self._root.ledger).submissions().values(), default=None)
        if self._folders is None:
            self._folders = self._root.with_folders()
        self._todo |= {seen.unit.id: seen for seen in (*self._early, *self._changed(now))}
        self._early = []
        until = time.monotonic() + budget
        while self._todo and time.monotonic() < until:
            seen = self._todo.pop(next(iter(self._todo)))
            with suppress(OSError, Damaged):  # one unit's missing file must not hide the others
                self._read_unit(seen)
        self._hear(now)

    def _changed(self, now: StudyStatus) -> Iterator[UnitStatus]:
        """Yield the units whose files may have changed since the last poll."""
        assert self._folders is not None
        states, done = self._states, State.DONE
        for seen in now.units:
            id, state = seen.unit.id, seen.state
            if states.get(id) is state and (state is done or state in UNTOUCHED):
                continue
            states[id] = state
            if state in UNTOUCHED and id not in self._folders:
                continue  # it has never run
            self._folders.add(id)
            key = (state, seen.attempt and seen.attempt.number, (seen.progress or {}).get("started"))
            if self._read.get(id) != key:
                self._read[id] = key
                yield seen

    def _read_unit(self, seen: UnitStatus) -> None:
        unit, former = seen.unit, self.took.pop(seen.unit.id, None)
        self.gpu_seconds -= former.gpu_seconds if former else 0.0
        self.finished[unit.stage].pop(unit.id, None)
        if found := runs(journal.read(seen.folder.attempts, ATTEMPT)):
            took = _took(found, unit.resources.nodes * unit.resources.gpus_per_node)
            self.took[unit.id] = took
            self.gpu_seconds += took.gpu_seconds
            if seen.state == State.DONE and found[-1].error is None:
                self.finished[unit.stage][unit.id] = took.seconds
            elif seen.state == State.DONE and unit.id not in self._late:
                self._early.append(seen)
                self._late.add(unit.id)
        if unit.stage == "evaluate":
            self._read_scores(seen, unit)

    def _read_scores(self, seen: UnitStatus, unit: Unit) -> None:
        name = unit.inputs[0].name  # of the training
        scores = self._scores[name]
        for task in unit.config["group"]["tasks"]:
            scores.pop(task["task"], None)
        if seen.state == State.DONE:
            # The result is being set aside, or is not what this stage writes.
            with suppress(FileNotFoundError, Damaged, KeyError, TypeError):
                result = seen.folder.read_result()
                self.training[name] = compared_flops(result["training"])
                scores.update({row["task"]: row["accuracy"] for row in result["benchmarks"]})
        self.accuracies[name] = (len(scores), fmean(scores.values()) if scores else 0.0)

    def _hear(self, now: StudyStatus) -> None:
        """Keep the last log lines of the first failed unit of each cause."""
        first = {seen.cause: seen for seen in reversed(now.of(State.FAILED))}
        failed = {(s.unit.id, s.attempt.number if s.attempt else 0): s for s in first.values()}
        self._heard = {
            which: self._heard[which] if which in self._heard else words_of(seen) or []
            for which, seen in failed.items()
        }
        self.words = {id: said for (id, _), said in self._heard.items()}


def _took(found: list[Run], gpus: int) -> Took:
    """Sum up runs that each held `gpus` GPUs."""
    by_worker = defaultdict[int, float](float)
    for run in found:
        by_worker[run.worker] += run.seconds or 0.0
    last = max(found, key=lambda run: (run.attempt, run.restart))
    seconds = by_worker.values()
    return Took(max(seconds), gpus * sum(seconds), len(found), last.kept, max(run.ended for run in found))
