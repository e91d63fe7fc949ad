"""One submitter a study at a time, also where several login nodes share a file system.

The lock is a file that appears with its owner in it, by a hard link, which NFS and Lustre do right. It is
kept fresh while it is held; one whose owner died is taken over, with a word about whose it was.

An owner that only slept (a suspended laptop, a stopped process, a login node without network) must find out
when it goes on, so every step of a submission checks first that the lock is still its own. The ledger does
that before each line (`Ledger.fence`), and what starts jobs does it once more after the line was written.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from jobs.store.clock import ahead
from jobs.store.records import Damaged, not_a_file, read_json
from jobs.store.schema import OWNER

REFRESH = 20.0  # seconds between two heartbeats of the owner
STALE = 180.0  # seconds without one after which an owner on another host is taken for dead


class Locked(RuntimeError):
    """Somebody else is submitting this study."""


class Lost(Locked):
    """The lock was this process's own, and is not any more: it must not change anything."""


class Lock:
    """Holds a study's lock, which is the file `path`, as a context manager.

    Args:
        seize: take it from whoever has it, who finds out at its next step, and say in these words by what.
        patience: seconds to wait for an owner that lives.

    Attributes:
        took_over: whose it was, in words, if it was taken over.
    """

    def __init__(self, path: Path, *, seize: str | None = None, patience: float = 0.0) -> None:
        self._path, self._seize, self._patience = path, seize, patience
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
        """Check that the lock is still this process's own.

        Raises:
            Lost: somebody else has it, or has removed it.
        """
        owner = _owner(self._path)
        if owner.get("token") == self._token:
            return
        self._released.set()
        if words := owner.get("seized"):
            who = f"{words} of {_named(owner)} stopped this"
        elif owner:
            who = f"this did not run for a while, and {_named(owner)} took over"
        else:
            who = f"{self._path} is gone, by 'sor cancel' or by somebody who took this for dead"
        raise Lost(f"{who}: nothing more is submitted from here. 'sor status' shows where the study stands")

    def _written(self) -> Path:
        """Write who the owner is into a file of this process's own."""
        owner = {
            "user": getpass.getuser(), "host": socket.gethostname(), "pid": os.getpid(), "token": self._token,
            "since": time.strftime("%Y-%m-%d %H:%M:%S"), "began": time.time(),
            **({"seized": self._seize} if self._seize else {}),
        }  # fmt: skip
        mine = self._path.with_name(f"{self._path.name}.{self._token}")
        mine.write_text(json.dumps(owner), encoding="utf-8")
        return mine

    def _create(self) -> bool:
        mine = self._written()
        with suppress(FileExistsError):
            os.link(mine, self._path)
        made = mine.stat().st_nlink == 2  # NFS may lose the answer to a link that it made
        mine.unlink()
        return made

    def _take_over(self) -> None:
        """Remove a dead owner's lock.

        Raises:
            Locked: the owner lives, or may; or somebody else is taking over.
        """
        if self._dead_owner() is None:
            return
        with Lock(self._path.with_name(f"{self._path.name}.takeover")):
            whose = self._dead_owner()  # looked at again: meanwhile another one may have taken over
            if whose is not None:
                self._path.unlink(missing_ok=True)
                self.took_over = whose

    def _dead_owner(self) -> str | None:
        """Who held the lock, in words, and is dead; None: nobody holds it any more. It raises Locked, too."""
        owner, silent = _owner(self._path), self._silence()
        if silent is None:
            return None
        whose = f"{_named(owner)} since {owner.get('since', 'a moment ago')}"
        if _may_live(owner, silent):
            raise Locked(
                f"this study is being submitted by {whose}; its last heartbeat is {silent:.0f} s old. "
                f"Wait until it ends. If you are sure that it is dead, remove {self._path}"
            )
        return whose

    def _silence(self) -> float | None:
        """Seconds since the owner's last heartbeat, by the file server's clock; None: the lock is gone."""
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


def held_since(path: Path) -> float | None:
    """Since when somebody holds a lock, in seconds since the epoch; None: nobody does, as far as can be seen.

    Touches nothing, unlike who wants the lock: an owner elsewhere is judged by this machine's clock.
    """
    try:
        touched = path.stat().st_mtime
    except OSError:
        return None
    owner = _owner(path)
    if not owner or not _may_live(owner, time.time() + ahead(path.parent) - touched):
        return None
    return float(owner.get("began", touched))


def _named(owner: Mapping[str, Any]) -> str:
    """An owner, for a person."""
    return (
        f"{owner.get('user', 'somebody')} on {owner.get('host', 'an unknown host')} "
        f"(process {owner.get('pid', 'unknown')})"
    )


def _owner(path: Path) -> dict[str, Any]:
    """Who holds a lock; empty when its file is gone, or is being made by somebody without hard links."""
    try:
        owner: dict[str, Any] = read_json(path, OWNER)
    except (OSError, Damaged):
        return {}
    return owner


def _may_live(owner: dict[str, Any], silent: float) -> bool:
    """Whether the owner of a lock lives, or may, after so many seconds without a heartbeat."""
    if owner.get("host") != socket.gethostname():
        return silent <= STALE
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's process
        return True
    return True
