"""Rows of a message that are pasted into a shell: the command in them runs as it was meant."""

from __future__ import annotations

import shlex
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from launch.monitor.views.wrap import wrapped

ADVICE = "fix the error in the log; then, once the submit in progress has ended: "
COMMANDS = [
    ["submit", "scale-or-reason"],
    ["cancel", "/scratch/project_4711/a/very/long/path/to/the/runs/of/this/study", "a2e31d0e2088"],
    ["submit", "my study.yaml", "--runs", "/scratch/it's here/and somewhere with spaces/that is long"],
    ["logs", "/scratch/研究/蒸留の実験のとても長い名前のフォルダー/it's/runs", "a2e31d0e2088"],
]


def received(rows: list[str]) -> list[str]:
    """The words that a command receives whose rows are pasted; prose before it is no part of it."""
    pasted = "\n".join(rows)
    script = 'sor() { printf "%s\\0" "$@"; }\n' + pasted[pasted.index("sor ") :]
    done = subprocess.run(["sh", "-c", script], capture_output=True, encoding="utf-8", check=True)
    return done.stdout.split("\0")[:-1]


@pytest.mark.parametrize("width", [24, 40, 60, 80, 120])
@pytest.mark.parametrize("words", COMMANDS)
def test_a_wrapped_command_works_when_its_rows_are_pasted(words: list[str], width: int) -> None:
    rows = wrapped(f"{ADVICE}sor {shlex.join(words)}", width, 2)
    assert all(cell_len(row) <= width for row in rows)
    assert received(rows) == words
    assert " ".join(rows[0].split()).startswith("fix the")


def test_a_command_that_fits_on_a_row_of_its_own_is_not_broken() -> None:
    assert wrapped("then: sor submit small", 20) == ["then:", "  sor submit small"]
    assert wrapped("then: sor submit small", 22) == ["then: sor submit small"]
    assert wrapped("then: sor submit small", 12) == ["then: sor \\", "  submit \\", "  small"]


def test_wide_characters_count_as_two_cells() -> None:
    assert wrapped("研究 蒸留 実験", 9) == ["研究 蒸留", "  実験"]
    assert wrapped("蒸留の実験のとても長い名前", 16) == ["蒸留の実験", "のとても長", "い名前"]


@given(st.text(st.characters(categories=("L", "N", "P", "Zs"), include_characters=" ")), st.integers(20, 90))
def test_no_word_of_a_message_is_lost(text: str, width: int) -> None:
    rows = wrapped(text, width)
    assert all(cell_len(row) <= width for row in rows)
    assert "".join("".join(rows).split()) == "".join(text.split())


@pytest.mark.parametrize("text", ["sor submit it's", "then sor submit 'x", "why not: rm 'it"])
def test_what_only_looks_like_a_command_is_prose(text: str) -> None:
    assert " ".join(" ".join(wrapped(text, 12)).split()) == text
