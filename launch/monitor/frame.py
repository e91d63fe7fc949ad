"""The rows of a screen: a view, and below it a question, a message or key hints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.text import Text

from launch.monitor.data.study_view import StudyView
from launch.monitor.data.unit_files import Story
from launch.monitor.screen import GAP, Page, Screen, lists_studies
from launch.monitor.views.help import help_page
from launch.monitor.views.overview import listed, overview, title
from launch.monitor.views.text import Lines, panes
from launch.monitor.views.unit import NOTHING, detail
from launch.monitor.views.unit_table import unit_table, visible
from launch.monitor.views.wrap import wrapped

LEAST = (40, 10)  # the smallest terminal, in cells

KEPT = 2  # hints that are always shown: the last ones
HINTS = {  # of the others, the first ones are kept longest
    Page.STUDIES: ("Enter units", "/ find", "c cancel", "u submit", "r refresh", "? help", "q quit"),
    Page.UNITS: (
        "Enter open", "/ find", "Esc back", "c cancel", "u submit", "s sort", "? help", "q quit"
    ),
    Page.UNIT: ("↑ ↓ log", "← → units", "Esc back", "f follow", "c cancel", "? help", "q quit"),
}  # fmt: skip


@dataclass(frozen=True)
class Inside:
    """Data read from the open unit's files.

    Args:
        unit: its id.
        log: the last lines of its log.
    """

    unit: str | None = None
    log: tuple[str, ...] = ("reading …",)
    story: Story = NOTHING


def frame(screen: Screen, views: Sequence[StudyView], inside: Inside, console: Console) -> list[str]:
    """Return the rows of the console, as sent to the terminal."""
    width, height = console.size
    if width < LEAST[0] or height < LEAST[1]:
        words = f"terminal too small: {width} x {height}, and {LEAST[0]} x {LEAST[1]} cells are needed"
        return _rows(console, Text(words))[:height]
    screen = replace(screen, width=width, height=height)
    below = _rows(console, Lines(foot(screen), width, height))
    room = height - len(below)
    body = _rows(console, _body(screen, views, inside, room))[:room]
    return [*body, *[""] * (room - len(body)), *below]


def _rows(console: Console, shown: RenderableType) -> list[str]:
    with console.capture() as captured:
        console.print(shown, highlight=False)
    return captured.get().removesuffix("\n").split("\n")


def _body(screen: Screen, views: Sequence[StudyView], inside: Inside, height: int) -> RenderableType:
    view, seen, width = views[screen.study], screen.seen(), screen.width
    if screen.help:
        return help_page(width, height)
    if lists_studies(screen, views):
        return overview(views, screen.study, width, height, screen.first_study)
    top = title(view, width)
    height -= len(top)
    log = inside.log[: max(1, len(inside.log) - screen.back)]
    if seen and screen.beside:
        left = screen.table
        table = unit_table(view, screen.rows, screen.at, left, height, screen.first_unit)
        page = detail(view, seen, log, width - left - GAP, height, inside.story)
        return Group(*top, Lines(panes(table, page, left), width, height))
    if screen.page == Page.UNITS or seen is None:
        return Group(*top, unit_table(view, screen.rows, screen.at, width, height, screen.first_unit))
    return Group(*top, detail(view, seen, log, width, height, inside.story))


def entries(screen: Screen, views: Sequence[StudyView]) -> tuple[range, int]:
    """Return the indices of the studies or units that are listed, and the row in which the first one is."""
    height = screen.height - len(foot(screen))
    if lists_studies(screen, views):
        return listed(len(views), screen.study, height, screen.first_study), 0
    if not screen.rows or (screen.page == Page.UNIT and not screen.beside):
        return range(0), 0
    top = len(title(views[screen.study], screen.width))
    return visible(len(screen.rows), screen.at, height - top, screen.first_unit), top + 1  # below its heading


def scrolled(screen: Screen, views: Sequence[StudyView]) -> Screen:
    """Return the screen as it is drawn: a list begins with the same entry until the selection leaves it."""
    shown, _ = entries(screen, views)
    if not shown:
        return screen
    if lists_studies(screen, views):
        return replace(screen, first_study=shown.start)
    return replace(screen, first_unit=shown.start)


def foot(screen: Screen) -> list[Text]:
    """Return the lines below the view, a third of the screen at most."""
    if screen.question:
        return _wrapped(screen, screen.question.text, "bold reverse")
    if screen.help:
        return [Text("press any key to go back", "dim")]
    if screen.typing:
        return [Text.assemble("/", screen.wanted, ("▏", "blink"), (f"  {_matches(screen)}", "dim"))]
    if screen.message:
        return _wrapped(screen, screen.message, "bold")
    if screen.busy:
        return [Text(f"{screen.busy} …", "bold")]
    return [Text(_hints(screen), "dim")]


def _wrapped(screen: Screen, text: str, style: str) -> list[Text]:
    width, most = screen.width, screen.height // 3
    *above, last = (wrapped(line, width) if cell_len(line) > width else [line] for line in text.split("\n"))
    rows = [row for line in above for row in line]
    room = most - bool(rows)  # for the last line: the answers to a question
    last = last if len(last) <= room else [*last[: room - 1], last[-1]]
    return [Text(row, style) for row in [*rows[: most - len(last)], *last]]


def _hints(screen: Screen) -> str:
    """Return the keys of the page, the most important ones if there is no space for all."""
    hints, width = HINTS[screen.page], screen.width
    for most in range(len(hints) - KEPT, -1, -1):
        line = "  ".join([*_where(screen), *hints[:most], *hints[-KEPT:]])
        if len(line) <= width:
            break
    return line


def _where(screen: Screen) -> list[str]:
    if screen.page == Page.UNIT:
        return [] if screen.follow else ["log paused"]
    return [_matches(screen)] if screen.wanted and screen.page == Page.UNITS else []


def _matches(screen: Screen) -> str:
    total = len(screen.listed.now.units) if screen.listed else 0
    return f"{len(screen.rows):,} of {total:,} match {screen.wanted!r}"
