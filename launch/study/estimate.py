"""Cost estimates of units before they run: FLOPs from the architecture and row lengths, then hours.

The FLOPs come from the same functions that count them during training and in the analysis. Hours are
estimates for the user and for time limits only.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from typing import Any

from jobs.core.flops import architecture, forward_flops, generate_flops, train_flops
from jobs.core.gpus import peak_flops
from jobs.core.unit import Resources
from launch.study.cluster import Cluster
from launch.study.endpoint import Endpoint
from launch.study.filters import Filters
from launch.study.schema import EvalGroup, Study

STARTUP = 0.1  # hours to load a model, compile and save
TOKENIZED = 50_000  # tokens per second and core; measured: 51,000 on a busy core of an AMD EPYC
COLLATED = (
    2_000_000  # tokens per second and core, read as JSON and written as Parquet; measured: 6 times as many
)
FILTERED = 500_000  # tokens per second and core, as words and runs of words
JUDGED = 100  # answers per second and core, compared with a reference by math-verify
REPORTED = 20_000  # scores of items per second, read, resampled and plotted; measured: 22,000 to 67,000
ROWS = 1_000_000  # prompts of a study that does not specify its number
MANY = 10**8  # tokens above which a stage that only handles text is worth several cores
CORES = 8  # that such a stage requests at most: one process writes what all of them read
CHOICE_TOKENS = 10  # per candidate answer, where the likelihoods of several are compared


@dataclass(frozen=True)
class Lengths:
    """Row count of a study, and mean lengths in tokens.

    Args:
        prompts: their number; None: unknown until they are read.
    """

    prompts: int | None
    prompt: int
    ift: int
    reasoning: int

    @classmethod
    def expected(cls, study: Study) -> Lengths:
        """Build from the study's `expect` and the counts of its sources."""
        counts = [source.count for source in study.prompts or study.pairs or ()]
        known = [n for n in counts if n is not None]
        prompts = sum(known) if len(known) == len(counts) else None
        return cls(prompts, study.expect.prompt, study.expect.ift, study.expect.reasoning)

    def output(self, share: float) -> int:
        """Return the mean tokens of an answer if a share of the rows has reasoning."""
        return round((1 - share) * self.ift + share * self.reasoning)


def generation_flops(config: dict[str, Any], rows: Lengths) -> int | None:
    """Estimate the FLOPs of a teacher answering each prompt in both modes."""
    if rows.prompts is None:
        return None
    both = generate_flops(config, [rows.prompt, rows.prompt], [rows.ift, rows.reasoning])
    return rows.prompts * both


def training_flops(config: dict[str, Any], rows: Lengths, share: float, epochs: int) -> int | None:
    """Estimate the FLOPs of training a student on one mixture."""
    if rows.prompts is None:
        return None
    thinking = round(rows.prompts * share)
    lengths = Counter({rows.prompt + rows.ift: rows.prompts - thinking})
    lengths[rows.prompt + rows.reasoning] += thinking
    return epochs * train_flops(config, lengths)


def evaluation_flops(config: dict[str, Any], rows: Lengths, share: float, group: EvalGroup) -> int:
    """Estimate the FLOPs of a student on benchmarks; one trained to reason does so on every item."""
    model = architecture(config)
    new = min(rows.reasoning if share else rows.ift, group.max_tokens)
    total = 0
    for task in group.tasks:
        items = min(task.items, task.limit or task.items)
        if task.choices:
            total += items * task.choices * forward_flops(model, rows.prompt + CHOICE_TOKENS)
        else:
            total += items * generate_flops(model, rows.prompt, new)
    return total


def tokenizing_needs(rows: Lengths, cluster: Cluster) -> Resources:
    """Estimate what tokenizing the prompts and the answers in both modes needs."""
    if rows.prompts is None:
        return Resources(hours=cluster.max_hours)
    tokens = rows.prompts * (rows.prompt + rows.ift + rows.reasoning)
    cpus = _cores(tokens, cluster)
    return Resources(cpus_per_task=cpus, hours=STARTUP + tokens / (cpus * TOKENIZED) / 3600)


def _cores(tokens: int, cluster: Cluster) -> int:
    """Return the cores of a stage that reads so many tokens of text; on this machine, no more than it has."""
    most = min(cluster.cpus_per_gpu, CORES)
    if cluster.backend == "local":
        most = min(most, len(os.sched_getaffinity(0)))
    return most if tokens > MANY else 1


def collating_needs(rows: Lengths, cluster: Cluster, filters: Filters | None = None) -> Resources:
    """Estimate what pairing the answers of all prompts, and filtering them, needs."""
    prompts = rows.prompts or ROWS
    tokens = prompts * (2 * rows.prompt + rows.ift + rows.reasoning)
    seconds = tokens / COLLATED
    if filters:
        read = tokens if filters.decontaminate else prompts * rows.prompt
        seconds += tokens / COLLATED + read / FILTERED + (2 * prompts / JUDGED if filters.correct else 0)
    cpus = _cores(tokens, cluster) if rows.prompts else 1
    return Resources(cpus_per_task=cpus, hours=STARTUP + seconds / cpus / 3600)


def endpoint_hours(rows: Lengths, endpoint: Endpoint) -> float | None:
    """Estimate the hours in which an endpoint answers each prompt in both modes.

    Returns:
        None if the number of prompts is unknown.
    """
    if rows.prompts is None:
        return None
    generating = rows.prompts * (rows.ift + rows.reasoning) / endpoint.speed / 3600
    starting = 2 * rows.prompts / endpoint.per_minute / 60 if endpoint.per_minute else 0.0
    return STARTUP + max(generating, starting)


def reporting_hours(items: int) -> float:
    """Estimate the hours of a report on this many items over all evaluations."""
    return STARTUP + items / REPORTED / 3600


def hours(flops: int | None, stage: str, resources: Resources, cluster: Cluster) -> float:
    """Estimate a unit's hours on its requested resources, startup included."""
    if flops is None:
        return cluster.max_hours
    if resources.gpus:
        efficiency: float = getattr(cluster.efficiency, stage)
        speed = resources.gpus * peak_flops(cluster.gpu, "bf16") * efficiency
    else:
        cores = resources.world_size * resources.cpus_per_task * resources.workers
        speed = cores * cluster.cpu_gflops * 1e9
    return STARTUP + flops / speed / 3600
