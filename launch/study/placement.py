"""Nodes, processes and cores of a training: its GPUs, spread over nodes as the cluster has them. Pure."""

from __future__ import annotations

from jobs.core.unit import Resources
from launch.study.cluster import Cluster
from launch.study.model import Training
from launch.study.presets import Mistake, StudyError


def placed(how: Training, cluster: Cluster) -> Resources:
    """Return what a training requests, but for time and memory: as many GPUs as its preset names.

    They are on nodes of the cluster's size, if the cluster file says it. Where this does not divide their
    number, the largest smaller one that does is taken: 32 GPUs on nodes of six are four on each of eight.
    Processes that share blocks (`sequence_parallel`) stay on one node, since they exchange tokens in every
    layer.

    Raises:
        StudyError: Nodes have too few GPUs for that.
    """
    nodes, gpus = how.nodes, how.gpus_per_node
    if not gpus:
        return Resources(nodes=nodes, tasks_per_node=how.tasks_per_node, cpus_per_task=how.cpus)
    total = nodes * gpus
    if cluster.gpus_per_node is not None:
        group = how.sequence_parallel or 1
        fitting = [n for n in range(min(total, cluster.gpus_per_node), 0, -1) if total % n == 0]
        whole = [n for n in fitting if n % group == 0]
        if not whole:
            found = f"found {cluster.gpus_per_node}, and {group} processes that share blocks are on one node"
            advice = f"set 'sequence_parallel' of the student's preset to a divisor of {fitting[0]}"
            raise StudyError([Mistake(cluster.file, "gpus_per_node", f"{found}: {advice}")])
        gpus = whole[0]
        nodes = total // gpus
    return Resources(nodes=nodes, tasks_per_node=gpus, gpus_per_node=gpus, cpus_per_task=cluster.cpus_per_gpu)
