"""Study -> units: the graph of work, each unit with its identity, its needs and its estimated FLOPs.

It reads no run directory and asks no scheduler. Units come in an order in which they can be done.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml

from jobs.unit import PREPARED, Resources, Shared, Unit
from launch.cluster import Cluster
from launch.estimate import Lengths, evaluation_flops, generation_flops, hours, packing, training_flops
from launch.presets import CONFIGS, Strict
from launch.study import EvalGroup, Model, Source, Study

MARGIN = 2.0  # a time limit is the estimate times this
LEAST = 0.5  # hours; no time limit is shorter
OF_TASK = ("task", "metric", "filter", "fewshot", "limit")  # what changes a benchmark's result
OF_GROUP = {**dict.fromkeys(("name", "domain", "format", "include", "max_tokens"), True),
            "tasks": {"__all__": set(OF_TASK)}}  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """One student to train: a size, a mixture, an order and a seed."""

    student: Model
    share: float
    order: str
    seed: int

    @cached_property
    def mixture(self) -> str:
        """The mixture's name: the share in percent, and what is not as usual.

        Nothing else of the study has a part in it: a unit's folder bears it and must be found again when the
        study grows by a seed or an order.
        """
        name = f"r{100 * self.share:g}"
        if self.order == "shuffled" and 0 < self.share < 1:
            name += "-shuffled"
        return name + (f"-s{self.seed}" if self.seed else "")

    @cached_property
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


def collating(study: Study, cluster: Cluster) -> Unit:
    """The unit of a study's plan that counts its rows."""
    return _Planner(study, cluster, Lengths.expected(study)).collate


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
class _Cost:
    """What a unit takes: an estimate, and whether it reads the prepare stage's result."""

    resources: Resources
    flops: int | None
    prepared: bool


