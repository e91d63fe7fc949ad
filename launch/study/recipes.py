"""The training recipes of a study: `training` with its lists, as one recipe for each training of a student.

Pure. The keys of the file are described in schema.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from jobs.core.recipe_words import large

if TYPE_CHECKING:
    from launch.study.schema import Recipes

# What stands before a value in the names of students; nothing where the value needs no explanation.
SHORT = {"learning_rate": "lr", "weight_decay": "decay", "schedule": "", "dtype": ""}


@dataclass(frozen=True)
class Recipe:
    """One value for each key of `training`; without a learning rate, that of each student's preset counts.

    Args:
        epochs: None: `flops` decides.
        flops: None: `epochs` decides.
        cooldown: None: the schedule has none.
    """

    learning_rate: float | None
    epochs: int | None
    flops: float | None
    batch: int
    block: int
    warmup: float
    schedule: str
    cooldown: float | None
    weight_decay: float
    betas: tuple[float, float]
    clip: float
    dtype: str


def recipes(training: Iterable[Recipes]) -> list[Recipe]:
    """Return each combination of the values of each mapping in `training`, once, in the order of the file."""
    found = list[Recipe]()
    for mapping in training:
        values = {field.name: getattr(mapping, field.name) for field in fields(Recipe)}
        values["betas"] = (values["betas"],)  # the one key without lists
        values["epochs"] = (None,) if mapping.flops else mapping.epochs or (1,)
        values["flops"] = mapping.flops or (None,)
        every = itertools.starmap(Recipe, itertools.product(*values.values()))
        found += [r if r.schedule == "wsd" else replace(r, cooldown=None) for r in every]
    return list(dict.fromkeys(found))


def suffix(recipe: Recipe, first: Recipe) -> str:
    """Return what a recipe adds to a student's name: the values that differ from the study's first recipe.

    The first recipe adds nothing. So names, which are part of identities, stay the same when recipes are
    added after it.
    """
    return "".join(f"-{SHORT.get(key, key)}{_value(key, value)}" for key, value in _differing(recipe, first))


def _differing(recipe: Recipe, first: Recipe) -> Iterator[tuple[str, Any]]:
    """Yield the keys and values that differ; a key without a value says nothing, but for a learning rate."""
    others = asdict(first)
    for key, value in asdict(recipe).items():
        if value != others[key] and (value is not None or key == "learning_rate"):
            yield key, value


def _value(key: str, value: Any) -> str:
    if isinstance(value, tuple):
        return "-".join(map(str, value))
    if key == "flops":
        return large(value)
    return "-preset" if value is None else str(value)
