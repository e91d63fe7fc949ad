"""Wrapping of lines, so that a command at the end of one still works when its rows are pasted. Pure."""

from __future__ import annotations

import re
import shlex
from typing import NamedTuple

from rich.cells import cell_len, chop_cells

# By convention a message ends with its command, after a colon or "then".
COMMAND = re.compile(r"(?:^|(?<=: )|(?<=; )|(?<=then ))(?:sor|scontrol|rm) .*$")
LEAST = 8  # cells of a long word that a row holds at least


class Word(NamedTuple):
    """A word of a line, or a part of one that is longer than a row.

    Args:
        end: what the row before ends with, if this word starts a row.
        part: whether it continues the word before it.
    """

    text: str
    end: str = ""
    part: bool = False


def wrapped(line: str, width: int, indent: int = 0) -> list[str]:
    """Return the rows of a line; those of a command are continued with backslashes, as in a shell.

    Args:
        indent: of the first row, in cells; the next ones are indented by two more.
    """
    found = COMMAND.search(line)
    prose, command = (line[: found.start()], found[0]) if found else (line, "")
    most = max(width - indent - 6, LEAST)
    words = [word for text in prose.split() for word in _prose(text, most)]
    ours, rows, row = len(words), list[str](), " " * indent
    words += _command(command, most)
    for number, word in enumerate(words):
        spare = 2 if ours <= number < len(words) - 1 else 0  # for the end of a row
        # A command that fits on a row of its own is not broken.
        least = (
            cell_len(command)
            if number == ours and cell_len(command) <= width - indent - 2
            else cell_len(word.text) + spare
        )
        empty = not row.strip()
        if not empty and (word.part or cell_len(row) + 1 + least > width):
            rows.append(row + word.end)
            row, empty = "" if word.part else " " * (indent + 2), True
        row += word.text if empty else f" {word.text}"
    return [*rows, row]


def _prose(text: str, most: int) -> list[Word]:
    parts = chop_cells(text, most) if cell_len(text) > most else [text]
    return [Word(part, "", number > 0) for number, part in enumerate(parts)]


def _command(text: str, most: int) -> list[Word]:
    """Return a command's words, each part quoted by itself."""
    try:
        words = shlex.split(text)
    except ValueError:  # an apostrophe: it was prose
        return [word for more in text.split() for word in _prose(more, most)]
    found = list[Word]()
    for number, word in enumerate(words):
        first, *more = _parts(word, most)
        found.append(Word(first, " \\" if number else ""))
        found += [Word(part, "\\", part=True) for part in more]
    return found


def _parts(word: str, most: int) -> list[str]:
    """Return a word as quoted parts of `most` cells and two quotes at most."""
    parts = list[str]()
    while word or not parts:
        size = most
        while cell_len(shlex.quote(word[:size])) > most + 2:  # an apostrophe takes five
            size -= 1
        parts.append(shlex.quote(word[:size]))
        word = word[size:]
    return parts
