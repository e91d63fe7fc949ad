"""A table that leaves out columns where the terminal is too narrow for all of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

Cell = str | Text | ProgressBar
GAP = 2  # cells between columns


class Columns:
    """A table for people.

    Args:
        titles: of the columns; shown as a heading unless `heading` is False.
        numbers: the titles of right-aligned columns.
        short: shorter titles, used before a column is left out.
        optional: the titles of columns that may be left out, the least important first.
    """

    def __init__(
        self,
        titles: Sequence[str],
        *,
        numbers: Collection[str] = (),
        short: Mapping[str, str] | None = None,
        optional: Sequence[str] = (),
        heading: bool = True,
    ) -> None:
        self._titles, self._numbers, self._short = titles, numbers, short or {}
        self._optional, self._heading = optional, heading
        self._rows: list[Sequence[Cell]] = []

    def add(self, *cells: Cell) -> None:
        """Add a row, with a cell for each title."""
        self._rows.append(cells)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        headings = {title: title for title in self._titles}
        widths = [max((_width(row[i]) for row in self._rows), default=0) for i in range(len(headings))]
        left_out = set[str]()

        def fits() -> bool:
            shown = [
                max(width, cell_len(headings[title]) if self._heading else 0)
                for title, width in zip(self._titles, widths, strict=True)
                if title not in left_out
            ]
            return sum(shown) + gap * (len(shown) - 1) <= options.max_width

        gap = GAP
        if not fits():
            headings |= self._short
        for title in self._optional:
            if fits():
                break
            left_out.add(title)
        if not fits():
            gap = 1
        table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), show_header=self._heading)
        for title in self._titles:
            if title not in left_out:
                side: JustifyMethod = "right" if title in self._numbers else "left"
                table.add_column(headings[title], overflow="fold", justify=side)
        for row in self._rows:
            pairs = zip(self._titles, row, strict=True)
            table.add_row(*(cell for title, cell in pairs if title not in left_out))
        yield table


def _width(cell: Cell) -> int:
    if isinstance(cell, ProgressBar):
        return cell.width or 0
    return cell_len(cell.plain if isinstance(cell, Text) else cell)
