"""Refuse run directories in which other users can change what this user's jobs execute.

Checked before anything is submitted or canceled: the run directory, the toolkit's entries directly in it, and
the snapshots of the code, by two listings. Only the owner can write below those, since all were created with
the same umask (jobs/core/trust.py).
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from jobs.core.trust import make_private, writers
from jobs.core.unit import STAGES
from jobs.store.rundir import StudyDir
from launch.submit.limits import Refusal


def prepare(root: StudyDir, copied: Iterable[Path] = ()) -> None:
    """Create a study's run directory unless there is one.

    Args:
        copied: files of which the directory will hold a copy: users who may not read one may not enter.

    Raises:
        Refusal: others can write into what jobs would execute.
    """
    if not root.path.exists():
        make_private(root.path)
        status = root.path.stat()
        root.path.chmod(stat.S_IMODE(status.st_mode) & ~_kept_out(copied, status.st_gid))
    check(root)


def _kept_out(files: Iterable[Path], group: int) -> int:
    """Return the permission bits of users who may not read one of these files, in a folder of this group."""
    bits = 0
    for file in files:
        status = file.stat()
        members = stat.S_IRGRP if status.st_gid == group else stat.S_IROTH
        bits |= 0 if status.st_mode & members else stat.S_IRWXG
        bits |= 0 if status.st_mode & stat.S_IROTH else stat.S_IRWXO
    return bits


def check(root: StudyDir) -> None:
    """Check that only this user can write into what jobs execute or trust.

    Raises:
        Refusal: another user can, or can replace the whole directory.
    """
    with suppress(FileNotFoundError):
        for path, status in _trusted(root):
            who = writers(status)
            if who and status.st_uid not in (os.getuid(), 0):
                raise Refusal(
                    f"{path} belongs to another user, {who.removeprefix('its owner ')}, and your jobs would "
                    "execute its contents: give --runs a directory of your own"
                )
            if who:
                folder = shlex.quote(str(root.path))
                raise Refusal(
                    f"{path}: {who} can write to it, and your jobs execute its contents. If nobody has "
                    f"changed anything: chmod -R go-w {folder} (to share it for reading: "
                    f"chmod -R g+rX {folder})"
                )
        parent = root.path.absolute().parent
        mode = parent.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            folder = shlex.quote(str(parent))
            raise Refusal(
                f"{parent}: everybody can replace {root.path.name} in it, whose code your jobs execute: "
                f"chmod o-w {folder}, or chmod +t {folder} to share it, or give --runs another one"
            )


def replaceable(root: StudyDir) -> str | None:
    """Return a warning if the members of a group can replace a run directory, though not write into it."""
    parent = root.path.absolute().parent
    status = parent.stat()
    if status.st_mode & stat.S_ISVTX or status.st_uid != os.getuid():
        return None
    if (who := writers(status)) is None:
        return None
    prevented = f"to prevent that: chmod +t {shlex.quote(str(parent))}"
    return f"{who} can replace {root.path}, whose code your jobs execute; {prevented}"


def _trusted(root: StudyDir) -> Iterator[tuple[Path, os.stat_result]]:
    yield root.path, root.path.stat()
    files = (root.ledger, root.study, root.origin, root.submitted, root.nodes, root.code, root.by_hand)
    names = {*STAGES, "submissions", *(path.name for path in files)}
    for folder, wanted in ((root.path, names), (root.code, None)):
        with suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                if wanted is None or entry.name in wanted:
                    with suppress(FileNotFoundError):  # removed meanwhile, or a broken link
                        yield Path(entry.path), entry.stat()
