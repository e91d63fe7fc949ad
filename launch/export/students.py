"""Trained students as folders that transformers and vLLM load, ready to upload."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.core.recipe_words import in_words, shown
from jobs.core.unit import Unit
from jobs.store.rundir import StudyDir
from launch.export.cards import CITATION, PAPER, front_matter, named, table, versions
from launch.export.folders import Facts, linked, written
from launch.study.hub_needs import is_hub_name

WEIGHTS = ".safetensors"
PATHS = ("_name_or_path", "name_or_path")  # keys of configurations that may hold a path of this machine


@dataclass(frozen=True)
class Student:
    """A trained student.

    Args:
        trained: The unit that trained it.
        evaluated: The units of its evaluations that are done.
        missing: Names of the groups of benchmarks that it is not evaluated on yet.
        teacher: The model that answered the prompts, in words; None for published pairs.
    """

    trained: Unit
    evaluated: Sequence[Unit]
    missing: Sequence[str]
    teacher: str | None

    @property
    def name(self) -> str:
        return self.trained.name


def export_student(root: StudyDir, student: Student, folder: Path) -> str:
    """Write a student's folder; see `folders.written`.

    Raises:
        ValueError: It has no weights in safetensors, or something else has the folder's name.
    """
    unit = root.unit(student.trained)
    result = unit.read_result()
    results = [row for each in student.evaluated for row in root.unit(each).read_result()["benchmarks"]]
    text = card(root, student, result, results)
    source = json.dumps([student.trained.id, result])
    return written(folder, source, lambda staged: _fill(unit.out / "model", staged), lambda _: text)


def _fill(model: Path, staged: Path) -> Facts:
    files = [path for path in sorted(model.rglob("*")) if path.is_file()]
    if not any(path.name.endswith(WEIGHTS) for path in files):
        raise ValueError(f"{model}: no file of weights *{WEIGHTS}: delete its result, and train it again")
    for path in files:
        target = staged / path.relative_to(model)
        if path.suffix == WEIGHTS:  # large, and never edited in place
            linked(path, target)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        if (staged / name).is_file():
            _without_paths(staged / name)
    return {}


def _without_paths(file: Path) -> None:
    """Remove from a configuration where a model was loaded from, if that is a path."""
    config = json.loads(file.read_text(encoding="utf-8"))
    found = [key for key in PATHS if str(config.get(key, "")).startswith(("/", "."))]
    for key in found:
        del config[key]
    if found:
        file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def card(
    root: StudyDir, student: Student, result: Mapping[str, Any], results: Sequence[Mapping[str, Any]]
) -> str:
    """Return the model's card.

    Args:
        result: Of the training.
        results: Benchmarks of the evaluations that are done.
    """
    config, study = student.trained.config, root.path.name
    model = config["model"]
    start = "random weights" if model["init"] == "random" else named(model["model"], model["revision"])
    plain = _percent(1 - config["share"])
    teacher = f"answers of {student.teacher}" if student.teacher else "published answers"
    missing = f"\nNot evaluated yet: {', '.join(student.missing)}.\n" if student.missing else ""
    scores = table(("benchmark", "metric", "accuracy", "items", "tokens an answer"), _scores(results))
    return f"""{front_matter(_head(student, results))}
# {student.name}

A student of the study {study}, trained from {start} on {teacher}: {plain} plain answers, \
{_percent(config["share"])} answers with their reasoning.

{PAPER}

## Training

{table(("", ""), _training(config, result))}

Trained with: {versions(root.unit(student.trained))}

## Results

{scores if results else ""}
{missing}
Accuracies are fractions, with their standard errors. The reasoning between the thinking tags is removed
before scoring, and counted in the tokens.

## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER-OR-REPOSITORY")
tokenizer = AutoTokenizer.from_pretrained("FOLDER-OR-REPOSITORY")
```

Ask it through its chat template, as it was trained and evaluated.

{CITATION}"""


def _head(student: Student, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    model = student.trained.config["model"]
    base: dict[str, Any] = {}
    if model["init"] != "random" and is_hub_name(model["model"]):
        base = {"base_model": model["model"], "base_model_relation": "finetune"}
    head = {
        **base,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["distillation", "reasoning", "scale-or-reason"],
    }
    if results:
        entries = [_entry(row) for row in results]
        head["model-index"] = [{"name": student.name, "results": entries}]
    return head


def _entry(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a benchmark's result as the hub reads it."""
    metric = {"type": row["metric"], "name": f"{row['metric']},{row['filter']}", "value": row["accuracy"]}
    return {
        "task": {"type": "text-generation"},
        "dataset": {"name": row["task"], "type": row["task"]},
        "metrics": [metric],
    }


def _training(config: Mapping[str, Any], result: Mapping[str, Any]) -> list[tuple[str, str]]:
    recipe = {key: value for key, value in config["recipe"].items() if value is not None}
    mixed = 0 < config["share"] < 1
    numbers = {
        "parameters": f"{result['parameters']:,}", "steps": f"{result['step']:,}",
        "tokens": f"{result['tokens']:,}", "answer tokens": f"{result['answer_tokens']:,}",
        "training FLOPs, counted": f"{result['flops']:.4g}",
    }  # fmt: skip
    if result.get("passes") is not None:
        numbers["passes over the rows"] = f"{result['passes']:.3g}"
    return [
        *([("order of the mixture", config["order"])] if mixed else []),
        *((in_words(key), shown(value)) for key, value in recipe.items()),
        *numbers.items(),
    ]


def _scores(results: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    rows = []
    for row in results:
        error = f" ± {row['stderr']:.3f}" if row.get("stderr") is not None else ""
        tokens = row.get("output_tokens")
        rows.append([
            f"{row['task']}", f"{row['metric']}, {row['filter']}", f"{row['accuracy']:.3f}{error}",
            f"{row['n']:,}", f"{tokens:,.1f}" if tokens is not None else "",
        ])  # fmt: skip
    return rows


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
