"""The arithmetic of a training: which blocks a step reads, and at which learning rate, from the recipe alone.

Nothing here knows of processes that were interrupted: a step is the same whoever takes it, and when.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobs.data.blocks import Blocks


@dataclass(frozen=True)
class Recipe:
    """How a model is trained: the fields of a study's `training` and the preset's learning rate."""

    epochs: int
    batch: int
    learning_rate: float
    warmup: float
    schedule: str
    weight_decay: float
    betas: tuple[float, float]
    clip: float
    dtype: str
    seed: int


@dataclass
class Totals:
    """What a training has done so far, over all processes."""

    step: int = 0
    tokens: int = 0
    answer_tokens: int = 0
    flops: int = 0
    loss: float = math.nan
    seconds: float = 0.0


def training_order(phases: tuple[int, ...], epochs: int, seed: int) -> NDArray[np.int64]:
    """The blocks in the order of training: phase after phase, in each all epochs, each shuffled anew."""
    first = np.cumsum([0, *phases])
    return np.concatenate(
        [
            first[phase] + np.random.default_rng((seed, phase, epoch)).permutation(blocks)
            for phase, blocks in enumerate(phases)
            for epoch in range(epochs)
        ]
    )


def steps(blocks: Blocks, recipe: Recipe) -> int:
    """Optimizer steps of the whole training; blocks that do not fill a last batch are left out.

    Raises:
        ValueError: there is not even one batch.
    """
    available = sum(blocks.phases) * recipe.epochs
    if available < recipe.batch:
        raise ValueError(
            f"the mixture packs into {available} blocks over all epochs, and training.batch asks for "
            f"{recipe.batch} a step: lower training.batch or training.block, or train on more rows"
        )
    return available // recipe.batch


def rate(step: int, total: int, recipe: Recipe) -> float:
    """The learning rate of a step (counted from 0): a linear warm-up, then the schedule down to 0."""
    warmup = math.ceil(recipe.warmup * total)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(total - warmup, 1)
    left = {"cosine": 0.5 + 0.5 * math.cos(math.pi * done), "linear": 1 - done, "constant": 1.0}
    return recipe.learning_rate * left[recipe.schedule]


def micro_steps(batch: int, micro_batch: int, world: int) -> int:
    """Micro-batches that each process takes per optimizer step."""
    if batch % (micro_batch * world):
        raise ValueError(
            f"training.batch is {batch} blocks, which {world} processes with a micro_batch of {micro_batch} "
            f"cannot share evenly: make it a multiple of {micro_batch * world}, or change micro_batch"
        )
    return batch // (micro_batch * world)
