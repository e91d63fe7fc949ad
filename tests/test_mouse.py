"""Clicks: what stands in the row that was clicked is selected, on every page and in every size."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from made_status import in_the_middle
from rich.console import Console

from jobs.core.plain import ESCAPES
from launch.monitor.data.study_view import StudyView
from launch.monitor.frame import Inside, frame
from launch.monitor.mouse import click
from launch.monitor.screen import Page, Screen, press, settled
from launch.monitor.terminal import Click
from launch.state.states import State

SIZES = ((80, 24), (60, 12), (120, 40), (200, 60))


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> StudyView:
    return in_the_middle(tmp_path_factory.mktemp("made"))


def drawn(screen: Screen, views: list[StudyView]) -> list[str]:
    console = Console(file=io.StringIO(), force_terminal=True, width=screen.width, height=screen.height)
    return [ESCAPES.sub("", row) for row in frame(screen, views, Inside(), console)]


@pytest.mark.parametrize("message", ["", "a\nmessage of three\nlines"])
@pytest.mark.parametrize("trouble", [None, "no answer", "an error of many words " * 9])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_click_selects_the_unit_in_its_row(
    view: StudyView, width: int, height: int, trouble: str | None, message: str
) -> None:
    views = [replace(view, trouble=trouble)]
    screen = settled(Screen(page=Page.UNITS, width=width, height=height), views)
    for key in ("end", "pageup", "pageup"):
        screen, _ = press(screen, key, views)
    screen, hit = replace(screen, message=message), list[int]()
    for number, row in enumerate(drawn(screen, views)):
        after, action = click(screen, Click(5, number), views)
        assert action is None
        selected = after.seen()
        assert selected
        if not re.match(rf"[> ] ({'|'.join(State)}) ", row):
            assert after == screen, row
        elif row.startswith(">"):
            assert (after.page, after.unit) == (Page.UNIT, screen.unit)  # a second click opens it
            hit.append(after.at)
        else:
            hit.append(after.at)
            shown = re.split(r"  +", row[2:])[1]  # a long name is shortened in its middle
            first, _, last = shown.removeprefix(f"{selected.unit.stage} ").partition("…")
            assert selected.unit.name.startswith(first)
            assert selected.unit.name.endswith(last or first)
    assert hit == list(range(hit[0], hit[0] + len(hit)))
    assert len(hit) >= height - 9


def test_beside_the_table_a_click_selects_nothing(view: StudyView) -> None:
    screen = settled(Screen(page=Page.UNITS, width=200, height=60), [view])
    assert click(screen, Click(screen.table, 5), [view]) == (screen, None)
    opened, _ = press(screen, "enter", [view])
    other, _ = click(opened, Click(5, 9), [view])
    assert (other.page, other.at) == (Page.UNIT, 7)
    narrow = replace(opened, width=80)
    assert click(narrow, Click(5, 9), [view]) == (narrow, None)  # it shows one unit and its log


def test_a_click_selects_the_study_in_its_row(view: StudyView) -> None:
    views = [view] * 30
    screen = settled(Screen(study=17), views)
    rows = drawn(screen, views)
    marked = next(number for number, row in enumerate(rows) if row.startswith(">"))
    for number in range(3):
        after, _ = click(screen, Click(3, number), views)
        assert after.study == 17 + number - marked
    opened, _ = click(screen, Click(3, marked), views)
    assert (opened.page, opened.study) == (Page.UNITS, 17)
    assert click(screen, Click(3, 8), views) == (screen, None)


def test_a_question_waits_for_a_key_and_help_ends_at_a_click(view: StudyView) -> None:
    asked, _ = press(Screen(), "c", [view])
    assert asked.question
    assert click(asked, Click(5, 5), [view])[0] == asked
    helped, _ = press(Screen(), "?", [view])
    assert not click(helped, Click(5, 5), [view])[0].help
