"""Study -> units: the graph of work, each unit with its identity, resources and estimated FLOPs.

Reads no run directory and asks no scheduler. Units come in topological order.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any

from jobs.core.recipe_words import varied
from jobs.core.unit import CONTINUES, PREPARED, Input, Resources, Unit, canonical
from launch.study import memory
from launch.study.budgets import chains, stable_flops, warmup_flops
from launch.study.cluster import Cluster
from launch.study.deepspeed import deepspeed
from launch.study.digests import digest
from launch.study.estimate import (
    Lengths,
    collating_needs,
    endpoint_hours,
    evaluation_flops,
    generation_flops,
    hours,
    reporting_hours,
    tokenizing_needs,
    training_flops,
)
from launch.study.filters import filters_config
from launch.study.gpu_fit import resolved
from launch.study.model import Model
from launch.study.placement import Engine, engine, placed
from launch.study.recipes import Recipe, suffix
from launch.study.schema import EvalGroup, Source, Study
from launch.study.vllm_arguments import changing

MARGIN = 2.0  # a time limit is the estimate times this
LEAST = 0.5  # hours; the minimum time limit
OF_TASK = ("task", "metric", "filter", "fewshot", "limit")  # what changes a benchmark's result
OF_GROUP: Any = {**dict.fromkeys(("name", "domain", "format", "include", "max_tokens"), True),
            "tasks": {"__all__": set(OF_TASK)}}  # fmt: skip
Maker = Callable[["Variant", Input], Unit]  # makes a variant's unit from its input


@dataclass(frozen=True)
class Variant:
    """One student to train: a model, a mixture with its order, a seed, a recipe, and the first one."""

    student: Model
    share: float
    order: str
    seed: int
    recipe: Recipe
    first: Recipe

    @cached_property
    def name(self) -> str:
        """The name of the trained student: the share in percent, and a non-default order, recipe or seed.

        The name depends on nothing else in the study but its first recipe: it is part of a unit's folder,
        which must be found again when the study gains a seed or an order.
        """
        order = "-shuffled" if self.order == "shuffled" and 0 < self.share < 1 else ""
        how = f"{order}{suffix(self.recipe, self.first)}" + (f"-s{self.seed}" if self.seed else "")
        return f"{self.student.name}-r{percent(self.share)}{how}"


def percent(share: float) -> str:
    """Format a share in percent, with all digits: no two shares have the same name."""
    exact = (100 * Decimal(repr(float(share)))).normalize()
    return str(int(exact)) if exact == int(exact) else str(exact)


def plan(study: Study, cluster: Cluster, measured: Lengths | None = None) -> list[Unit]:
    """Return all units of a study.

    Args:
        measured: counts and lengths of the rows if already known; by default the study's `expect` is used.
            They change estimates, never identities.
    """
    return _Planner(study, cluster, measured or Lengths.expected(study)).units()


def collating(study: Study, cluster: Cluster) -> Unit:
    """Return the unit of a study's plan that counts its rows."""
    return _Planner(study, cluster, Lengths.expected(study)).collate


def variants(study: Study) -> list[Variant]:
    """Return all students to train."""
    first = study.recipes[0]
    return [
        Variant(student, *mixture, seed, recipe, first)
        for student in study.students
        for mixture, recipe, seed in itertools.product(study.mixed, study.recipes_of(student), study.seeds)
    ]


