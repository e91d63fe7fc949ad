"""Signals that ask a `sor submit` in the foreground, or `sor keep`, to stop: Ctrl-C, SIGTERM, and SIGHUP of a
closed terminal.

The first one raises `Stopped` wherever the program is, so that jobs of this machine save their state and the
lock is released. Later ones are only recorded: a closed terminal sends SIGHUP more than once, and nothing may
interrupt the saving. A second Ctrl-C means that the user does not want to wait.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(KeyboardInterrupt):
    """The program was asked to stop; `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class Stopping:
    """Context manager of the main thread that turns the first of these signals into `Stopped`.

    Attributes:
        hurried: set once the user no longer waits for jobs that are saving.
    """

    def __init__(self) -> None:
        self.hurried = threading.Event()
        self._first: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                # A shell sets SIGINT to ignored in background jobs, where `kill -INT` must still stop the
                # program. Under nohup it has to outlive the terminal.
                if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            mute()
        if self._first is None:
            self._first = number
            raise Stopped(number)
        if number == signal.SIGINT:
            self.hurried.set()


def mute() -> None:
    """Redirect output, but for that into files, to /dev/null: every write to a closed terminal fails."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                os.dup2(null, stream.fileno())
    os.close(null)
