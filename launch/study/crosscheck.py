"""Checks across the keys of a study: files, functions and names that must fit together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.core.unit import PREPARED
from jobs.text.messages import NONE, REFERENCE, Reading
from jobs.text.rowcheck import check_rows
from launch.study.chat_templates import template_mistakes
from launch.study.functions import prepare_faults
from launch.study.presets import Mistake, Strict

if TYPE_CHECKING:
    from launch.study.schema import EvalGroup, Source, Study

ALIAS = (
    "results go by a benchmark's name: to score one in two ways, define it under another name in a folder "
    "of tasks ('include')"
)


def crosscheck(study: Study, file: Path) -> list[Mistake]:
    """Return mistakes across keys: missing files, duplicate names, dangling references."""
    wrong = []
    for key in ("prompts", "pairs"):
        for i, source in enumerate(getattr(study, key) or ()):
            wrong += [Mistake(file, f"{key}.{i}.{at}", words) for at, words in _faults(source, key)]
    unique: dict[str, list[Any]] = {
        "students": [m.name for m in study.students],
        "benchmarks": [g.name for g in study.benchmarks],
        **_lists("mixtures", study.mixtures),
        **_lists("training", study.training),
        "seeds": list(study.seeds),
    }
    for key, names in unique.items():
        if twice := repeated(names):
            wrong.append(Mistake(file, key, f"named more than once: {', '.join(twice)}"))
    wrong += _benchmarks(study.benchmarks, file)
    for student in study.students:
        if student.training is None:
            message = f"{student.name} cannot be trained: no 'training' in its preset"
            wrong.append(Mistake(file, "students", message))
        if student.endpoint:
            message = (
                f"{student.name} has 'serving: {{engine: openai}}' in its preset, which is for teachers: "
                "students are evaluated with the weights trained here, and endpoints give no likelihoods"
            )
            wrong.append(Mistake(file, "students", message))
    if study.prepare is not None:
        for key, message in prepare_faults(study.prepare.function, study.prepare.args):
            wrong.append(Mistake(file, f"prepare.{key}", message))
    if study.prepare is None and PREPARED in study.model_dump_json():
        wrong.append(Mistake(file, "prepare", f"is missing, but something is looked for below {PREPARED}"))
    referred = any(source.reference for source in study.prompts or study.pairs or ())
    if study.filters and study.filters.correct and not referred:
        words = "no source of prompts or pairs names the column of its reference answers ('reference')"
        wrong.append(Mistake(file, "filters.correct", words))
    return [*wrong, *template_mistakes(study, file)]


def _lists(key: str, mappings: Sequence[Strict]) -> dict[str, list[Any]]:
    """Return the lists of values in some mappings, by their keys in the file."""
    values = ((f"{key}.{i}.{name}", value) for i, mapping in enumerate(mappings) for name, value in mapping)
    return {at: list(value) for at, value in values if isinstance(value, tuple) and not at.endswith(".betas")}


def _faults(source: Source, key: str) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a source of prompts or pairs, each with the key in it."""
    spec = source.model_dump()
    if key == "prompts" and source.columns:
        yield "columns", "is of pairs; prompts have one 'column'"
    if key == "pairs" and source.column != "prompt":
        yield "column", "is of prompts; pairs have 'columns: {prompt: …, reasoning: …, ift: …}'"
    how = Reading.of_pairs(spec, NONE) if key == "pairs" else Reading.of_prompts(spec)
    if source.reference:
        how = replace(how, columns={**how.columns, REFERENCE: source.reference})
    if words := _fault_of_rows(source, how):
        yield "path", words


def _fault_of_rows(source: Source, how: Reading) -> str | None:
    """Return what is wrong with a local file of rows, judged by its beginning."""
    if source.path is None or source.path.startswith(PREPARED):
        return None
    path = Path(source.path).absolute()
    if not path.is_file():
        return f"{path} is no file" if path.exists() else f"no such file: {path}"
    try:
        check_rows(path, how, source.count)
    except ValueError as error:
        return str(error)
    return None


def _benchmarks(groups: Sequence[EvalGroup], file: Path) -> Iterator[Mistake]:
    """Yield benchmarks in two groups, and group names that would give two units the same name."""
    where: dict[str, list[str]] = {}
    for group in groups:
        for task in group.tasks:
            where.setdefault(task.task, []).append(group.name)
    for task_name, names in where.items():
        if len(names) > 1:
            yield Mistake(file, "benchmarks", f"{task_name} is in {' and '.join(names)}; {ALIAS}")
    ends = {f".{group.name}" for group in groups}
    for group in groups:
        for end in ends:
            if group.name.endswith(end):
                words = f"{group.name!r} ends with {end!r}, which is another group: units could share a name"
                yield Mistake(file, "benchmarks", words)


def repeated(names: Iterable[Any]) -> list[str]:
    """Return the names that occur more than once, as strings."""
    return sorted(str(name) for name, times in Counter(names).items() if times > 1)
