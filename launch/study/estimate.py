"""What a unit will cost, before it runs: FLOPs from the architecture and the rows' lengths, then hours.

The FLOPs come from the same functions that count them during training and in the analysis. Hours are an
estimate for a person and for a time limit, nothing more.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from jobs.core.flops import architecture, forward_flops, generate_flops, train_flops
from jobs.core.gpus import peak_flops
from jobs.core.unit import Resources
from launch.study.cluster import Cluster
from launch.study.schema import EvalGroup, Study

STARTUP = 0.1  # hours to load a model, compile and save
TOKENIZED = 50_000  # tokens per second and core; measured: 51,000 on a busy core of an AMD EPYC
COLLATED = 2_000_000  # tokens per second, read as JSON and written as Parquet; measured: 6 times as many
REPORTED = 20_000  # scores of items per second, read, redrawn and drawn; measured: 22,000 to 67,000
ROWS = 1_000_000  # prompts of a study that does not say how many it has
MANY = 10**8  # tokens from which on packing is worth several cores
CHOICE_TOKENS = 10  # of one candidate answer, where likelihoods of several are compared


@dataclass(frozen=True)
class Lengths:
    """Rows of the study and their mean lengths in tokens.

    Args:
        prompts: how many there are; None where nobody knows before they are read.
    """

    prompts: int | None
    prompt: int
    ift: int
    reasoning: int

    @classmethod
    def expected(cls, study: Study) -> Lengths:
        """From the study's own `expect` and the counts of its sources."""
        counts = [source.count for source in study.prompts or study.pairs or ()]
        known = [n for n in counts if n is not None]
        prompts = sum(known) if len(known) == len(counts) else None
        return cls(prompts, study.expect.prompt, study.expect.ift, study.expect.reasoning)

    def output(self, share: float) -> int:
        """Mean tokens of an answer where a share of the rows has its reasoning."""
        return round((1 - share) * self.ift + share * self.reasoning)


def generation_flops(config: dict[str, Any], rows: Lengths) -> int | None:
    """A teacher answering each prompt in both modes."""
    if rows.prompts is None:
        return None
    both = generate_flops(config, [rows.prompt, rows.prompt], [rows.ift, rows.reasoning])
    return rows.prompts * both


def training_flops(config: dict[str, Any], rows: Lengths, share: float, epochs: int) -> int | None:
    """A student on one mixture."""
    if rows.prompts is None:
        return None
    thinking = round(rows.prompts * share)
    lengths = Counter({rows.prompt + rows.ift: rows.prompts - thinking})
    lengths[rows.prompt + rows.reasoning] += thinking
    return epochs * train_flops(config, lengths)


def evaluation_flops(config: dict[str, Any], rows: Lengths, share: float, group: EvalGroup) -> int:
    """A student on a group of benchmarks. One that has learnt to reason does so on every item."""
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


def packing(rows: Lengths, share: float, cluster: Cluster) -> Resources:
    """What packing one mixture needs: the rows of both modes are tokenized to measure them, then its own."""
    if rows.prompts is None:
        return Resources(hours=cluster.max_hours)
    measured = 2 * rows.prompt + rows.ift + rows.reasoning
    tokens = rows.prompts * (measured + rows.prompt + rows.output(share))
    cpus = cluster.cpus_per_gpu if tokens > MANY else 1
    return Resources(cpus_per_task=cpus, hours=STARTUP + tokens / (cpus * TOKENIZED) / 3600)


def collating_hours(rows: Lengths) -> float:
    """Hours that pairing the answers of all prompts will take."""
    return STARTUP + (rows.prompts or ROWS) * (2 * rows.prompt + rows.ift + rows.reasoning) / COLLATED / 3600


def reporting_hours(items: int) -> float:
    """Hours that the report of so many items over all evaluations will take."""
    return STARTUP + items / REPORTED / 3600


def hours(flops: int | None, stage: str, resources: Resources, cluster: Cluster) -> float:
    """Hours that a unit will take on what it asks for, starting up included."""
    if flops is None:
        return cluster.max_hours
    if resources.gpus:
        efficiency: float = getattr(cluster.efficiency, stage)
        speed = resources.gpus * peak_flops(cluster.gpu, "bf16") * efficiency
    else:
        cores = resources.world_size * resources.cpus_per_task * resources.workers
        speed = cores * cluster.cpu_gflops * 1e9
    return STARTUP + flops / speed / 3600
