"""One result file of another tool: lm-eval (0.4.3 to 0.4.13), evalchemy or lighteval.

All share the shape `{"results": {TASK: {METRIC: number}}}` and differ in where the rest is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from analysis.results import metrics
from analysis.results.files import Unreadable, read_object, section
from analysis.results.names import Model, model_of
from analysis.results.table import few, plain

# Prefixes of mathematical tasks.
MATH = (
    "gsm", "math", "minerva", "hendrycks_math", "aime", "amc", "mgsm", "asdiv", "svamp", "olympiad", "hmmt",
)  # fmt: skip
STAMPED = re.compile(r"(?P<stem>.*)_(?P<time>\d{4}-\d\d-\d\dT[\d.:-]+)\.json")
RESULT_FILE = re.compile(rf"results.*\.json|{STAMPED.pattern}")
UNKNOWN = "no metric that is known as an accuracy"
Groups = Mapping[str, list[str]]


@dataclass(frozen=True)
class Row:
    """One result of a file.

    Args:
        values: Columns of the results table, without student.
        leaves: Tasks that make up the benchmark; the benchmark itself if it is not a group.
        others: Metrics that it is not scored by.
        why: Why the result is left out, and what it is; empty if it is used.
    """

    values: dict[str, Any]
    leaves: frozenset[str]
    others: tuple[str, ...] = ()
    why: tuple[str, str] | tuple[()] = ()


@dataclass(frozen=True)
class ResultFile:
    """Content and metadata of one result file.

    Args:
        time: Time of the evaluation, in seconds since 1970.
        template: Description of the prompt format; empty if the file does not say.
    """

    data: dict[str, Any]
    source: str
    model: Model
    time: float
    template: str

    @classmethod
    def read(cls, file: Path, root: Path) -> ResultFile:
        """Read a result file.

        Raises:
            Unreadable: The file cannot be read, or has no results.
        """
        data = read_object(file)
        if not isinstance(data.get("results"), dict):
            raise Unreadable("no 'results' of lm-eval")
        config, general = section(data, "config"), section(data, "config_general")  # of lm-eval, of lighteval
        name = data.get("model_name") or general.get("model_name")
        given = config.get("model_args") or section(general, "model_config")
        sha = config.get("model_sha") or general.get("model_sha")
        return cls(
            data,
            file.relative_to(root).as_posix(),
            model_of(name, given, sha, otherwise=file.parent.resolve().name),
            _time(file, data.get("date")),
            _template(data),
        )


def _time(file: Path, date: Any) -> float:
    """Return the time of an evaluation: from the file's content, else its name, else its mtime."""
    if math.isfinite(found := metrics.number(date)):
        return found
    stamp = STAMPED.fullmatch(file.name)
    day, _, clock = stamp["time"].partition("T") if stamp else ("", "", "")
    for text in (str(date), f"{day}T{clock.replace('-', ':')}"):
        try:
            return datetime.fromisoformat(text).timestamp()
        except (ValueError, OverflowError, OSError):
            continue
    return file.stat().st_mtime


def _template(data: dict[str, Any]) -> str:
    if "chat_template" not in data and "chat_template_sha" not in data:
        return ""
    template, sha = data.get("chat_template"), data.get("chat_template_sha")
    system = data.get("system_instruction_sha") or data.get("system_instruction")
    words = f"chat template {plain(sha or '')[:8]}".rstrip() if template or sha else "no chat template"
    return words + (f", system prompt {plain(system)[:8]}" if system else "")


def rows_of(file: ResultFile) -> Iterator[Row]:
    """Yield the results of one file: of groups that represent all of their tasks, else of tasks."""
    results = section(file.data, "results")
    groups = groups_of(file.data)
    standing = {name: key for name in groups if (key := _stands(name, file.data, groups))}
    parts = {part for name in standing for part in _parts(name, groups)}
    top = sorted(standing.keys() - parts, key=lambda name: (-len(leaves(name, groups)), name))
    counted = set[str]()
    hidden = set(parts)
    for name in top:
        # Of two groups that share tasks, the larger is counted, and of the other the tasks not shared.
        own = set(leaves(name, groups))
        hidden -= own - counted if own & counted else set()
        counted |= own
    for task, values in results.items():
        if task in hidden or (task == "all" and "config_general" in file.data):  # lighteval's overall mean
            continue
        values = values if isinstance(values, dict) else {}
        # A group that does not represent its tasks is not a result; its tasks are, if there are any.
        alone = not any(leaf in results for leaf in leaves(task, groups) if leaf != task)
        if task not in groups or task in standing or (alone and metrics.measured(values)):
            yield _row(file.data, task, values, groups, standing.get(task))


def groups_of(data: dict[str, Any]) -> Groups:
    """Return the tasks of each group in a file; a group that contains itself is ignored."""
    found = {
        name: [part for part in parts if isinstance(part, str)]
        for name, parts in section(data, "group_subtasks").items()
        if isinstance(parts, list) and parts
    }
    return {name: parts for name, parts in found.items() if name not in _parts(name, found)}


