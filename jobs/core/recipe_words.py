"""What tells training recipes apart, in words for tables and figures. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any


def varied(recipes: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the keys that have several values among some recipes, each with its values."""
    keys = dict.fromkeys(key for recipe in recipes for key in recipe)
    values = {key: _each_once([recipe.get(key) for recipe in recipes]) for key in keys}
    return {key: found for key, found in values.items() if len(found) > 1}


def recipe_words(recipe: Mapping[str, Any], keys: Collection[str]) -> str:
    """Return the values of some keys in words: "epochs 2, learning rate 1e-05"."""
    return ", ".join(f"{in_words(key)} {shown(recipe.get(key))}" for key in keys)


def in_words(key: str) -> str:
    """Return a key of a recipe as words."""
    return key.replace("_", " ")


def shown(value: Any) -> str:
    """Return a value of a recipe as text."""
    if value is None:
        return "of the preset"
    return " and ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _each_once(values: Sequence[Any]) -> list[Any]:
    return [value for place, value in enumerate(values) if value not in values[:place]]  # lists have no hash
