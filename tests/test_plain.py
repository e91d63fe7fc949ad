"""Text of others is shown literally: no markup, no escape sequence, no control character, no secret."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from jobs.core import secrets
from jobs.core.plain import CONTROLS, PlainConsole, plain, printable, say
from jobs.core.secrets import exposed, hide

TITLE = "\x1b]0;owned\x07"
HOSTILE = [
    ("\x1b[31mred\x1b[0m", "red"),
    (f"a{TITLE}b", "ab"),
    ("a\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\b", "alinkb"),
    ("a\x1bPq#0\x1b\\b", "ab"),  # a picture
    ("a\x1b", "a"),
    ("a\x9b31mb", "a31mb"),
    ("10 %\r20 %\r\nend", "10 %\n20 %\nend"),
    ("a\x07\x08\x00b", "ab"),
    ("\u202egnp.exe", "gnp.exe"),
    ("\ud800", ""),
    ("[/INST] [bold]x[/bold] :smile:", "[/INST] [bold]x[/bold] :smile:"),
    ("tab\tand\nline, é ● 漢", "tab\tand\nline, é ● 漢"),
]


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A secret value that is known for a while."""
    monkeypatch.setenv("MY_API_KEY", "sk-0123.*456")
    monkeypatch.setenv("OTHER_TOKEN", "short")
    monkeypatch.setenv("SOR_SECRETS", "/dev/null")
    secrets._hidden.cache_clear()
    yield "sk-0123.*456"
    secrets._hidden.cache_clear()


@pytest.mark.parametrize(("text", "shown"), HOSTILE)
def test_lines(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert "\n" not in plain(text)
    assert not CONTROLS.search(plain(text))


@given(st.text(max_size=30))
def test_any_text(text: str) -> None:
    shown = printable(text)
    assert not CONTROLS.search(shown)
    assert printable(shown) == shown
    shown.encode()


@pytest.mark.parametrize(("text", "shown"), HOSTILE)
def test_a_console_takes_text_literally(text: str, shown: str) -> None:
    file = io.StringIO()
    console = PlainConsole(file=file, width=60, force_terminal=True, color_system=None)
    table = Table("name", "again", show_header=False, box=None)
    table.add_row(text, Text(text, "red"))
    console.print(text)
    assert "".join(file.getvalue().split()) == "".join(shown.split())
    console.print(Text(text, "red"), table)
    assert not CONTROLS.search(file.getvalue())


def test_rich_alone_would_not() -> None:
    """What PlainConsole is for: if rich does it one day, the class can go."""
    file = io.StringIO()
    Console(file=file, force_terminal=True).print(Text(f"a{TITLE}b"))
    assert "\x1b]0;owned" in file.getvalue()


def test_a_secret_whose_name_is_said_by_a_cluster_file(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_PHRASE", "tell nobody")
    monkeypatch.setenv("SOR_SECRET_NAMES", "")
    assert hide("tell nobody") == "tell nobody"
    secrets.name_secrets(["MY_PHRASE", "UNSET"])
    assert hide(f"tell nobody {token}") == "[MY_PHRASE] [MY_API_KEY]"
    secrets.name_secrets(["OTHER"])
    assert os.environ["SOR_SECRET_NAMES"] == "MY_PHRASE UNSET OTHER"  # for the processes that are started


def test_secrets_are_named_instead(token: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert hide(f"a {token} is short") == "a [MY_API_KEY] is short"
    assert exposed(f"{token} {token}") == ["MY_API_KEY"]
    assert exposed("sk-0123xx456 short") == []
    say(f"key {token}", error=True)
    table = Table("name")
    table.add_row(token, Text(f"[{token}]", "red"))
    PlainConsole(width=40).print(Text(f"key {token}"), f"\x1b[1m{token}", table)
    printed = capsys.readouterr()
    assert printed.err == "key [MY_API_KEY]\n"
    assert token[:3] not in printed.out
    assert printed.out.count("MY_API") == 4


@pytest.mark.parametrize(
    ("overflow", "row"),
    [
        ("ignore", "next: sor logs /scratch/[MY_API_KEY]/runs 0123456789ab"),
        ("ellipsis", "next: sor logs /scr…"),
    ],
)
def test_a_line_that_hides_a_secret_is_not_wrapped_either(
    token: str, overflow: Literal["ignore", "ellipsis"], row: str
) -> None:
    file = io.StringIO()
    line = Text(f"next: sor logs /scratch/{token}/runs 0123456789ab", no_wrap=True, overflow=overflow)
    PlainConsole(file=file, width=20).print(Group(line), crop=False)
    assert file.getvalue() == f"{row}\n"
