"""Answers of Slurm that several studies share for one round of polls."""

from __future__ import annotations

import time

from launch.slurm.client import SlurmClient
from launch.slurm.parse import NodeGroup, PastJob, QueuedJob
from launch.slurm.text import Table
from launch.state.errors import SlurmUnavailable

NODES = 3600.0  # seconds for which a cluster's nodes are cached


class SharedClient(SlurmClient):
    """A client that caches answers for one round of polls, shared by all studies."""

    def __init__(self, cluster: str | None = None) -> None:
        super().__init__(cluster=cluster)
        self._nodes: Table[NodeGroup] | None = None
        self._nodes_until = 0.0
        self.new_round()

    def new_round(self) -> None:
        """Discard the cached queue and history."""
        self._queue: Table[QueuedJob] | SlurmUnavailable | None = None
        self._history: tuple[int, Table[PastJob]] | None = None

    def queue(self) -> Table[QueuedJob]:
        if self._queue is None:
            try:
                self._queue = super().queue()
            except SlurmUnavailable as error:  # cached, so that the next study does not wait for it again
                self._queue = error
        if isinstance(self._queue, SlurmUnavailable):
            raise self._queue
        return self._queue

    def history(self, since: int) -> Table[PastJob]:
        if self._history is None or since < self._history[0]:
            self._history = since, super().history(since)
        return self._history[1]

    def nodes(self) -> Table[NodeGroup]:
        if self._nodes is None or time.monotonic() > self._nodes_until:
            self._nodes, self._nodes_until = super().nodes(), time.monotonic() + NODES
        return self._nodes
