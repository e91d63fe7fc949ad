"""Which of two runs of one unit goes on: the newer one.

A node that is cut off the network runs on after Slurm has started its job elsewhere. Each run leaves a file
with its name when it begins; an older one that finds a newer one's, or the unit's result, writes nothing any
more. A run looks before it writes, so one that looked too early may still finish what it was writing: that
must be complete and must replace nothing.
"""

from __future__ import annotations

import os
import re

from jobs.store.rundir import UnitDir, order

RUN = re.compile(r"\d+\.\d+")  # beside which other machines may leave files of their own, as ._1.0


class Superseded(Exception):
    """A newer run of the unit has begun, or it is done: this one must end without writing anything, and
    nobody must start it again."""


class Fence:
    """One run's place among the runs of its unit; `run` is its name, as `Context.run`."""

    def __init__(self, folder: UnitDir, run: str) -> None:
        self._folder, self._run = folder, run
        folder.runs.mkdir(parents=True, exist_ok=True)
        (folder.runs / run).touch()

    @property
    def superseded(self) -> bool:
        """Whether this run is to end. It costs a listing of a small folder."""
        newest = max(filter(RUN.fullmatch, os.listdir(self._folder.runs)), key=order)
        return order(newest) > order(self._run) or self._folder.done
