"""What the monitor draws with, as rows of text: they fill the terminal, whatever its size, and no more."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from made_status import in_the_middle
from rich.cells import cell_len
from rich.console import Console

from jobs.core.plain import ESCAPES
from launch.monitor.data.study_view import StudyView
from launch.monitor.frame import LEAST, Inside, foot, frame
from launch.monitor.screen import Screen, press

PAGES = ("", "enter", "enter enter", "?", "/ f a i", "enter c", "u", "c", "s", "enter s")
SIZES = ((80, 24), (200, 60), LEAST, (500, 12), (40, 200))


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> list[StudyView]:
    return [in_the_middle(tmp_path_factory.mktemp("made"))]


def screen(views: Sequence[StudyView], keys: str) -> Screen:
    at = Screen()
    for key in keys.split():
        at, _ = press(at, key, views)
    return at


def drawn(
    at: Screen, views: Sequence[StudyView], size: tuple[int, int], inside: Inside | None = None
) -> list[str]:
    width, height = size
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=height)
    rows = frame(at, views, inside or Inside(), console)
    return [ESCAPES.sub("", row) for row in rows]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("keys", PAGES)
def test_rows_fill_the_terminal(views: list[StudyView], keys: str, size: tuple[int, int]) -> None:
    log = Inside(None, tuple(f"line {number} {'x' * 300}" for number in range(200)))
    rows = drawn(screen(views, keys), views, size, log)
    assert len(rows) == size[1]
    assert max(cell_len(row) for row in rows) <= size[0]


@pytest.mark.parametrize("size", [(39, 24), (80, 9), (20, 5), (3, 2), (1, 1)])
def test_a_terminal_that_is_too_small_is_told_so(views: list[StudyView], size: tuple[int, int]) -> None:
    rows = drawn(Screen(), views, size)
    assert len(rows) <= size[1]
    assert "".join(rows).startswith("terminal too small"[: size[0]])


def test_before_the_first_answer(views: list[StudyView]) -> None:
    nothing = [replace(views[0], now=None, summary=None, taken=0.0)]
    for keys in PAGES:
        assert (
            views[0].project.study.name in drawn(screen(nothing, keys), nothing, (80, 24))[0] or keys == "?"
        )


def test_a_silent_controller_is_told_on_every_page(views: list[StudyView]) -> None:
    silent = [replace(views[0], trouble="squeue gave no answer")]
    for keys in ("", "enter", "enter enter"):
        assert "squeue gave no answer" in "\n".join(drawn(screen(silent, keys), silent, (80, 24))[:3])


def test_below_stands_what_is_asked_said_or_can_be_typed(views: list[StudyView]) -> None:
    assert "? help" in drawn(screen(views, ""), views, (80, 24))[-1]
    assert "y: yes" in drawn(screen(views, "c"), views, (80, 24))[-1]
    assert drawn(screen(views, "/ f a i"), views, (80, 24))[-1].startswith("/fai")
    assert "match 'fai'" in drawn(screen(views, "/ f a i enter"), views, (80, 24))[-1]
    assert drawn(Screen(message="one\ntwo"), views, (80, 24))[-2:] == ["one", "two"]
    assert drawn(Screen(busy="cancelling x"), views, (80, 24))[-1] == "cancelling x …"
    long = drawn(Screen(message="word " * 5000), views, (80, 24))
    assert views[0].project.study.name in long[0]  # a long message leaves room for what it is about


@pytest.mark.parametrize("size", [LEAST, (60, 12), (80, 24)])
@pytest.mark.parametrize(
    ("keys", "asked", "answers"),
    [
        ("c", "Cancel the study", "y: yes, n: no"),
        ("u", "Submit", "y: yes, n: no"),
        ("/ q u e u e d enter c", "Cancel", "y: yes, a: all listed"),
    ],
)
def test_a_question_is_shown_with_its_answers_in_any_terminal(
    views: list[StudyView], keys: str, asked: str, answers: str, size: tuple[int, int]
) -> None:
    at = screen(views, keys)
    assert at.question
    below = drawn(at, views, size)[-(size[1] // 3) :]
    assert any(row.startswith(asked) for row in below)
    assert any(row.startswith(answers) for row in below)
    assert below[-1].endswith("n: no")


def test_wide_characters_of_a_message_are_wrapped() -> None:
    lines = foot(Screen(message="漢字" * 30, width=80, height=24))
    assert "".join(line.plain for line in lines).replace(" ", "") == "漢字" * 30
    assert max(cell_len(line.plain) for line in lines) <= 80


def test_reading_back_in_a_log(views: list[StudyView], tmp_path: Path) -> None:
    log = Inside(None, tuple(f"line {number}." for number in range(200)))
    opened = screen(views, "enter enter")
    assert "line 199." in "\n".join(drawn(opened, views, (80, 24), log))
    back = replace(opened, back=50, follow=False)
    shown = drawn(back, views, (80, 24), log)
    assert "line 149." in "\n".join(shown)
    assert "line 150." not in "\n".join(shown)
    assert "log paused" in shown[-1]
