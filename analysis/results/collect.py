"""Collect results from disk into one tidy table: one row per student and benchmark.

Three sources are read: a run directory of this project; any folder of result files of lm-eval (0.4.3, which
introduced the format, to 0.4.13), evalchemy or lighteval; and a CSV of such a table, written by a report or
typed from a publication. Doubts are reported as `DataWarning`; errors are ValueErrors that name file and key.
Nothing is filled in: unknown values stay missing.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.results.files import Unreadable, read_object, section
from analysis.results.foreign import foreign, newest
from analysis.results.metrics import impossible, number
from analysis.results.recipes import parameters_of, recipe_of, with_recipes
from analysis.results.table import COLUMNS, DataWarning, few, warn
from jobs.core.budget import PASSES, compared_flops
from jobs.core.unit import Input, Unit
from jobs.core.wording import about
from jobs.store.rundir import StudyDir, UnitDir

__all__ = ["COLUMNS", "DataWarning", "by_rule_of_thumb", "charge_teacher", "collect", "lineage", "warn"]
# Keys of an evaluation's benchmarks that are also columns of the table.
EVALUATED = ("domain", "format", "n", "stderr", "output_tokens", "reasoning_tokens")


def collect(path: str | Path, units: Container[str] | None = None) -> pd.DataFrame:
    """Collect all results below a folder, the newest if a student has several for a benchmark.

    Args:
        path: A run directory of this project; a folder of lm-eval result files, which may hold a
            `compute.csv` with the columns student, training_flops and optionally others of
            `foreign.COMPUTE_COLUMNS`; or a folder with a `results.csv` and no other results, which
            has the columns student, benchmark, accuracy (a fraction) and others of COLUMNS.
        units: IDs of the units to read; None reads every published one. Only for run directories.

    Returns:
        The columns of COLUMNS, sorted by training FLOPs, student and benchmark.

    Raises:
        ValueError: There are no results, or a file cannot be interpreted.
    """
    root = Path(path)
    if not root.is_dir():
        raise ValueError(f"{root}: not a folder of results")
    study = StudyDir(root)
    if study.study.exists() or study.published("evaluate"):
        table = with_recipes(newest(pd.DataFrame(_own(study, units))))
    else:
        table = foreign(root)
    if table.empty:
        raise ValueError(f"{root}: no evaluation has been published here yet")
    private = [column for column in ("_shots", "_template") if column in table]
    try:
        table = table.reindex(columns=[*COLUMNS, *private])
        table = table.assign(recipe=table["recipe"].astype(object).fillna("")).astype(COLUMNS)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{root}: the results hold a value of the wrong type: {error}") from None
    _check(table)
    table = table[list(COLUMNS)]
    return table.sort_values(["training_flops", "student", "benchmark"], ignore_index=True)


def _own(study: StudyDir, units: Container[str] | None) -> Iterator[dict[str, Any]]:
    """Yield rows of this project's evaluate units."""
    for folder in study.published("evaluate"):
        if units is not None and folder.id not in units:
            continue
        file = folder.result
        try:
            result = read_object(file)
            student = result["student"]
            common = {
                "student": student["name"],
                **{key: student[key] for key in ("size", "share", "order", "seed")},
                "training_flops": _flops(compared_flops(result["training"])),
                "passes": number(result["training"].get("passes")),
                "training_tokens": number(result["training"].get("tokens")),
                **_made_of(study, folder),
                "source": file.relative_to(study.path).as_posix(),
                "_time": file.stat().st_mtime,
            }
            for row in result["benchmarks"]:
                yield {
                    **common,
                    **{key: row[key] for key in EVALUATED},
                    "benchmark": row["task"],
                    "metric": f"{row['metric']},{row['filter']}",
                    "accuracy": _accuracy(row, file),
                    "inference_flops": _flops(row["flops_per_item"]),
                    "task_version": str(row["task_version"]),
                }
        except Unreadable as error:
            raise ValueError(f"{file}: {error}") from None
        except KeyError as error:
            raise ValueError(f"{file}: the key {error} is missing") from None
        except TypeError as error:
            raise ValueError(f"{file}: not the result of an evaluation ({error})") from None


def _made_of(study: StudyDir, evaluation: UnitDir) -> dict[str, Any]:
    """Return what is known of a student's making: its recipe and size, and the teacher's FLOPs by mode."""
    of_stage = {folder.path.parent.name: folder for folder in lineage(study, [evaluation])}
    found: dict[str, Any] = {"_recipe": recipe_of(of_stage), "parameters": parameters_of(of_stage)}
    made = of_stage.get("generate")
    if made is not None and made.done:
        by_mode = section(read_object(made.result), "flops_by_mode")
        found |= {f"teacher_{mode}_flops": number(flops) for mode, flops in by_mode.items()}
    return found


