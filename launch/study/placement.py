"""Nodes, processes and cores of a training: its GPUs, spread over nodes as the cluster has them. Pure."""

from __future__ import annotations

from jobs.core.unit import Resources
from launch.study.cluster import Cluster
from launch.study.model import Training


def placed(how: Training, cluster: Cluster) -> Resources:
    """Return what a training requests, but for time and memory: as many GPUs as its preset names.

    They are on nodes of the cluster's size, if the cluster file says it. Where this does not divide their
    number, the largest smaller one that does is taken: 32 GPUs on nodes of six are four on each of eight.
    """
    nodes, gpus = how.nodes, how.gpus_per_node
    if not gpus:
        return Resources(nodes=nodes, tasks_per_node=how.tasks_per_node, cpus_per_task=how.cpus)
    total = nodes * gpus
    if cluster.gpus_per_node is not None:
        gpus = next(n for n in range(min(total, cluster.gpus_per_node), 0, -1) if total % n == 0)
        nodes = total // gpus
    return Resources(nodes=nodes, tasks_per_node=gpus, gpus_per_node=gpus, cpus_per_task=cluster.cpus_per_gpu)
