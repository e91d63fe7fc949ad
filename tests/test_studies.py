"""The shipped studies load, name models and benchmarks that exist, and mistakes in a study are all named."""

from __future__ import annotations

import json
import logging
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.core.flops import architecture
from launch.study.cluster import load_cluster
from launch.study.gpu_fit import fits, uneven
from launch.study.plan import plan
from launch.study.presets import CONFIGS, StudyError
from launch.study.schema import EvalGroup, load_study

SHIPPED = sorted(p.stem for p in (CONFIGS / "studies").glob("*.yaml"))
# Those whose tasks a prepare function writes are tested with that function.
GROUPS = sorted(
    p for p in (CONFIGS / "evals").glob("*.yaml") if "@prepare/" not in p.read_text(encoding="utf-8")
)
# As the model cards' safetensors metadata have them.
PUBLISHED = {
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen3-235b-a22b": 235_093_634_560,
    "qwen3-235b-a22b-fp8": 235_093_634_560,
    "qwen3-32b": 32_762_123_264,
    "qwen3-14b": 14_768_307_200,
    "qwen3-8b": 8_190_735_360,
    "smollm3-3b": 3_075_098_624,
    "smollm2-135m": 134_515_008,
    "smollm2-135m-teacher": 134_515_008,
}


def preset(folder: str, name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((CONFIGS / folder / f"{name}.yaml").read_text(encoding="utf-8"))
    return loaded


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_study_loads(name: str) -> None:
    study = load_study(name)
    assert study.name == name
    assert len((CONFIGS / "studies" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()) <= 40
    units = plan(study, load_cluster("generic"))
    assert uneven(units) == []
    assert [fit for fit in fits(units, load_cluster("generic")) if fit.tight or fit.refused] == []


def test_shipped_are_what_the_readme_promises() -> None:
    assert {"demo", "pairs", "scale-or-reason", "smollm"} <= set(SHIPPED)
    study = load_study("scale-or-reason")
    assert [s.size for s in study.students] == ["0.5B", "1.5B", "3B", "7B", "14B"]
    assert study.mixed == [(share, "sequential") for share in (0, 0.25, 0.5, 0.75, 1)]
    tasks = [task.task for group in study.benchmarks for task in group.tasks]
    assert len(tasks) == len(set(tasks)) == 18
    kinds = {(group.domain, group.format) for group in study.benchmarks}
    assert len(kinds) == len(study.benchmarks) == 4


@pytest.mark.parametrize(("name", "published"), PUBLISHED.items())
def test_architecture_has_the_published_number_of_parameters(name: str, published: int) -> None:
    assert architecture(preset("models", name)["architecture"]).parameters == published


def test_teacher_has_22_billion_active_parameters() -> None:
    active = architecture(preset("models", "qwen3-235b-a22b")["architecture"]).active_parameters
    assert 21.5e9 < active < 22.5e9


@cache
def index(folder: str | None) -> Any:
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = pytest.importorskip("lm_eval.tasks").TaskManager
    return manager(include_path=folder, include_defaults=folder is None)._index


def reported(entries: Any, name: str) -> set[tuple[str, str]]:
    """(metric, filter) pairs that lm-eval will report of a task, from its definition, without its data."""
    from lm_eval.api.task import Task
    from lm_eval.tasks._yaml_loader import load_yaml

    assert name in entries, f"lm-eval has no task {name}"
    config = load_yaml(entries[name].yaml_path, resolve_func=True)
    if "class" in config:  # written in Python: instances only need data, these methods do not
        task: Task = object.__new__(config["class"])
        return {(metric, "none") for metric in task.aggregation()}
    if "aggregate_metric_list" in config:
        pairs = set()
        for m in config["aggregate_metric_list"]:
            filters = m.get("filter_list", "none")
            pairs |= {(m["metric"], f) for f in ([filters] if isinstance(filters, str) else filters)}
        return pairs
    filters = [f["name"] for f in config.get("filter_list") or [{"name": "none"}]]
    assert config["output_type"] == "generate_until", f"{name} leaves no room to think"
    return {(m["metric"], f) for m in config["metric_list"] for f in filters}


@pytest.mark.parametrize("path", GROUPS, ids=lambda p: p.stem)
def test_benchmarks_exist_with_their_metric_and_filter(path: Path) -> None:
    group = EvalGroup.model_validate({"name": path.stem, **yaml.safe_load(path.read_text(encoding="utf-8"))})
    entries = index(str(CONFIGS.parent / group.include) if group.include else None)
    for task in group.tasks:
        assert (task.metric, task.filter) in reported(entries, task.task), task.task


# One item of each data set in its own form, and the letter of its right answer.
ITEMS: dict[str, tuple[dict[str, Any], str]] = {
    "mmlu_letter": ({"question": "2 + 2?", "choices": ["3", "4", "5", "6"], "answer": 1}, "B"),
    "arc_challenge_letter": (
        {
            "question": "Which is a gas?",
            "choices": {"text": ["ice", "rock", "air", "wood"], "label": ["1", "2", "3", "4"]},
            "answerKey": "3",
        },
        "C",
    ),
    "openbookqa_letter": (
        {
            "question_stem": "The sun is",
            "choices": {"text": ["cold", "hot", "wet", "old"], "label": ["A", "B", "C", "D"]},
            "answerKey": "B",
        },
        "B",
    ),
    "commonsense_qa_letter": (
        {
            "question": "Where are books?",
            "choices": {"text": ["sea", "sky", "fire", "library", "moon"], "label": list("ABCDE")},
            "answerKey": "D",
        },
        "D",
    ),
    "winogrande_letter": (
        {"sentence": "Ann thanked Bo, for _ had helped.", "option1": "Ann", "option2": "Bo", "answer": "2"},
        "B",
    ),
    "aqua_rat_letter": (
        {"question": "3 × 3?", "options": ["A)6", "B)8", "C)9", "D)12", "E)15"], "correct": "C"},
        "C",
    ),
    "mathqa_letter": (
        {"Problem": "half of 8 ?", "options": "a ) 2 , b ) 3 , c ) 4 , d ) 5 , e ) 6", "correct": "c"},
        "C",
    ),
    "mmlu_math_letter": (
        {"question": "1+0?", "choices": list("1234"), "answer": 0, "subject": "college_mathematics"},
        "A",
    ),
    "mmlu_pro_math_letter": (
        {"question": "7 · 1?", "options": list("0123456789"), "answer": "H", "category": "math"},
        "H",
    ),
}


@pytest.mark.parametrize("name", ITEMS)
def test_own_task_asks_and_scores(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    from lm_eval.tasks import TaskManager

    item, letter = ITEMS[name]
    rows = datasets.Dataset.from_list([item])
    data = datasets.DatasetDict({"test": rows, "validation": rows})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: data)  # the hub is not at hand
    manager = TaskManager(include_path=str(CONFIGS / "evals" / "tasks"), include_defaults=False)
    task = manager.load([name])["tasks"][name]
    (doc,) = task.eval_docs
    question = task.doc_to_text(doc)
    assert f"\n{letter}{')' if name == 'aqua_rat_letter' else '. '}" in question
    assert "{" not in question
    assert task.doc_to_target(doc) == letter
    (chosen,) = task._filters
    other = "B" if letter == "A" else "A"
    answers = {
        f"Not {other}. The answer is {letter}.": letter,
        f"Perhaps the answer is {other}. No: the answer is **{letter}**": letter,
        f"so $\\boxed{{{letter}}}$": letter,
        f"so $\\boxed{{\\text{{{letter}}}}}$": letter,
        "The answer is a matter of taste.": "[invalid]",
    }
    given: list[Any] = [[text] for text in answers]
    for step in chosen.filters:
        given = list(step().apply(given, [doc] * len(answers)))
    assert given == list(answers.values())


GOOD: dict[str, Any] = {
    "pairs": {"dataset": "a/b", "revision": "main"},
    "students": ["qwen2.5-0.5b"],
    "mixtures": {"shares": [0, 1]},
    "benchmarks": ["math-open-ended"],
    "expect": {"prompt": 1, "ift": 1, "reasoning": 1},
}

MISTAKES: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown key": ({"mixture": {}}, "mixture", "did you mean 'mixtures'? allowed are name, prepare"),
    "unknown key within": ({"training": {"epoch": 1}}, "training.epoch", "did you mean 'epochs'?"),
    "share above one": ({"mixtures": {"shares": [0, 1.5]}}, "mixtures.shares.1", "found 1.5; input should"),
    "no size preset": ({"students": ["qwen2.5-1b"]}, "students", "did you mean qwen2.5-1"),
    "no benchmark preset": ({"benchmarks": "math"}, "benchmarks", "'math' has no preset"),
    "wrong type": ({"training": {"batch": "many"}}, "training.batch", "found 'many'"),
    "fraction for a count": ({"training": {"epochs": 1.5}}, "training.epochs", "found 1.5"),
    "not one of": ({"mixtures": {"shares": 0, "order": "mixed"}}, "mixtures.order", "'sequential' or "),
    "missing": ({"expect": None}, "expect", "found None"),
    "no shares": ({"mixtures": {"shares": []}}, "mixtures.shares", "at least 1 item"),
    "share twice": ({"mixtures": {"shares": [1, 1]}}, "mixtures.shares", "named more than once: 1"),
    "missing file": ({"pairs": {"path": "no/such.jsonl"}}, "pairs.path", "no such file: "),
    "two sources in one": ({"pairs": {"path": "x", "dataset": "y"}}, "pairs", "give either"),
    "no revision": ({"pairs": {"dataset": "a/b"}}, "pairs", "needs a 'revision'"),
    "no rows": ({"pairs": None}, "", "give 'teacher', 'prompts' and 'modes'"),
    "rows twice": ({"teacher": "qwen3-235b-a22b"}, "", "'pairs' are already answered"),
    "teacher as a student": ({"students": "qwen3-235b-a22b"}, "students", "no 'training' in its preset"),
    "bad name": ({"name": "a study"}, "name", "found 'a study'"),
    "bad function": ({"prepare": {"function": "prepare"}}, "prepare.function", "found 'prepare'"),
    "prepare is missing": ({"students": "smollm2-135m"}, "prepare", "is missing"),
}  # fmt: skip


def mistakes(folder: Path, changes: dict[str, Any]) -> list[Any]:
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump({**GOOD, **changes}), encoding="utf-8")
    with pytest.raises(StudyError) as error:
        load_study(str(file))
    assert all(m.file == file for m in error.value.mistakes)
    return error.value.mistakes


