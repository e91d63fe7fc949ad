"""Training arithmetic from the recipe alone: the blocks and the learning rate of each step.

Interruptions play no role: a step is the same whichever process takes it, and when.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobs.data.blocks import Blocks


@dataclass(frozen=True)
class Recipe:
    """Training recipe: the fields of a study's `training` and the preset's learning rate."""

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
    """Totals of a training so far, over all processes."""

    step: int = 0
    tokens: int = 0
    answer_tokens: int = 0
    flops: int = 0
    loss: float = math.nan
    seconds: float = 0.0


def training_order(phases: tuple[int, ...], epochs: int, seed: int) -> NDArray[np.int64]:
    """Return the block order: phase by phase, each with all its epochs, each epoch reshuffled."""
    first = np.cumsum([0, *phases])
    return np.concatenate(
        [
            first[phase] + np.random.default_rng((seed, phase, epoch)).permutation(blocks)
            for phase, blocks in enumerate(phases)
            for epoch in range(epochs)
        ]
    )


def steps(blocks: Blocks, recipe: Recipe) -> int:
    """Return the number of optimizer steps; blocks that do not fill a last batch are dropped.

    Raises:
        ValueError: There is not even one batch.
    """
    available = sum(blocks.phases) * recipe.epochs
    if available < recipe.batch:
        raise ValueError(
            f"the mixture packs into {available} blocks over all epochs, and training.batch asks for "
            f"{recipe.batch} a step: lower training.batch or training.block, or train on more rows"
        )
    return available // recipe.batch


def rate(step: int, total: int, recipe: Recipe) -> float:
    """Return the learning rate of a step (counted from 0): linear warm-up, then the schedule down to 0."""
    warmup = math.ceil(recipe.warmup * total)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(total - warmup, 1)
    left = {"cosine": 0.5 + 0.5 * math.cos(math.pi * done), "linear": 1 - done, "constant": 1.0}
    return recipe.learning_rate * left[recipe.schedule]


def micro_steps(batch: int, micro_batch: int, world: int) -> int:
    """Return the number of micro-batches per process and optimizer step.

    Raises:
        ValueError: The batch is not divisible by micro-batch times processes.
    """
    if batch % (micro_batch * world):
        raise ValueError(
            f"training.batch is {batch} blocks, which {world} processes with a micro_batch of {micro_batch} "
            f"cannot share evenly: make it a multiple of {micro_batch * world}, or change micro_batch"
        )
    return batch // (micro_batch * world)
