"""Who else can write to files that jobs execute or trust.

A run directory holds the copy of the code, the jobs' instructions, and checkpoints, which are pickles. Anyone
who can write there can run programs as the owner of the jobs.
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

OTHERS = 0o022  # write permission bits of group and others
# The kernel's format of an access control list: a version, then (tag, permissions, id) per entry.
_ACL, _ENTRY, _OWNER, _WRITE = "system.posix_acl_default", struct.Struct("<HHI"), 0x01, 2


def private_umask() -> None:
    """Make this process and its children create nothing that other users can write to."""
    os.umask(os.umask(0o077) | OTHERS)


def make_private(folder: Path) -> None:
    """Create a folder, with its parents, that only its owner can write to, whatever its parent's defaults.

    Read permissions follow umask and the parent's default access control list.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(stat.S_IMODE(folder.stat().st_mode) & ~OTHERS)
    with suppress(OSError):  # no list, or no support by the file system
        os.setxattr(folder, _ACL, without_write(os.getxattr(folder, _ACL)))


def without_write(acl: bytes) -> bytes:
    """Return an access control list, in the kernel's format, without write permission except the owner's."""
    entries = [
        _ENTRY.pack(tag, rights if tag == _OWNER else rights & ~_WRITE, id)
        for tag, rights, id in _ENTRY.iter_unpack(acl[4:])
    ]
    return acl[:4] + b"".join(entries)


def writers(status: os.stat_result) -> str | None:
    """Describe who else can write to a file or folder; None if only this user or root can."""
    if status.st_uid not in (os.getuid(), 0):
        return f"its owner {_user(status.st_uid)}"
    if status.st_mode & stat.S_IWOTH:
        return "everybody"
    if status.st_mode & stat.S_IWGRP and not _own(status.st_gid):
        return f"members of the group {_group(status.st_gid)}"
    return None


@lru_cache
def _own(gid: int) -> bool:
    """Whether a group is the user's private group, as many systems create: it has the user's name."""
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
