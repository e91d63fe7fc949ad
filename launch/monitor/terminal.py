"""Terminal I/O: reads keys, writes rows of text, and leaves the terminal as it was.

Handles bytes, signals and escape sequences, not the meaning of keys or rows.
"""

from __future__ import annotations

import codecs
import errno
import os
import re
import select
import signal
import termios
from collections.abc import Sequence
from contextlib import suppress
from itertools import zip_longest
from types import TracebackType
from typing import Any, NamedTuple

TAKE = "\x1b[?1049h"  # the alternate screen
MOUSE = "\x1b[?1000h\x1b[?1006h"  # report buttons and the wheel, with positions as numbers
CLEAR = f"\x1b[0m\x1b[?25l\x1b[?7l{MOUSE}\x1b[2J"  # no cursor; long lines are cut off, not wrapped
LEAVE = "\x1b[0m\x1b[?1006l\x1b[?1000l\x1b[?7h\x1b[?25h\x1b[?1049l"
ESC_WAIT = 0.1  # seconds to wait for the rest of an escape sequence, also over ssh, before taking it for Esc
CHUNK = 4096

NAMES = {
    "\r": "enter", "\n": "enter", "\t": "tab", "\x7f": "backspace", "\b": "backspace", "\x1b": "esc",
    "\x03": "ctrl-c", "\x0c": "ctrl-l", "\x1a": "ctrl-z",
}  # fmt: skip
SEQUENCES = {
    "A": "up", "B": "down", "C": "right", "D": "left", "H": "home", "F": "end", "Z": "backtab",
    "1~": "home", "7~": "home", "4~": "end", "8~": "end", "5~": "pageup", "6~": "pagedown",
}  # fmt: skip
BUTTONS = re.compile(r"<(\d+);(\d+);(\d+)M")
MODIFIERS = 4 | 8 | 16  # Shift, Alt and Ctrl in the number of a button
WHEEL = {64: "wheelup", 65: "wheeldown"}
FORMER = "\x1b[M"  # how terminals that do not know 1006 report the mouse; three characters follow
SEQUENCE = re.compile(r"\x1b[\[O]([0-?]*[ -/]*[@-~])")
STARTED = re.compile(r"\x1b([\[O][0-?]*[ -/]*)?")  # the start of a sequence, or Esc

ENDS = frozenset((signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT))
HANDLED = (*ENDS, signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT)


class Gone(RuntimeError):
    """The terminal was closed."""


class Click(NamedTuple):
    """A press of the left mouse button, in cells from the upper left corner."""

    column: int
    row: int


Key = str | Click


def decode(text: str) -> tuple[list[Key], str]:
    """Decode input into keys, by name or character, and clicks.

    Returns:
        The keys, and a remainder that may be the start of another one.
    """
    keys, at = list[Key](), 0
    while at < len(text):
        if text.startswith(FORMER, at):
            if len(text) < (after := at + len(FORMER) + 3):
                break
            at = after
        elif found := SEQUENCE.match(text, at):
            keys += [SEQUENCES[found[1]]] if found[1] in SEQUENCES else _mouse(found[1])
            at = found.end()
        elif STARTED.fullmatch(text, at):
            break
        else:
            key = NAMES.get(text[at], text[at])
            keys += [key] if key.isprintable() else []
            at += 1
    return keys, text[at:]


def _mouse(sequence: str) -> list[Key]:
    """Return a click or a step of the wheel; nothing for other buttons and other sequences."""
    found = BUTTONS.fullmatch(sequence)
    if found is None:
        return []
    button, column, row = map(int, found.groups())
    button &= ~MODIFIERS
    return [WHEEL[button]] if button in WHEEL else [Click(column - 1, row - 1)] if button == 0 else []


