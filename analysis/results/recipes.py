"""The students behind results: their size, their training recipes, and what tells these apart.

They are read from the record of the training, so results need not repeat them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.results.files import Unreadable, read_object, section
from jobs.core.flops import architecture
from jobs.core.recipe_words import recipe_words, varied
from jobs.store.rundir import UnitDir

ALIKE = ["size", "share", "order", "seed"]  # students that are equal in these differ by their recipes


def recipe_of(lineage: Mapping[str, UnitDir]) -> dict[str, Any]:
    """Return the recipe of a student's training; what cannot be read is left out.

    Args:
        lineage: The folder of each stage that led to a result of the student.
    """
    try:
        trained = _config(lineage["train"])
        packed = trained if "block_size" in trained else _config(lineage["pack"])  # of earlier versions
        recipe, block = section(trained, "recipe"), packed["block_size"]
    except (Unreadable, KeyError):
        return {}
    return {key: value for key, value in recipe.items() if key != "seed"} | {"block": block}


def parameters_of(lineage: Mapping[str, UnitDir]) -> float:
    """Return the student's parameters that are active for a token; NaN if they cannot be known.

    Args:
        lineage: See `recipe_of`.
    """
    try:
        return architecture(section(_config(lineage["train"]), "model", "architecture")).active_parameters
    except (Unreadable, KeyError, ValueError):
        return math.nan


def _config(folder: UnitDir) -> dict[str, Any]:
    return section(read_object(folder.spec), "config")


def with_recipes(rows: pd.DataFrame) -> pd.DataFrame:
    """Replace the column "_recipe" by "recipe": in words, what differs among otherwise equal students.

    Learning rates that differ by size alone are not named: they are part of each size's preset.
    """
    if rows.empty:
        return rows
    students = rows.drop_duplicates("student")
    keys = list[str]()
    for _, alike in students.groupby(ALIKE, dropna=False):
        keys += varied([recipe for recipe in alike["_recipe"] if recipe])
    keys = list(dict.fromkeys(keys))
    words = [recipe_words(recipe, keys) if recipe else "" for recipe in rows["_recipe"]]
    return rows.drop(columns="_recipe").assign(recipe=words)
