"""A command of the program, run in this process, and what it did besides answering.

Python's audit events tell of every file that is opened or changed and of every program that is started.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer
from typer.main import get_command

from launch import cli

SECONDS = 20.0  # that a call may take
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {
    "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
    "os.chown", "os.utime", "os.mkfifo", "os.mknod", "os.setxattr", "os.removexattr",
}  # fmt: skip
STARTS = {
    "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty",
    "pty.spawn", "socket.connect", "socket.bind", "urllib.Request", "pickle.find_class",
}  # fmt: skip


class TooLong(BaseException):
    """A call that went on for too long; no `except Exception` holds it up."""


@dataclass
class Deeds:
    """What a command did, as far as it must not."""

    folder: str
    found: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str
    deeds: list[str]


_now: Deeds | None = None


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _now is None:
        return
    if event == "open":
        path, _, flags = args
        if isinstance(path, str | bytes | Path) and isinstance(flags, int) and flags & WRITES:
            _note(event, path)
    elif event in CHANGES:
        for path in args[: 2 if event in ("os.rename", "os.link", "os.symlink") else 1]:
            _note(event, path)
    elif event in STARTS:
        _now.found.append(f"{event} {args!r:.200}")


def _note(event: str, path: Any) -> None:
    assert _now is not None
    if not isinstance(path, str | bytes | Path):
        return
    where = os.path.realpath(os.fsdecode(path))
    if not where.startswith(f"{_now.folder}/"):
        _now.found.append(f"{event} {where}")


sys.addaudithook(_hook)


def call(folder: Path, *words: str) -> Answer:
    """Run a command in a folder, the only one that it may change.

    Raises:
        TooLong: it did not end in time.
        Exception: what the program let through; it must not.
    """
    out, err, code = io.StringIO(), io.StringIO(), -1
    program: Any = cli
    if isinstance(program.app, typer.Typer):
        program.app = get_command(program.app)  # which would be made for each call
    with chdir(folder), redirect_stdout(out), redirect_stderr(err), watched(folder) as deeds:
        try:
            cli.answer(list(words))
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else -1
    return Answer(code, out.getvalue(), err.getvalue(), deeds.found)


@contextmanager
def watched(folder: Path) -> Iterator[Deeds]:
    """Note what is done outside a folder.

    Raises:
        TooLong: the time is up.
    """
    global _now
    kept, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    _now = deeds = Deeds(os.path.realpath(folder))
    try:
        with _limited():
            yield deeds
    finally:
        _now = None
        sys.dont_write_bytecode = kept


@contextmanager
def _limited() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TooLong(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
