"""The smollm study: its questions, template and downloads. test_newcomer.py runs it with its real weights."""

from __future__ import annotations

import json
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from jobs.smollm import KINDS, QUESTIONS, read_kind, teacher_template, wheel, write_questions
from launch.study.schema import load_study

CUT = " Answer directly with the word, make no additional comment, don't use quotation marks."
DUCKS = (
    "Solve the following logical puzzle. Answer in number, no additional text is required in the response. "
)


def item(text: str, answer: str) -> dict[str, Any]:
    return {"input": [{"role": "system", "content": "Be helpful."}, {"role": "user", "content": text}],
            "ideal": answer}  # fmt: skip


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A wheel with items in the form of the real one's."""
    heavier, word, ducks = KINDS
    rows = {
        heavier.member: [
            item(f"Is {n} pounds of iron heavier than {n + 1} pounds of hay? Answer Yes or No", "No")
            for n in range(70)
        ],
        word.member: [
            *(item(f'What is the 2nd word in "Hello w{n}"?{CUT}', f"w{n}") for n in range(60)),
            item(f"pip install something {CUT}", "garden"),
            item(f'What is the 2nd word in "Hello w1"?{CUT}', "w1"),
        ],
        ducks.member: [
            item(
                f"{DUCKS}There are {n} ducks in front of a duck and {n} ducks behind that same duck. "
                "What is the minimal number of ducks?",
                str(2 * n + 1),
            )
            for n in range(3, 201)
        ],
    }
    path = tmp_path / "questions.whl"
    with zipfile.ZipFile(path, "w") as file:
        for member, items in rows.items():
            lines = "".join(json.dumps(row) + "\n" for row in items) + "\n"
            file.writestr(f"evals/registry/data/{member}", lines)
    return path


def test_questions_are_read_once_and_cleaned(archive: Path) -> None:
    heavier, word, ducks = (read_kind(archive, kind) for kind in KINDS)
    assert len(heavier) == 70
    assert word[0] == {"prompt": 'What is the 2nd word in "Hello w0"?', "answer": "w0"}
    assert len(word) == 60  # without the one that asks for something else, and the one that is there twice
    shown = {24, 7, 62, 39}  # the teacher's examples
    assert [row["answer"] for row in ducks] == [str(2 * n + 1) for n in range(3, 151) if n not in shown]
    assert all(row["prompt"].startswith("There are ") for row in ducks)


def test_held_out_items_are_no_prompts_and_load_in_lm_eval(archive: Path, tmp_path: Path) -> None:
    manager = pytest.importorskip("lm_eval.tasks").TaskManager
    staged = tmp_path / "staged"
    staged.mkdir()
    made = write_questions(archive, staged, seed=0)
    published = staged.rename(tmp_path / "out")  # as publishing does
    prompts = [
        json.loads(line) for line in (published / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert made == {"prompts": len(prompts), "items": {"heavier": 60, "word": 40, "ducks": 50}}
    assert len({p["kind"] for p in prompts[:20]}) > 1, "kinds are mixed, so that a chunk holds several"
    groups = load_study("smollm").benchmarks
    loaded = manager(include_path=str(published / "benchmarks"), include_defaults=False).load(
        [t.task for g in groups for t in g.tasks]
    )["tasks"]
    for group in groups:
        (wanted,) = group.tasks
        task = loaded[wanted.task]
        held_out = [task.doc_to_text(doc) for doc in task.eval_docs]
        assert len(held_out) == wanted.items
        assert not set(held_out) & {p["prompt"] for p in prompts}
        assert wanted.metric in task.aggregation()
        assert wanted.filter in [f.name for f in task._filters]
        assert "MIT License" in task.config.metadata["source"]


def test_split_follows_the_seed(archive: Path, tmp_path: Path) -> None:
    texts = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        write_questions(archive, tmp_path / name, seed=seed)
        texts.append((tmp_path / name / "prompts.jsonl").read_text(encoding="utf-8"))
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
def test_template_shows_the_examples_of_the_questions_kind(kind: Any) -> None:
    jinja2 = pytest.importorskip("jinja2")
    template = jinja2.Environment().from_string(teacher_template())
    question, steps, answer = kind.examples[0]
    messages = [{"role": "user", "content": question}]
    plain, thinking = (
        template.render(messages=messages, enable_thinking=on, add_generation_prompt=True)
        for on in (False, True)
    )
    assert "<think>" not in plain
    assert f"<|im_start|>assistant\n{answer}<|im_end|>\n" in plain
    assert f"<|im_start|>assistant\n<think>\n{steps}\n</think>\n\n{answer}<|im_end|>\n" in thinking
    end = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    assert plain.endswith(end)
    assert thinking.endswith(end)
    others = [k for k in KINDS if k is not kind]
    assert not any(other.mark in thinking for other in others)
    assert thinking.count("<think>") == len(kind.examples)


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
def test_examples_are_right_and_scored_as_right(kind: Any) -> None:
    import re

    for _, steps, answer in kind.examples:
        assert re.findall(kind.extract, f"{answer}.")[-1] == answer
        assert re.findall(kind.extract, steps)[-1] == answer, "the steps end with what they lead to"


def test_wheel_that_is_there_is_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = tmp_path / "evals-3.0.1.post1-py3-none-any.whl"
    there.write_bytes(b"")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("asked for a download"))
    assert wheel(QUESTIONS, tmp_path) == there


def test_without_a_network_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("PIP_NO_INDEX", "1"),
        ("PIP_FIND_LINKS", str(tmp_path)),
        ("PIP_CONFIG_FILE", "/dev/null"),
    ):
        monkeypatch.setenv(name, value)
    with pytest.raises(
        RuntimeError, match=r"(?s)could not download evals.*pip download --no-deps -d DIR.*wheels"
    ):
        wheel(QUESTIONS, tmp_path / "none")
