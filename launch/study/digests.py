"""Cached digests of local row files: large files are read once, not by every command.

A file counts as unchanged while its inode, size and times are. Unlike mtime, ctime cannot be set by programs
that copy files. Recently changed files are read again: a file system may give the next change the same time.
"""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

from jobs.store.records import Damaged, read_json
from jobs.store.rundir import write_json

CACHE = "~/.cache/scale-or-reason/digests.json"  # or below XDG_CACHE_HOME
LARGE = 64 << 20  # bytes; smaller files are read faster than the cache is worth
SETTLED = 5.0  # seconds without a change
KEPT = 1000  # files
Version = tuple[int, ...]


def digest(file: Path) -> str:
    """Return the SHA-256 of a file's contents, in hexadecimal.

    Raises:
        OSError: the file cannot be read.
    """
    return _digest(file, _version(file))


@cache
def _digest(file: Path, version: Version) -> str:
    if version[0] < LARGE:
        return _read(file)
    known, entry = _known(), [str(file), *version]
    for *kept, found in known:
        if kept == entry:
            return str(found)
    found = _read(file)
    settled = time.time() - max(version[-2:]) / 1e9 > SETTLED
    if settled and _version(file) == version:
        others = [line for line in _known() if line[0] != str(file)]
        with suppress(OSError, Damaged):  # without a writable cache, the file is read again next time
            _path().parent.mkdir(parents=True, exist_ok=True)
            write_json(_path(), [*others, [*entry, found]][-KEPT:])
    return found


def _read(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _version(file: Path) -> Version:
    found = file.stat()
    return found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns


def _known() -> list[list[str | int]]:
    """Return the cache's entries, each [file, version..., digest]."""
    try:
        found = read_json(_path())
    except (OSError, Damaged):
        return []
    sound = isinstance(found, list) and all(isinstance(line, list) and len(line) == 6 for line in found)
    return found if sound else []


def _path() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(base, "scale-or-reason", "digests.json") if base else Path(CACHE).expanduser()
