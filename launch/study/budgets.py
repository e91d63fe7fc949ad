"""Trainings of one student that differ in their budget of FLOPs alone: what those with `wsd` share.

Pure. A smaller budget's training takes the steps of a larger one, up to its cooldown, if the warmup is the
same and the rows come in the same order. That is so for mixtures of one phase; in a sequential mixture each
budget ends its phase of plain answers elsewhere.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from jobs.core.budget import PASSES
from jobs.core.unit import Unit, canonical
from jobs.core.wording import about, count
from launch.study.recipes import Recipe

NAMED = 3  # students in a line of the plan


def warmup_flops(recipe: Recipe, every: Iterable[Recipe]) -> float | None:
    """Return the FLOPs of a recipe's warmup, that of the smallest budget among otherwise equal recipes.

    Returns:
        None if its warmup is a share of its own steps.
    """
    if recipe.flops is None or recipe.schedule != "wsd":
        return None
    alike = (r.flops for r in every if r.flops and replace(r, flops=None) == replace(recipe, flops=None))
    return recipe.warmup * min(alike)


def chains(trained: Sequence[Unit]) -> list[list[Unit]]:
    """Return the trainings that share their stable part, smallest budget first; each chain has several."""
    kinds = defaultdict[str, list[Unit]](list)
    for unit in trained:
        if _budget(unit) is not None and _stable(unit) and not _sequential(unit):
            kinds[_kind(unit)].append(unit)
    return [sorted(alike, key=lambda u: _budget(u) or 0.0) for alike in kinds.values() if len(alike) > 1]


def stable_flops(unit: Unit) -> int:
    """Return the FLOPs of a training before its cooldown."""
    recipe = unit.config["recipe"]
    return round(recipe["flops"] * (1 - recipe["cooldown"]))


def notes(units: Sequence[Unit]) -> list[str]:
    """Return what `sor plan` says about budgets, in lines."""
    found, with_budget, often = list[str](), _with_budget(units), _passes(units).values()
    if often:
        least, most = about(min(often)), about(max(often))
        found.append(f"budgets: {least} to {most} passes over the rows (estimate)")
    if linked := sum(unit.inputs != unit.made_from for unit in with_budget):
        found.append(f"of {count(len(with_budget), 'training')}, {linked} continue from a smaller budget's")
    if apart := sum(_stable(unit) and _sequential(unit) for unit in with_budget):
        found.append(f"{count(apart, 'training')} of sequential mixtures start anew for each budget")
    return found


def repeated(units: Sequence[Unit]) -> str:
    """Name the trainings that reach their budget by many passes over the same rows; "" if there are none."""
    many = sorted(((often, name) for name, often in _passes(units).items() if often > PASSES), reverse=True)
    named = ", ".join(f"{name} ({about(often)})" for often, name in many[:NAMED])
    rest = f" and {len(many) - NAMED} more" if len(many) > NAMED else ""
    return f"rows are read more than {PASSES} times: {named}{rest}" if many else ""


def _passes(units: Iterable[Unit]) -> dict[str, float]:
    """Return the estimated passes of the trainings with a budget, by name, as far as they are known."""
    passes = {unit.name: unit.execution.get("passes") for unit in _with_budget(units)}
    return {name: often for name, often in passes.items() if often is not None}


def _with_budget(units: Iterable[Unit]) -> list[Unit]:
    return [unit for unit in units if unit.stage == "train" and _budget(unit) is not None]


def _budget(unit: Unit) -> float | None:
    found: float | None = unit.config["recipe"].get("flops")
    return found


def _stable(unit: Unit) -> bool:
    return bool(unit.config["recipe"]["schedule"] == "wsd")


def _sequential(unit: Unit) -> bool:
    return unit.config["order"] == "sequential" and 0 < unit.config["share"] < 1


def _kind(unit: Unit) -> str:
    """Return what trainings of one chain have in common, as text."""
    config = unit.config
    model = {key: value for key, value in config["model"].items() if key != "name"}
    recipe = {key: value for key, value in config["recipe"].items() if key != "flops"}
    return canonical([{**config, "model": model, "recipe": recipe}, [given.id for given in unit.inputs]])
