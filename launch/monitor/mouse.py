"""The effect of a click: it selects the study or unit in its row; a second one opens it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from launch.monitor.data.study_view import StudyView
from launch.monitor.frame import entries
from launch.monitor.screen import Page, Pressed, Screen, choose, lists_studies, press
from launch.monitor.terminal import Click


def click(screen: Screen, at: Click, views: Sequence[StudyView]) -> Pressed:
    """Return the screen after a click, and the requested action, as `press` does."""
    if screen.help:
        return press(screen, "esc", views)
    number = None if screen.question else _row(screen, at, views)
    if number is None:
        return screen, None
    selected = screen.study if lists_studies(screen, views) else screen.at
    if number == selected and screen.page != Page.UNIT:
        return press(screen, "enter", views)
    return choose(screen, number, views), None


def _row(screen: Screen, at: Click, views: Sequence[StudyView]) -> int | None:
    """Return the index of the study or unit that is drawn there; None: neither is."""
    if screen.beside and not lists_studies(screen, views) and at.column >= screen.table:
        return None
    shown, first = entries(screen, views)
    return shown[at.row - first] if first <= at.row < first + len(shown) else None
