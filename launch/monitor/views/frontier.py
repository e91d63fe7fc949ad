"""A text plot of the current frontier: accuracy against training FLOPs. Pure.

Each student size has a letter: uppercase on the frontier, lowercase below it. So the plot works without color
and in ASCII.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.text import Text

from launch.monitor.data.students import Cell, Grid

LETTERS = "abcdefghijklmnopqrstuvwxyz"
LEAST = (24, 5)  # minimum columns and rows of the plot without its axes
# What the plot shows, and its horizontal axis: in full, and for a narrow plot.
TITLES = (("accuracy (%), capitals on the frontier", "training FLOPs"), ("accuracy (%)", "FLOPs"))
LABELS = 7  # width of the accuracy labels, in cells


def plot(grid: Grid, width: int, height: int) -> list[Text]:
    """Return the plot within the given size; empty if it does not fit or there are no points."""
    points = [(row, c) for (row, _), c in grid.cells.items() if c.flops and c.accuracy is not None]
    across, down = width - LABELS, height - 4
    if not points or across < LEAST[0] or down < LEAST[1]:
        return []
    xs = _axis([math.log10(c.flops or 1) for _, c in points], 0.1)
    low, high = _axis([100 * (c.accuracy or 0) for _, c in points], 1.0)
    ys = max(low, 0.0), min(high, 100.0)
    field = [[Text(" ")] * across for _ in range(down)]

    def place(cell: Cell) -> tuple[int, int]:
        x = (math.log10(cell.flops or 1) - xs[0]) / (xs[1] - xs[0])
        y = (100 * (cell.accuracy or 0) - ys[0]) / (ys[1] - ys[0])
        return round(x * (across - 1)), down - 1 - round(y * (down - 1))

    _staircase(field, sorted({place(c) for _, c in points if c.best}))
    for row, cell in sorted(points, key=lambda point: point[1].best):  # the best on top
        x, y = place(cell)
        letter = LETTERS[row % len(LETTERS)]
        field[y][x] = Text(letter.upper(), "bold green") if cell.best else Text(letter, "dim")
    title, axis = next((both for both in TITLES if len(both[0]) <= width), TITLES[-1])
    lines = [Text(title, "dim")]
    for y, cells in enumerate(field):
        label = {0: f"{ys[1]:.1f}", down - 1: f"{ys[0]:.1f}"}.get(y, "")
        lines.append(Text(f"{label:>{LABELS - 2}} ┃", "dim").append_text(Text().join(cells)))
    left, right = (f"{10**x:.1e}".replace("e+", "e") for x in xs)
    lines.append(Text(f"{'':{LABELS - 2}} └{'─' * across}", "dim"))
    lines.append(Text(f"{'':{LABELS}}{left}{axis:^{across - len(left) - len(right)}}{right}", "dim"))
    legend = "  ".join(
        f"{LETTERS[row % len(LETTERS)]} {grid.rows[row]}" for row in sorted({r for r, _ in points})
    )
    return [*lines, Text(f"{'':{LABELS}}{legend}", "dim")]


def _axis(values: Sequence[float], least: float) -> tuple[float, float]:
    """Return the ends of an axis with some margin, distinct even if all values are equal."""
    low, high = min(values), max(values)
    room = max(0.05 * (high - low), least / 2)
    return low - room, high + room


def _staircase(field: list[list[Text]], corners: list[tuple[int, int]]) -> None:
    """Draw dots from each frontier point to the next one, at the height of the first."""
    for (x, y), (after, _) in zip(corners, [*corners[1:], (len(field[0]), 0)], strict=True):
        for between in range(x, after):
            field[y][between] = Text("·", "green")
