"""The grid of students by mixture, with what its columns and cells mean, and the frontier so far. Pure."""

from __future__ import annotations

from rich.text import Text

from launch.monitor.data.students import Cell, Grid
from launch.monitor.views.frontier import plot
from launch.monitor.views.text import beside, cells, columns, percent
from launch.state.states import State
from launch.views import SHORT, STYLES

WIDE = 100  # columns of a terminal needed for intervals and full words
APART = 4  # rows beyond the grid from which its caption and a plot are apart from it
CAPTIONS = (  # of the grid, from long to short
    "columns: share of reasoning in the training data; cells: accuracy in %, * on the frontier, or progress",
    "columns: share of reasoning in training; cells: accuracy in %",
    "share of reasoning in training",
    "of reasoning",
)


def students(grid: Grid, width: int, room: int) -> list[Text]:
    """Return the grid with a caption, and the frontier plot if there is space."""
    if not grid.cells or room < 2:
        return []
    rows = [[Text("student", "dim"), *(Text(c, "dim") for c in grid.columns)]]
    for row, title in enumerate(grid.rows):
        found = (grid.cells.get((row, column)) for column in range(len(grid.columns)))
        rows.append([Text(title), *(_cell(cell, width >= WIDE) for cell in found)])
    table = columns(rows[:room], right=range(1, len(rows[0])), gap=2 if width >= WIDE else 1)
    if room >= len(rows) + APART:
        above = next((Text(words, "dim") for words in CAPTIONS if len(words) <= width), Text())
        return [above, *_with_plot(grid, table, width, room - 1)]
    spare = width - cells(table[0]) - 3
    if caption := next((words for words in CAPTIONS if len(words) <= spare), ""):
        table[0].append(f"   {caption}", "dim")
    return table


def _with_plot(grid: Grid, table: list[Text], width: int, room: int) -> list[Text]:
    """Return the grid with the frontier plot beside it, or below it if it does not fit there."""
    beside_it = width - max(map(cells, table)) - 3
    if drawn := plot(grid, min(beside_it, 70), min(room, 18)):
        return beside(table, drawn)
    drawn = plot(grid, min(width, 70), min(room - len(table) - 1, 14))
    return [*table, Text(), *drawn] if drawn else table


def _cell(cell: Cell | None, wide: bool) -> Text:
    """Summarize a student: its accuracy in percent, or its training progress."""
    if cell is None:
        return Text()
    wrong = cell.state in (State.FAILED, State.STALLED, State.BLOCKED, State.DAMAGED)
    if cell.accuracy is not None and not wrong:
        part = f" {cell.evaluated}/{cell.groups}" if cell.evaluated < cell.groups else ""
        mark = part or ("*" if cell.best else " ")
        return Text(f"{100 * cell.accuracy:.1f}{mark}", "bold green" if cell.best else "")
    if wrong or cell.state == State.PREEMPTED:
        return Text(cell.state if wide else SHORT[cell.state], STYLES[cell.state])
    if cell.trained == 1:
        return Text("trained", "green")
    if cell.trained or cell.state == State.RUNNING:
        return Text(percent(cell.trained), STYLES[State.RUNNING])
    return Text("queued" if cell.state == State.QUEUED else "·", STYLES[cell.state])
