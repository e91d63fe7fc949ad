"""Training arithmetic from the recipe alone: the blocks and the learning rate of each step.

Interruptions play no role: a step is the same whichever process takes it, and when.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobs.core.flops import Config, architecture, train_flops
from jobs.data.blocks import Blocks

CHUNK = 1024  # blocks whose rows are counted at once


@dataclass(frozen=True)
class Recipe:
    """Training recipe: the fields of a study's `training` and the preset's learning rate.

    Args:
        epochs: passes over the blocks; None: `flops` decides.
        flops: training FLOPs to reach; None: `epochs` decides.
        warmup: share of the steps in which the learning rate rises.
        warmup_flops: FLOPs in which it does, for budgets that share their stable part, instead of `warmup`.
        cooldown: share of the steps, at the end, in which the schedule "wsd" lowers it.
    """

    batch: int
    learning_rate: float
    schedule: str
    weight_decay: float
    betas: tuple[float, float]
    clip: float
    dtype: str
    seed: int
    epochs: int | None = None
    flops: float | None = None
    warmup: float = 0.0
    warmup_flops: float = 0.0
    cooldown: float = 0.0


@dataclass
class Totals:
    """Totals of a training so far, over all processes."""

    step: int = 0
    tokens: int = 0
    answer_tokens: int = 0
    flops: int = 0
    shared_flops: int = 0  # of `flops`: those of a smaller budget's training, from which this one continued
    loss: float = math.nan
    seconds: float = 0.0


@dataclass(frozen=True)
class Schedule:
    """The steps of a training.

    Attributes:
        order: All blocks in the order in which they are read, of shape (blocks read,).
        warmup: Steps in which the learning rate rises.
        cooldown: Steps, at the end, in which "wsd" lowers it.
        passes: How often the blocks are read, as a share of the FLOPs of one pass over all of them.
    """

    recipe: Recipe
    order: NDArray[np.int64]
    warmup: int
    cooldown: int
    passes: float

    @property
    def steps(self) -> int:
        """The number of optimizer steps."""
        return math.ceil(len(self.order) / self.recipe.batch)

    @property
    def stable(self) -> int:
        """The number of steps before the cooldown."""
        return self.steps - self.cooldown

    def blocks(self, step: int) -> NDArray[np.int64]:
        """Return the blocks of a step, counted from 0; the last step may have fewer than the others."""
        return self.order[step * self.recipe.batch : (step + 1) * self.recipe.batch]

    def rate(self, step: int) -> float:
        """Return the learning rate of a step: linear warm-up, then the schedule.

        "wsd" (warm-up, stable, decay; Hu et al. 2024, arXiv 2404.06395) stays at the peak until the cooldown,
        which follows 1 - sqrt of its elapsed share (Hägele et al. 2024, arXiv 2405.18392, who find this shape
        better than a line, and a fifth of the steps enough to reach the loss of a cosine). The others start
        to fall after the warm-up.
        """
        recipe = self.recipe
        if step < self.warmup:
            return recipe.learning_rate * (step + 1) / self.warmup
        if recipe.schedule == "wsd":
            done = max(step - self.stable, 0) / max(self.cooldown, 1)
            return recipe.learning_rate * (1 - math.sqrt(done))
        done = (step - self.warmup) / max(self.steps - self.warmup, 1)
        left = {"cosine": 0.5 + 0.5 * math.cos(math.pi * done), "linear": 1 - done, "constant": 1.0}
        return recipe.learning_rate * left[recipe.schedule]


def scheduled(blocks: Blocks, recipe: Recipe, config: Config) -> Schedule:
    """Return the steps of a training.

    Args:
        config: The model's architecture, by which the FLOPs of a budget are counted.

    Raises:
        ValueError: There is not even one batch.
    """
    if recipe.flops is None:
        assert recipe.epochs is not None
        order, passes, costs = _of_epochs(blocks, recipe), float(recipe.epochs), None
    else:
        costs = block_flops(blocks, config)
        order, passes = within(blocks.phases, costs, recipe.flops, recipe.seed), recipe.flops / costs.sum()
        if len(order) < recipe.batch:
            raise ValueError(
                f"training.flops is {recipe.flops:.3g}, and a step of {recipe.batch} blocks takes about "
                f"{recipe.batch * costs.mean():.3g}: raise training.flops, or lower training.batch or "
                "training.block"
            )
    steps = math.ceil(len(order) / recipe.batch)
    warmup = math.ceil(recipe.warmup * steps)
    if recipe.warmup_flops and costs is not None:
        rising = 1 + int(np.searchsorted(np.cumsum(costs[order]), recipe.warmup_flops))  # blocks
        warmup = min(math.ceil(rising / recipe.batch), steps)
    cooldown = math.ceil(recipe.cooldown * steps) if recipe.schedule == "wsd" else 0
    return Schedule(recipe, order, warmup, cooldown, passes)


def _of_epochs(blocks: Blocks, recipe: Recipe) -> NDArray[np.int64]:
    """Return the block order of whole passes, without the blocks that do not fill a last batch."""
    assert recipe.epochs is not None
    available = sum(blocks.phases) * recipe.epochs
    if available < recipe.batch:
        raise ValueError(
            f"the mixture packs into {available} blocks over all epochs, and training.batch asks for "
            f"{recipe.batch} a step: lower training.batch or training.block, or train on more rows"
        )
    order = training_order(blocks.phases, recipe.epochs, recipe.seed)
    return order[: available // recipe.batch * recipe.batch]


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


def within(
    phases: tuple[int, ...], costs: NDArray[np.float64], budget: float, seed: int
) -> NDArray[np.int64]:
    """Return the block order of a training of so many FLOPs, to the nearest block.

    The order is that of `training_order`, but each phase ends at its part of the budget, in proportion to the
    FLOPs of one pass over it: after as many passes as every other phase, whole ones and a part of one. So a
    mixture keeps its shares. With a single phase, the order of a smaller budget begins that of a larger one.

    Args:
        costs: FLOPs of each block, of shape (blocks,).
    """
    passes = budget / costs.sum()
    repeats, bounds = math.ceil(passes) + 1, np.cumsum(phases)[:-1]
    order = training_order(phases, repeats, seed)
    parts, spent, aim = list[NDArray[np.int64]](), 0.0, 0.0
    for part, own in zip(np.split(order, bounds * repeats), np.split(costs, bounds), strict=True):
        aim += passes * own.sum()
        sums = np.concatenate([[spent], spent + np.cumsum(costs[part])])
        count = int(np.abs(sums - aim).argmin())
        parts.append(part[:count])
        spent = float(sums[count])
    return np.concatenate(parts)


def block_flops(blocks: Blocks, config: Config) -> NDArray[np.float64]:
    """Return the training FLOPs of each block, of shape (blocks,)."""
    model, number = architecture(config), len(blocks)
    costs = np.zeros(number)
    for start in range(0, number, CHUNK):
        chosen = np.arange(start, min(start + CHUNK, number))
        lengths, places = blocks.rows(chosen)
        each, which = np.unique(lengths, return_inverse=True)
        of_length = np.array([float(train_flops(model, int(length))) for length in each])
        costs[chosen] = np.bincount(places, of_length[which], len(chosen))
    return costs


def own_blocks(
    chosen: NDArray[np.int64], reader: int, readers: int, micro_steps: int, micro_batch: int
) -> list[tuple[NDArray[np.int64], float]]:
    """Return one process's micro-batches of a step, each with the weight of its loss.

    All processes take the same number of micro-steps, since their gradients are exchanged. Where a last step
    has too few blocks for that, the rest of them read one for nothing: its weight is 0.

    Args:
        chosen: The blocks of the step.
        reader, readers: Number of this process, or of its group, among those that read blocks of their own.
        micro_batch: Blocks of a micro-batch.
    """
    found = [chosen[(i * readers + reader) * micro_batch :][:micro_batch] for i in range(micro_steps)]
    return [(own, 1.0) if len(own) else (chosen[:1], 0.0) for own in found]


def micro_steps(batch: int, micro_batch: int, world: int, group: int = 1) -> int:
    """Return the number of micro-batches per process and optimizer step.

    Args:
        world: Number of processes.
        group: Number of processes that share each micro-batch.

    Raises:
        ValueError: The processes do not make whole groups, or the batch is not divisible by micro-batch times
            groups.
    """
    if world % group:
        raise ValueError(
            f"{world} processes do not make groups of {group}: set 'sequence_parallel' of the model's preset "
            f"to a divisor of {world}"
        )
    groups = world // group
    if batch % (micro_batch * groups):
        who = f"{groups} groups of {group} processes" if group > 1 else f"{world} processes"
        raise ValueError(
            f"training.batch is {batch} blocks, which {who} with a micro_batch of {micro_batch} cannot share "
            f"evenly: make it a multiple of {micro_batch * groups}, or change micro_batch or "
            "sequence_parallel of the model's preset"
        )
    return batch // (micro_batch * groups)
