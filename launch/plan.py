"""Study -> units: the graph of work, each unit with its identity, its needs and its estimated FLOPs.

It reads no run directory and asks no scheduler. Units come in an order in which they can be done.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml

from jobs.unit import PREPARED, Resources, Unit
from launch.cluster import Cluster
from launch.estimate import (
    Lengths,
    evaluation_flops,
    generation_flops,
    hours,
    packing,
    training_flops,
)
from launch.study import CONFIGS, EvalGroup, Model, Recipe, Source, Study

MARGIN = 2.0  # a time limit is the estimate times this
LEAST = 0.5  # hours; no time limit is shorter


@dataclass(frozen=True)
class Variant:
    """One student to train: a size, a mixture, an order and a seed."""

    student: Model
    share: float
    order: str
    seed: int

    @property
    def mixture(self) -> str:
        """The mixture's name: the share in percent, and what is not as usual.

        Nothing else of the study has a part in it: a unit's folder bears it and must be found again when the
        study grows by a seed or an order.
        """
        name = f"r{100 * self.share:g}"
        if self.order == "shuffled" and 0 < self.share < 1:
            name += "-shuffled"
        return name + (f"-s{self.seed}" if self.seed else "")

    @property
    def name(self) -> str:
        """The name of the trained student."""
        return f"{self.student.name}-{self.mixture}"


def plan(study: Study, cluster: Cluster, measured: Lengths | None = None) -> list[Unit]:
    """All units of a study.

    Args:
        measured: counts and lengths of the rows where they are known already, else the study's `expect`
            serves. They change estimates, never identities.
    """
    return _Planner(study, cluster, measured or Lengths.expected(study)).units()


def variants(study: Study) -> list[Variant]:
    """All students to train. The order of the phases matters to real mixtures only."""
    found = []
    for student, share, order, seed in itertools.product(
        study.students, study.mixtures.shares, study.mixtures.order, study.seeds
    ):
        if 0 < share < 1 or order == study.mixtures.order[0]:
            found.append(Variant(student, share, order, seed))
    return found


@dataclass(frozen=True)
class _Planner:
    study: Study
    cluster: Cluster
    rows: Lengths

    def units(self) -> list[Unit]:
        trained = [(v, self.train(v, self.pack(v))) for v in variants(self.study)]
        evaluated = [self.evaluate(v, t, g) for v, t in trained for g in self.study.benchmarks]
        packs = {p.id: p for p in (self.pack(v) for v, _ in trained)}
        report = Unit("report", self.study.name, {}, tuple(u.as_input(u.name) for u in evaluated))
        first = [u for u in (self.prepare, self.generate, self.collate) if u is not None]
        return [*first, *packs.values(), *(t for _, t in trained), *evaluated, report]

    def unit(
        self,
        stage: str,
        name: str,
        config: dict[str, Any],
        inputs: Iterable[Unit | None],
        execution: dict[str, Any] | None = None,
        resources: Resources | None = None,
        flops: int | None = None,
    ) -> Unit:
        """A unit with its time limit. It reads the prepare stage's result if its config names a file."""
        resources = resources or Resources()
        found = [u.as_input() for u in inputs if u is not None]
        if self.prepare is not None and PREPARED in str(config):
            found.append(self.prepare.as_input())
        if stage in ("generate", "train", "evaluate"):
            resources = self.limited(resources, hours(flops, stage, resources, self.cluster))
        return Unit(stage, name, config, tuple(found), execution or {}, resources, flops)

    def limited(self, resources: Resources, expected: float) -> Resources:
        """These resources with a time limit for so many hours of work."""
        wanted = max(MARGIN * expected, LEAST)
        return replace(resources, hours=round(min(wanted, self.cluster.max_hours), 2))

    @cached_property
    def prepare(self) -> Unit | None:
        if self.study.prepare is None:
            return None
        return Unit("prepare", self.study.name, self.study.prepare.model_dump(mode="json"))

    @cached_property
    def generate(self) -> Unit | None:
        teacher, study = self.study.teacher, self.study
        if teacher is None or study.modes is None or study.prompts is None:
            return None
        config = {
            "model": teacher.model,
            "revision": teacher.revision,
            "thinking": teacher.thinking.model_dump(),
            "prompts": [_source(source) for source in study.prompts],
            "modes": study.modes.model_dump(mode="json"),
            "seed": study.seeds[0],
        }
        resources = self.serving(teacher)
        flops = generation_flops(teacher.architecture, self.rows)
        execution = {**self.engine(teacher), "files": _files(study.prompts)}
        return self.unit("generate", teacher.name, config, (), execution, resources, flops)

    @cached_property
    def collate(self) -> Unit:
        study = self.study
        teacher = study.teacher.thinking if study.teacher else study.students[0].thinking
        pairs = [_source(p) for p in study.pairs] if study.pairs else None
        config = {"pairs": pairs, "thinking": teacher.model_dump()}
        execution = {"files": _files(study.pairs or ())}
        return self.unit("collate", study.name, config, (self.generate,), execution)

    def pack(self, v: Variant) -> Unit:
        tokenizer, revision = v.student.tokens_with
        config = {
            "tokenizer": tokenizer,
            "revision": revision,
            "thinking": v.student.thinking.model_dump(),
            "share": v.share,
            "order": v.order,
            "block_size": self.study.training.block,
            "seed": v.seed,
        }
        name = f"{v.mixture}.{tokenizer.rpartition('/')[2]}"
        needed = packing(self.rows, v.share, self.cluster)
        return self.unit("pack", name, config, (self.collate,), resources=self.limited(needed, needed.hours))

    def train(self, v: Variant, pack: Unit) -> Unit:
        training, recipe = v.student.training, self.study.training
        assert training is not None  # the study was checked
        wanted = {"size", "model", "revision", "init", "architecture"}
        tokenizer, revision = v.student.tokens_with
        model = {
            **v.student.model_dump(include=wanted, mode="json"),
            "name": v.name,
            "tokenizer": tokenizer,
            "tokenizer_revision": revision,
        }
        config = {
            "model": model,
            "recipe": _recipe(recipe, training.learning_rate, v.seed),
            "share": v.share,
            "order": v.order,
            "seed": v.seed,
        }
        execution = {
            "micro_batch": training.micro_batch,
            "gradient_checkpointing": training.gradient_checkpointing,
            "deepspeed": None if training.zero is None else _deepspeed(training.zero),
            "mtbf_hours": self.cluster.mtbf_hours,
        }
        resources = Resources(
            nodes=training.nodes,
            tasks_per_node=training.gpus_per_node or training.tasks_per_node,
            gpus_per_node=training.gpus_per_node,
            cpus_per_task=self.cluster.cpus_per_gpu if training.gpus_per_node else training.cpus,
        )
        flops = training_flops(v.student.architecture, self.rows, v.share, recipe.epochs)
        return self.unit("train", v.name, config, (pack,), execution, resources, flops)

    def evaluate(self, v: Variant, train: Unit, group: EvalGroup) -> Unit:
        wanted = {"name", "domain", "format", "include", "max_tokens"}
        shown = {"task", "metric", "filter", "fewshot", "limit"}
        config = {
            "student": {
                "name": v.name,
                "size": v.student.size,
                "share": v.share,
                "order": v.order,
                "seed": v.seed,
            },
            "group": {
                **group.model_dump(include=wanted, mode="json"),
                "tasks": [task.model_dump(include=shown, mode="json") for task in group.tasks],
            },
            "sampling": group.sampling.model_dump(mode="json"),
            "thinking": v.student.thinking.model_dump(),
        }
        flops = evaluation_flops(v.student.architecture, self.rows, v.share, group)
        name, execution = f"{v.name}.{group.name}", self.engine(v.student)
        return self.unit("evaluate", name, config, (train,), execution, self.serving(v.student), flops)

    def serving(self, model: Model) -> Resources:
        """What a model needs to generate: one task per worker, which holds all of its GPUs."""
        serving = model.serving
        cpus = serving.gpus * self.cluster.cpus_per_gpu if serving.gpus else serving.cpus
        return Resources(
            nodes=serving.nodes, gpus_per_node=serving.gpus, cpus_per_task=cpus, workers=serving.workers
        )

    def engine(self, model: Model) -> dict[str, Any]:
        serving = model.serving
        return {
            "engine": serving.engine,
            "tensor_parallel": max(1, serving.gpus),
            "max_model_len": serving.max_model_len,
        }