@dataclass(frozen=True)
class _Planner:
    study: Study
    cluster: Cluster
    rows: Lengths

    def units(self) -> list[Unit]:
        tokenized = dict[str, Unit]()  # by id, since students may share them
        trained, evaluated = list[Unit](), list[Unit]()
        kind = attrgetter("student.name", "share", "recipe")
        for (_, share, recipe), alike in itertools.groupby(variants(self.study), kind):
            of_kind = list(alike)  # they differ only in order and seed, which do not change the cost
            student = of_kind[0].student
            tokens = self.tokenizing(student)
            tokenized.setdefault(tokens.id, tokens)
            train_of = self.training(student, share, recipe)
            evaluations_of = [self.evaluation(student, share, group) for group in self.study.benchmarks]
            for variant in of_kind:
                train = train_of(variant, tokens.as_input())
                trained.append(train)
                made = train.as_input()
                evaluated += [evaluation_of(variant, made) for evaluation_of in evaluations_of]
        items = sum(t.items for group in self.study.benchmarks for t in group.tasks)
        needed = Resources(memory=memory.reporting(items * len(trained)))
        needed = self.limited(needed, reporting_hours(items * len(trained)))
        made_of = tuple([u.as_input(u.name) for u in evaluated])
        report = Unit("report", self.study.name, {}, made_of, resources=needed)
        first = [u for u in (self.prepare, self.generate, self.collate) if u is not None]
        return [*first, *tokenized.values(), *self.linked(trained), *evaluated, report]

    def linked(self, trained: list[Unit]) -> list[Unit]:
        """Return the trainings, each with a budget after the one whose stable part it continues."""
        place, found = {unit.id: number for number, unit in enumerate(trained)}, list(trained)
        for chain in chains(trained):
            slots = sorted(place[unit.id] for unit in chain)
            for slot, before, unit, after in zip(
                slots, [None, *chain], chain, [*chain[1:], None], strict=False
            ):
                found[slot] = self.linked_to(unit, before, after)
        return found

    def linked_to(self, unit: Unit, before: Unit | None, after: Unit | None) -> Unit:
        """Return a training that continues from another one, and knows which one continues from it."""
        if after:
            unit = replace(unit, execution={**unit.execution, "continued_by": after.as_input()._asdict()})
        if before:
            assert unit.flops is not None  # it has a budget
            flops = unit.flops - stable_flops(before)
            resources = self.timed("train", unit.resources, flops)
            inputs = (*unit.inputs, before.as_input(CONTINUES))
            unit = replace(unit, inputs=inputs, flops=flops, resources=resources)
        return unit

    def prepared(self, config: Any) -> tuple[Input, ...]:
        """Return the prepare stage's result as an input, if a config names a file of it."""
        return (self.prepare.as_input(),) if self.prepare and PREPARED in canonical(config) else ()

    def timed(self, stage: str, resources: Resources, flops: int | None) -> Resources:
        """Return the resources with a time limit for a unit of these FLOPs."""
        return self.limited(resources, hours(flops, stage, resources, self.cluster))

    def limited(self, resources: Resources, expected: float) -> Resources:
        """Return the resources with a time limit for this many hours of work."""
        wanted = max(MARGIN * expected, LEAST)
        return replace(resources, hours=round(min(wanted, self.cluster.max_hours), 2))

    @cached_property
    def prepare(self) -> Unit | None:
        if self.study.prepare is None:
            return None
        config = self.study.prepare.model_dump(mode="json", exclude={"hours"})
        limit = min(self.study.prepare.hours, self.cluster.max_hours)
        needed = Resources(memory=memory.preparing(), hours=limit)
        return Unit("prepare", self.study.name, config, resources=needed)

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
            **_arguments(teacher),
        }
        flops = generation_flops(teacher.shape, self.rows)
        runs = engine(teacher, self.cluster, shared=True)
        needed = replace(runs.resources, memory=memory.generation(teacher, runs))
        if endpoint := teacher.endpoint:
            expected = endpoint_hours(self.rows, teacher.serving)
            resources = self.limited(needed, self.cluster.max_hours if expected is None else expected)
        else:
            resources = self.timed("generate", needed, flops)
        execution = {**_execution(teacher, runs), "files": _files(study.prompts)}
        if teacher.flops:
            execution["flops"] = teacher.shape["flops"]
        reads = [config, endpoint] if endpoint else config
        return Unit("generate", teacher.name, config, self.prepared(reads), execution, resources, flops)

    @cached_property
    def collate(self) -> Unit:
        study = self.study
        teacher = study.teacher.thinking if study.teacher else study.students[0].thinking
        pairs = [_source(p) for p in study.pairs] if study.pairs else None
        config: dict[str, Any] = {"pairs": pairs, "thinking": teacher.model_dump()}
        files = study.pairs or ()
        if study.filters:
            judged = [source for source in study.pairs or study.prompts or () if source.reference]
            columns = [{**_source(source), "reference": source.reference} for source in judged]
            config |= filters_config(study.filters, study.benchmarks, columns)
            files = (*files, *(judged if study.filters.correct else ()))
        execution = {"files": _files(files)}
        inputs = (self.generate.as_input(),) if self.generate else ()
        needed = collating_needs(self.rows, self.cluster, study.filters)
        used = memory.collating(self.rows, needed.cpus_per_task, study.filters)
        needed = replace(needed, memory=used)
        needed = self.limited(needed, needed.hours)
        return Unit("collate", study.name, config, (*inputs, *self.prepared(config)), execution, needed)

    def tokenizing(self, student: Model) -> Unit:
        tokenizer, revision = student.tokens_with
        config = {
            "tokenizer": tokenizer,
            "revision": revision,
            "thinking": student.thinking.model_dump(),
        }
        needed = tokenizing_needs(self.rows, self.cluster)
        needed = replace(needed, memory=memory.tokenizing(self.rows, needed.cpus_per_task))
        needed = self.limited(needed, needed.hours)
        read = (self.collate.as_input(), *self.prepared(config))
        return Unit("tokenize", _word(tokenizer), config, read, {}, needed)

    def training(self, student: Model, share: float, recipe: Recipe) -> Maker:
        assert student.training is not None  # the study was checked
        resources = placed(student.training, self.cluster)
        student = resolved(student, recipe, resources.world_size, self.cluster)
        how = student.training
        assert how is not None
        assert not isinstance(how.zero, str)
        tokenizer, revision = student.tokens_with
        model = {
            **student.model_dump(mode="json", include={"size", "model", "revision", "init"}),
            "architecture": student.shape,
            "tokenizer": tokenizer,
            "tokenizer_revision": revision,
        }
        # What `jobs.training.schedule.Recipe` takes; the block size belongs to the rows.
        settings = {
            key: value
            for key, value in asdict(recipe).items()
            if key == "learning_rate" or (key != "block" and value is not None)
        }
        if rising := warmup_flops(recipe, self.study.recipes_of(student)):
            settings |= {"warmup_flops": rising}
            del settings["warmup"]
        settings |= {"learning_rate": recipe.learning_rate or how.learning_rate, "betas": list(recipe.betas)}
        prepared = self.prepared(model)
        zero = deepspeed(how.zero)
        execution = {
            "micro_batch": how.micro_batch,
            "gradient_checkpointing": how.gradient_checkpointing,
            "sequence_parallel": how.sequence_parallel,
            "deepspeed": zero,
            "mtbf_hours": self.cluster.mtbf_hours,
        }
        needed = memory.training(student, resources, recipe.block, recipe.dtype, zero, self.rows.prompts or 0)
        resources = replace(resources, memory=needed)
        flops = training_flops(student.shape, self.rows, share, recipe.epochs or 1)
        if recipe.flops:
            execution["passes"] = round(recipe.flops / flops, 3) if flops else None
            flops = round(recipe.flops)
        resources = self.timed("train", resources, flops)

        def unit(variant: Variant, read: Input) -> Unit:
            config = {
                "model": {**model, "name": variant.name},
                "recipe": {**settings, "seed": variant.seed},
                "share": share, "order": variant.order, "seed": variant.seed, "block_size": recipe.block,
            }  # fmt: skip
            return Unit("train", variant.name, config, (read, *prepared), execution, resources, flops)

        return unit

    def evaluation(self, student: Model, share: float, group: EvalGroup) -> Maker:
        common = {
            "group": group.model_dump(mode="json", include=OF_GROUP),
            "sampling": group.sampling.model_dump(mode="json"),
            "thinking": student.thinking.model_dump(),
            **_arguments(student),
        }
        runs = engine(student, self.cluster, shared=False)
        prepared, execution = self.prepared(common), _execution(student, runs)
        flops = evaluation_flops(student.shape, self.rows, share, group)
        needed = replace(runs.resources, memory=memory.generation(student, runs, group))
        resources = self.timed("evaluate", needed, flops)

        def unit(variant: Variant, read: Input) -> Unit:
            made = {"name": variant.name, "order": variant.order, "seed": variant.seed}
            config = {**common, "student": {**made, "size": student.size, "share": share}}
            name = f"{variant.name}.{group.name}"
            return Unit("evaluate", name, config, (read, *prepared), execution, resources, flops)

        return unit


