"""Results from disk to one tidy table: a row for each student and benchmark.

Three sources are read: a run directory of this project, any folder of lm-eval result files (of 0.4.3, which
gave them their form, to 0.4.13), and a CSV of such a table: one that a report wrote, or one typed from a
publication. What is doubtful is said by a `DataWarning`; what is wrong is a ValueError that names file and
key. Nothing is filled in: what is not known stays missing.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections import deque
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from jobs.rundir import StudyDir, UnitDir, read_json

COLUMNS = {
    "student": "str",
    "size": "str",
    "share": "float64",  # of reasoning rows in what the student was trained on
    "order": "str",
    "seed": "Int64",
    "benchmark": "str",
    "domain": "str",
    "format": "str",
    "metric": "str",  # "metric,filter", as lm-eval writes it
    "accuracy": "float64",
    "stderr": "float64",
    "n": "Int64",
    "training_flops": "float64",  # model FLOPs of training the student alone
    "teacher_ift_flops": "float64",  # of making all plain answers, and all reasoning, that were trained on
    "teacher_reasoning_flops": "float64",
    "inference_flops": "float64",  # per item
    "output_tokens": "float64",  # per item, reasoning included
    "reasoning_tokens": "float64",
    "task_version": "str",
    "source": "str",  # the file, relative to the folder that was collected
}
# What an evaluation's result says of each benchmark in the same words.
EVALUATED = ("domain", "format", "n", "stderr", "output_tokens", "reasoning_tokens")
COMPUTE, TABLE = "compute.csv", "results.csv"
TABLE_NEEDS = ("student", "benchmark", "accuracy")
COMPUTE_COLUMNS = (
    "student", "training_flops", "inference_flops", "size", "share", "order", "seed",
    "output_tokens", "reasoning_tokens",
)  # fmt: skip
# Which of a task's metrics is its accuracy, the first that it has; and tasks that are mathematics.
METRICS = (
    "exact_match", "acc", "pass@1", "pass_at_1", "prompt_level_strict_acc", "em", "exact", "contains",
    "math_verify", "acc_norm", "f1",
)  # fmt: skip
MATH = ("gsm", "math", "minerva", "hendrycks_math", "aime", "amc", "mgsm", "asdiv", "svamp", "olympiad")
NOT_METRICS = {"alias", "name", "sample_len", "sample_count", "samples"}
RESULT_FILE = re.compile(r"results.*\.json|.*_\d{4}-\d\d-\d\dT[\d.-]+\.json")


class DataWarning(UserWarning):
    """Something about the results that whoever reads their numbers must know."""


def warn(text: str) -> None:
    warnings.warn(text, DataWarning, stacklevel=3)


def collect(path: str | Path, units: Container[str] | None = None) -> pd.DataFrame:
    """All results below a folder, newest ones where a student has several for a benchmark.

    Args:
        path: a run directory of this project; a folder of lm-eval result files, which may hold a
            `compute.csv` with the columns student, training_flops and optionally others (COMPUTE_COLUMNS);
            or a folder with a `results.csv` and no other results, which has the columns student, benchmark,
            accuracy (a fraction) and others of COLUMNS.
        units: ids of the units to read; None reads every published one. Only for run directories.

    Returns:
        The columns of COLUMNS, sorted by training FLOPs, student and benchmark.

    Raises:
        ValueError: no results, or a file that cannot be understood.
    """
    root = Path(path)
    if not root.is_dir():
        raise ValueError(f"{root}: not a folder of results")
    study = StudyDir(root)
    if study.study.exists() or study.published("evaluate"):
        table = _newest(pd.DataFrame(_own(study, units)))
    else:
        table = _foreign(root)
    if table.empty:
        raise ValueError(f"{root}: no evaluation has been published here yet")
    table = table.reindex(columns=list(COLUMNS)).astype(COLUMNS)
    _check(table)
    return table.sort_values(["training_flops", "student", "benchmark"], ignore_index=True)


def _own(study: StudyDir, units: Container[str] | None) -> Iterator[dict[str, Any]]:
    """Rows of this project's evaluate units."""
    for folder in study.published("evaluate"):
        if units is not None and folder.id not in units:
            continue
        file = folder.result
        try:
            result = read_json(file)
            student = result["student"]
            common = {
                "student": student["name"],
                **{key: student[key] for key in ("size", "share", "order", "seed")},
                "training_flops": result["training"]["flops"],
                **_teacher(study, folder),
                "source": file.relative_to(study.path).as_posix(),
                "_time": file.stat().st_mtime,
            }
            for row in result["benchmarks"]:
                yield {
                    **common,
                    **{key: row[key] for key in EVALUATED},
                    "benchmark": row["task"],
                    "metric": f"{row['metric']},{row['filter']}",
                    "accuracy": _fraction(row["accuracy"], f"{file}: accuracy of {row['task']}"),
                    "inference_flops": row["flops_per_item"],
                    "task_version": str(row["task_version"]),
                }
        except FileNotFoundError:
            raise ValueError(f"{file}: missing, although its unit is published") from None
        except json.JSONDecodeError as error:
            raise ValueError(f"{file}: not JSON: {error}") from None
        except KeyError as error:
            raise ValueError(f"{file}: the key {error} is missing") from None


