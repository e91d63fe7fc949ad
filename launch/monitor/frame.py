"""The rows of a screen: a view, and below it a question, a message or key hints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from launch.monitor.data.study_view import StudyView
from launch.monitor.data.unit_files import Story
from launch.monitor.screen import Page, Screen
from launch.monitor.views.overview import head, overview
from launch.monitor.views.text import Lines
from launch.monitor.views.unit import NOTHING, detail
from launch.monitor.views.unit_table import unit_table

LEAST = (40, 10)  # the smallest terminal, in cells

HELP = (
    ("↑ ↓ j k PgUp PgDn Home End", "move; scroll a log"),
    ("Enter", "open a study, its units, a unit and its log"),
    ("Esc Backspace", "back; clear the filter"),
    ("Tab Shift-Tab", "next study, previous study"),
    ("← →", "previous unit, next unit"),
    ("/", "filter by stage, name, state, cause, node"),
    ("s", "sort units by the next column"),
    ("f", "follow the log, or stop following"),
    ("r", "refresh now"),
    ("c", "cancel a unit, on the first page a study; asks first"),
    ("u", "submit what is missing of a study; asks first"),
    ("Ctrl-L Ctrl-Z", "redraw; suspend"),
    ("q Ctrl-C", "quit; jobs continue"),
)
HINTS = {
    Page.STUDIES: "Enter units  / find  c cancel  u submit  r refresh  ? help  q quit",
    Page.UNITS: "Enter open  / find  s sort  c cancel  u submit  Esc back  ? help  q quit",
    Page.UNIT: "f follow  ↑ ↓ log  ← → units  c cancel  Esc back  ? help  q quit",
}


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
    foot = _rows(console, _foot(screen, width))[: height // 3]
    room = height - len(foot)
    body = _rows(console, _body(screen, views, inside, width, room))[:room]
    return [*body, *[""] * (room - len(body)), *foot]


def _rows(console: Console, shown: RenderableType) -> list[str]:
    with console.capture() as captured:
        console.print(shown, highlight=False)
    return captured.get().removesuffix("\n").split("\n")


def _body(
    screen: Screen, views: Sequence[StudyView], inside: Inside, width: int, height: int
) -> RenderableType:
    view, seen = views[screen.study], screen.seen()
    if screen.help:
        return _help()
    if screen.page == Page.STUDIES or view.now is None:
        return overview(views, screen.study, width, height)
    above = head(view, width)[: 2 if view.trouble else 1]
    height -= len(above)
    if screen.page == Page.UNITS or seen is None:
        return Group(*above, unit_table(view, screen.rows, screen.at, width, height))
    log = inside.log[: max(1, len(inside.log) - screen.back)]
    return Group(*above, detail(view, seen, log, width, height, inside.story))


def _foot(screen: Screen, width: int) -> RenderableType:
    if screen.question:
        return Text(screen.question.text, "bold reverse")
    if screen.help:
        return Text("press any key to go back", "dim")
    if screen.typing:
        return Text.assemble("/", screen.wanted, ("▏", "blink"), (f"  {_matches(screen)}", "dim"))
    if screen.message:
        return Text(screen.message, "bold")
    if screen.busy:
        return Text(f"{screen.busy} …", "bold")
    return Lines([Text(f"{_where(screen)}{HINTS[screen.page]}", "dim")], width, 1)


def _where(screen: Screen) -> str:
    if screen.page == Page.UNIT:
        return "" if screen.follow else "log paused  "
    return f"{_matches(screen)}  " if screen.wanted and screen.page == Page.UNITS else ""


def _matches(screen: Screen) -> str:
    total = len(screen.listed.now.units) if screen.listed else 0
    return f"{len(screen.rows):,} of {total:,} match {screen.wanted!r}"


def _help() -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", max_width=28)
    table.add_column()
    for keys, what in HELP:
        table.add_row(keys, what)
    return table
