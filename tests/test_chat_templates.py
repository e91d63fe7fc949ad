"""Chat templates that are on the login node already are looked at when a study is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from small_study import student, write_study
from test_chat import SHAPES, asks
from test_cli import loaded_by

from jobs import toy
from jobs.text.chat import Chat
from jobs.text.thinking import Thinking
from launch.study.chat_templates import local_chat
from launch.study.presets import StudyError
from launch.study.schema import load_study

TAGS = Thinking("<think>", "</think>")
CLOSING = asks("<think></think>")


def tokenizer(folder: Path, template: Any, alone: bool = False) -> Path:
    """A tokenizer's folder, as far as a login node reads it."""
    folder.mkdir(parents=True)
    config = {"eos_token": {"content": "<|end|>"}, "bos_token": None, "chat_template": template}
    if alone:
        (folder / "chat_template.jinja").write_text(config.pop("chat_template"), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("options", [{}, {"enable_thinking": False}])
def test_a_template_is_rendered_as_transformers_does(
    shape: str, options: dict[str, Any], tmp_path: Path
) -> None:
    made = toy.tokenizer()
    made.chat_template = SHAPES[shape][0]
    made.save_pretrained(tmp_path)
    ours = local_chat(str(tmp_path), None, TAGS, options)
    made.name_or_path = str(tmp_path)
    theirs = Chat.of(made, TAGS, options)
    assert ours
    for question in ("5?", "<b>x & 'y'</b> é\n"):
        assert ours.ask(question) == theirs.ask(question)
    assert (ours.state, ours.end, ours.student_fault()) == (theirs.state, theirs.end, theirs.student_fault())


@pytest.mark.parametrize("alone", [True, False])
def test_a_student_behind_a_closing_template_is_refused_by_plan(alone: bool, tmp_path: Path) -> None:
    folder = tokenizer(tmp_path / "tokens", CLOSING, alone)
    file = write_study(tmp_path / "study", {"s": {**student(), "tokenizer": str(folder)}})
    with pytest.raises(
        StudyError, match=r"small\.yaml.*: students: s: the chat template of .*/tokens ends a"
    ):
        load_study(str(file))


def test_a_teacher_that_cannot_answer_without_thinking_is_refused_by_plan(tmp_path: Path) -> None:
    folder = tokenizer(tmp_path / "teacher", [{"name": "default", "template": asks("<think>\n")}])
    teacher = {"size": "1K", "model": str(folder), "architecture": student()["architecture"]}
    switched = {"chat_template_kwargs": {"enable_thinking": False}, "max_tokens": 8}
    modes = {"ift": switched, "reasoning": {**switched, "chat_template_kwargs": {}}}
    prompts = {"path": "@prepare/p.jsonl"}
    file = write_study(tmp_path / "study", teacher="t.yaml", modes=modes, prompts=prompts, pairs=None)
    (file.parent / "t.yaml").write_text(json.dumps(teacher), encoding="utf-8")
    with pytest.raises(
        StudyError, match=r"modes\.ift: the chat template of .*/teacher opens the thinking"
    ) as told:
        load_study(str(file))
    assert "modes.reasoning:" not in str(told.value)


def test_the_hubs_cache_counts_as_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert local_chat("some/model", "abc", TAGS, {}) is None
    kept = tmp_path / "hub" / "models--some--model"
    tokenizer(kept / "snapshots" / "abc", CLOSING)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("abc", encoding="utf-8")
    for revision in ("abc", "main", None):
        found = local_chat("some/model", revision, TAGS, {})
        assert found
        assert "some/model ends a question" in found.student_fault()
    assert local_chat("some/model", "other", TAGS, {}) is None


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b'{"chat_template": 5}', b"{}"])
def test_files_that_cannot_be_understood_are_left_to_the_jobs(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_bytes(content)
    assert local_chat(str(tmp_path), None, TAGS, {}) is None


def test_no_model_library_is_imported_for_it(tmp_path: Path) -> None:
    folder = tokenizer(tmp_path / "tokens", asks("<think>\n"))
    file = write_study(tmp_path / "study", {"s": {**student(), "tokenizer": str(folder)}})
    loaded = loaded_by(f"from launch.study.schema import load_study; load_study({str(file)!r})")
    assert "jinja2" in loaded
    assert not loaded & {"torch", "transformers", "numpy", "pandas", "vllm", "pyarrow"}


@pytest.mark.parametrize(("open", "close"), [("<think>", ""), ("", "</think>"), ("***", "***")])
def test_tags_that_are_no_pair_are_refused(open: str, close: str, tmp_path: Path) -> None:
    odd = {**student(), "thinking": {"open": open, "close": close}}
    with pytest.raises(StudyError, match=r"thinking.*two unlike tags, or both are empty"):
        load_study(str(write_study(tmp_path, {"s": odd})))


def test_tiny_templates_are_of_the_shapes_that_are_known() -> None:
    """What other tests build on."""
    states = {}
    for template in (tiny.TEMPLATE, tiny.OPENING, toy.TEMPLATE):
        made = tiny.tokenizer(template=template)
        states[template] = Chat.of(made, TAGS).state, Chat.of(made, TAGS).student_fault()
    assert list(states.values()) == [("free", ""), ("open", ""), ("free", "")]