class Terminal:
    """Context manager that takes over a terminal; main thread only.

    Args:
        source, target: terminals to read keys from and write rows to.
    """

    def __init__(self, source: int, target: int, encoding: str = "utf-8") -> None:
        self._source, self._target, self._encoding = source, target, encoding
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._found: list[Any] | None = None  # its mode before it was taken over
        self._rows: list[str] = []  # the rows on display

    def __enter__(self) -> Terminal:
        self._pipe = os.pipe()  # wakes select on signals, and on `wake` from other threads
        for end in self._pipe:
            os.set_blocking(end, False)
        self._wakeup = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        self._handlers = {number: signal.signal(number, lambda *_: None) for number in HANDLED}
        self._take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        # The pipe stays open: a thread may still write to it, and its number must not be reused.

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in cells."""
        with suppress(OSError):
            width, height = os.get_terminal_size(self._target)
            if width and height:  # some pseudo-terminals report zeros
                return width, height
        return 80, 24

    def wake(self) -> None:
        """Make `wait` return; callable from any thread."""
        with suppress(BlockingIOError):  # the pipe is full, so `wait` returns anyway
            os.write(self._pipe[1], b"\0")

    def wait(self, timeout: float) -> tuple[list[Key], set[signal.Signals]]:
        """Wait for keys, signals or `wake`.

        Args:
            timeout: seconds after which to return anyway.

        Returns:
            The keys and signals received; SIGHUP also if the terminal was closed.
        """
        ready = select.select([self._source, self._pipe[0]], [], [], timeout)[0]
        received = os.read(self._pipe[0], CHUNK) if self._pipe[0] in ready else b""
        signals = {signal.Signals(number) for number in received if number}
        if self._source not in ready:
            return [], signals
        keys, rest = list[Key](), ""
        while True:
            data = self._read()
            if not data:
                return keys, signals | {signal.SIGHUP}
            more, rest = decode(rest + self._decoder.decode(data))
            keys += more
            if not rest:
                return keys, signals
            if not select.select([self._source], [], [], ESC_WAIT)[0]:
                return [*keys, "esc"], signals

    def show(self, rows: Sequence[str]) -> None:
        """Display these rows, writing only those that have changed.

        Raises:
            Gone: the terminal was closed.
        """
        pairs = enumerate(zip_longest(rows, self._rows, fillvalue=""), 1)
        changed = [f"\x1b[{number};1H\x1b[0m\x1b[2K{row}" for number, (row, old) in pairs if row != old]
        self._write("".join(changed))
        self._rows = list(rows)

    def clear(self) -> None:
        """Set the mode again and clear the terminal, since other programs may have changed both.

        Raises:
            Gone: the terminal was closed.
        """
        mode = self._mode()
        # No echo, no Ctrl-S. Ctrl-C and Ctrl-Z are keys, and send no signals to our child processes.
        mode[0] &= ~(termios.IXON | termios.ICRNL)
        mode[3] &= ~(termios.ECHO | termios.ICANON | termios.ISIG | termios.IEXTEN)
        self._set(mode)
        self._write(CLEAR)
        self._rows = []

    def suspend(self) -> None:
        """Restore the terminal, and stop until the shell resumes the job."""
        self._leave()
        ours = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(0, signal.SIGTSTP)  # the whole job, as a terminal does at Ctrl-Z
        signal.signal(signal.SIGTSTP, ours)
        self._take()

    def _take(self) -> None:
        self._found = self._mode()
        self._write(TAKE)
        self.clear()

    def _leave(self) -> None:
        if self._found is not None:
            found, self._found = self._found, None
            with suppress(Gone):
                self._write(LEAVE)
                self._set(found)

    def _mode(self) -> list[Any]:
        try:
            return termios.tcgetattr(self._source)
        except termios.error as error:
            raise Gone(str(error)) from error

    def _set(self, mode: list[Any]) -> None:
        while True:
            try:
                return termios.tcsetattr(self._source, termios.TCSADRAIN, mode)
            except termios.error as error:
                if error.args[0] != errno.EINTR:  # stopped in the background, then brought to the foreground
                    raise Gone(str(error)) from error

    def _read(self) -> bytes:
        try:
            return os.read(self._source, CHUNK)
        except OSError:
            return b""

    def _write(self, text: str) -> None:
        data = text.encode(self._encoding, errors="replace")
        try:
            while data:
                data = data[os.write(self._target, data) :]
        except OSError as error:
            raise Gone(str(error)) from error