def _teacher(study: StudyDir, evaluation: UnitDir) -> dict[str, int]:
    """The FLOPs by mode of the generation that an evaluated student's data come from, if there was one."""
    made = next((f for f in lineage(study, [evaluation]) if f.path.parent.name == "generate"), None)
    by_mode = read_json(made.result).get("flops_by_mode", {}) if made and made.done else {}
    return {f"teacher_{mode}_flops": flops for mode, flops in by_mode.items()}


def lineage(study: StudyDir, folders: Iterable[UnitDir]) -> Iterator[UnitDir]:
    """Some units' folders and those of all that they were made from, the nearest first, each once."""
    todo, seen = deque(folders), set[Path]()
    while todo:
        folder = todo.popleft()
        if folder.path not in seen:
            seen.add(folder.path)
            yield folder
            if folder.spec.exists():
                todo += [study.unit(given) for given in folder.unit().inputs]


def charge_teacher(results: pd.DataFrame, shared: bool) -> pd.DataFrame:
    """The table with the teacher's generation added to each student's training FLOPs.

    A student is charged for what it was trained on: its share of the reasoning, and 1 - share of the plain
    answers.

    Args:
        results: the table of `collect`.
        shared: False charges each student as if the answers had been made for it alone; True divides each
            kind of answers among all students in the table in proportion to what they use, so that together
            they are charged what generation cost.
    """
    students = results.drop_duplicates("student").set_index("student")
    uses = {"reasoning": students["share"], "ift": 1 - students["share"]}
    charges = {
        mode: students[f"teacher_{mode}_flops"] * used / ((used.sum() or 1) if shared else 1)
        for mode, used in uses.items()
    }
    total = charges["reasoning"] + charges["ift"]
    return results.assign(training_flops=results["training_flops"] + results["student"].map(total))


def _foreign(root: Path) -> pd.DataFrame:
    """Rows of lm-eval's own result files, with what compute.csv knows of their students."""
    if studies := sorted(p.parent.name for p in root.glob("*/study.json")):
        raise ValueError(f"{root}: holds the studies {', '.join(studies)}; name the folder of one of them")
    files = sorted(p for p in root.rglob("*.json") if RESULT_FILE.fullmatch(p.name))
    if not files and (root / TABLE).exists():
        return _table(root / TABLE)
    rows = [row for file in files for row in _lm_eval_file(file, root)]
    if not rows:
        raise ValueError(
            f"{root}: no results found. Expected a run directory of this project (with a study.json), "
            f"lm-eval's result files (results_TIME.json or results.json) in any folder below, or a {TABLE}."
        )
    table = pd.DataFrame(rows)
    table["student"] = _short_names(table["student"])
    table = _newest(table)
    scored = table[["benchmark", "metric", "_others"]].drop_duplicates()
    for benchmark, chosen, others in scored.itertuples(index=False):
        if others:
            warn(f"{benchmark} is scored by {chosen}; its results also hold {others}.")
    return _add_compute(table, root / COMPUTE)


