"""The screen's state, and the effect of each key on it. Pure: no terminal, no side effects.

A key changes the screen, or requests an action, which app.py carries out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from launch.monitor.data.study_view import StudyView
from launch.monitor.data.unit_list import Listing, Sort, listing
from launch.monitor.questions import Action, Question, ask_cancel, ask_submit
from launch.state.status import UnitStatus

LOG_LINES = 200  # lines at the end of a log that can be scrolled through
WHEEL = 3  # rows for each step of the mouse wheel
BESIDE = (150, 30)  # the smallest terminal that shows the selected unit beside the table
GAP = 3  # cells between the two


class Page(StrEnum):
    """The pages of the monitor."""

    STUDIES = "studies"
    UNITS = "units"
    UNIT = "unit"


@dataclass(frozen=True)
class Screen:
    """The state of the screen.

    Args:
        study: index of the selected study.
        unit: id of the selected unit, in row `at`.
        first_study, first_unit: index of the first one that was drawn.
        listed: the rows of the table; None while there is nothing to list.
        wanted: words that units must match; `typing` while they are entered.
        follow: whether the log is refreshed; `back`: number of lines scrolled up from its end.
        busy: the action in progress, in words; no other one starts meanwhile.
        width, height: of the terminal, in cells.
    """

    page: Page = Page.STUDIES
    study: int = 0
    unit: str | None = None
    at: int = 0
    first_study: int = 0
    first_unit: int = 0
    listed: Listing | None = None
    wanted: str = ""
    typing: bool = False
    sort: Sort = Sort.STATE
    follow: bool = True
    back: int = 0
    help: bool = False
    question: Question | None = None
    message: str = ""
    busy: str = ""
    width: int = 80
    height: int = 24

    @property
    def beside(self) -> bool:
        """Whether the selected unit's page stands beside the table."""
        return self.page != Page.STUDIES and self.width >= BESIDE[0] and self.height >= BESIDE[1]

    @property
    def table(self) -> int:
        """The width of a table beside a unit's page, in cells."""
        return self.width // 2 - GAP

    @property
    def rows(self) -> tuple[UnitStatus, ...]:
        return self.listed.rows if self.listed else ()

    def seen(self) -> UnitStatus | None:
        """Return the selected unit, even if the table no longer lists it."""
        if self.listed is None or self.unit is None:
            return None
        if self.at < len(self.rows) and self.rows[self.at].unit.id == self.unit:
            return self.rows[self.at]
        return next((seen for seen in self.listed.now.units if seen.unit.id == self.unit), None)


Pressed = tuple[Screen, Action | None]
NO_UNIT = "no unit is listed"


def lists_studies(screen: Screen, views: Sequence[StudyView]) -> bool:
    """Return whether the studies are drawn, which replace the units of one that has not been polled yet."""
    return screen.page == Page.STUDIES or views[screen.study].now is None


def settled(screen: Screen, views: Sequence[StudyView]) -> Screen:
    """Return the screen with its rows updated; the selection follows its unit to the new row."""
    now = views[screen.study].now
    if now is None or screen.page == Page.STUDIES:
        return replace(screen, listed=None) if screen.listed else screen
    if screen.listed and screen.listed.made_from(now, screen.wanted, screen.sort):
        return screen
    screen = replace(screen, listed=listing(now, screen.wanted, screen.sort))
    rows = screen.rows
    found = next((row for row, seen in enumerate(rows) if seen.unit.id == screen.unit), None)
    if found is not None:
        return replace(screen, at=found)
    at = max(0, min(screen.at, len(rows) - 1))
    if screen.page == Page.UNIT:
        return replace(screen, at=at)
    return replace(screen, at=at, unit=rows[at].unit.id if rows else None)


def press(screen: Screen, key: str, views: Sequence[StudyView]) -> Pressed:
    """Return the screen after a key press, and the requested action.

    Args:
        key: its name or character, or that of the mouse wheel, as decoded by terminal.py.
        views: all studies, at least one.
    """
    after, action = _press(replace(screen, message=""), key, views)
    if after.page != Page.UNIT:  # a log is scrolled on its unit's own page only
        after = replace(after, follow=True, back=0)
    return settled(after, views), action


