"""What the partitions of a cluster offer, for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from jobs.core.wording import count
from launch.slurm.limits import Partition
from launch.slurm.parse import NodeGroup


def gpus_of(partition: Partition, nodes: Sequence[NodeGroup]) -> Counter[str]:
    """Return how many GPUs of each type a partition has."""
    found = Counter[str]()
    for group in nodes:
        if group.partition == partition.name:
            found.update({kind: group.count * each for kind, each in group.gpus})
    return found


def described(partition: Partition, nodes: Sequence[NodeGroup]) -> str:
    """Describe nodes, GPUs and the time limit of a partition."""
    gpus = ", ".join(count(n, f"{kind} GPU") for kind, n in gpus_of(partition, nodes).items()) or "no GPUs"
    limit = f", at most {partition.max_seconds / 3600:g} h per job" if partition.max_seconds else ""
    return f"{count(partition.nodes, 'node')}, {gpus}{limit}"
