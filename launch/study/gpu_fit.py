"""Whether trainings fit on their GPUs, what would, and the fastest way that does, where presets say `auto`.

Pure, but for DeepSpeed's configuration. How much memory a training needs is estimated in `gpu_memory.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from jobs.core.unit import Unit, canonical
from jobs.core.widths import Widths, widths
from jobs.core.wording import some
from launch.study.cluster import Cluster
from launch.study.deepspeed import deepspeed
from launch.study.gpu_memory import GIB, Estimate, Way, estimate
from launch.study.model import AUTO, Model, Training
from launch.study.recipes import Recipe

MARGIN = 0.1  # of the GPU's memory, by which estimates may be wrong
STAGES = (None, 1, 2, 3)  # ZeRO 0 is as fast as no DeepSpeed and needs as much memory
MORE = (2, 4, 8, 16, 32)  # times as many GPUs, to look for a number that is enough
ANY = Training(learning_rate=1, gpus_per_node=1, micro_batch=AUTO, zero=AUTO, gradient_checkpointing=AUTO)


class Choice(NamedTuple):
    """A way to train that does not change results."""

    checkpointing: bool
    zero: int | None
    micro_batch: int

    def __str__(self) -> str:
        zero = "null" if self.zero is None else self.zero
        recompute = str(self.checkpointing).lower()
        return f"micro_batch: {self.micro_batch}, zero: {zero}, gradient_checkpointing: {recompute}"


@dataclass(frozen=True)
class Fit:
    """Trainings that need the same memory.

    Args:
        model: what is trained.
        batch: blocks of a step, over all processes.
        need: of each GPU, in bytes.
        gpu: memory of each GPU, in GiB.
        source: what says so.
    """

    units: tuple[Unit, ...]
    model: Widths
    way: Way
    batch: int
    need: Estimate
    gpu: float
    source: str

    @property
    def needed(self) -> float:
        """The memory needed of each GPU, in GiB."""
        return self.need.total / GIB

    @property
    def tight(self) -> bool:
        """Whether it may not fit: the estimate is closer to the GPU's memory than estimates are good."""
        return not self.refused and self.needed > (1 - MARGIN) * self.gpu

    @property
    def refused(self) -> bool:
        """Whether it cannot fit. Where the model is not known well, only what is certain counts."""
        certain = self.needed if self.need.known else self.need.states / GIB
        return certain > (1 + MARGIN) * self.gpu

    @property
    def choice(self) -> Choice:
        """How it is to be trained."""
        return Choice(
            self.way.checkpointing, self.way.stage if self.way.deepspeed else None, self.way.micro_batch
        )


