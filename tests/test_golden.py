"""Screens compared with those in tests/golden, character by character. `make golden` draws them again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from golden_screens import GOLDEN, NAMES, Made, drawing, drawn


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    with drawing(tmp_path_factory.mktemp("study")) as screens:
        yield screens


@pytest.mark.parametrize("name", NAMES)
def test_a_screen_is_as_it_was_reviewed(made: Made, name: str) -> None:
    file = GOLDEN / f"{name}.txt"
    assert drawn(name, made) == file.read_text(encoding="utf-8"), (
        "if this change is meant: make golden, and review git diff"
    )
