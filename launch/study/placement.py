"""Nodes, processes and cores of trainings and engines: their GPUs, on nodes as the cluster has them. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from jobs.core.unit import Resources
from launch.study.cluster import Cluster
from launch.study.model import Model, Training
from launch.study.presets import Mistake, StudyError
from launch.study.serving import OTHERS, PIPELINE, TENSOR, split, split_fault


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


@dataclass(frozen=True)
class Engine:
    """An engine as it runs on a cluster.

    Args:
        nodes, gpus: nodes that it is spread over, and its GPUs on each; 0: it runs on cores.
        replicas: engines side by side in a job.
        workers: jobs that share the work.
        cpus: cores of the engine on each node.
        arguments: of vLLM, with those that split it.
    """

    nodes: int
    gpus: int
    replicas: int
    workers: int
    cpus: int
    arguments: dict[str, Any]

    @property
    def resources(self) -> Resources:
        """What its jobs request, but for time and memory: a task for each replica, or for each node."""
        return Resources(
            nodes=self.nodes,
            tasks_per_node=self.replicas,
            gpus_per_node=self.gpus * self.replicas,
            cpus_per_task=self.cpus,
            workers=self.workers,
        )


def engine(model: Model, cluster: Cluster, *, shared: bool) -> Engine:
    """Return the engine of a model: as many GPUs as its preset names, on nodes of the cluster's size.

    An engine that fits on a node stays on one. Where fewer replicas than the preset names fit on a node, more
    jobs make up for it; on one machine, as many of these run as fit.

    Args:
        shared: whether replicas and workers share the work; else there is one engine.

    Raises:
        StudyError: the engine cannot be spread over the cluster's nodes.
    """
    serving, of_node = model.serving, cluster.gpus_per_node
    nodes, gpus = serving.nodes, serving.gpus
    replicas, workers = (serving.replicas, serving.workers) if shared else (1, 1)
    if gpus and of_node is not None:
        if nodes > 1 or gpus > of_node:
            total = nodes * gpus
            gpus = next(n for n in range(min(total, of_node), 0, -1) if total % n == 0)
            nodes = total // gpus
        fitting = min(replicas, of_node // gpus) if nodes == 1 else 1
        workers, replicas = math.ceil(workers * replicas / fitting), fitting
    elif cluster.backend == "local":
        workers, replicas = workers * replicas, 1
    if nodes > serving.nodes and (why := _not_spread(model, gpus, nodes)):
        words = f"found {of_node}, and {model.name} has {serving.gpus} GPUs on a node: {why}"
        raise StudyError([Mistake(cluster.file, "gpus_per_node", words)])
    found = split(serving.vllm, nodes, gpus)
    arguments = {**serving.vllm, TENSOR: found.tensor, PIPELINE: found.pipeline}
    cpus = gpus * cluster.cpus_per_gpu if gpus else serving.cpus
    return Engine(nodes, gpus, replicas, workers, cpus, arguments)


def _not_spread(model: Model, gpus: int, nodes: int) -> str | None:
    """Return why an engine for one node cannot be spread over several, and what to change."""
    serving = model.serving
    if serving.engine in OTHERS:
        return f"'engine: {serving.engine}' runs on one node; set 'engine: vllm' in its preset"
    if serving.vllm.get(TENSOR, 0) > gpus:
        return f"leave '{TENSOR}: {serving.vllm[TENSOR]}' out in its preset, so that a node shares layers"
    try:
        fault = split_fault(model, serving, split(serving.vllm, nodes, gpus))
    except ValueError as error:
        return str(error)
    return fault and fault[1]
