"""The caps of a study on jobs and GPUs at once, shared out among its arrays as throttles.

Pure. A throttle is fixed when its array is submitted, so arrays that may run at the same time share the caps;
where one waits for all of the other, they need not. A set of units is an integer, a bit for each.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

NO_LIMIT = sys.maxsize
LATER = "the next 'sor submit' goes on"


@dataclass(frozen=True)
class _Phase:
    """Arrays that may run at the same time; each of them needs all units of the phases before.

    Args:
        own: their units.
        needed: units that all of their elements need.
        arrays: the jobs of each, and the GPUs of one job.
        gpus: of one job of each.
    """

    own: int
    needed: int
    arrays: tuple[tuple[int, int], ...]
    gpus: int


class Caps:
    """Takes the arrays of a plan one by one, each after those that it needs.

    Args:
        max_jobs, max_gpus: of the study at once; None is no limit.
        load: live units, by the jobs and the GPUs that each has.
    """

    def __init__(
        self, max_jobs: int | None, max_gpus: int | None, load: Mapping[tuple[int, int], int]
    ) -> None:
        self.given = (max_jobs, max_gpus) != (None, None)
        self._jobs = NO_LIMIT if max_jobs is None else max_jobs
        self._gpus = NO_LIMIT if max_gpus is None else max_gpus
        self._load = load
        self._phases: list[_Phase] = []

    def admit(self, own: int, needed: int, jobs: int, gpus: int) -> str | None:
        """Take an array, or say why not: one job of each array that may run beside it would be too many.

        Args:
            own: its units.
            needed: units that all of its elements need; they are over before it starts.
            jobs: its elements.
            gpus: of one of them.
        """
        if gpus > self._gpus:
            return f"a job of it takes {gpus} GPUs, and this study may use {self._gpus} at once"
        kept, phase = len(self._phases), _Phase(own, needed, ((jobs, gpus),), gpus)
        while kept and self._phases[kept - 1].own & ~phase.needed:  # it may run beside some of these
            kept -= 1
            beside = self._phases[kept]
            own, needed = beside.own | phase.own, beside.needed & phase.needed
            phase = _Phase(own, needed, beside.arrays + phase.arrays, beside.gpus + phase.gpus)
        jobs_left, gpus_left = self._left(phase)
        if len(phase.arrays) > jobs_left:
            return f"this study may run {self._jobs} jobs at once, and others come first: {LATER}"
        if phase.gpus > gpus_left:
            return f"this study may use {self._gpus} GPUs at once, and others come first: {LATER}"
        self._phases[kept:] = [phase]
        return None

    def throttles(self) -> list[int]:
        """How many jobs of each array that was taken may run at once."""
        return [share for phase in self._phases for share in _shares(phase.arrays, *self._left(phase))]

    def _left(self, phase: _Phase) -> tuple[int, int]:
        """Jobs and GPUs that live units leave to a phase; what all of it needs is over by then."""
        jobs, gpus = self._jobs, self._gpus
        for (unit_jobs, unit_gpus), units in self._load.items():
            beside = (units & ~phase.needed).bit_count()
            jobs, gpus = jobs - beside * unit_jobs, gpus - beside * unit_gpus
        return jobs, max(gpus, 0)  # live jobs that wait count, too


def _shares(arrays: Sequence[tuple[int, int]], jobs: int, gpus: int) -> list[int]:
    """Share out jobs and GPUs: at least one job each, the rest in proportion, and what is left in order."""
    largest = max(wanted for wanted, _ in arrays)

    def part(n: int) -> list[int]:
        return [max(1, wanted * n // largest) for wanted, _ in arrays]

    def used(shares: list[int]) -> int:
        return sum(share * each for share, (_, each) in zip(shares, arrays, strict=True))

    def too_many(n: int) -> bool:
        return sum(part(n)) > jobs or used(part(n)) > gpus

    shares = part(bisect_left(range(1, largest + 1), True, key=too_many))
    jobs, gpus = jobs - sum(shares), gpus - used(shares)
    for i, (wanted, each) in enumerate(arrays):
        more = min(wanted - shares[i], jobs, gpus // each if each else jobs)
        shares[i], jobs, gpus = shares[i] + more, jobs - more, gpus - more * each
    return shares
