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
from launch.monitor.frame import Inside, entries, frame, scrolled
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


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("keys", ["", "end", "end pageup pageup", "pagedown pagedown up"])
def test_a_second_click_in_the_same_place_opens_the_unit_that_the_first_one_selected(
    view: StudyView, keys: str, width: int, height: int
) -> None:
    views = [view]
    screen = scrolled(settled(Screen(page=Page.UNITS, width=width, height=height), views), views)
    for key in keys.split():
        after, _ = press(screen, key, views)
        screen = scrolled(after, views)
    opened = set[str | None]()
    for row in range(height):
        once, _ = click(screen, Click(5, row), views)
        once = scrolled(once, views)
        if once.unit == screen.unit:
            continue
        twice, _ = click(once, Click(5, row), views)
        assert (twice.page, twice.unit) == (Page.UNIT, once.unit)
        opened.add(once.unit)
    shown, _ = entries(screen, views)
    assert opened == {screen.rows[at].unit.id for at in shown} - {screen.unit}


@pytest.mark.parametrize("study", [0, 17, 29])
def test_a_second_click_in_the_same_place_opens_the_study_that_the_first_one_selected(
    view: StudyView, study: int
) -> None:
    views = [view] * 30
    screen = scrolled(settled(Screen(study=study), views), views)
    shown, top = entries(screen, views)
    assert (len(shown), top) == (4, 0)
    for row, number in enumerate(shown):
        once, _ = click(screen, Click(5, row), views)
        once = scrolled(once, views)
        assert once.study == number
        if number != study:
            assert once.page == Page.STUDIES
            once, _ = click(once, Click(5, row), views)
        assert (once.page, once.study) == (Page.UNITS, number)


def test_a_list_scrolls_only_as_far_as_the_selection_requires(view: StudyView) -> None:
    screen = scrolled(settled(Screen(page=Page.UNITS), [view]), [view])
    room, firsts = len(entries(screen, [view])[0]), list[int]()
    for key in [*["down"] * room, "up", "down", "down", *["up"] * room, "end", "home"]:
        after, _ = press(screen, key, [view])
        screen = scrolled(after, [view])
        firsts.append(screen.first_unit)
    most = len(screen.rows) - room
    assert firsts == [*[0] * (room - 1), 1, 1, 1, 2, *[2] * (room - 1), 1, most, 0]


def test_where_studies_are_drawn_for_one_without_an_answer_a_click_selects_a_study(view: StudyView) -> None:
    silent = replace(view, now=None, summary=None, taken=0.0)
    views = [view, silent, silent]
    screen = scrolled(settled(Screen(page=Page.UNITS, study=1), views), views)
    assert [row[0] for row in drawn(screen, views)[:3]] == [" ", ">", " "]
    for row in (0, 2):
        once, _ = click(screen, Click(5, row), views)
        assert (once.page, once.study) == (Page.STUDIES, row)
        twice, _ = click(scrolled(once, views), Click(5, row), views)
        assert (twice.page, twice.study) == (Page.UNITS, row)
    wide = replace(screen, width=200, height=60)
    assert click(wide, Click(150, 0), views)[0].study == 0  # no table is drawn, beside which this would be
    again, _ = click(screen, Click(5, 1), views)
    assert (again.page, again.study, again.message) == (Page.UNITS, 1, "no unit is listed")


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
