"""Claims with a lease: how workers that know nothing of each other share numbered pieces of work.

A claim is a file PIECE.GENERATION made by exclusive create; its age is its lease. The highest generation
counts. Taking over a piece whose lease has run out is to create the next generation, which only one worker
can: nothing is renamed or removed, so that a worker that looked too early cannot take a fresh claim away,
and one that dies in the middle leaves a claim that runs out like any other.

Ages are differences between times that the file server has set, so nodes' clocks do not matter. NFS may
show a time that is 60 s old: the lease must be longer than that plus the time between two refreshes.
Two workers on one piece are a waste, never a danger: what they publish is for others to keep single.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

LEASE_SECONDS = 120.0
CLAIM = re.compile(r"(\d+)\.(\d+)")


class Claims:
    """One worker's view of the claims in a folder.

    Args:
        folder: holds the claims of all workers; made if it is missing, in one that is there.
        owner: this worker's name, unlike every other's.
    """

    def __init__(self, folder: Path, owner: str) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._owner = owner
        self._clock = folder / f"clock.{owner}"
        self._held: dict[int, Path] = {}

    def take(self, pieces: list[int]) -> int | None:
        """Claim the first of these pieces that nobody works on; None where others hold them all."""
        latest = self._latest()
        for piece in pieces:
            if piece in self._held or not self._free(piece, latest):
                continue
            path = self._path(piece, latest.get(piece, -1) + 1)
            try:
                with path.open("x", encoding="utf-8") as file:
                    file.write(self._owner)
            except FileExistsError:  # another worker was faster
                continue
            self._held[piece] = path
            return piece
        return None

    def available(self, pieces: list[int]) -> bool:
        """Whether `take` would find one now."""
        latest = self._latest()
        return any(self._free(piece, latest) for piece in pieces)

    def refresh(self) -> None:
        """Begin the lease of everything held anew."""
        for path in self._held.values():
            os.utime(path)  # without times: the file server's clock

    def release(self, piece: int) -> None:
        """This piece is done: it needs no lease any more."""
        self._held.pop(piece)

    def give_back(self) -> None:
        """Have the leases of everything held run out now, for another worker to take over at once."""
        for path in self._held.values():
            os.utime(path, (0, 0))
        self._held.clear()

    def _path(self, piece: int, generation: int) -> Path:
        return self._folder / f"{piece:05d}.{generation}"

    def _latest(self) -> dict[int, int]:
        """The generation that counts, of each piece that was ever claimed."""
        latest: dict[int, int] = {}
        for entry in os.scandir(self._folder):
            if claim := CLAIM.fullmatch(entry.name):
                piece, generation = map(int, claim.groups())
                latest[piece] = max(generation, latest.get(piece, -1))
        return latest

    def _free(self, piece: int, latest: dict[int, int]) -> bool:
        if piece not in latest:
            return True
        self._clock.touch()
        now = self._clock.stat().st_mtime
        return now - self._path(piece, latest[piece]).stat().st_mtime > LEASE_SECONDS
