"""Standard output and standard error of the commands."""

from __future__ import annotations

import json
import os
from typing import Any, TextIO

from jobs.core.plain import PlainConsole, say


def show(renderable: Any) -> None:
    """Print a renderable, nothing of it cut off; a file has no width, so that lines are not wrapped."""
    console = PlainConsole()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = PlainConsole(width=200)
    console.print(renderable, crop=False)


def show_json(data: Any) -> None:
    """Print JSON for programs."""
    print(json.dumps(data, indent=1))


def complain(words: str) -> None:
    """Print an error message to standard error."""
    say("\n".join(f"sor: {line}" for line in words.splitlines()), error=True)


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether a standard stream is a terminal. Where the shell has closed it, Python has None."""
    return stream is not None and stream.isatty()
