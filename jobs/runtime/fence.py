"""Fencing between two runs of one unit: only the newer one may continue.

A node cut off from the network keeps running after Slurm has restarted its job elsewhere. Each run creates a
file with its name at the start; an older run that finds a newer run's file, or the unit's result, must stop
writing. A run checks before it writes, so a run that checked too early may still finish one write; each write
must therefore be complete and replace nothing.
"""

from __future__ import annotations

import os
import re

from jobs.store.rundir import UnitDir, order

RUN = re.compile(r"\d+\.\d+")  # machines may leave other files in the folder, such as ._1.0


class Superseded(Exception):
    """A newer run of the unit has started, or the unit is done.

    This run must end without writing anything and must not be requeued.
    """


class Fence:
    """One run's fence; `run` is its name, as in `Context.run`."""

    def __init__(self, folder: UnitDir, run: str) -> None:
        self._folder, self._run = folder, run
        folder.runs.mkdir(parents=True, exist_ok=True)
        (folder.runs / run).touch()

    @property
    def superseded(self) -> bool:
        """Whether this run must end; costs one listing of a small folder."""
        newest = max(filter(RUN.fullmatch, os.listdir(self._folder.runs)), key=order)
        return order(newest) > order(self._run) or self._folder.done
