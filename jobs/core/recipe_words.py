"""What tells training recipes apart, in words for tables and figures. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from typing import Any

LARGE = 1e6


def varied(recipes: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the keys that have several values among some recipes, each with its values."""
    keys = dict.fromkeys(key for recipe in recipes for key in recipe)
    values = {key: _each_once([recipe.get(key) for recipe in recipes]) for key in keys}
    return {key: found for key, found in values.items() if len(found) > 1}


def recipe_words(recipe: Mapping[str, Any], keys: Collection[str]) -> str:
    """Return the values of some keys in words: "epochs 2, learning rate 1e-05".

    A key without a value is left out, except for a learning rate, which is then that of a preset.
    """
    named = [key for key in keys if recipe.get(key) is not None or (key == "learning_rate" and key in recipe)]
    return ", ".join(f"{in_words(key)} {shown(recipe[key])}" for key in named)


def in_words(key: str) -> str:
    """Return a key of a recipe as words."""
    return key.replace("_", " ").replace("flops", "FLOPs")


def shown(value: Any) -> str:
    """Return a value of a recipe as text."""
    if value is None:
        return "of the preset"
    if isinstance(value, float) and value >= LARGE:
        return large(value)
    return " and ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def large(value: float) -> str:
    """Return a large number with all its digits, as a name can hold it: "1e19", "2.5e18"."""
    return str(Decimal(repr(float(value))).normalize()).lower().replace("+", "")


def _each_once(values: Sequence[Any]) -> list[Any]:
    return [value for place, value in enumerate(values) if value not in values[:place]]  # lists have no hash