def _arguments(model: Model) -> dict[str, Any]:
    """Return what a config holds of an engine: arguments that change results; nothing if there are none."""
    found = changing(model.serving.vllm)
    return {"vllm": found} if found else {}


def _execution(model: Model, runs: Engine) -> dict[str, Any]:
    """Return how a model's engine is started, as `jobs.engines.load` takes it."""
    return {
        "engine": model.serving.engine,
        "max_model_len": model.serving.max_model_len,
        "nodes": runs.nodes,
        "gpus": runs.gpus,
        "vllm": runs.arguments,
        **({"endpoint": model.endpoint} if model.endpoint else {}),
    }


def _word(path: str) -> str:
    """Return the last part of a path or hub name, made safe for a folder's name."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", path.rstrip("/").rpartition("/")[2])[:60]


def _source(source: Source) -> dict[str, Any]:
    """Return a source of texts; a local file goes by its digest, since it may be edited or moved."""
    local = _files((source,))
    # Reference answers change no answer; what compares with them names the column itself.
    unused = {key for key in ("columns", "turns", "system") if getattr(source, key) is None}
    found = source.model_dump(mode="json", exclude={"reference", *unused})
    return {**found, "path": next(iter(local), source.path)}


def _files(sources: Iterable[Source]) -> dict[str, str]:
    """Map the digests of the sources' local files to their paths."""
    files = [Path(s.path).absolute() for s in sources if s.path and not s.path.startswith(PREPARED)]
    return {f"sha256:{digest(file)}": str(file) for file in files}


