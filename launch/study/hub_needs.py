"""What units read from the Hugging Face hub: weights, tokenizers and rows; and which benchmarks they load.

The same keys of a unit's config are read by its stage, in jobs: `generate` and `train` load models,
`tokenize` and `train` tokenizers, `generate` and `collate` datasets, `evaluate` benchmarks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from jobs.core.paths import DATA
from jobs.core.task_files import hub_datasets
from jobs.core.unit import PREPARED, Unit


@dataclass(frozen=True)
class Need:
    """A repository of the hub, and what of it is read.

    Args:
        name: ORG/NAME.
        revision: a commit, branch or tag; None: the main branch.
        weights: whether a model's weights are read.
        tokens: whether a model's tokenizer is read.
        split: of a dataset; None: the repository is a model's.
        subset: configuration of a dataset; None: its only one, or its default.
    """

    name: str
    revision: str | None = None
    weights: bool = False
    tokens: bool = False
    split: str | None = None
    subset: str | None = None

    @property
    def kind(self) -> str:
        if self.split is not None:
            return "dataset"
        return "model" if self.weights else "tokenizer"

    @property
    def repo_type(self) -> str:
        """The kind of repository, as the hub calls it."""
        return "model" if self.split is None else "dataset"

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        part = f" ({', '.join(p for p in (self.subset, self.split) if p)})" if self.split else ""
        return f"{self.name}{at}{part}"


@dataclass(frozen=True)
class Benchmarks:
    """Benchmarks that one folder of task files describes.

    Args:
        include: that folder, as a group names it; empty: lm-eval's own tasks.
        tasks: as a group names them.
    """

    include: str
    tasks: tuple[Mapping[str, Any], ...]

    @property
    def folder(self) -> str:
        """The folder's path; empty: lm-eval's own tasks."""
        return str(DATA / self.include) if self.include else ""


def needs(units: Iterable[Unit]) -> list[Need]:
    """Return what these units read from the hub, models first, each repository and revision once."""
    found = dict[tuple[Any, ...], Need]()
    for need in (need for unit in units for need in _of(unit)):
        key = (need.name, need.revision, need.split, need.subset)
        same = found.get(key, need)
        found[key] = replace(need, weights=need.weights or same.weights, tokens=need.tokens or same.tokens)
    return sorted(found.values(), key=lambda need: ("model", "tokenizer", "dataset").index(need.kind))


def benchmarks(units: Iterable[Unit]) -> list[Benchmarks]:
    """Return the benchmarks of these units that lm-eval may load from the hub, those of a folder together.

    Folders whose data is local are left out.
    """
    found = dict[str, dict[str, Any]]()  # of a folder: tasks by their names
    units = list(units)
    groups = [unit.config["group"] for unit in units if unit.stage == "evaluate"]
    filtered = [unit.config.get("benchmarks", ()) for unit in units if unit.stage == "collate"]
    for group in chain(groups, *filtered):  # filters name tasks only
        include = group["include"] or ""
        if include.startswith(PREPARED) or (include and not hub_datasets(DATA / include)):
            continue
        for task in group["tasks"]:
            found.setdefault(include, {}).setdefault(task["task"], task)
    return [Benchmarks(include, tuple(tasks.values())) for include, tasks in found.items()]


def _of(unit: Unit) -> Iterator[Need]:
    config = unit.config
    if unit.stage == "generate":
        if served := unit.execution.get("endpoint"):
            yield from _model(served["tokenizer"], served["revision"], tokens=True)
        else:
            yield from _model(config["model"], config["revision"], weights=True, tokens=True)
        yield from _rows(config["prompts"])
    elif unit.stage == "collate":
        yield from _rows([*(config["pairs"] or ()), *config.get("references", ())])
    elif unit.stage == "tokenize":
        yield from _model(config["tokenizer"], config["revision"], tokens=True)
    elif unit.stage == "train":
        model = config["model"]
        yield from _model(model["tokenizer"], model["tokenizer_revision"], tokens=True)
        if model["init"] == "pretrained":
            yield from _model(model["model"], model["revision"], weights=True)


def _model(
    name: str | None, revision: str | None, *, weights: bool = False, tokens: bool = False
) -> Iterator[Need]:
    if name and is_hub_name(name):
        yield Need(name, revision, weights, tokens)


def _rows(sources: Iterable[Mapping[str, Any]]) -> Iterator[Need]:
    for source in sources:
        name = source["dataset"]
        if name and not Path(name).is_dir():  # datasets, too, takes a folder of that name first
            yield Need(name, source["revision"], split=source["split"], subset=source["subset"])


def is_hub_name(name: str) -> bool:
    """Return whether a model or tokenizer is on the hub, rather than a folder or made by the study."""
    a_path = name.startswith((".", "~", "/", PREPARED)) or name.count("/") > 1
    return not a_path and not Path(name).is_dir()
