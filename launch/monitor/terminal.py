"""The terminal: names of keys come out of it, rows of text go into it, and it is left as it was found.

Knows bytes, signals and escape sequences; neither what a key means nor what the rows say.
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
from typing import Any

TAKE = "\x1b[?1049h"  # the other screen
CLEAR = "\x1b[0m\x1b[?25l\x1b[?7l\x1b[2J"  # no cursor, and what is too wide is cut off rather than wrapped
LEAVE = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
ESC_WAIT = 0.1  # seconds in which the rest of a key's sequence arrives, also over ssh; otherwise it was Esc
CHUNK = 4096

NAMES = {
    "\r": "enter", "\n": "enter", "\t": "tab", "\x7f": "backspace", "\b": "backspace", "\x1b": "esc",
    "\x03": "ctrl-c", "\x0c": "ctrl-l", "\x1a": "ctrl-z",
}  # fmt: skip
SEQUENCES = {
    "A": "up", "B": "down", "C": "right", "D": "left", "H": "home", "F": "end", "Z": "backtab",
    "1~": "home", "7~": "home", "4~": "end", "8~": "end", "5~": "pageup", "6~": "pagedown",
}  # fmt: skip
SEQUENCE = re.compile(r"\x1b[\[O]([0-?]*[ -/]*[@-~])")
BEGUN = re.compile(r"\x1b([\[O][0-?]*[ -/]*)?")  # of a sequence, or Esc

ENDS = frozenset((signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT))
TOLD = (*ENDS, signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT)


class Gone(RuntimeError):
    """The terminal is no more."""


def decode(text: str) -> tuple[list[str], str]:
    """The keys that were pressed, by name or as the character that they stand for.

    Returns:
        Them, and what may be the beginning of another one.
    """
    keys, at = list[str](), 0
    while at < len(text):
        if found := SEQUENCE.match(text, at):
            keys += [SEQUENCES[found[1]]] if found[1] in SEQUENCES else []
            at = found.end()
        elif BEGUN.fullmatch(text, at):
            break
        else:
            key = NAMES.get(text[at], text[at])
            keys += [key] if key.isprintable() else []
            at += 1
    return keys, text[at:]


class Terminal:
    """A terminal that is taken over while this is used as a context manager, in the main thread.

    Args:
        source, target: what keys are read from and rows are written to; both are terminals.
    """

    def __init__(self, source: int, target: int, encoding: str = "utf-8") -> None:
        self._source, self._target, self._encoding = source, target, encoding
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._found: list[Any] | None = None  # how it was before it was taken
        self._rows: list[str] = []  # what it shows

    def __enter__(self) -> Terminal:
        self._pipe = os.pipe()  # select sees signals, and words of other threads, at its other end
        for end in self._pipe:
            os.set_blocking(end, False)
        self._wakeup = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        self._handlers = {number: signal.signal(number, lambda *_: None) for number in TOLD}
        self._take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        # The pipe stays open: a thread may still write to it, and must not hit another file of that number.

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in cells."""
        with suppress(OSError):
            width, height = os.get_terminal_size(self._target)
            if width and height:  # some that are no real terminals do not know
                return width, height
        return 80, 24

    def wake(self) -> None:
        """Have `wait` return; from any thread."""
        with suppress(BlockingIOError):  # it is full, and wakes anyway
            os.write(self._pipe[1], b"\0")

    def wait(self, timeout: float) -> tuple[list[str], set[signal.Signals]]:
        """Wait for keys, signals or `wake`.

        Args:
            timeout: seconds after which it returns anyway.

        Returns:
            The keys and the signals that came; SIGHUP also where the terminal is gone.
        """
        ready = select.select([self._source, self._pipe[0]], [], [], timeout)[0]
        told = os.read(self._pipe[0], CHUNK) if self._pipe[0] in ready else b""
        signals = {signal.Signals(number) for number in told if number}
        if self._source not in ready:
            return [], signals
        keys, rest = list[str](), ""
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
        """Have it show these rows, of which only those are sent that it does not show already.

        Raises:
            Gone: it is no more.
        """
        pairs = enumerate(zip_longest(rows, self._rows, fillvalue=""), 1)
        changed = [f"\x1b[{number};1H\x1b[0m\x1b[2K{row}" for number, (row, old) in pairs if row != old]
        self._write("".join(changed))
        self._rows = list(rows)

    def clear(self) -> None:
        """Make sure of the terminal, and forget what it shows, which others may have changed.

        Raises:
            Gone: it is no more.
        """
        mode = self._mode()
        # No echo; Ctrl-C and Ctrl-Z are keys, which do not hit the programs that we run; no Ctrl-S.
        mode[0] &= ~(termios.IXON | termios.ICRNL)
        mode[3] &= ~(termios.ECHO | termios.ICANON | termios.ISIG | termios.IEXTEN)
        self._set(mode)
        self._write(CLEAR)
        self._rows = []

    def suspend(self) -> None:
        """Give the terminal back, and stop until the shell has us go on."""
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
                if error.args[0] != errno.EINTR:  # stopped for being in the background, and brought back
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
