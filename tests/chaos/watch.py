"""What a study tells of its progress while it runs; from it, how much work a fault cost.

A `Stint` is what one run of a unit did, as far as progress.json told: that file is written every 2 s, and no
more exact is all of this. Work is lost where the next run of the unit says that less is done than the one
before it said. It is counted in the seconds that the undisturbed run took for as much: the start of a process
and of a model are not in it, nor are stages that tell no progress (collate, pack, report).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from jobs.rundir import StudyDir, read_json
from jobs.unit import Unit


@dataclass
class Stint:
    """What one run of a unit told of one piece of work: all of it, or one benchmark.

    Args:
        started: when the run began (seconds since the epoch), which also tells it from others.
        first, last: (when, how much was done), from the first word on that something was.
    """

    started: float
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

    def look(self) -> None:
        for unit in self.units:
            try:
                told = read_json(self.root.unit(unit).progress)
            except (FileNotFoundError, json.JSONDecodeError):
                continue
            self.starts.setdefault(unit.id, set()).add(told["started"])
            if told["done"]:
                self._note(unit, told["started"], str(told.get("benchmark")), (told["updated"], told["done"]))

    def _note(self, unit: Unit, started: float, piece: str, now: tuple[float, float]) -> None:
        stints = self.stints.setdefault((unit.id, piece), [])
        for stint in stints:
            if stint.started == started:
                stint.last = max(stint.last, now)
                return
        stints.append(Stint(started, now, now))
        stints.sort(key=lambda stint: stint.started)

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
        if key in rates:
            found += [Loss(a.last[0], _lost(a, b, rates[key])) for a, b in pairwise(stints)]
    return found


def _lost(before: Stint, after: Stint, rate: float) -> float:
    return max(0.0, before.last[1] - after.first[1]) / rate


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
