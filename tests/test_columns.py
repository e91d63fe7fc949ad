"""Tables in terminals of all widths: columns are left out before a cell is broken, and nothing is cut off."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.text import Text

from launch.columns import Columns

NAME = "qwen2.5-3b-r25.general-multiple-choice"


def lines(width: int) -> list[str]:
    table = Columns(
        ("unit", "waiting", "hours", "state"),
        numbers=("waiting", "hours"),
        short={"waiting": "wait"},
        optional=("hours", "state"),
    )
    table.add(NAME, "7", "1.5", Text("done", "green"))
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("width", "titles"),
    [
        (200, "unit waiting hours state"), (61, "unit waiting hours state"), (60, "unit wait hours state"),
        (57, "unit wait state"), (50, "unit wait"), (44, "unit wait"), (43, "unit wait"),
    ],
)  # fmt: skip
def test_headings_get_shorter_then_columns_are_left_out(width: int, titles: str) -> None:
    heading, row = lines(width)
    assert heading.split() == titles.split()
    assert row.split()[:2] == [NAME, "7"]
    assert len(row) <= width


def test_a_name_that_does_not_fit_stands_on_several_rows() -> None:
    rows = lines(30)
    assert "".join(row.split()[0] for row in rows[1:]) == NAME
    assert all(len(row) <= 30 for row in rows)
