"""A client for programs that run for days: it asks for the limits of a cluster once an hour."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from launch.slurm.answers import Answer
from launch.slurm.client import SlurmClient
from launch.slurm.limits import Association, Partition, Qos
from launch.slurm.parse import NodeGroup
from launch.slurm.text import Table

Reply = TypeVar("Reply")
HOUR = 3600.0  # seconds for which an answer is used


class HourlyClient(SlurmClient):
    """A client that caches answers about limits for an hour, and the controller's settings for good."""

    def __init__(self, cluster: str | None = None) -> None:
        super().__init__(cluster=cluster)
        self._answers: dict[str, tuple[float, Any]] = {}  # by query, with the time until which each is used

    def forget(self) -> None:
        """Discard the cached limits, as when Slurm has refused what they allow."""
        self._answers.clear()

    def partitions(self) -> Table[Partition]:
        return self._cached("partitions", super().partitions)

    def nodes(self) -> Table[NodeGroup]:
        return self._cached("nodes", super().nodes)

    def associations(self, cluster: str) -> Table[Association]:
        ask = super().associations
        return self._cached(f"associations of {cluster}", lambda: ask(cluster))

    def qos(self) -> Table[Qos]:
        return self._cached("qos", super().qos)

    def would(self, script: str) -> Answer:
        ask = super().would
        return self._cached(script, lambda: ask(script))

    def _cached(self, query: str, ask: Callable[[], Reply]) -> Reply:
        until, answer = self._answers.get(query, (0.0, None))
        if time.monotonic() >= until:
            answer = ask()
            self._answers[query] = time.monotonic() + HOUR, answer
        found: Reply = answer
        return found
