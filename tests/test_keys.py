"""Keys from a terminal, rows to it, and the terminal as it was found: on a real pseudo-terminal."""

from __future__ import annotations

import os
import pty
import signal
import termios
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from launch.monitor.terminal import CLEAR, LEAVE, TAKE, Click, Gone, Key, Terminal, decode

LONG = 20.0  # seconds that nothing here takes


class Person:
    """Sits at the other end of a terminal: types, and sees what is sent to it."""

    def __init__(self) -> None:
        self.end, self.line = pty.openpty()
        os.set_blocking(self.end, False)

    def types(self, text: str) -> None:
        os.write(self.end, text.encode())

    def sees(self) -> str:
        found = b""
        with suppress(BlockingIOError):
            while True:
                found += os.read(self.end, 4096)
        return found.decode()

    def mode(self) -> list[Any]:
        return termios.tcgetattr(self.line)

    def hangs_up(self) -> None:
        os.close(self.end)
        self.end = -1


@pytest.fixture
def person() -> Iterator[Person]:
    made = Person()
    yield made
    for end in (made.end, made.line):
        if end >= 0:
            os.close(end)


@pytest.mark.parametrize(
    ("text", "keys", "rest"),
    [
        ("jk/?", ["j", "k", "/", "?"], ""),
        ("\x1b[A\x1bOB\x1b[C\x1b[D", ["up", "down", "right", "left"], ""),
        ("\x1b[5~\x1b[6~\x1b[H\x1b[4~\x1bOF", ["pageup", "pagedown", "home", "end", "end"], ""),
        ("\r\n\t\x1b[Z", ["enter", "enter", "tab", "backtab"], ""),
        ("\x7f\b\x03\x1a\x0c", ["backspace", "backspace", "ctrl-c", "ctrl-z", "ctrl-l"], ""),
        ("é中 ", ["é", "中", " "], ""),
        ("\x1b[1;5Aq\x1b[15~\x01", ["q"], ""),  # keys without a meaning are none, and not their letters
        ("\x1bj", ["esc", "j"], ""),
        ("\x1b\x1b[A", ["esc", "up"], ""),
        ("q\x1b", ["q"], "\x1b"),
        ("q\x1b[", ["q"], "\x1b["),
        ("\x1b[5", [], "\x1b[5"),
        ("\x1b[<0;12;5M\x1b[<0;12;5m", [Click(11, 4)], ""),  # pressed, and released
        ("\x1b[<64;1;1M\x1b[<65;1;1M\x1b[<69;1;1M", ["wheelup", "wheeldown", "wheeldown"], ""),
        ("\x1b[<2;3;4M\x1b[<35;3;4M", [], ""),  # another button, a movement
        ("\x1b[<0;12", [], "\x1b[<0;12"),
        ("\x1b[M q!j", ["j"], ""),  # as old terminals report the mouse: no key is meant by its position
        ("\x1b[M q", [], "\x1b[M q"),
    ],
)
def test_keys_by_name(text: str, keys: list[Key], rest: str) -> None:
    assert decode(text) == (keys, rest)


def test_a_sequence_that_arrives_in_two_parts_is_one_key(person: Person) -> None:
    with Terminal(person.line, person.line) as terminal:
        person.types("\x1b[")
        threading.Timer(0.03, person.types, ("A",)).start()
        assert terminal.wait(LONG) == (["up"], set())


def test_esc_alone_is_a_key(person: Person) -> None:
    with Terminal(person.line, person.line) as terminal:
        person.types("\x1b")
        assert terminal.wait(LONG) == (["esc"], set())


def test_a_character_that_arrives_in_two_parts_is_one_key(person: Person) -> None:
    with Terminal(person.line, person.line) as terminal:
        first, second = "é".encode()[:1], "é".encode()[1:]
        os.write(person.end, b"a" + first)
        assert terminal.wait(LONG) == (["a"], set())
        os.write(person.end, second)
        assert terminal.wait(LONG) == (["é"], set())


def test_nothing_is_echoed_and_all_is_as_before_afterwards(person: Person) -> None:
    before = person.mode()
    with Terminal(person.line, person.line) as terminal:
        assert person.sees() == TAKE + CLEAR
        person.types("abc\x03\x13")
        assert terminal.wait(LONG)[0] == [
            "a",
            "b",
            "c",
            "ctrl-c",
        ]  # it interrupts nobody, Ctrl-S stops nothing
        assert person.sees() == ""
        assert person.mode() != before
    assert person.sees() == LEAVE
    assert person.mode() == before


def test_all_is_as_before_after_an_error(person: Person) -> None:
    before, handler = person.mode(), signal.getsignal(signal.SIGTERM)

    def fail() -> None:
        with Terminal(person.line, person.line):
            raise ZeroDivisionError

    pytest.raises(ZeroDivisionError, fail)
    assert person.sees().endswith(LEAVE)
    assert person.mode() == before
    assert signal.getsignal(signal.SIGTERM) == handler


def test_only_rows_that_changed_are_sent(person: Person) -> None:
    with Terminal(person.line, person.line) as terminal:
        person.sees()
        terminal.show(["one", "two", "three"])
        seen = person.sees()
        assert all(word in seen for word in ("one", "two", "three"))
        terminal.show(["one", "2", "three"])
        assert person.sees() == "\x1b[2;1H\x1b[0m\x1b[2K2"
        terminal.show(["one", "2", "three"])
        assert person.sees() == ""
        terminal.show(["one"])  # what is left out disappears
        assert person.sees() == "\x1b[2;1H\x1b[0m\x1b[2K\x1b[3;1H\x1b[0m\x1b[2K"
        terminal.clear()
        person.sees()
        terminal.show(["one"])
        assert "one" in person.sees()


def test_what_the_encoding_lacks_is_replaced(person: Person) -> None:
    with Terminal(person.line, person.line, "ascii") as terminal:
        person.sees()
        terminal.show(["a ▶ b"])
        assert person.sees().endswith("a ? b")


def test_signals_and_other_threads_end_the_waiting(person: Person) -> None:
    with Terminal(person.line, person.line) as terminal:
        assert terminal.wait(0) == ([], set())
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGWINCH)
        assert terminal.wait(LONG) == ([], {signal.SIGTERM, signal.SIGWINCH})
        threading.Timer(0.03, terminal.wake).start()
        assert terminal.wait(LONG) == ([], set())
        assert terminal.wait(0) == ([], set())


def test_a_terminal_that_goes_away(person: Person) -> None:
    with Terminal(person.line, person.line) as terminal:
        person.hangs_up()
        assert terminal.wait(LONG) == ([], {signal.SIGHUP})
        with pytest.raises(Gone):
            terminal.show(["one"])


def test_the_size_also_where_the_terminal_does_not_know(person: Person) -> None:
    terminal = Terminal(person.line, person.line)
    assert terminal.size == (80, 24)
    termios.tcsetwinsize(person.line, (60, 200))
    assert terminal.size == (200, 60)