def _stands(group: str, data: dict[str, Any], groups: Groups) -> str | None:
    """Return the metric by which a group represents its tasks: one that all of them have; else None."""
    results = section(data, "results")
    measured = [section(results, leaf) for leaf in leaves(group, groups) if leaf != group and leaf in results]
    better = section(data, "higher_is_better", group)
    for key in metrics.accuracies(section(results, group), better):
        if all(metrics.split(key)[0] in {metrics.split(k)[0] for k in values} for values in measured):
            return key
    return None


def _row(data: dict[str, Any], task: str, values: dict[str, Any], groups: Groups, chosen: str | None) -> Row:
    better, own = section(data, "higher_is_better", task), leaves(task, groups)
    benchmark, found = plain(task), metrics.accuracies(values, better)
    if not found:
        lower = [plain(key) for key in metrics.measured(values) if metrics.lower_is_better(key, better)]
        why = ("lower is better", f"{benchmark} ({few(lower, 3)})") if lower else (UNKNOWN, benchmark)
        return Row({"benchmark": benchmark}, frozenset(own), why=why)
    metric = chosen or found[0]
    scale = metrics.scale(task, metric)
    accuracy = metrics.number(values[metric]) / scale
    row = {
        "benchmark": benchmark,
        "size": _size(section(data, "config")),
        "domain": "math" if _bare(task).lower().startswith(MATH) else "general",
        "format": _format(data, own[0]),
        "metric": plain(metric),
        "accuracy": accuracy,
        "stderr": metrics.stderr_of(values, metric) / scale,
        "n": _items(data, task, groups),
        "task_version": plain(section(data, "versions").get(task, "")),
        "_shots": _shots(data, own[0]),
    }
    others = [key for key in metrics.measured(values) if key != metric and ("," in key or key in found)]
    out: tuple[str, str] | tuple[()] = ()
    if metrics.impossible(metric, accuracy):
        kind = "no fraction of 1" if scale == 1 else "no percentage"
        out = (kind, f"{benchmark} ({plain(metric)} = {accuracy * scale:g})")
    return Row(row, frozenset(own), tuple(map(plain, others)), out)


def leaves(task: str, groups: Groups) -> list[str]:
    """Return the distinct tasks of a group; a task that is not a group is its own leaf."""
    found, todo, seen = list[str](), [task], set[str]()
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            parts = groups.get(name)
            todo += reversed(parts or ())
            found += [] if parts else [name]
    return found or [task]


def _parts(task: str, groups: Groups) -> set[str]:
    """Return everything below a group of tasks: groups and tasks."""
    todo, seen = list(groups.get(task, ())), set[str]()
    while todo:
        if (name := todo.pop()) not in seen:
            seen.add(name)
            todo += groups.get(name, ())
    return seen


def _bare(task: str) -> str:
    """Strip lighteval's `suite|task|shots` or `task|shots` to the task."""
    parts = [part for part in task.split("|") if not part.isdigit()]
    return parts[-1] if parts else task


def _items(data: dict[str, Any], task: str, groups: Groups) -> int | None:
    """Return the number of items behind a task's score; for a group, the sum over its parts."""
    values = section(data, "results", task)
    lighteval = section(data, "config_tasks", task) or section(data, "config_tasks", task.rpartition("|")[0])
    given = (
        *(values.get(key) for key in ("num_total", "total_examples", "num_examples")),
        section(data, "n-samples", task).get("effective"),
        values.get("sample_len"),
        lighteval.get("effective_num_docs"),
    )
    counted = next((n for value in given if (n := metrics.count(value)) is not None), None)
    own = [leaf for leaf in leaves(task, groups) if leaf != task]
    if counted or not own:
        return counted
    counts = [_items(data, leaf, {}) for leaf in own]
    return sum(n for n in counts if n is not None) if None not in counts else None


def _shots(data: dict[str, Any], task: str) -> int | None:
    lighteval = section(data, "config_tasks", task) or section(data, "config_tasks", task.rpartition("|")[0])
    given = (
        section(data, "n-shot").get(task),
        section(data, "configs", task).get("num_fewshot"),
        lighteval.get("num_fewshots"),
        int(task.rpartition("|")[2]) if re.fullmatch(r".*\|[0-9]{1,3}", task) else None,
    )
    return next((n for value in given if (n := metrics.count(value)) is not None), None)


def _size(config: dict[str, Any]) -> str | None:
    """Format a size such as 0.5B or 135M from the parameter count, which lm-eval records for `hf` models."""
    count = metrics.number(config.get("model_num_parameters"))
    if not 1 <= count < math.inf:
        return None
    power, letter = next((p, s) for p, s in ((1e9, "B"), (1e6, "M"), (1e3, "K"), (1, "")) if count >= p / 2)
    return f"{count / power:.3g}{letter}"


def _format(data: dict[str, Any], task: str) -> str | None:
    """Return a task's answer format, None if unknown."""
    kind = section(data, "configs", task).get("output_type")
    return {"multiple_choice": "multiple-choice", "generate_until": "open-ended"}.get(str(kind))
