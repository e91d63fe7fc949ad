"""Caps of a study on jobs and GPUs at once, shared out among its arrays as throttles.

Pure. A throttle is fixed when its array is submitted, so arrays that may run at the same time share the caps;
if one waits for all of the other, they need not. Units are given by their positions in the plan.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

NO_LIMIT = sys.maxsize
LATER = "submitted later, by a keeper or the next submit"


@dataclass(frozen=True)
class _Phase:
    """Arrays that may run at the same time; each needs all units of the phases before.

    Args:
        own, needed: their units, and those that all of their elements need.
        arrays: the jobs of each, and the GPUs of one job.
    """

    own: frozenset[int]
    needed: frozenset[int]
    arrays: tuple[tuple[int, int], ...]


class Caps:
    """Caps of a study, shared by the arrays that are admitted one by one, each after those that it needs.

    Args:
        max_jobs, max_gpus: of the study at once; None is no limit.
        load: live units, by the jobs and the GPUs of each.
    """

    def __init__(
        self, max_jobs: int | None, max_gpus: int | None, load: Mapping[tuple[int, int], Set[int]]
    ) -> None:
        self.given = (max_jobs, max_gpus) != (None, None)
        self._jobs = NO_LIMIT if max_jobs is None else max_jobs
        self._gpus = NO_LIMIT if max_gpus is None else max_gpus
        self._load = load
        self._phases: list[_Phase] = []

    def admit(self, own: frozenset[int], needed: frozenset[int], jobs: int, gpus: int) -> str | None:
        """Admit an array, or return why one job of each concurrent array would be too many.

        Args:
            own, needed: its units, and those that all of its elements need, which end before it starts.
            jobs, gpus: its elements, and the GPUs of one of them.
        """
        if gpus > self._gpus:
            return f"one job needs {gpus} GPUs, and this study may use {self._gpus} at once (max_gpus)"
        kept, phase = len(self._phases), _Phase(own, needed, ((jobs, gpus),))
        while kept and not self._phases[kept - 1].own <= phase.needed:  # it may run alongside some of these
            kept -= 1
            beside = self._phases[kept]
            phase = _Phase(beside.own | phase.own, beside.needed & phase.needed, beside.arrays + phase.arrays)
        jobs_left, gpus_left = self._left(phase)
        if len(phase.arrays) > jobs_left:
            return f"this study may run {self._jobs} jobs at once (max_jobs), and others come first: {LATER}"
        if sum(each for _, each in phase.arrays) > gpus_left:
            return f"this study may use {self._gpus} GPUs at once (max_gpus), and others come first: {LATER}"
        self._phases[kept:] = [phase]
        return None

    def throttles(self) -> list[int]:
        """Return how many jobs of each admitted array may run at once."""
        return [share for phase in self._phases for share in _shares(phase.arrays, *self._left(phase))]

    def _left(self, phase: _Phase) -> tuple[int, int]:
        """Return the jobs and GPUs that live units leave to a phase; what all of it needs is over by then."""
        jobs, gpus = self._jobs, self._gpus
        for (unit_jobs, unit_gpus), units in self._load.items():
            beside = len(units - phase.needed)
            jobs, gpus = jobs - beside * unit_jobs, gpus - beside * unit_gpus
        return jobs, max(gpus, 0)  # pending live jobs count, too


def _shares(arrays: Sequence[tuple[int, int]], jobs: int, gpus: int) -> list[int]:
    """Share out jobs and GPUs: one job each, then the next to the array with the least of its demand."""
    shares = [1] * len(arrays)
    jobs, gpus = jobs - len(arrays), gpus - sum(each for _, each in arrays)
    hungry = [(2 / wanted, i) for i, (wanted, _) in enumerate(arrays)]
    heapify(hungry)
    while hungry:
        _, i = heappop(hungry)
        wanted, each = arrays[i]
        if shares[i] < wanted and jobs > 0 and gpus >= each:
            shares[i], jobs, gpus = shares[i] + 1, jobs - 1, gpus - each
            heappush(hungry, ((shares[i] + 1) / wanted, i))
    return shares