def _lm_eval_file(file: Path, root: Path) -> Iterator[dict[str, Any]]:
    """Rows of one result file of lm-eval."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}: not JSON: {error}") from None
    results = data.get("results") if isinstance(data, dict) else None
    if not isinstance(results, dict):
        raise ValueError(f"{file}: the key 'results' of an lm-eval result file is missing")
    groups: dict[str, list[str]] = data.get("group_subtasks") or {}
    # A group that has a score of its own stands for its parts.
    parts = {
        part for group in groups if _metrics(results.get(group, {}), {}) for part in _parts(group, groups)
    }
    common = {
        "student": str(data.get("model_name") or file.parent.name).rstrip("/"),
        "size": _size(data.get("config") or {}),
        "source": file.relative_to(root).as_posix(),
        "_time": float(data.get("date") or file.stat().st_mtime),
    }
    for task, values in results.items():
        metrics = _metrics(values, (data.get("higher_is_better") or {}).get(task) or {})
        if task in parts or not metrics:
            continue
        metric = metrics[0]
        name, comma, filter_name = metric.partition(",")
        if not 0 <= values[metric] <= 1:  # NaN is not
            warn(f"{file}: {task} has {metric} = {values[metric]:g}, no fraction of 1: left out.")
            continue
        yield {
            **common,
            "benchmark": task,
            "domain": "math" if task.startswith(MATH) else "general",
            "format": _format(data, leaves(task, groups)[0]),
            "metric": metric,
            "accuracy": values[metric],
            "stderr": _number(values.get(f"{name}_stderr{comma}{filter_name}")),
            "n": _items(data, task, groups),
            "task_version": str((data.get("versions") or {}).get(task, "")),
            "_others": ", ".join(sorted(metrics[1:])),
        }


def leaves(task: str, groups: Mapping[str, list[str]]) -> list[str]:
    """The tasks that a group of tasks consists of; a task that is no group is its own leaf."""
    parts = groups.get(task)
    return [leaf for part in parts for leaf in leaves(part, groups)] if parts else [task]


def _parts(task: str, groups: Mapping[str, list[str]]) -> set[str]:
    """Everything below a group of tasks: groups and tasks."""
    return {name for part in groups.get(task, ()) for name in (part, *_parts(part, groups))}


def _metrics(values: dict[str, Any], higher_is_better: dict[str, bool]) -> list[str]:
    """The keys of a task's metrics, its accuracy first; of two filters the one that the task lists first."""
    keys = [
        key
        for key, value in values.items()
        if key not in NOT_METRICS
        and "_stderr" not in key
        and isinstance(value, int | float)
        and higher_is_better.get(key.partition(",")[0], True)
    ]
    rank = {name: place for place, name in enumerate(METRICS)}
    return sorted(keys, key=lambda key: rank.get(key.partition(",")[0], len(rank)))


def _items(data: dict[str, Any], task: str, groups: Mapping[str, list[str]]) -> int | None:
    """How many items a task's score is a mean of; for a group, all of its parts' items."""
    if counted := (data.get("n-samples") or {}).get(task):
        return int(counted["effective"])
    if length := data["results"].get(task, {}).get("sample_len"):
        return int(length)
    counts = [_items(data, leaf, groups) for leaf in leaves(task, groups) if leaf != task]
    return sum(n for n in counts if n is not None) if counts and None not in counts else None


def _short_names(names: pd.Series[str]) -> pd.Series[str]:
    """Models given by a path are called by its last part, unless two of them share it."""
    paths = ("/", "./", "../", "~")
    short = {name: Path(name).name if name.startswith(paths) else name for name in set(names)}
    taken = list(short.values())
    return names.map(lambda name: short[name] if taken.count(short[name]) == 1 else name)


def _size(config: dict[str, Any]) -> str | None:
    """A size such as 0.5B or 135M from the number of parameters, which lm-eval knows of `hf` models."""
    count = config.get("model_num_parameters") or 0
    if count <= 0:
        return None
    power, letter = next((p, s) for p, s in ((1e9, "B"), (1e6, "M"), (1e3, "K"), (1, "")) if count >= p / 2)
    return f"{count / power:.3g}{letter}"


def _format(data: dict[str, Any], task: str) -> str | None:
    """How a task is answered."""
    kind = ((data.get("configs") or {}).get(task) or {}).get("output_type")
    return {"multiple_choice": "multiple-choice", "generate_until": "open-ended"}.get(str(kind))