def settings_varied(units: Iterable[Unit]) -> dict[str, list[Any]]:
    """Return the settings in which trainings of students of one size differ, each with its values."""
    of_size = dict[str, list[dict[str, Any]]]()
    for unit in units:
        if unit.stage == "train":
            recipe = {key: value for key, value in unit.config["recipe"].items() if key != "seed"}
            recipe["block"] = unit.config["block_size"]
            of_size.setdefault(unit.config["model"]["size"], []).append(recipe)
    found = dict[str, list[Any]]()
    for recipes in of_size.values():
        for key, values in varied(recipes).items():
            of_key = found.setdefault(key, [])
            of_key += [value for value in values if value is not None and value not in of_key]
    return found


def totals(units: list[Unit]) -> dict[str, Any]:
    """Return sums over units, for `sor plan`; FLOPs are None if any unit's are unknown."""
    flops = [u.flops for u in units if u.stage in ("generate", "train", "evaluate")]
    return {
        "units": len(units),
        "flops": None if None in flops else sum(f for f in flops if f is not None),
        "gpu_hours": round(sum(gpu_hours(u) for u in units), 1),
    }


def gpu_hours(unit: Unit) -> float:
    """Return a unit's estimated GPU hours (its limit without the margin)."""
    return unit.resources.gpus * unit.resources.hours / MARGIN
