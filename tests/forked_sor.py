"""`sor`, run again and again by processes that are forked from one which has loaded it, and killed on demand.

Most of what a call costs is to start Python and to load the program; a test of many calls spares that. As a
program, this file reads calls from its standard input and answers each with a line, both in JSON.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

NEVER = -1


class ForkedSor:
    """A process that runs `sor`. Called with its arguments, it answers as `small_study.sor` does."""

    def __init__(self, **variables: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-B", __file__], env={**os.environ, **variables}, encoding="utf-8",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def __call__(self, *words: str, at: int = NEVER) -> subprocess.CompletedProcess[str]:
        """Run it; with `at`, kill it just before its `at`-th change or question, counted from 0.

        The errors of one that was not killed end with a line of JSON: its changes and questions.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([at, *words]), file=self._process.stdin, flush=True)
        code, out, error = json.loads(self._process.stdout.readline())
        return subprocess.CompletedProcess(words, code, out, error)

    def end(self) -> None:
        self._process.communicate()


def _serve() -> None:
    from launch import (
        study_run,  # noqa: F401  what a call would load
    )

    for line in sys.stdin:
        at, *words = json.loads(line)
        with (
            tempfile.TemporaryFile("w+", encoding="utf-8") as out,
            tempfile.TemporaryFile("w+", encoding="utf-8") as error,
        ):
            pid = os.fork()
            if pid == 0:
                os.dup2(out.fileno(), 1)
                os.dup2(error.fileno(), 2)
                os._exit(_run(words, at))
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            out.seek(0)
            error.seek(0)
            print(json.dumps([code, out.read(), error.read()]), flush=True)


def _run(words: list[str], at: int) -> int:
    from launch.cli import main

    did: list[str] = []

    def note(event: str, about: tuple[Any, ...]) -> None:
        what = _change(event, about)
        if what:
            if len(did) == at:
                os.kill(os.getpid(), signal.SIGKILL)
            did.append(what)

    sys.argv, code = ["sor", *words], 0
    sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115  not read from yet, as that of a new process
    sys.addaudithook(note)
    try:
        main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    print(json.dumps(did), file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _change(event: str, about: tuple[Any, ...]) -> str | None:
    """What an event changes or asks; None: nothing."""
    if event == "subprocess.Popen":
        return " ".join(about[1])
    if event == "open":
        changes = bool((about[2] or 0) & (os.O_WRONLY | os.O_RDWR)) and about[0] != os.devnull
    elif event == "os.mkdir":
        changes = not Path(about[0]).is_dir()
    else:
        changes = event in ("os.rename", "os.link", "os.remove")
    return f"{event} {about[0]}" if changes else None


if __name__ == "__main__":
    _serve()