def _add_compute(table: pd.DataFrame, file: Path) -> pd.DataFrame:
    """Put what compute.csv says of each student into its rows."""
    students = sorted(set(table["student"]))
    if not file.exists():
        warn(
            f"The training compute of {len(students)} student(s) is not known: lm-eval does not record it. "
            f"A file {COMPUTE} beside the results, with the columns student and training_flops, adds it."
        )
        return table
    known = _read_csv(file, COMPUTE_COLUMNS[:2], COMPUTE_COLUMNS, ["student"])
    if unused := sorted(set(known["student"]) - set(students)):
        warn(f"{file}: no results of {', '.join(unused)}; there are results of {', '.join(students)}.")
    if missing := sorted(set(students) - set(known.dropna(subset="training_flops")["student"])):
        warn(f"{file}: no training_flops of {', '.join(missing)}.")
    merged = table.merge(known, on="student", how="left", suffixes=("", "_given"))
    for column in known.columns:
        if (given := f"{column}_given") in merged:
            merged[column] = merged[given].fillna(merged[column])
    return merged


def _table(file: Path) -> pd.DataFrame:
    """A table that is there already, such as a report's."""
    table = _read_csv(file, TABLE_NEEDS, tuple(COLUMNS), ["student", "benchmark"])
    for student, benchmark, accuracy in table[list(TABLE_NEEDS)].itertuples(index=False):
        _fraction(accuracy, f"{file}: accuracy of {student}, {benchmark}")
    return table.assign(source=file.name)


def _read_csv(file: Path, needed: tuple[str, ...], allowed: tuple[str, ...], key: list[str]) -> pd.DataFrame:
    """A CSV whose lines differ in `key` and whose numbers are numbers from 0."""
    words = [column for column, kind in COLUMNS.items() if kind == "str"]
    table = pd.read_csv(file, dtype=dict.fromkeys(words, "str"), skipinitialspace=True)
    for column in needed:
        if column not in table:
            raise ValueError(f"{file}: the column {column!r} is missing; it has {', '.join(table.columns)}")
    if strange := [column for column in table.columns if column not in allowed]:
        raise ValueError(f"{file}: unknown column {strange[0]!r}; allowed are {', '.join(allowed)}")
    if (twice := table[table.duplicated(key)]).size:
        raise ValueError(f"{file}: {', '.join(twice[key].iloc[0])} stands in more than one line")
    for column in set(table.columns) - set(words):
        numbers = pd.to_numeric(table[column], errors="coerce")
        bad = table[(numbers.isna() & table[column].notna()) | (numbers < 0)]
        if not bad.empty:
            student, found = bad[["student", column]].iloc[0]
            raise ValueError(f"{file}: {column} of {student} is {found}; a number from 0 is needed")
    return table


def _newest(table: pd.DataFrame) -> pd.DataFrame:
    """One row for each student and benchmark, of the newest file; where there were several, say so."""
    if table.empty:
        return table
    key = ["student", "benchmark"]
    table = table.sort_values("_time", kind="stable")
    several = table[table.duplicated(key, keep="last")]
    for (student, benchmark), older in several.groupby(key):
        source = older["source"].iloc[-1]
        warn(f"{student}, {benchmark}: {len(older) + 1} results; the newest is taken, not {source}.")
    return table.drop_duplicates(key, keep="last")


def _check(table: pd.DataFrame) -> None:
    """Say where students are compared by unlike measurements."""
    for column, what in (("task_version", "task versions"), ("metric", "metrics"), ("n", "numbers of items")):
        for benchmark, values in table.groupby("benchmark")[column]:
            found = sorted(map(str, values.dropna().unique()))
            if len(found) > 1:
                warn(f"{benchmark}: results of different {what} are compared ({' and '.join(found)}).")
    for column in ("training_flops", "inference_flops"):
        what, flops = column.replace("_flops", " FLOPs"), table[column]
        if flops.notna().any() and (unknown := sorted(set(table["student"][flops.isna()]))):
            warn(f"The {what} of {', '.join(unknown)} are not known: they are left out of that frontier.")
        if nothing := sorted(set(table["student"][flops == 0])):
            warn(f"The {what} of {', '.join(nothing)} are 0: they stand in the tables, not in the charts.")


def _fraction(value: Any, where: str) -> float:
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{where} is {value!r}; a fraction from 0 to 1 is needed")
    return float(value)


def _number(value: Any) -> float:
    """lm-eval writes "N/A" where it has no standard error."""
    return float(value) if isinstance(value, int | float) else math.nan