def test_good_study_loads(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(GOOD), encoding="utf-8")
    assert load_study(str(file)).name == "study"


@pytest.mark.parametrize("kind", MISTAKES)
def test_mistake_is_named_with_key_and_what_is_allowed(kind: str, tmp_path: Path) -> None:
    changes, key, words = MISTAKES[kind]
    found = mistakes(tmp_path, changes)
    assert [m.key for m in found] == [key]
    assert words in found[0].message


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    found = mistakes(
        tmp_path,
        {
            "students": ["qwen2.5-1b", "qwen2.5-0.5b"],
            "mixtures": {"shares": [2], "order": "mixed"},
            "training": {"epoch": 1},
        },
    )
    assert {m.key for m in found} == {"students", "mixtures.shares.0", "mixtures.order", "training.epoch"}


def test_mistake_in_a_preset_names_the_preset(tmp_path: Path) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text("size: 1B\nmodel: m\narchitecture: {}\ntraining: {learning_rate: -1}\n", encoding="utf-8")
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({**GOOD, "students": "mine.yaml"}), encoding="utf-8")
    with pytest.raises(StudyError) as error:
        load_study(str(tmp_path / "study.yaml"))
    (found,) = error.value.mistakes
    assert (found.file, found.key) == (own, "training.learning_rate")


