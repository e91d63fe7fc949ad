"""Answers in place of a Slurm that is not on this machine, to write scripts that are submitted elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from launch.slurm.answers import Answer
from launch.slurm.client import SlurmClient
from launch.slurm.limits import Association, Partition, Qos
from launch.slurm.parse import Config, NodeGroup, QueuedJob
from launch.slurm.text import Table

ARRAY = 1001  # Slurm's default MaxArraySize
JOBS = 10_000  # Slurm's default MaxJobCount
ASSUMED = (
    f"no Slurm on this machine: the scripts assume arrays of up to {ARRAY - 1} elements, partitions with any "
    "nodes and time limits, and no jobs in the queue"
)
PLENTY = 10**6


class AssumedClient(SlurmClient):
    """A cluster with Slurm's default settings, whose partitions have whatever jobs request.

    Args:
        partitions: their names; the first is the default one.
    """

    def __init__(self, partitions: Iterable[str]) -> None:
        super().__init__()
        self._names = tuple(partitions)

    def queue(self) -> Table[QueuedJob]:
        return Table(())

    def config(self) -> Config:
        return Config("assumed", "unknown", ARRAY, JOBS, 300, False, (), True)

    def partitions(self) -> Table[Partition]:
        first = self._names[0]
        return Table(tuple(Partition(n, n == first, "UP", PLENTY, None, None) for n in self._names))

    def nodes(self) -> Table[NodeGroup]:
        gpus = (("gpu", PLENTY),)
        return Table(tuple(NodeGroup(name, PLENTY, PLENTY, gpus, sys.maxsize) for name in self._names))

    def would(self, script: str) -> Answer:
        return Answer()

    def associations(self, cluster: str) -> Table[Association]:
        return Table(())

    def qos(self) -> Table[Qos]:
        return Table(())