def resolved(student: Model, recipe: Recipe, processes: int, cluster: Cluster) -> Model:
    """Return the student with the fastest values that fit for `auto`; the most frugal if none does."""
    how = student.training
    if how is None or AUTO not in (how.micro_batch, how.zero, how.gradient_checkpointing):
        return student
    (memory, _), model = cluster.memory_of_gpu, widths(student.shape)
    needs, shared = dict[Choice, float](), how.sequence_parallel or 1
    for choice in _choices(how, recipe.batch, processes // shared, model, recipe.dtype):
        way = _way(choice, recipe.block, recipe.batch, processes, recipe.dtype, shared)
        needs[choice] = estimate(model, way).total
        if needs[choice] <= (1 - MARGIN) * memory * GIB:
            break
    else:
        choice = min(needs, key=needs.__getitem__)
    found = {"micro_batch": choice.micro_batch, "zero": choice.zero}
    found |= {"gradient_checkpointing": choice.checkpointing}
    return student.model_copy(update={"training": how.model_copy(update=found)})


def fits(units: Iterable[Unit], cluster: Cluster) -> list[Fit]:
    """Return the memory of all trainings on GPUs, those that need the same as one."""
    alike = dict[str, list[Unit]]()
    units = list(units)
    for unit in units:
        if unit.stage == "train" and unit.resources.gpus:
            key = canonical([unit.config["model"]["architecture"], unit.execution, unit.resources.world_size,
                             *_recipe(unit)])  # fmt: skip
            alike.setdefault(key, []).append(unit)
    memory, source = cluster.memory_of_gpu
    found = []
    for same in alike.values():
        unit, processes = same[0], same[0].resources.world_size
        block, batch, dtype = _recipe(unit)
        micro, model = unit.execution["micro_batch"], widths(unit.config["model"]["architecture"])
        shared = unit.execution["sequence_parallel"] or 1
        way = Way(
            block, micro, batch > micro * processes // shared, unit.execution["gradient_checkpointing"],
            unit.execution["deepspeed"], processes, dtype, shared,
        )  # fmt: skip
        found.append(Fit(tuple(same), model, way, batch, estimate(model, way), memory, source))
    return found


def unfit(found: Fit) -> str | None:
    """Return why trainings do not or may not fit on their GPUs, and what would fit; None if they do."""
    if not (found.tight or found.refused):
        return None
    need, names = found.need, some([f"{unit.stage} {unit.name}" for unit in found.units])
    parts = {
        "weights": need.weights, "gradients": need.gradients, "optimizer": need.optimizer,
        "activations and loss": need.activations, "communication": need.communication,
    }  # fmt: skip
    rest = need.total - sum(parts.values())
    counted = ", ".join(f"{words} {size / GIB:.1f}" for words, size in {**parts, "other": rest}.items())
    says = f"{names}: needs about {found.needed:.0f} GiB of each GPU ({counted}), and {found.source}"
    if found.refused:
        says += f": {found.needed - found.gpu:.0f} GiB too much"
    else:
        says += f": it may not fit, as estimates are good to {MARGIN:.0%}"
    if not need.known:
        says += " (of this architecture, only weights, gradients and optimizer are certain)"
    return f"{says}. {_advice(found)}"


def uneven(units: Iterable[Unit]) -> list[str]:
    """Return which trainings cannot share their batches evenly, and what would work."""
    found = dict[str, list[str]]()
    for unit in units:
        if unit.stage != "train":
            continue
        batch, shared = unit.config["recipe"]["batch"], unit.execution["sequence_parallel"] or 1
        world = unit.resources.world_size // shared  # processes, or groups of them
        micro = unit.execution["micro_batch"]
        if batch % (micro * world) == 0:
            continue
        sizes = [n for n in range(batch // world, 0, -1) if batch % (n * world) == 0]
        counts = [n for n in range(world, 0, -1) if batch % n == 0]
        works = (
            f"micro_batch: {sizes[0]}"
            if sizes
            else f"nodes and GPUs for {counts[0] * shared} processes and micro_batch: 1"
        )
        who = f"{world} groups of {shared} processes" if shared > 1 else f"{world} processes"
        below = batch - batch % (micro * world)
        batches = " or ".join(str(n) for n in (below, below + micro * world) if n)
        why = (
            f"training.batch is {batch} blocks, which {who} with a micro_batch of {micro} cannot "
            f"share evenly. In the model's preset, set {works}; or set training.batch to {batches}, which "
            "changes results"
        )
        found.setdefault(why, []).append(f"{unit.stage} {unit.name}")
    return [f"{some(names)}: {why}" for why, names in found.items()]


def _advice(found: Fit) -> str:
    """Return what would fit: settings, more GPUs, a smaller block."""
    way = found.way
    room = (1 - MARGIN) * found.gpu * GIB

    def first(block: int, processes: int, shared: int = way.shared) -> tuple[Choice, float] | None:
        for choice in _choices(ANY, found.batch, processes // shared, found.model, way.dtype):
            trained = _way(choice, block, found.batch, processes, way.dtype, shared)
            need = estimate(found.model, trained).total
            if need <= room:
                return choice, need / GIB
        return None

    if better := first(way.block, way.processes):
        return f"What fits ({better[1]:.0f} GiB): '{better[0]}' in the model's preset, or 'auto' for each"
    works = []
    near = found.units[0].resources.tasks_per_node
    for shared in (n for n in range(way.shared + 1, near + 1) if near % n == found.model.heads % n == 0):
        if better := first(way.block, way.processes, shared):
            works.append(f"sequence_parallel: {shared} ({better[0]})")
            break
    for times in MORE:
        processes = times * way.processes
        if found.batch % (processes // way.shared) == 0 and (better := first(way.block, processes)):
            works.append(f"{processes} GPUs ({better[0]})")
            break
    block = way.block // 2
    while block >= 256 and not (better := first(block, way.processes)):
        block //= 2
    if block >= 256 and better:
        works.append(f"training.block of {block}, which drops longer rows ({better[0]})")
    return f"What fits: {'; or '.join(works)}" if works else "Train a smaller model, or on larger GPUs"


def _choices(how: Training, batch: int, readers: int, model: Widths, dtype: str) -> Iterator[Choice]:
    """Yield ways to train, the fastest first: those that compute nothing twice, then those that send less.

    Args:
        readers: Processes, or groups of them, that read blocks of their own.
    """
    each = batch // readers if batch % readers == 0 else 1
    sizes: list[int] = [n for n in range(each, 0, -1) if each % n == 0]
    # Experts' grouped products need weights in bf16, which are in fp32 without ZeRO.
    stages = STAGES[1:] if model.experts and dtype == "bf16" else STAGES
    recompute, zero, size = how.gradient_checkpointing, how.zero, how.micro_batch
    for checkpointing, stage, micro_batch in itertools.product(
        (False, True) if isinstance(recompute, str) else (recompute,),
        stages if isinstance(zero, str) else (zero,),
        sizes if isinstance(size, str) else (size,),
    ):
        yield Choice(checkpointing, stage, micro_batch)


def _way(choice: Choice, block: int, batch: int, processes: int, dtype: str, shared: int) -> Way:
    repeated = batch > choice.micro_batch * processes // shared
    zero = deepspeed(choice.zero)
    return Way(block, choice.micro_batch, repeated, choice.checkpointing, zero, processes, dtype, shared)


def _recipe(unit: Unit) -> tuple[int, int, str]:
    """Return a training's block size, batch and dtype."""
    recipe = unit.config["recipe"]
    return unit.config["block_size"], recipe["batch"], recipe["dtype"]
