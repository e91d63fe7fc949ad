"""What a stage is given when it runs: its unit, folder, inputs and rank.

A stage reads `ctx.unit.config`, finds its inputs with `ctx.input(role)`, builds its result under
`ctx.staging()` and calls `ctx.publish(result)`. Stages never build paths of the run directory themselves.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from jobs.core.unit import PREPARED, Unit
from jobs.runtime.gpu_use import GpuUse
from jobs.runtime.signals import Preemption
from jobs.store.progress import Progress
from jobs.store.provenance import provenance
from jobs.store.rundir import UnitDir, study_of, write_json


@dataclass(frozen=True)
class Context:
    """One process's view of the unit it is running."""

    unit: Unit
    folder: UnitDir
    attempt: int = 0
    restart: int = 0  # how often Slurm has restarted this attempt
    rank: int = 0  # among the processes of this worker
    local_rank: int = 0
    world_size: int = 1
    worker: int = 0  # among the workers that share the unit
    preemption: Preemption = field(default_factory=Preemption)

    @property
    def run(self) -> str:
        """Identifier of this run, unique among all runs of the unit; two of them may be alive at once."""
        return f"{self.attempt}.{self.restart}"

    @cached_property
    def progress(self) -> Progress:
        """Progress, written only by rank 0 of worker 0."""
        path = self.folder.progress if self.rank == 0 and self.worker == 0 else None
        if path is None or not self.unit.resources.gpus_per_node:
            return Progress(path, self.attempt, self.restart)
        return Progress(path, self.attempt, self.restart, GpuUse().read)

    def waits(self) -> bool:
        """Send a heartbeat; return whether the unit has no result yet.

        Raises:
            Interrupted: This process was asked to stop.
        """
        self.preemption.check()
        self.progress.beat()
        return not self.folder.done

    def input(self, role: str) -> Path:
        """Return the published result of the input with this role.

        Raises:
            FileNotFoundError: The result is not published, or no longer.
            Damaged: The path is not a result folder, or the result cannot be read.
        """
        found = next(i for i in self.unit.inputs if i.role == role)
        folder = study_of(self.folder.path).unit(found)
        try:
            folder.read_result()
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{self.unit.stage} {self.unit.name} needs the result of {found.stage} {found.name}, and "
                f"{folder.out} does not exist: was it deleted? Submit again to remake it."
            ) from None
        return folder.out

    def resolve(self, path: str) -> str:
        """Resolve a path or hub name from the study.

        @prepare/… resolves to the prepare stage's published result, and a file identified by its contents to
        the path it had at submission.

        Raises:
            ValueError: the result of prepare lacks it. Libraries would look for a missing folder on the hub.
        """
        if path.startswith(PREPARED):
            folder, name = self.input("prepare"), path.removeprefix(PREPARED)
            if not (folder / name).exists():
                there = ", ".join(sorted(p.name for p in folder.iterdir()))
                raise ValueError(f"'prepare' made no {name!r}, only {there}: see its function, and {path!r}")
            return str(folder / name)
        files: dict[str, str] = self.unit.execution.get("files", {})
        return files.get(path, path)

    def staging(self) -> Path:
        """Create an empty folder in which this process builds the result."""
        staged = self.folder.staging(f"{self.run}.{self.worker}.{self.rank}")
        if staged.exists():
            shutil.rmtree(staged)
        staged.mkdir(parents=True)
        return staged

    def publish(self, staged: Path, result: dict[str, Any]) -> None:
        """Add result.json and provenance.json to `staged` and publish it atomically as the unit's result."""
        write_json(staged / "result.json", result)
        write_json(staged / "provenance.json", provenance())
        self.folder.publish(staged)
        self.folder.clear(self.run, self.worker)
