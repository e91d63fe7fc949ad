"""Reads small text files written by users (YAML, templates) whole, or rejects them with place and reason."""

from __future__ import annotations

import codecs
import os
import re
import stat
from pathlib import Path
from typing import NamedTuple

MOST = 1 << 20  # bytes; files written by hand are far smaller
KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # the first also matches UTF-32 (LE)
CONTROL = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
UNSHOWABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Position(NamedTuple):
    """A place in a text: line and column, both from 1; columns count characters."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.line}:{self.column}"


class Unusable(ValueError):
    """A file that cannot be used.

    Args:
        at: where; None: the whole file.
        key: the path of keys to the place, for YAML.
    """

    def __init__(self, message: str, at: Position | None = None, key: tuple[str, ...] = ()) -> None:
        self.message, self.at, self.key = message, at, key
        super().__init__(message)


def read_text(file: Path) -> str:
    """Return the text of a file, in UTF-8 with or without a byte order mark.

    Raises:
        Unusable: the file is missing, unreadable, not a regular file, too large, in another encoding, or has
            control characters.
    """
    data = _read(file)
    if data.startswith(WIDE):
        raise Unusable("UTF-16 or UTF-32: save the file as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte, before = error.object[error.start], error.object[: error.start].decode("utf-8")
        at = position(before, len(before))
        raise Unusable(f"not UTF-8: byte 0x{byte:02x}; save the file as UTF-8", at) from None
    if found := CONTROL.search(text):
        at = position(text, found.start())
        raise Unusable(f"a control character, U+{ord(found[0]):04X}: remove it", at)
    return text


def position(text: str, index: int) -> Position:
    """Return the place of a character of a text."""
    return Position(text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index))


def _read(file: Path) -> bytes:
    try:
        kind = stat.S_IFMT(os.stat(file).st_mode)
        if kind != stat.S_IFREG:
            raise Unusable(f"a file is needed, found {KINDS.get(kind, 'something else')}")
        # A pipe that has replaced the file meanwhile must not block.
        with open(os.open(file, os.O_RDONLY | os.O_NONBLOCK), "rb") as stream:
            data = stream.read(MOST + 1)
    except OSError as error:
        raise Unusable(f"cannot be read: {error.strerror}") from None
    except ValueError as error:
        if isinstance(error, Unusable):
            raise
        raise Unusable("cannot be read: its name holds a null byte") from None
    if len(data) > MOST:
        raise Unusable(f"larger than {MOST >> 20} MB: no such file is that large")
    return data


def is_file(path: Path) -> bool:
    """Return whether a path exists and is not a directory; False for invalid paths."""
    try:
        return not stat.S_ISDIR(os.stat(path).st_mode)
    except PermissionError:
        return True  # reading the file will report it
    except (OSError, ValueError):
        return False


def showable(text: str) -> str:
    """Return a text on one line, its control characters escaped."""
    return UNSHOWABLE.sub(lambda match: ascii(match[0])[1:-1], text)
