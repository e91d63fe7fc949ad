"""Read records that may be damaged: JSON of a known shape, or `Damaged` with file, line and advice.

A run directory outlives crashes, full disks, other versions and manual edits. Reading a record returns either
data of the shape that the code relies on, or raises an exception that names the file. Nothing here blocks on
a FIFO.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

SHOWN = 80  # characters of a bad value quoted in messages
LARGEST = 2**53  # larger integers have no use here and would overflow elsewhere
KINDS = {
    stat.S_ISDIR: "a folder", stat.S_ISLNK: "a link", stat.S_ISFIFO: "a FIFO", stat.S_ISSOCK: "a socket",
    stat.S_ISREG: "a file", stat.S_ISCHR: "a device", stat.S_ISBLK: "a device",
}  # fmt: skip


class Damaged(ValueError):
    """A file of a run directory that cannot be read as what it should be."""


class Kind(NamedTuple):
    """Requirement on a value of a record; `words` completes "is not …" in messages."""

    words: str
    fits: Callable[[Any], bool]


Shape = Mapping[str, Kind]  # of the required keys; a record may have more
ShapeOf = Callable[[dict[str, Any]], Shape]  # for shapes that depend on the record


def maybe(kind: Kind) -> Kind:
    """Return a kind that also accepts null."""
    return Kind(f"{kind.words} or null", lambda value: value is None or kind.fits(value))


def optional(kind: Kind) -> Kind:
    """Return a kind that also accepts a missing key."""
    return Kind(kind.words, lambda value: value is MISSING or kind.fits(value))


def list_of(kind: Kind) -> Kind:
    """Return a kind for lists whose values are of this kind."""
    return Kind(
        f"a list, each {kind.words}", lambda value: type(value) is list and all(map(kind.fits, value))
    )


def _is_text(value: Any) -> bool:
    if type(value) is not str:
        return False
    if not value.isascii():
        with suppress(UnicodeEncodeError):
            return bool(value.encode())
        return False  # half of a surrogate pair, which files and terminals reject
    return True


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -1e300 < value < 1e300  # rejects NaN


def _is_name(value: Any) -> bool:
    return _is_text(value) and value.isprintable() and "/" not in value and value not in ("", ".", "..")


MISSING = object()
TEXT = Kind("text", _is_text)
NAME = Kind("a file name", lambda value: _is_name(value) and len(value) < 250)
FLAG = Kind("true or false", lambda value: type(value) is bool)
COUNT = Kind("a count", lambda value: type(value) is int and 0 <= value < LARGEST)
NUMBER = Kind("a number", _is_number)
ANY_NUMBER = Kind("a number", lambda value: _is_number(value) or type(value) is float)  # also NaN, for losses
TIME = Kind("seconds since 1970", lambda value: _is_number(value) and 0 <= value < 1e11)
OBJECT = Kind("an object", lambda value: type(value) is dict)


def check(value: Any, shape: Shape | ShapeOf, where: str) -> dict[str, Any]:
    """Check that a value is a record of the shape, and return it.

    Args:
        where: The file, with the line number if it has several, for messages.

    Raises:
        Damaged: The value has another shape.
    """
    if type(value) is not dict:
        raise Damaged(f"{where}: {_short(value)} is not an object")
    for key, kind in (shape(value) if callable(shape) else shape).items():
        found = value.get(key, MISSING)
        if not kind.fits(found):
            what = (
                f'there is no "{key}"'
                if found is MISSING
                else f'"{key}" is {_short(found)}, not {kind.words}'
            )
            raise Damaged(f"{where}: {what}")
    return value


def parse(text: bytes, where: str) -> Any:
    """Parse JSON.

    Raises:
        Damaged: The text is not JSON, is nested too deeply, or has numbers of thousands of digits.
    """
    try:
        return json.loads(text.decode())
    except UnicodeDecodeError as error:
        raise Damaged(f"{where}: not UTF-8: {error.reason} at byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        shown = text[:SHOWN].decode(errors="replace")
        raise Damaged(f"{where}: not JSON ({why}): {shown!r}") from None


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading, without blocking if the path is a FIFO without a writer.

    Raises:
        FileNotFoundError: The path does not exist, or a parent is not a folder.
        Damaged: The path is not a regular file.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except NotADirectoryError as error:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from error
    except OSError:  # a socket, a dangling link or a link to itself
        if what := not_a_file(path):
            raise Damaged(what) from None
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise Damaged(not_a_file(path) or f"{path}: not a regular file")
    return os.fdopen(fd, "rb")


def not_a_file(path: Path) -> str | None:
    """Describe what a path is instead of a regular file; None if it is one or does not exist."""
    with suppress(FileNotFoundError, NotADirectoryError):
        mode = os.lstat(path).st_mode
        if not stat.S_ISREG(mode):
            return f"{path}: {kind_of(mode)}, not a file. Move it away, then repeat the command"
    return None


def kind_of(mode: int) -> str:
    """Describe the file type of a mode, such as "a folder"."""
    return next((words for test, words in KINDS.items() if test(mode)), "something unknown")


def read_json(path: Path, shape: Shape | None = None) -> Any:
    """Return the value in a JSON file; given a shape, an object that has it.

    Raises:
        FileNotFoundError: The file does not exist.
        Damaged: The file cannot be read.
    """
    with open_regular(path) as file:
        value = parse(file.read(), str(path))
    return value if shape is None else check(value, shape, str(path))


def read_jsonl(path: Path, shape: Shape | ShapeOf | None = None) -> Iterator[dict[str, Any]]:
    """Yield the records of a JSONL file, except for a torn last line, whose writer died.

    Raises:
        Damaged: Another line is not JSON, or has another shape.
    """
    for line in read_lines(path, shape):
        if isinstance(line, BadLine):
            raise Damaged(f"{line.why}. Remove the line, if its writer died")
        yield line


class BadLine(NamedTuple):
    """A line that is not a record; `why` begins with the file and the line."""

    why: str
    text: bytes
    what: str = "the line"  # or "the file", if the file is one record


def read_lines(path: Path, shape: Shape | ShapeOf | None = None) -> Iterator[dict[str, Any] | BadLine]:
    """Yield records as `read_jsonl` does, with bad lines in their places; nothing if the file is missing.

    Raises:
        Damaged: The path is not a regular file.
    """
    try:
        file = open_regular(path)
    except FileNotFoundError:
        return
    with file:
        for number, line in enumerate(file, 1):
            if line == b"\n":
                continue
            where = f"{path}, line {number}"
            try:
                yield check(parse(line, where), shape or {}, where)
            except Damaged as error:
                if not line.endswith(b"\n"):
                    return
                yield BadLine(str(error), line)


def _short(value: Any) -> str:
    try:
        text = json.dumps(value)
    except (ValueError, RecursionError):
        text = "something"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