@dataclass(frozen=True)
class _Planner:
    study: Study
    cluster: Cluster
    rows: Lengths
    _shared: dict[int, Shared] = field(default_factory=dict)  # by the part of the study that they are made of

    def units(self) -> list[Unit]:
        packs: dict[Any, Unit] = {}
        trained, evaluated = list[Unit](), list[Unit]()
        for (_, share), alike in itertools.groupby(variants(self.study), lambda v: (v.student.name, v.share)):
            variant, *others = alike  # they differ in seed and order, which cost nothing
            student, groups = variant.student, self.study.benchmarks
            packing, training = self.packing(student, share), self.training(student, share)
            engine = self.engine(student)
            evaluations = [self.evaluation(student, share, group) for group in groups]
            for v in (variant, *others):
                key = (student.tokens_with, student.thinking, share, v.order, v.seed)
                if key not in packs:
                    packs[key] = self.pack(v, packing)
                train = self.train(v, packs[key], training)
                trained.append(train)
                for group, cost in zip(groups, evaluations, strict=True):
                    evaluated.append(self.evaluate(v, train, group, engine, cost))
        report = Unit("report", self.study.name, {}, tuple(u.as_input(u.name) for u in evaluated))
        first = [u for u in (self.prepare, self.generate, self.collate) if u is not None]
        return [*first, *packs.values(), *trained, *evaluated, report]

    def unit(
        self,
        stage: str,
        name: str,
        config: dict[str, Any],
        inputs: Iterable[Unit | None],
        execution: dict[str, Any] | None = None,
        cost: _Cost | None = None,
    ) -> Unit:
        cost = cost or _Cost(Resources(), None, self.names_prepared(config))
        found = [u.as_input() for u in inputs if u is not None]
        if cost.prepared and self.prepare:
            found.append(self.prepare.as_input())
        return Unit(stage, name, config, tuple(found), execution or {}, cost.resources, cost.flops)

    def cost(self, stage: str, resources: Resources, flops: int | None, told: Any) -> _Cost:
        """What a stage's unit takes on these resources, as much time as it may need included.

        Args:
            told: what its config is made of.
        """
        expected = hours(flops, stage, resources, self.cluster)
        return _Cost(self.limited(resources, expected), flops, self.names_prepared(told))

    def names_prepared(self, told: Any) -> bool:
        """Whether something names a file of the prepare stage's result."""
        return self.prepare is not None and PREPARED in str(told)

    def limited(self, resources: Resources, expected: float) -> Resources:
        """These resources with a time limit for so many hours of work."""
        wanted = max(MARGIN * expected, LEAST)
        return replace(resources, hours=round(min(wanted, self.cluster.max_hours), 2))

    def shared(self, part: Strict, only: Any = None) -> Shared:
        """A part of the study as units' configs hold it, made once for all of them.

        Args:
            only: which of its keys, as pydantic names them; the same each time.
        """
        if id(part) not in self._shared:
            self._shared[id(part)] = Shared(part.model_dump(mode="json", include=only))
        return self._shared[id(part)]

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
        flops = generation_flops(teacher.architecture, self.rows)
        cost = self.cost("generate", self.serving(teacher), flops, config)
        execution = {**self.engine(teacher), "files": _files(study.prompts)}
        return self.unit("generate", teacher.name, config, (), execution, cost)

    @cached_property
    def collate(self) -> Unit:
        study = self.study
        teacher = study.teacher.thinking if study.teacher else study.students[0].thinking
        pairs = [_source(p) for p in study.pairs] if study.pairs else None
        config = {"pairs": pairs, "thinking": teacher.model_dump()}
        execution = {"files": _files(study.pairs or ())}
        return self.unit("collate", study.name, config, (self.generate,), execution)

    def packing(self, student: Model, share: float) -> _Cost:
        needed = packing(self.rows, share, self.cluster)
        return _Cost(self.limited(needed, needed.hours), None, self.names_prepared(student.tokens_with))

    def pack(self, v: Variant, cost: _Cost) -> Unit:
        tokenizer, revision = v.student.tokens_with
        config = {
            "tokenizer": tokenizer,
            "revision": revision,
            "thinking": self.shared(v.student.thinking),
            "share": v.share,
            "order": v.order,
            "block_size": self.study.training.block,
            "seed": v.seed,
        }
        return self.unit(
            "pack", f"{v.mixture}.{tokenizer.rpartition('/')[2]}", config, (self.collate,), cost=cost
        )

    def training(self, student: Model, share: float) -> _Cost:
        how = student.training
        assert how is not None  # the study was checked
        resources = Resources(
            nodes=how.nodes,
            tasks_per_node=how.gpus_per_node or how.tasks_per_node,
            gpus_per_node=how.gpus_per_node,
            cpus_per_task=self.cluster.cpus_per_gpu if how.gpus_per_node else how.cpus,
        )
        flops = training_flops(student.architecture, self.rows, share, self.study.training.epochs)
        return self.cost("train", resources, flops, student)

    def train(self, v: Variant, pack: Unit, cost: _Cost) -> Unit:
        how = v.student.training
        assert how is not None
        tokenizer, revision = v.student.tokens_with
        model = {
            **self.shared(v.student, {"size", "model", "revision", "init", "architecture"}),
            "name": v.name,
            "tokenizer": tokenizer,
            "tokenizer_revision": revision,
        }
        # What `jobs.schedule.Recipe` takes; the size of a block is the pack's.
        recipe = dict(self.shared(self.study.training), learning_rate=how.learning_rate, seed=v.seed)
        del recipe["block"]
        config = {"model": model, "recipe": recipe, "share": v.share, "order": v.order, "seed": v.seed}
        execution = {
            "micro_batch": how.micro_batch,
            "gradient_checkpointing": how.gradient_checkpointing,
            "deepspeed": None if how.zero is None else _deepspeed(how.zero),
            "mtbf_hours": self.cluster.mtbf_hours,
        }
        return self.unit("train", v.name, config, (pack,), execution, cost)

    def evaluation(self, student: Model, share: float, group: EvalGroup) -> _Cost:
        flops = evaluation_flops(student.architecture, self.rows, share, group)
        return self.cost("evaluate", self.serving(student), flops, group)

    def evaluate(
        self, v: Variant, train: Unit, group: EvalGroup, engine: dict[str, Any], cost: _Cost
    ) -> Unit:
        student = {
            "name": v.name,
            "size": v.student.size,
            "share": v.share,
            "order": v.order,
            "seed": v.seed,
        }
        config = {
            "student": student,
            "group": self.shared(group, OF_GROUP),
            "sampling": self.shared(group.sampling),
            "thinking": self.shared(v.student.thinking),
        }
        return self.unit("evaluate", f"{v.name}.{group.name}", config, (train,), engine, cost)

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
