"""Students by mixture: progress, accuracy, and the current frontier. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean

from jobs.core.recipe_words import recipe_words, varied
from jobs.core.unit import Unit
from launch.monitor.data.unit_files import UnitFiles
from launch.state.states import State
from launch.state.status import UnitStatus
from launch.study.plan import Variant, variants
from launch.study.recipes import Recipe
from launch.study.schema import Study

# Several units together have the state of the one that needs attention most.
WORST = (
    State.DAMAGED, State.FAILED, State.STALLED, State.BLOCKED, State.RUNNING, State.PREEMPTED, State.QUEUED,
    State.WAITING, State.DONE,
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One student on one mixture, with all its seeds.

    Args:
        state: of its trainings, or of its evaluations once all trainings are done.
        trained: share of the training that is done, averaged over seeds.
        evaluated, groups: evaluations that are done, and their total.
        accuracy: mean over the available benchmarks, then seeds; None before the first.
        flops: of its training; None until all seeds have all benchmarks.
        best: whether it is on the frontier of the complete cells.
    """

    state: State
    trained: float
    evaluated: int
    groups: int
    accuracy: float | None
    flops: float | None
    best: bool = False


@dataclass(frozen=True)
class Places:
    """The units of each grid cell: for each (row, column), the seeds' names, trainings and evaluations."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[tuple[int, int], tuple[list[str], list[int], list[int]]]


@dataclass(frozen=True)
class Grid:
    """Rows are students, smallest first as in the study; columns are shares of reasoning."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[tuple[int, int], Cell]


def places(study: Study, units: Sequence[Unit]) -> Places:
    """Assign units to grid cells; done once per plan."""
    sizes = [student.size for student in study.students]
    unique = len(set(sizes)) == len(sizes)
    found = {v.name: v for v in variants(study)}
    several = len({order for share, order in study.mixed if 0 < share < 1}) > 1
    kinds = [(student, recipe) for student in study.students for recipe in study.recipes_of(student)]
    titles = [_row(s.size if unique else s.name, recipe, study.recipes) for s, recipe in kinds]
    rows = {(student.name, recipe): row for row, (student, recipe) in enumerate(kinds)}
    columns = list(dict.fromkeys(_column(v, several) for v in found.values()))
    cells: dict[tuple[int, int], tuple[list[str], list[int], list[int]]] = {}
    where = {
        name: (rows[v.student.name, v.recipe], columns.index(_column(v, several)))
        for name, v in found.items()
    }
    for name, at in where.items():
        cells.setdefault(at, ([], [], []))[0].append(name)
    for index, unit in enumerate(units):
        if unit.stage == "train" and unit.name in where:
            cells[where[unit.name]][1].append(index)
        elif unit.stage == "evaluate" and (name := unit.inputs[0].name) in where:  # of the training
            cells[where[name]][2].append(index)
    return Places(tuple(titles), tuple(columns), {at: cell for at, cell in cells.items() if cell[1]})


def _row(student: str, recipe: Recipe, every: Sequence[Recipe]) -> str:
    """Return a row's title: the student, and what tells its recipe from the study's others."""
    words = recipe_words(asdict(recipe), varied([asdict(other) for other in every]))
    return ", ".join(filter(None, (student, words)))


def _column(variant: Variant, several: bool) -> str:
    """Return a mixture's column title, with its order if the study has several."""
    mixed = several and 0 < variant.share < 1 and variant.order == "shuffled"
    return f"{100 * variant.share:g} %{' shuffled' if mixed else ''}"


def grid(
    laid: Places, units: Sequence[UnitStatus], shares: Mapping[str, float], facts: UnitFiles, tasks: int
) -> Grid:
    """Return the current grid.

    Args:
        units: in plan order.
        shares: the share done of each running unit, by id.
        tasks: the study's number of benchmarks.
    """
    cells, done = {}, State.DONE
    for at, (names, training, evaluating) in laid.cells.items():
        trainings, later = [units[i] for i in training], [units[i].state for i in evaluating]
        states = [seen.state for seen in trainings]
        ready = states.count(done)
        scored = [facts.accuracies[name] for name in names if facts.accuracies.get(name, (0,))[0]]
        complete = len(scored) == len(names) and all(count == tasks for count, _ in scored)
        cells[at] = Cell(
            next(state for state in WORST if state in (later if later and ready == len(states) else states)),
            (ready + sum(shares.get(s.unit.id, 0.0) for s in trainings if s.state is not done)) / len(states),
            later.count(done),
            len(later),
            fmean(accuracy for _, accuracy in scored) if scored else None,
            fmean(facts.training[name] for name in names) if complete else None,
        )
    return Grid(laid.rows, laid.columns, _with_best(cells))


def _with_best(cells: dict[tuple[int, int], Cell]) -> dict[tuple[int, int], Cell]:
    """Return the cells, with those marked that are on the Pareto frontier of FLOPs and accuracy."""
    points = [
        (c.flops, -c.accuracy) for c in cells.values() if c.flops is not None and c.accuracy is not None
    ]
    best, least = set(), float("inf")
    for flops, loss in sorted(points):
        if loss < least or (flops, loss) in best:
            best.add((flops, loss))
            least = min(least, loss)
    return {
        at: replace(cell, best=cell.flops is not None and (cell.flops, -(cell.accuracy or 0)) in best)
        for at, cell in cells.items()
    }
