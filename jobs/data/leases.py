"""Claims with leases: independent workers share numbered pieces of work.

A claim is a file PIECE.GENERATION made by exclusive create; its mtime starts its lease. The highest
generation counts. Taking over a piece whose lease has expired means creating the next generation, which only
one worker can do. Nothing is renamed or removed, so a worker with a stale view cannot take a fresh claim
away, and a worker that dies midway leaves a claim that expires like any other.

Ages are differences of times set by the file server, so nodes' clocks do not matter. NFS may show a time
that is 60 s old: the lease must be longer than that plus the time between two refreshes. Two workers on one
piece waste work but do no harm: publishing must be idempotent.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

LEASE_SECONDS = 120.0
VIEW_SECONDS = 1.0  # age up to which `take` trusts what it has seen: claims are many, file servers slow
CLAIM = re.compile(r"(\d+)\.(\d+)")


@dataclass
class _View:
    """What a worker has seen of the claims.

    Args:
        latest: Highest generation by piece.
        seen: Monotonic time of the look.
        taken: Pieces found to be held, by this worker or by others.
        now: The file server's time of the look; None if it was not needed yet.
    """

    latest: dict[int, int]
    seen: float
    taken: set[int] = field(default_factory=set)
    now: float | None = None


class Claims:
    """One worker's view of the claims in a folder.

    Args:
        folder: Folder with the claims of all workers; created if missing, its parent must exist.
        owner: Name of this worker, unique among all workers.
    """

    def __init__(self, folder: Path, owner: str) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._owner = owner
        self._clock = folder / f"clock.{owner}"
        self._held: dict[int, Path] = {}
        self._view = _View({}, -VIEW_SECONDS)

    def take(self, pieces: list[int]) -> int | None:
        """Claim the first unclaimed piece; None if other workers hold them all.

        What others did within the last `VIEW_SECONDS` may be unknown: no piece is claimed twice for it, but
        one that they gave back may be found by a later call only.
        """
        if time.monotonic() - self._view.seen >= VIEW_SECONDS:
            self._view = self._look()
        view = self._view
        for piece in pieces:
            if piece in view.taken or not self._free(piece, view):
                continue
            view.taken.add(piece)  # by this worker, or by one that was faster
            path = self._path(piece, view.latest.get(piece, -1) + 1)
            try:
                with path.open("x", encoding="utf-8") as file:
                    file.write(self._owner)
            except FileExistsError:
                continue
            self._held[piece] = path
            return piece
        return None

    def available(self, pieces: list[int]) -> bool:
        """Whether `take` would find a piece now."""
        self._view = self._look()
        return any(self._free(piece, self._view) for piece in pieces)

    def refresh(self) -> None:
        """Renew the leases of all held pieces."""
        for path in self._held.values():
            os.utime(path)  # without times: the file server's clock

    def release(self, piece: int) -> None:
        """Drop a finished piece, which needs no lease any more."""
        self._held.pop(piece)

    def give_back(self) -> None:
        """Let the leases of all held pieces expire now, so that other workers can take over."""
        for path in self._held.values():
            os.utime(path, (0, 0))
        self._held.clear()

    def _path(self, piece: int, generation: int) -> Path:
        return self._folder / f"{piece:05d}.{generation}"

    def _look(self) -> _View:
        """Return the highest generation of each piece that was ever claimed."""
        latest: dict[int, int] = {}
        for entry in os.scandir(self._folder):
            if claim := CLAIM.fullmatch(entry.name):
                piece, generation = map(int, claim.groups())
                latest[piece] = max(generation, latest.get(piece, -1))
        return _View(latest, time.monotonic(), taken=set(self._held))

    def _free(self, piece: int, view: _View) -> bool:
        if piece not in view.latest:
            return True
        if view.now is None:
            self._clock.touch()
            view.now = self._clock.stat().st_mtime
        if view.now - self._path(piece, view.latest[piece]).stat().st_mtime > LEASE_SECONDS:
            return True
        view.taken.add(piece)
        return False