def _source(source: Source) -> dict[str, Any]:
    """A source of texts, a local file named by its contents: it may be edited, and it may be moved."""
    local = _files((source,))
    return {**source.model_dump(mode="json"), "path": next(iter(local), source.path)}


def _files(sources: Iterable[Source]) -> dict[str, str]:
    """Where the local files are that sources name by their contents."""
    files = [Path(s.path).absolute() for s in sources if s.path and not s.path.startswith(PREPARED)]
    return {f"sha256:{_digest(file, file.stat().st_mtime_ns)}": str(file) for file in files}


@cache
def _digest(file: Path, changed: int) -> str:
    """The SHA-256 of a file's contents, read once for each time that it changed."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _recipe(recipe: Recipe, learning_rate: float, seed: int) -> dict[str, Any]:
    """What `jobs.schedule.Recipe` takes; the size of a block is the pack's."""
    return {**recipe.model_dump(exclude={"block"}, mode="json"), "learning_rate": learning_rate, "seed": seed}


@cache
def _deepspeed(stage: int) -> dict[str, Any]:
    """DeepSpeed's configuration for a ZeRO stage."""
    loaded: dict[str, Any] = yaml.safe_load((CONFIGS / "deepspeed" / f"zero{stage}.yaml").read_text())
    return loaded


def totals(units: list[Unit]) -> dict[str, Any]:
    """Sums over units, for `sor plan`; FLOPs are None as soon as one unit's are unknown."""
    flops = [u.flops for u in units if u.stage in ("generate", "train", "evaluate")]
    return {
        "units": len(units),
        "flops": None if None in flops else sum(f for f in flops if f is not None),
        "gpu_hours": round(sum(gpu_hours(u) for u in units), 1),
    }


def gpu_hours(unit: Unit) -> float:
    """GPU hours that a unit is estimated to take (its limit without the margin)."""
    return unit.resources.gpus * unit.resources.hours / MARGIN