def lineage(study: StudyDir, folders: Iterable[UnitDir]) -> Iterator[UnitDir]:
    """Yield the folders of some units and of all their inputs, nearest first, each once."""
    todo, seen = deque(folders), set[Path]()
    while todo:
        folder = todo.popleft()
        if folder.path not in seen:
            seen.add(folder.path)
            yield folder
            todo += [study.unit(given) for given in _inputs(folder)]


def _inputs(folder: UnitDir) -> tuple[Input, ...]:
    """Return what a unit's result was made from; nothing, with a warning, if its record is damaged."""
    if not os.path.lexists(folder.spec):
        return ()
    try:
        return Unit.from_json(read_object(folder.spec)).made_from
    except (Unreadable, ValueError, KeyError, TypeError, AttributeError) as error:
        warn(f"{folder.spec}: no record of a unit ({error}); what it was made from is not known.")
        return ()


def charge_teacher(results: pd.DataFrame, shared: bool) -> pd.DataFrame:
    """Add the teacher's generation to each student's training FLOPs.

    A student is charged for the data it was trained on: `share` of the reasoning, and 1 - `share` of the
    plain answers.

    Args:
        results: Table of `collect`.
        shared: False charges each student as if the answers had been generated for it alone; True divides
            each kind of answers among all students in the table in proportion to their use, so that the
            charges sum to the cost of generation.
    """
    students = results.drop_duplicates("student").set_index("student")
    uses = {"reasoning": students["share"], "ift": 1 - students["share"]}
    charges = {
        mode: students[f"teacher_{mode}_flops"] * used / ((used.sum() or 1) if shared else 1)
        for mode, used in uses.items()
    }
    total = charges["reasoning"] + charges["ift"]
    return results.assign(training_flops=results["training_flops"] + results["student"].map(total))


def by_rule_of_thumb(results: pd.DataFrame) -> pd.DataFrame:
    """Replace the counted FLOPs by rules of thumb, to compare with papers that count by them.

    Training takes 6·N·D FLOPs for D tokens, generation 2·N for each token that is generated (Kaplan et al.
    2020, section 2.1); N is the number of parameters that are active for a token, embeddings included. The
    rules leave out attention over the sequence and, for generation, the prompt. Unknown values stay missing.

    Args:
        results: Table of `collect`.
    """
    return results.assign(
        training_flops=6 * results["parameters"] * results["training_tokens"],
        inference_flops=2 * results["parameters"] * results["output_tokens"],
    )


def _check(table: pd.DataFrame) -> None:
    """Warn where students are compared by unlike measurements; one line per kind of difference."""
    unlike = (
        ("task_version", "task versions"), ("metric", "metrics"), ("n", "numbers of items"),
        ("_shots", "numbers of shots"), ("_template", "chat templates or system prompts"),
    )  # fmt: skip
    for column, what in unlike:
        noted = []
        for benchmark, values in table.groupby("benchmark")[column] if column in table else ():
            found = sorted(map(str, values.replace("", pd.NA).dropna().unique()))
            if len(found) > 1:
                noted.append(f"{benchmark} ({' and '.join(found)})")
        if noted:
            warn(f"Results of different {what} are compared: {few(noted)}.")
    many = table[table["passes"] > PASSES].drop_duplicates("student")
    if len(many):
        named = [
            f"{name} ({about(passes)})" for name, passes in zip(many["student"], many["passes"], strict=True)
        ]
        warn(f"To reach a budget of FLOPs, rows were read more than {PASSES} times: {few(named)}.")
    for column in ("training_flops", "inference_flops"):
        what, flops = column.replace("_flops", " FLOPs"), table[column]
        if flops.notna().any() and (unknown := sorted(set(table["student"][flops.isna()]))):
            warn(f"The {what} of {few(unknown)} are not known: they are left out of that frontier.")
        if nothing := sorted(set(table["student"][flops == 0])):
            warn(f"The {what} of {few(nothing)} are 0: they stand in the tables, not in the charts.")


def _accuracy(row: dict[str, Any], file: Path) -> float:
    value = number(row["accuracy"])
    if impossible(row["metric"], value):
        raise ValueError(
            f"{file}: accuracy of {row['task']} is {row['accuracy']!r}; a fraction from 0 to 1 is needed"
        )
    return value


def _flops(value: Any) -> float:
    return number(value) if value is not None else math.nan
