"""Who else can write into files that jobs execute or believe.

A run directory holds the copy of the code, what each job is to do, and checkpoints, which are pickles.
Whoever can write there runs programs as the owner of the jobs.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
import struct
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

OTHERS = 0o022  # the permission bits to write of the group and of everybody
# The kernel's form of an access control list: a version, then (tag, permissions, id) of each entry.
_ACL, _ENTRY, _OWNER, _WRITE = "system.posix_acl_default", struct.Struct("<HHI"), 0x01, 2


def private_umask() -> None:
    """Have this process, and those that it starts, make nothing that other users can write into."""
    os.umask(os.umask(0o077) | OTHERS)


def make_private(folder: Path) -> None:
    """Make a folder, with its parents, in which only its owner can write, whatever its parent hands down.

    Reading stays as umask and default access control lists of the parent have it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(stat.S_IMODE(folder.stat().st_mode) & ~OTHERS)
    with suppress(OSError):  # there is no list, or the file system knows none
        os.setxattr(folder, _ACL, without_write(os.getxattr(folder, _ACL)))


def without_write(acl: bytes) -> bytes:
    """An access control list, in the kernel's form, that lets nobody but the owner write."""
    entries = [
        _ENTRY.pack(tag, rights if tag == _OWNER else rights & ~_WRITE, id)
        for tag, rights, id in _ENTRY.iter_unpack(acl[4:])
    ]
    return acl[:4] + b"".join(entries)


def writers(status: os.stat_result) -> str | None:
    """Who else can write into a file or folder, in words; None: only this user, or root."""
    if status.st_uid not in (os.getuid(), 0):
        return f"its owner {_user(status.st_uid)}"
    if status.st_mode & stat.S_IWOTH:
        return "everybody"
    if status.st_mode & stat.S_IWGRP and not _own(status.st_gid):
        return f"members of the group {_group(status.st_gid)}"
    return None


@lru_cache
def _own(gid: int) -> bool:
    """Whether a group is the private one that many systems give each user: its name is the user's."""
    with suppress(KeyError):
        group, user = grp.getgrgid(gid), pwd.getpwuid(os.getuid()).pw_name
        return group.gr_name == user and set(group.gr_mem) <= {user}
    return False


def _user(uid: int) -> str:
    with suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return str(uid)


def _group(gid: int) -> str:
    with suppress(KeyError):
        return grp.getgrgid(gid).gr_name
    return str(gid)