def _press(screen: Screen, key: str, views: Sequence[StudyView]) -> Pressed:
    if key == "ctrl-c":
        return screen, Action("quit")
    if screen.question:
        return _answer(screen, screen.question, key)
    if screen.help:
        return replace(screen, help=False), None
    if screen.typing and (len(key) == 1 or key not in MOVES):
        return _type(screen, key), None
    if key in MOVES:
        return _move(screen, MOVES[key](max(1, screen.height // 2)), len(views)), None
    if does := KEYS.get(key):
        return does(screen, views)
    return _said(screen, f"{key} has no meaning here: ? lists the keys")


def choose(screen: Screen, number: int, views: Sequence[StudyView]) -> Screen:
    """Return the screen with another study selected, or, where units are listed, another unit."""
    screen = replace(screen, message="")
    if lists_studies(screen, views):
        screen = _at_study(replace(screen, page=Page.STUDIES), number)
    else:
        screen = _at_row(screen, number)
    return settled(screen, views)


def _answer(screen: Screen, question: Question, key: str) -> Pressed:
    answers = dict(question.answers)
    if key in answers:
        return replace(screen, question=None), answers[key]
    no = key in ("n", "N", "esc", "q")
    return (replace(screen, question=None, message="nothing changed") if no else screen), None


def _type(screen: Screen, key: str) -> Screen:
    if key == "enter":
        return replace(screen, typing=False)
    if key == "esc":
        return replace(screen, typing=False, wanted="")
    if key == "backspace":
        return replace(screen, wanted=screen.wanted[:-1], typing=bool(screen.wanted))
    return replace(screen, wanted=screen.wanted + key) if len(key) == 1 else screen


FAR = 10**9
MOVES: dict[str, Callable[[int], int]] = {
    "up": lambda page: -1, "k": lambda page: -1, "down": lambda page: 1, "j": lambda page: 1,
    "pageup": lambda page: -page, "pagedown": lambda page: page,
    "home": lambda page: -FAR, "end": lambda page: FAR,
    "wheelup": lambda page: -WHEEL, "wheeldown": lambda page: WHEEL,
}  # fmt: skip


def _move(screen: Screen, by: int, studies: int) -> Screen:
    which = "last" if by > 0 else "first"
    if screen.page == Page.STUDIES:
        number = max(0, min(screen.study + by, studies - 1))
        only = "the only study: Enter opens its units" if studies == 1 else f"the {which} study"
        return _at_study(screen, number) if number != screen.study else _say(screen, f"this is {only}")
    if screen.page == Page.UNITS:
        return _to_row(screen, by)
    back = max(0, min(screen.back - by, LOG_LINES))
    if back == screen.back:
        return _say(
            screen, "this is the end of the log" if by > 0 else "no earlier lines of the log are read"
        )
    return replace(screen, back=back, follow=screen.follow and back == 0)


def _to_row(screen: Screen, by: int) -> Screen:
    if not screen.rows:
        return _say(screen, NO_UNIT)
    if not 0 < screen.at + (by > 0) < len(screen.rows):
        return _say(screen, f"this is the {'last' if by > 0 else 'first'} unit of the list")
    return _at_row(screen, screen.at + by)


def _at_row(screen: Screen, row: int) -> Screen:
    if not screen.rows:
        return screen
    at = max(0, min(row, len(screen.rows) - 1))
    return replace(screen, at=at, unit=screen.rows[at].unit.id, follow=True, back=0)


def _at_study(screen: Screen, number: int) -> Screen:
    if number == screen.study:
        return screen
    page = Page.UNITS if screen.page == Page.UNIT else screen.page
    return replace(screen, page=page, study=number, unit=None, at=0, wanted="")


def _enter(screen: Screen, views: Sequence[StudyView]) -> Pressed:
    if screen.page == Page.STUDIES:
        return replace(screen, page=Page.UNITS), None
    if screen.page == Page.UNIT:
        return _said(screen, "this unit is open already: Esc goes back")
    if not screen.rows:
        return _said(screen, NO_UNIT)
    return replace(screen, page=Page.UNIT, follow=True, back=0), None


def _back(screen: Screen, views: Sequence[StudyView]) -> Pressed:
    if screen.page == Page.UNIT:
        return replace(screen, page=Page.UNITS), None
    if screen.wanted:
        return replace(screen, wanted=""), None
    if screen.page == Page.STUDIES:
        return _said(screen, "this is the first page: q quits")
    return replace(screen, page=Page.STUDIES), None


def _tab(by: int) -> Callable[[Screen, Sequence[StudyView]], Pressed]:
    def does(screen: Screen, views: Sequence[StudyView]) -> Pressed:
        if len(views) > 1:
            return _at_study(screen, (screen.study + by) % len(views)), None
        return replace(screen, page=Page.UNITS if screen.page == Page.STUDIES else Page.STUDIES), None

    return does


def _other(by: int) -> Callable[[Screen, Sequence[StudyView]], Pressed]:
    def does(screen: Screen, views: Sequence[StudyView]) -> Pressed:
        if screen.page != Page.UNIT:
            return _said(screen, "← and → change the unit while one is open: press Enter first")
        return _to_row(screen, by), None

    return does


def _search(screen: Screen, views: Sequence[StudyView]) -> Pressed:
    return replace(screen, page=Page.UNITS, typing=True), None


def _sort(screen: Screen, views: Sequence[StudyView]) -> Pressed:
    if screen.page != Page.UNITS:
        first = "Enter" if screen.page == Page.STUDIES else "Esc"
        return _said(screen, f"s sorts the table of units: press {first} first")
    return replace(screen, sort=screen.sort.next, message=f"sorted by {screen.sort.next}"), None


def _follow(screen: Screen, views: Sequence[StudyView]) -> Pressed:
    if screen.page != Page.UNIT:
        return _said(screen, "f follows the log of an open unit: open one with Enter first")
    return replace(screen, follow=not screen.follow, back=0 if not screen.follow else screen.back), None


def _cancel(screen: Screen, views: Sequence[StudyView]) -> Pressed:
    if screen.busy:
        return _still_busy(screen)
    if screen.page == Page.STUDIES:
        return _asked(screen, ask_cancel(views[screen.study], screen.study))
    selected = screen.seen()
    listed = screen.rows if screen.page == Page.UNITS and screen.wanted else ()
    return _asked(
        screen, ask_cancel(views[screen.study], screen.study, [selected] if selected else [], listed)
    )


def _submit(screen: Screen, views: Sequence[StudyView]) -> Pressed:
    if screen.busy:
        return _still_busy(screen)
    return _asked(screen, ask_submit(views[screen.study], screen.study))


def _still_busy(screen: Screen) -> Pressed:
    return _said(screen, f"still {screen.busy}")


def _asked(screen: Screen, said: Question | str) -> Pressed:
    if isinstance(said, str):
        return _said(screen, said)
    return replace(screen, question=said), None


def _say(screen: Screen, message: str) -> Screen:
    return replace(screen, message=message)


def _said(screen: Screen, message: str) -> Pressed:
    return _say(screen, message), None


KEYS: dict[str, Callable[[Screen, Sequence[StudyView]], Pressed]] = {
    "enter": _enter, "esc": _back, "backspace": _back, "tab": _tab(1), "backtab": _tab(-1),
    "left": _other(-1), "right": _other(1), "/": _search, "s": _sort, "f": _follow, "c": _cancel,
    "u": _submit,
    "r": lambda screen, views: (replace(screen, message="refreshing …"), Action("refresh")),
    "?": lambda screen, views: (replace(screen, help=True), None),
    "q": lambda screen, views: (screen, Action("quit")),
}  # fmt: skip
