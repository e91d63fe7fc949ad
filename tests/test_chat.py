"""One renderer for training, generation and evaluation, behind templates of the shapes that models have."""

from __future__ import annotations

from typing import Any

import pytest

from jobs import toy
from jobs.text.chat import DATE, Chat
from jobs.text.thinking import Thinking

pytest.importorskip("transformers")
TAGS = Thinking("<think>", "</think>")
TURNS = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
STRIPPED = (  # thinking is cut out of given answers, as in DeepSeek-R1's
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content.split('</think>')[-1] }}<|end|>{% endfor %}"
)
EMPTY = (  # given answers without thinking get an empty one, as in Qwen3's
    "{% for m in messages %}<|{{ m.role }}|>"
    "{{ '<think>\n\n</think>\n\n' if m.role == 'assistant' }}{{ m.content }}<|end|>{% endfor %}"
)


def asks(end: str, turns: str = TURNS) -> str:
    """A template that ends a question with the assistant's mark and this."""
    return turns + "{% if add_generation_prompt %}<|assistant|>" + end + "{% endif %}"


def chat(template: str | None, thinking: Thinking = TAGS, **options: Any) -> Chat:
    tokenizer = toy.tokenizer()
    tokenizer.chat_template = template
    tokenizer.name_or_path = "made"
    return Chat.of(tokenizer, thinking, options)


SWITCH = "{{ '<think>\n\n</think>\n\n' if enable_thinking is false }}"
OPEN_SWITCH = "{{ '<think></think>' if enable_thinking is false else '<think>\n' }}"
LATE = "{{ '</think>' if enable_thinking is false else '<think>' }}"
SHAPES = {  # the template, and the state without options and with the thinking switched off
    "Qwen2.5, Llama 3, Granite": (asks(""), "free", "free"),
    "Qwen3, SmolLM3": (asks(SWITCH, EMPTY), "free", "closed"),
    "QwQ, Qwen3-Thinking-2507": (asks("<think>\n", EMPTY), "open", "open"),
    "DeepSeek-R1-Distill": (asks("<think>\n", STRIPPED), "open", "open"),
    "Qwen3.5, Nemotron 3": (asks(OPEN_SWITCH, EMPTY), "open", "closed"),
    "GLM 4.7": (asks(LATE), "open", "closed"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_state_of_the_thinking_is_known(shape: str) -> None:
    template, free, off = SHAPES[shape]
    assert chat(template).state == free
    assert chat(template, enable_thinking=False).state == off
    assert chat(template).end == "<|end|>"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("reasoning", "answer"), [("2+5=7", "7"), ("", "7"), ("a\n\nb", "    return 7\n")])
def test_what_a_row_teaches_is_read_back_as_it_was(shape: str, reasoning: str, answer: str) -> None:
    """The prompt and the row hold one thinking at most, and evaluation splits off what training wrote."""
    asked = chat(SHAPES[shape][0])
    prompt = asked.ask("2+5=?")
    told = TAGS.written(reasoning, answer, prompt)
    whole = prompt.rpartition("<|assistant|>")[2] + told
    assert whole.count("<think>") == whole.count("</think>") <= 1
    assert not reasoning or "<think>" in whole
    parts = TAGS.split(told, TAGS.state(prompt))
    assert (parts.reasoning, parts.answer) == (reasoning, answer)
    assert asked.student_fault() == ""


def test_modes_that_a_teacher_cannot_answer_in_are_refused() -> None:
    for shape, (template, _, off) in SHAPES.items():
        plain = chat(template, enable_thinking=False).teacher_fault("ift")
        assert ("opens the thinking" in plain) == (off == "open"), shape
        assert chat(template, enable_thinking=True).teacher_fault("reasoning") == "", shape
        wrong = chat(template, enable_thinking=False).teacher_fault("reasoning")
        assert ("closes the thinking" in wrong) == (off == "closed"), shape


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (
            asks("<think></think>"),
            r"made ends a question with .*<think></think>', which closes .*'tokenizer'",
        ),
        (asks("[THINK]"), r"'\[THINK\]' marks thinking.*thinking: {open: '\[THINK\]', close: '\[/THINK\]'}"),
        (asks("<think>\nWell, "), "starts the thinking with words of its own, 'Well,'"),
        (TURNS, r"asks for an answer, and begins a given answer with '<\|end\|><\|assistant\|>'"),
        (asks("").replace("{{ m.content", "<|to|>final{{ m.content"), "begins a given answer with .*final'"),
        (asks("Here are my steps:"), "ends a question with .*Here are my steps:' where it asks"),
        (asks("{{ raise_exception('no') }}"), "cannot be rendered: TemplateError: no"),
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}", "leaves answers out"),
    ],
)
def test_templates_behind_which_no_row_can_be_right_are_refused(template: str, words: str) -> None:
    import re

    assert re.search(words, chat(template).student_fault(), re.S)


def test_a_tokenizer_without_a_template_is_refused() -> None:
    with pytest.raises(ValueError, match="made: its tokenizer has no chat template"):
        chat(None)


def test_other_tags_are_opened_and_closed_alike() -> None:
    tags = Thinking("[THINK]", "[/THINK]")
    found = chat(asks("[THINK]"), tags)
    prompt = found.ask("5?")
    assert (found.state, found.student_fault()) == ("open", "")
    assert tags.split(tags.written("R", "A", prompt), "open") == ("R", "A", True)


def test_a_teacher_need_not_render_answers() -> None:
    picky = asks("{{ '' }}").replace(
        "{% for m in", "{{ raise_exception('no') if messages|length > 1 }}{% for m in"
    )
    assert chat(picky).teacher_fault("reasoning") == ""
    assert "cannot be rendered" in chat(picky).student_fault()


def test_the_beginning_of_an_answer_comes_after_the_thinking() -> None:
    started = [{"role": "user", "content": "5?"}, {"role": "assistant", "content": "Answer:"}]
    assert chat(asks("")).prompt(started) == "<|user|>5?<|end|><|assistant|>Answer:"
    opening = "<|user|>5?<|end|><|assistant|><think>\n\n</think>\n\nAnswer:"
    assert chat(asks("<think>\n", STRIPPED)).prompt(started) == opening


def test_a_date_in_a_template_is_the_same_on_every_day() -> None:
    dated = asks("").replace("{% for", "{{ strftime_now('%d %b %Y') }}{% for", 1)
    assert chat(dated).ask("5?").startswith(DATE.strftime("%d %b %Y"))
