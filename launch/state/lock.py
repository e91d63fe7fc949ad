"""Lock that allows one submitter per study at a time, even where login nodes share a file system.

The lock is a file that is created complete with its owner, by a hard link, which NFS and Lustre do correctly.
A heartbeat keeps it fresh while it is held. The lock of a dead owner is taken over, and its owner reported.

An owner that was only suspended (a sleeping laptop, a stopped process, a login node without network) must
find out when it resumes, so every step of a submission first checks that the lock is still its own. The
ledger does that before each line (`Ledger.fence`), and the code that starts jobs does it again after the line
was written.
"""

from __future__ import annotations

import getpass
import json
import os
import shlex
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from jobs.store.clock import ahead
from jobs.store.records import Damaged, not_a_file, read_json
from jobs.store.schema import OWNER

REFRESH = 20.0  # seconds between heartbeats of the owner
STALE = 180.0  # seconds without one after which an owner on another host is presumed dead
SUBMITTING = "this study is being submitted", "Wait until it ends"


class Locked(RuntimeError):
    """Another process is submitting this study."""


class Lost(Locked):
    """This process no longer holds the lock, and must not change anything."""


class Lock:
    """Context manager that holds a study's lock, the file `path`.

    Args:
        seize: take the lock from any owner, which finds out at its next step and reports these words.
        patience: seconds to wait for a live owner.
        busy: what the owner does, and what another process is to do about it, as `Locked` says it.

    Attributes:
        took_over: the previous owner, in words, if the lock was taken over.
    """

    def __init__(
        self,
        path: Path,
        *,
        seize: str | None = None,
        patience: float = 0.0,
        busy: tuple[str, str] = SUBMITTING,
    ) -> None:
        self._path, self._seize, self._patience, self._busy = path, seize, patience, busy
        self._released = threading.Event()
        self._token = f"{socket.gethostname()}.{os.getpid()}.{time.time_ns()}"
        self.took_over: str | None = None

    def __enter__(self) -> Lock:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if what := not_a_file(self._path):
            raise Damaged(what)
        if self._seize:
            os.replace(self._written(), self._path)
        else:
            self._wait()
        threading.Thread(target=self._keep_fresh, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        if _owner(self._path).get("token") == self._token:
            self._path.unlink()

    def _wait(self) -> None:
        until = time.monotonic() + self._patience
        while not self._create():
            try:
                self._take_over()
            except Locked:
                if time.monotonic() >= until:
                    raise
                time.sleep(0.5)

    def check(self) -> None:
        """Check that this process still holds the lock.

        Raises:
            Lost: another process holds it, or it was removed.
        """
        owner = _owner(self._path)
        if owner.get("token") == self._token:
            return
        self._released.set()
        if words := owner.get("seized"):
            who = f"stopped by {words} of {_named(owner)}"
        elif owner:
            who = f"this process was suspended, and {_named(owner)} took over"
        else:
            who = f"{self._path} was removed, by a cancellation or by a person"
        raise Lost(f"{who}: this process submits nothing more")

    def _written(self) -> Path:
        """Write the owner's record to a file of this process's own."""
        owner = {
            "user": getpass.getuser(), "host": socket.gethostname(), "pid": os.getpid(), "token": self._token,
            "since": time.strftime("%Y-%m-%d %H:%M:%S"), "began": time.time() + ahead(self._path.parent),
            **({"seized": self._seize} if self._seize else {}),
        }  # fmt: skip
        mine = self._path.with_name(f"{self._path.name}.{self._token}")
        mine.write_text(json.dumps(owner), encoding="utf-8")
        return mine

    def _create(self) -> bool:
        mine = self._written()
        with suppress(FileExistsError):
            os.link(mine, self._path)
        made = mine.stat().st_nlink == 2  # NFS may lose the reply to a link that it made
        mine.unlink()
        return made

    def _take_over(self) -> None:
        """Remove a dead owner's lock.

        Raises:
            Locked: the owner is or may be alive, or another process is taking over.
        """
        if self._dead_owner() is None:
            return
        with Lock(self._path.with_name(f"{self._path.name}.takeover")):
            whose = self._dead_owner()  # checked again: another process may have taken over
            if whose is not None:
                self._path.unlink(missing_ok=True)
                self.took_over = whose

    def _dead_owner(self) -> str | None:
        """Return the lock's dead owner, in words.

        Returns:
            None if the lock is no longer held.

        Raises:
            Locked: the owner is or may be alive.
        """
        owner, silent = _owner(self._path), self._silence()
        if silent is None:
            return None
        whose = f"{_named(owner)} since {owner.get('since', 'a moment ago')}"
        if _may_live(owner, silent):
            raise Locked(
                f"{self._busy[0]} by {whose}; its last heartbeat is {silent:.0f} s old. "
                f"{self._busy[1]}. If you are sure that it is dead: rm {shlex.quote(str(self._path))}"
            )
        return whose

    def _silence(self) -> float | None:
        """Return the seconds since the owner's last heartbeat, by the file server's clock.

        Returns:
            None if the lock is gone.
        """
        probe = self._path.with_name(f"{self._path.name}.{self._token}.clock")
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
        try:
            return now - self._path.stat().st_mtime
        except FileNotFoundError:
            return None

    def _keep_fresh(self) -> None:
        while not self._released.wait(REFRESH):
            with suppress(OSError):
                if _owner(self._path).get("token") == self._token:
                    os.utime(self._path)


class Held(NamedTuple):
    """A lock that somebody holds.

    Args:
        since: in seconds since the epoch, by this machine's clock.
        who: its owner, in words.
    """

    since: float
    who: str


def holder(path: Path) -> Held | None:
    """Return who holds a lock.

    Unlike acquiring it, this leaves the lock as it is. An owner on another host is judged by the file
    server's clock.

    Returns:
        None if no live owner is visible.
    """
    try:
        touched = path.stat().st_mtime
    except OSError:
        return None
    owner, faster = _owner(path), ahead(path.parent)
    if not owner or not _may_live(owner, time.time() + faster - touched):
        return None
    return Held(float(owner.get("began", touched)) - faster, _named(owner))


def _named(owner: Mapping[str, Any]) -> str:
    """Return a description of an owner for a person."""
    return (
        f"{owner.get('user', 'somebody')} on {owner.get('host', 'an unknown host')} "
        f"(process {owner.get('pid', 'unknown')})"
    )


def _owner(path: Path) -> dict[str, Any]:
    """Return a lock's owner; empty if its file is gone, or is being created without hard links."""
    try:
        owner: dict[str, Any] = read_json(path, OWNER)
    except (OSError, Damaged):
        return {}
    return owner


def _may_live(owner: dict[str, Any], silent: float) -> bool:
    """Return whether a lock's owner is or may be alive after so many seconds without a heartbeat."""
    if owner.get("host") != socket.gethostname():
        return silent <= STALE
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's process
        return True
    return True
