"""Messages for OS errors: the path, the reason, and the option that avoids the error."""

from __future__ import annotations

import errno
import os
import pwd
from collections.abc import Sequence
from pathlib import Path

# Permanent errors: the same command fails again until something about it changes.
REASONS = {
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.ENOTDIR: "part of this path is a file, not a folder",
    errno.EEXIST: "a file is where a folder is needed",
    errno.EISDIR: "a folder is where a file is needed",
    errno.ENAMETOOLONG: "the name is too long for this file system",
    errno.ELOOP: "circular symbolic links",
    errno.ENOENT: "no such file",
}
FULL = (errno.ENOSPC, errno.EDQUOT)


def explained(error: OSError, arguments: Sequence[str]) -> tuple[str, int]:
    """Return a one-line message for an error, and the exit code: 2 if permanent, 1 if transient.

    Args:
        arguments: the program's command-line arguments.
    """
    paths = [os.fsdecode(p) for p in (error.filename, error.filename2) if isinstance(p, str | bytes | Path)]
    where = " and ".join(paths)
    reason = REASONS.get(error.errno or 0) or error.strerror or str(error) or type(error).__name__
    if error.errno in FULL:
        then = (
            "free some space, or get a larger quota. Finished work is kept, and the same command continues it"
        )
        return f"{f'{where}: ' if where else ''}{error.strerror}: {then}", 1
    if error.errno not in REASONS:
        return f"{where}: {reason}" if where else reason, 1
    if error.errno in (errno.EACCES, errno.EPERM) and paths:
        reason += _whose(Path(paths[0]))
    return f"{f'{where}: ' if where else ''}{reason}. {_way_out(arguments)}", 2


def _way_out(arguments: Sequence[str]) -> str:
    """Return the options that select another path."""
    command = next((word for word in arguments if not word.startswith("-")), "")
    runs = "choose another folder for run directories with --runs DIR or SOR_RUNS"
    if command == "init":
        return "Name a file in a folder that exists"
    if command == "report":
        return f"Write the report elsewhere with --out DIR, or {runs}"
    if any(word.partition("=")[0] == "--out" for word in arguments):
        return f"Write elsewhere with --out DIR, or {runs}"
    return runs[0].upper() + runs[1:]


def _whose(path: Path) -> str:
    """Return the owner of the nearest accessible path, in parentheses; empty if it is the current user."""
    for part in (path, *path.parents):
        try:
            owner = os.stat(part).st_uid
        except OSError:
            continue
        if owner == os.geteuid():
            return ""
        try:
            return f" ({part} belongs to {pwd.getpwuid(owner).pw_name})"
        except KeyError:
            return f" ({part} belongs to user {owner})"
    return ""