def test_unreadable_study(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    for text, words in (("a: [1", "not YAML"), ("- 1", "a mapping of keys is needed, found a list")):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(StudyError) as error:
            load_study(str(file))
        assert words in error.value.mistakes[0].message


def test_unknown_study_names_the_known_ones() -> None:
    with pytest.raises(StudyError, match=r"neither a YAML file.* nor one of .*smollm"):
        load_study("smolm")


TASKS = [{"task": "gsm8k", "filter": "strict-match", "items": 1}]


@pytest.mark.parametrize(
    ("groups", "key", "words"),
    [
        ({"a": [*TASKS, {**TASKS[0], "filter": "flexible-extract"}]}, "tasks", "named more than once: gsm8k"),
        ({"a": TASKS, "b": TASKS}, "benchmarks", "gsm8k is in a and b; results go by a benchmark's name"),
        (
            {"b": TASKS, "a.b": [{**TASKS[0], "task": "x"}]},
            "benchmarks",
            "'a.b' ends with '.b', which is another",
        ),
        ({"a": [{**TASKS[0], "task": "../x"}]}, "tasks.0.task", "found '../x'"),
    ],
)
def test_a_benchmark_is_in_a_study_once(groups: dict[str, Any], key: str, words: str, tmp_path: Path) -> None:
    for name, tasks in groups.items():
        group = {"domain": "math", "format": "open-ended", "max_tokens": 8, "tasks": tasks}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(group), encoding="utf-8")
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump({**GOOD, "benchmarks": [f"{g}.yaml" for g in groups]}), encoding="utf-8")
    with pytest.raises(StudyError) as error:
        load_study(str(file))
    [found] = error.value.mistakes
    assert found.key == key
    assert words in found.message
    assert found.at is not None


@pytest.mark.parametrize("study", ["demo", "pairs", "smollm", "scale-or-reason"])
def test_units_of_the_shipped_studies_are_those_of_earlier_versions(study: str) -> None:
    """A new identity makes results of months again. Where that is meant, CHANGELOG.md says so."""
    before = json.loads(Path(__file__).with_name("identities.json").read_text(encoding="utf-8"))[study]
    units = plan(load_study(study), load_cluster("local"))
    assert {f"{unit.stage}/{unit.name}": unit.id for unit in units} == before
