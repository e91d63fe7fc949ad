"""A person at a real terminal: a shell in tmux, keys typed, the screen read."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import debian
import pytest
from small_study import SOR, environment, wait_for

PROMPT = "ready>"


class Tmux:
    """A shell in a terminal of 80 × 24 cells, on a tmux server of its own."""

    def __init__(self, server: str) -> None:
        self._server = ("tmux", "-L", server, "-f", "/dev/null")

    def start(self, **variables: str) -> None:
        env = {**environment(**variables), "PATH": f"{SOR.parent}:{os.environ['PATH']}"}
        for name in ("COLUMNS", "LINES", "TMUX", "NO_COLOR"):
            if name not in variables:
                env.pop(name, None)
        subprocess.run(
            [*self._server, "new-session", "-d", "-x", "80", "-y", "24",
             f"PS1='{PROMPT} ' exec bash --norc --noprofile", ";", "set", "-g", "status", "off"],
            env=env, check=True,
        )  # fmt: skip
        self.resize(80, 24)
        self.sees(PROMPT)

    def types(self, text: str) -> None:
        """Text, letter by letter."""
        self._tmux("send-keys", "-l", text)

    def presses(self, *keys: str) -> None:
        """Keys by their names in tmux."""
        self._tmux("send-keys", *keys)

    def clicks(self, column: int, row: int) -> None:
        """The left button, in a terminal that reports the mouse; cells are counted from 0."""
        at = f"{column + 1};{row + 1}"
        self.types(f"\x1b[<0;{at}M\x1b[<0;{at}m")

    def scrolls(self, down: bool = True) -> None:
        """One step of the wheel."""
        self.types(f"\x1b[<{64 + down};1;1M")

    def runs(self, command: str) -> None:
        self.types(f"{command}\n")

    @property
    def screen(self) -> str:
        return self._tmux("capture-pane", "-p")

    @property
    def colors(self) -> str:
        """The screen with its escape sequences."""
        return self._tmux("capture-pane", "-p", "-e")

    def sees(self, *texts: str, without: str | None = None) -> str:
        """Wait until all of these are on the screen; returns it."""
        shown = ""

        def there() -> bool:
            nonlocal shown
            shown = self.screen
            return all(text in shown for text in texts) and not (without and without in shown)

        try:
            wait_for(there, f"{texts} on the screen, without {without}", 30)
        except AssertionError as error:
            raise AssertionError(f"{error}:\n{shown}") from None
        return shown

    def resize(self, width: int, height: int) -> None:
        self._tmux("resize-window", "-x", str(width), "-y", str(height))

    def state(self) -> str:
        """Whether it shows the cursor, and the other screen, and whether it reports the mouse."""
        flags = "#{cursor_flag} #{alternate_on} #{mouse_any_flag}"
        return self._tmux("display-message", "-p", flags).strip()

    def mode(self) -> str:
        """What the shell says of the terminal's settings."""
        mark = secrets.token_hex(4)
        self.runs(f"clear; stty -g; echo {mark[:4]}''{mark[4:]}")
        lines = self.sees(mark).splitlines()
        return lines[lines.index(mark) - 1]

    def end(self) -> None:
        subprocess.run([*self._server, "kill-server"], capture_output=True)

    def _tmux(self, *words: str) -> str:
        done = subprocess.run([*self._server, *words], capture_output=True, encoding="utf-8", check=True)
        return done.stdout


@contextmanager
def terminal(**variables: str) -> Iterator[Tmux]:
    """A terminal with these variables; the test is skipped where tmux cannot be had."""
    if why := debian.install("tmux", ["tmux"], ["tmux"]):
        pytest.skip(why)
    made = Tmux(f"sor-{secrets.token_hex(4)}")
    try:
        made.start(**variables)
        yield made
    finally:
        made.end()
