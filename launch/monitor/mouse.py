"""The effect of a click: it selects the study or unit in its row; a second one opens it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from launch.monitor.data.study_view import StudyView
from launch.monitor.frame import foot
from launch.monitor.screen import Page, Pressed, Screen, choose, press
from launch.monitor.terminal import Click
from launch.monitor.views.overview import listed, title
from launch.monitor.views.unit_table import visible


def click(screen: Screen, at: Click, views: Sequence[StudyView]) -> Pressed:
    """Return the screen after a click, and the requested action, as `press` does."""
    if screen.help:
        return press(screen, "esc", views)
    number = None if screen.question else _row(screen, at, views)
    if number is None:
        return screen, None
    selected = screen.study if screen.page == Page.STUDIES else screen.at
    if number == selected and screen.page != Page.UNIT:
        return press(screen, "enter", views)
    return choose(screen, number, views), None


def _row(screen: Screen, at: Click, views: Sequence[StudyView]) -> int | None:
    """Return the index of the study or unit that is drawn there; None: neither is."""
    height = screen.height - len(foot(screen))
    if screen.page == Page.STUDIES:
        shown, first = listed(len(views), screen.study, height), 0
    elif not screen.rows or (at.column >= screen.table if screen.beside else screen.page == Page.UNIT):
        return None
    else:
        top = len(title(views[screen.study], screen.width))
        shown, first = visible(len(screen.rows), screen.at, height - top), top + 1  # below the heading
    return shown[at.row - first] if first <= at.row < first + len(shown) else None
