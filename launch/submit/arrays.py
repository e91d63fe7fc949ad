"""Units to submit -> Slurm job arrays: what each array waits for, and how many of its jobs run at once.

Pure: no calls, no file access. There are as few arrays as possible, since each is one call of sbatch; but an
element waits for the results that it reads and nothing else, and the caps hold in whatever order Slurm starts
eligible jobs.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from math import ceil, log2

from jobs.core.unit import Resources, Unit
from launch.submit.throttles import LATER, NO_LIMIT, Caps

Positions = frozenset[int]  # of units in the plan
PLAIN = -1
FEW = 32  # units; fewer are not worth a separate array for a shorter time limit


@dataclass(frozen=True)
class Pool:
    """Room in the queue shared by some units.

    Args:
        name: whose limit it is.
        room: how many more of their jobs may be queued.
        units: their ids.
    """

    name: str
    room: int
    units: frozenset[str]


@dataclass(frozen=True)
class Rules:
    """Limits to observe; None is no limit.

    Args:
        max_array_size: Slurm's MaxArraySize; the largest index is one less. 0: there are no arrays, and each
            worker is a job of its own.
        room: how many more jobs, including elements of arrays, may be queued.
        max_jobs, max_gpus: of this study at once, over all arrays.
        pools: limits of the room that apply to some units only.
        kinds: a number for each set of options of sbatch, by the ids of the units that have it: time is a
            condition of some options, and all jobs of an array have the longest time of one.
    """

    max_array_size: int
    room: int | None
    max_jobs: int | None
    max_gpus: int | None
    pools: tuple[Pool, ...] = ()
    kinds: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Element:
    """One job of an array: one worker of a unit."""

    index: int
    unit: Unit
    worker: int


@dataclass(frozen=True)
class Condition:
    """A condition that an array waits for.

    Args:
        kind: "afterok", "aftercorr" or "afterany", as in Slurm.
        array: the position of an array in the plan, or the id of one that Slurm already has.
        indices: these elements of it; None is the whole array.
    """

    kind: str
    array: int | str
    indices: tuple[int, ...] | None


@dataclass(frozen=True)
class Array:
    """One job array.

    Args:
        resources: per element, with the time limit of the longest and the memory of the largest; `workers`
            are those of the array.
        any: one of the conditions is enough.
        throttle: how many elements may run at once.
        plain: it is submitted as a job without an array; it has one element.
    """

    stage: str
    resources: Resources
    elements: tuple[Element, ...]
    after: tuple[Condition, ...]
    any: bool
    throttle: int
    plain: bool = False


@dataclass(frozen=True)
class ArrayPlan:
    """Arrays in order of submission, and the units left for a later submit, each with the reason."""

    arrays: tuple[Array, ...]
    held: tuple[tuple[Unit, str], ...]


def plan_arrays(
    units: Sequence[Unit], submit: Collection[str], live: Mapping[str, tuple[str, ...]], rules: Rules
) -> ArrayPlan:
    """Plan the arrays for the units to submit. Each unit is in one array, with all its workers, or held.

    Args:
        units: all of the study, inputs before what reads them.
        submit: ids of those to submit; their inputs are among them, live, or done.
        live: the job ids ("123_4") of each unit with live jobs, one per worker.
    """
    return _Planner(_Pending(units, frozenset(submit), live), rules).plan()


class _Pending:
    """Graph of the units that are not done, by their positions.

    Attributes:
        waits: the inputs of a unit, less those that other inputs need.
        needs: all units that must be done before it.
        levels: the positions of units to submit; each reads only live ones and those of earlier levels.
        places: the elements that do a unit, as array and index; initially of live ones. The index of a job
            without an array is PLAIN.
        load: live units, by the jobs and the GPUs of each.
    """

    def __init__(
        self, units: Sequence[Unit], submit: frozenset[str], live: Mapping[str, tuple[str, ...]]
    ) -> None:
        self.units = [u for u in units if u.id in submit or u.id in live]
        self.waits: list[Positions] = []
        self.needs: list[Positions] = []
        self.levels: defaultdict[int, list[int]] = defaultdict(list)
        self.places: defaultdict[int, list[tuple[int | str, int]]] = defaultdict(list)
        self.load: defaultdict[tuple[int, int], set[int]] = defaultdict(set)
        at: dict[str, tuple[int, int]] = {}  # position and level
        for position, unit in enumerate(self.units):
            # A live unit was submitted before this plan: it does not wait for units in it.
            inputs = [at[i.id] for i in unit.inputs if i.id in live or (unit.id in submit and i.id in submit)]
            read = frozenset(p for p, _ in inputs)
            before = frozenset[int]().union(*(self.needs[p] for p, _ in inputs))
            self.waits.append(read - before)
            self.needs.append(read | before)
            level = max((level for _, level in inputs), default=-1) + 1
            if unit.id in live:
                level, ids = -1, live[unit.id]
                split = (id.partition("_") for id in ids)
                self.places[position] = [(array, int(index) if index else PLAIN) for array, _, index in split]
                self.load[len(ids), len(ids) * _gpus(unit.resources)].add(position)
            else:
                self.levels[level].append(position)
            at[unit.id] = position, level


class _Planner:
    def __init__(self, pending: _Pending, rules: Rules) -> None:
        self.pending, self.rules = pending, rules
        self.plain, self.size = rules.max_array_size < 1, max(1, rules.max_array_size)
        self.caps = Caps(rules.max_jobs, rules.max_gpus, pending.load)
        self.arrays: list[Array] = []
        self.held: dict[int, str] = {}

    def plan(self) -> ArrayPlan:
        pending, workers = self.pending, self._fill()
        for _, positions in sorted(pending.levels.items()):
            shapes: defaultdict[tuple[object, ...], list[int]] = defaultdict(list)
            for p in positions:
                if p in self.held:
                    continue
                if missing := pending.needs[p] & self.held.keys():
                    first = pending.units[min(missing)]
                    self._hold(p, f"it needs {first.stage} {first.name}, which cannot be submitted yet")
                else:
                    unit = pending.units[p]
                    shapes[self.rules.kinds.get(unit.id), *_shape(unit, workers[p])].append(p)
            for alike in shapes.values():
                needs = {p: pending.units[p].resources for p in alike}
                for near in _by_memory({p: need.memory for p, need in needs.items()}):
                    for group in _by_hours({p: needs[p].hours for p in near}):
                        self._add_all({p: workers[p] for p in group})
        arrays = zip(self.arrays, self.caps.throttles(), strict=True)
        held = tuple((pending.units[p], why) for p, why in sorted(self.held.items()))
        return ArrayPlan(tuple(replace(array, throttle=most) for array, most in arrays), held)

    def _fill(self) -> dict[int, int]:
        """Return how many workers of each unit fit into the queue. Where not all fit, fewer do the work."""
        everywhere = Pool("the queue", NO_LIMIT if self.rules.room is None else self.rules.room, frozenset())
        left = {pool: pool.room for pool in (everywhere, *self.rules.pools)}
        workers = {}
        for p in sorted(p for level in self.pending.levels.values() for p in level):
            unit = self.pending.units[p]
            pools = [pool for pool in left if pool is everywhere or unit.id in pool.units]
            tight = min(pools, key=left.__getitem__)
            if left[tight] < 1:
                self._hold(p, f"{tight.name} has room for {tight.room} more of your jobs: {LATER}")
                continue
            workers[p] = min(unit.resources.workers, left[tight], self.size)
            for pool in pools:
                left[pool] -= workers[p]
        return workers

    def _hold(self, position: int, why: str) -> None:
        self.held[position] = why

    def _add_all(self, workers: dict[int, int]) -> None:
        """Add as few arrays as possible for units of one shape, given with their workers.

        Units that wait for the same units fit into one array. So do units that each wait for a different
        element of one array: they take its index.
        """
        size = self.size
        jobs = defaultdict[Positions, list[tuple[int, int]]](list)  # unit and worker, by their waits
        for p, count in workers.items():
            jobs[self.pending.waits[p]] += [(p, worker) for worker in range(count)]
        for (shared, array), family in self._families(jobs).items():
            rounds = _rounds([len(jobs[waits]) for waits in family], size) if size > 1 else 0
            for r in range(rounds):
                chosen = [waits for waits in family if len(jobs[waits]) > r]
                own = [p for waits in chosen for p in waits - shared]  # one each
                indices = [self.pending.places[p][0][1] for p in own]
                self._add(shared, array, {i: jobs[w][r] for i, w in zip(indices, chosen, strict=True)})
            for waits in family:
                rest = jobs[waits][rounds:]
                for start in range(0, len(rest), size):
                    self._add(waits, None, dict(enumerate(rest[start : start + size])))

    def _families(
        self, sets: Collection[Positions]
    ) -> dict[tuple[Positions, int | str | None], list[Positions]]:
        """Group sets of units that differ in an element of one array, by what they share and that array.

        The differing unit of a set is the one that is in the fewest of the others.
        """
        readers = Counter(p for units in sets for p in units)
        families = defaultdict[tuple[Positions, int | str | None], list[Positions]](list)
        for units in sets:
            places = {p: self.pending.places[p] for p in sorted(units)}
            single = [p for p, at in places.items() if len(at) == 1 and at[0][1] != PLAIN]
            own = min(single, key=readers.__getitem__, default=None)
            if own is None:
                families[units, None].append(units)
            else:
                families[units - {own}, self.pending.places[own][0][0]].append(units)
        return families

    def _add(self, shared: Positions, alike: int | str | None, jobs: dict[int, tuple[int, int]]) -> None:
        """Add an array, or hold its units if the caps leave no room for one of its jobs.

        Args:
            shared: what all elements wait for.
            alike: the array of which each element waits for the one with its own index, if any.
            jobs: unit and worker, by index.
        """
        positions = list(dict.fromkeys(p for p, _ in jobs.values()))
        units = [self.pending.units[p] for p in positions]
        needed = frozenset.intersection(*(self.pending.needs[p] for p in positions))
        if why := self.caps.admit(frozenset(positions), needed, len(jobs), _gpus(units[0].resources)):
            for p in positions:
                self._hold(p, why)
            return
        after, either = self._conditions(shared, alike)
        elements = []
        for index, (p, worker) in sorted(jobs.items()):
            self.pending.places[p].append((len(self.arrays), index))
            elements.append(Element(index, self.pending.units[p], worker))
        workers = len(jobs) if len(units) == 1 else 1
        most = {
            name: max(getattr(u.resources, name) for u in units) for name in ("hours", "memory", "raised")
        }
        resources = replace(units[0].resources, workers=workers, **most)
        made = Array(units[0].stage, resources, tuple(elements), after, either, len(jobs), self.plain)
        self.arrays.append(made)

    def _conditions(self, shared: Positions, alike: int | str | None) -> tuple[tuple[Condition, ...], bool]:
        """Return the conditions of an array, and whether one of them is enough.

        A unit with several workers is done when the first of them succeeds. But Slurm has no "or" within an
        "and", and under caps the others must not continue alongside later jobs: then all have to end.
        """
        places, inputs = self.pending.places, sorted(shared)
        either = not self.caps.given and alike is None and len(inputs) == 1 and len(places[inputs[0]]) > 1
        found: defaultdict[tuple[str, int | str], list[int]] = defaultdict(list)
        for p in inputs:
            kind = "afterok" if either or len(places[p]) == 1 else "afterany"
            for array, index in places[p]:
                found[kind, array].append(index)
        after = []
        for (kind, array), indices in found.items():
            whole = isinstance(array, int) and len(indices) == len(self.arrays[array].elements) and not either
            whole = whole or indices == [PLAIN]
            after.append(Condition(kind, array, None if whole else tuple(sorted(indices))))
        if alike is not None:
            after.append(Condition("aftercorr", alike, None))
        return tuple(after), either


def _rounds(counts: Sequence[int], size: int) -> int:
    """Return how many arrays should take one unit of each of these groups, for the fewest arrays in total."""

    def arrays(rounds: int) -> int:
        return rounds + sum(ceil(max(n - rounds, 0) / size) for n in counts)

    return min(sorted({0, *counts}, reverse=True), key=arrays) if len(counts) > 1 else 0


def _shape(unit: Unit, workers: int) -> tuple[object, ...]:
    """Return what units of one array share, besides hours and memory; one of several workers is alone."""
    return unit.stage, _bare(unit.resources), unit.id if workers > 1 else None


@cache
def _bare(resources: Resources) -> Resources:
    """Return the request of one worker, without time and memory; thousands of units have the same."""
    return replace(resources, hours=1, workers=1, memory=0, raised=0)


def _by_memory(memory: Mapping[int, int]) -> Iterator[list[int]]:
    """Group units of one shape so that none needs more than twice the memory of another in its group.

    All elements of an array request the most that one of them needs.
    """
    group: list[int] = []
    for p in sorted(memory, key=lambda p: (memory[p], p)):
        if group and memory[p] > 2 * memory[group[0]]:
            yield sorted(group)
            group = []
        group.append(p)
    if group:
        yield sorted(group)


def _by_hours(hours: Mapping[int, float]) -> Iterator[list[int]]:
    """Group units of one shape by their hours, rounded up to a power of two.

    Small groups join the next longer one: another array, with its share of the caps, costs more than a time
    limit that is too long.
    """
    buckets: defaultdict[int, list[int]] = defaultdict(list)
    for p, length in hours.items():
        buckets[ceil(log2(length))].append(p)
    group: list[int] = []
    for bucket in sorted(buckets):
        group += buckets[bucket]
        if len(group) >= FEW or bucket == max(buckets):
            yield sorted(group)
            group = []


def _gpus(resources: Resources) -> int:
    """Return the GPUs of one job."""
    return resources.nodes * resources.gpus_per_node
