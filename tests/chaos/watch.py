"""What a study tells of its progress while it runs; from it, how much work a fault cost.

A `Stint` is what one run of a unit did, as far as progress.json told: that file is written every 0.2 s here,
and no more exact is all of this. Work is lost where the next run of the unit goes on from less than the one
before it said was done. It is counted in the seconds that the undisturbed run took for as much: the start of
a process and of a model are not in it, nor are stages that tell no progress (collate, report).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from jobs.core.unit import Unit
from jobs.store.rundir import StudyDir, read_json


@dataclass
class Stint:
    """What one run of a unit told of one piece of work: all of it, or one benchmark.

    Args:
        started: when the run began (seconds since the epoch), which also tells it from others.
        resumed: how much it had from the runs before.
        first, last: (when, how much was done), from the first word on that something was.
    """

    started: float
    resumed: float
    first: tuple[float, float]
    last: tuple[float, float]


@dataclass
class Watch:
    """Progress of the units of one run directory.

    Args:
        starts: when each run of a unit began, by the unit's id, also of those that got nothing done.
        stints: by unit and piece of work, in the order in which they began.
    """

    root: StudyDir
    units: list[Unit]
    starts: dict[str, set[float]] = field(default_factory=dict)
    stints: dict[tuple[str, str], list[Stint]] = field(default_factory=dict)

    def poll(self) -> None:
        for unit in self.units:
            try:
                told = read_json(self.root.unit(unit).progress)
            except (FileNotFoundError, json.JSONDecodeError):
                continue
            self.starts.setdefault(unit.id, set()).add(told["started"])
            if told["done"]:
                self._note(unit, told)

    def _note(self, unit: Unit, told: dict[str, Any]) -> None:
        stints = self.stints.setdefault((unit.id, str(told.get("benchmark"))), [])
        now = (told["updated"], told["done"])
        for stint in stints:
            if stint.started == told["started"]:
                stint.last = max(stint.last, now)
                return
        # An evaluation keeps whole benchmarks, and counts them: next to nothing of the one at work.
        stints.append(Stint(told["started"], min(told["kept"], told["done"]), now, now))
        stints.sort(key=lambda stint: stint.started)

    def worked(self, unit: Unit) -> float:
        """Seconds for which a unit's last run has got on; 0 for one that tells nothing."""
        latest = max(self.starts.get(unit.id, ()), default=0.0)
        stints = [s for (id, _), found in self.stints.items() if id == unit.id for s in found]
        return max((time.time() - s.first[0] for s in stints if s.started == latest), default=0.0)

    def rates(self) -> dict[tuple[str, str], float]:
        """How much was done in a second, of each unit and piece of work."""
        found = {}
        for key, stints in self.stints.items():
            (began, before), (ended, after) = stints[-1].first, stints[-1].last
            if ended == began:  # one word only
                began, before = stints[-1].started, 0
            found[key] = (after - before) / (ended - began)
        return found


@dataclass(frozen=True)
class Loss:
    """Work that was done twice: until when it was done first, and the seconds that it takes."""

    time: float
    seconds: float


def losses(watch: Watch, undisturbed: Watch) -> list[Loss]:
    """All work that had to be done again."""
    rates = undisturbed.rates()
    found = []
    for key, stints in watch.stints.items():
        if rates.get(key):  # 0 if the undisturbed run reported no progress between two polls
            found += [Loss(a.last[0], _lost(a, b, rates[key])) for a, b in pairwise(stints)]
    return found


def _lost(before: Stint, after: Stint, rate: float) -> float:
    return max(0.0, before.last[1] - after.resumed) / rate


def shared_out(found: Iterable[Loss], ends: list[float]) -> list[float]:
    """The seconds lost to each fault: to the first that was not over yet when the work was last told of.

    Args:
        ends: when each fault was over, in order; a fault that ends a job lasts until then.
    """
    seconds = [0.0] * len(ends)
    for loss in found:
        guilty = next((i for i, ended in enumerate(ends) if ended >= loss.time), None)
        if guilty is not None:
            seconds[guilty] += loss.seconds
    return seconds
