"""Answers in several passes: a budget for the thinking, and a larger cap for what was cut off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny

from jobs.core.flops import generate_flops
from jobs.core.unit import Unit
from jobs.data import sums
from jobs.engines import load
from jobs.engines.base import Completion, Engine, Request
from jobs.engines.passes import CLOSING, Limits, Passes
from jobs.stages import generate
from jobs.store.rundir import read_json, read_jsonl
from jobs.text.thinking import Thinking
from launch.study.presets import Strict
from launch.study.sampling import Mode, Sampling

TAGS = Thinking("<think>", "</think>")
SAYS = "<think>12345</think>7890"  # no letter twice: what follows a token depends on it alone


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    model = tiny.save(tmp_path_factory.mktemp("models") / "says", says=SAYS)
    return load.load(str(model), None, {"engine": "transformers"})


def asked(engine: Engine, most: int, limits: Limits, **more: Any) -> tuple[Completion, list[Request]]:
    """Ask for one answer; return it with the requests that were made for it."""
    made = list[Request]()

    def once() -> Iterator[Request]:
        yield Request("k", engine.encode("<|user|>5<|end|><|assistant|>"), most, thinking=TAGS, **more)

    passes = Passes(engine, once(), lambda request: limits)
    draw = passes.__next__

    class Noted(Passes):
        def __next__(self) -> Request:
            made.append(draw())
            return made[-1]

    passes.__class__ = Noted
    (answer,) = passes.generate(lambda: None)
    return answer, made


def test_a_thinking_is_closed_at_the_end_of_its_budget_and_the_answer_follows(engine: Engine) -> None:
    free, _ = asked(engine, 20, Limits())
    assert (free.text, free.passes, free.thinking_cut) == (SAYS, (), False)
    answer, made = asked(engine, 300, Limits(thinking=4))
    closing = CLOSING.format(close="</think>")
    assert answer.text.startswith("<think>123" + closing)
    assert answer.reasoning == "123" + closing.partition("\n</think>")[0]
    first, second = made
    assert (first.max_tokens, second.max_tokens) == (4, 300 - 4 - len(engine.encode(closing)))
    assert second.prompt == first.prompt + engine.encode("<think>123" + closing)
    generated = len(answer.ids) - 4 - len(engine.encode(closing))
    assert answer.passes == ((len(first.prompt), 4), (len(second.prompt), generated))
    assert answer.reasoning_tokens == 4 + len(engine.encode(closing.rstrip("\n")))
    assert answer.thinking_cut
    assert answer.request.max_tokens == 300


def test_a_thinking_that_is_over_goes_on_to_its_answer(engine: Engine) -> None:
    answer, made = asked(engine, 20, Limits(thinking=9))
    assert (answer.text, answer.finish, answer.thinking_cut) == (SAYS, "stop", False)
    assert [r.max_tokens for r in made] == [9, 11]
    assert [n for _, n in answer.passes] == [9, len(answer.ids) - 9]
    short, made = asked(engine, 20, Limits(thinking=19))
    assert (short.ids, len(made), short.passes) == (answer.ids, 1, ())


def test_what_was_cut_off_is_continued_up_to_a_larger_cap(engine: Engine) -> None:
    answer, made = asked(engine, 9, Limits(retry=30), seed=2**31 - 1, temperature=0.001)
    assert (answer.text, answer.finish, answer.retried) == (SAYS, "stop", True)
    assert [(r.max_tokens, r.seed) for r in made] == [(9, 2**31 - 1), (21, 0)]
    cut, made = asked(engine, 9, Limits(retry=10))
    assert (cut.text, cut.finish, cut.retried) == (SAYS[: SAYS.index("9") + 1], "length", True)
    assert [r.max_tokens for r in made] == [9, 1]
    none, _ = asked(engine, 9, Limits())
    assert (none.finish, none.retried, none.passes) == ("length", False, ())
    both, made = asked(engine, 9, Limits(thinking=8, retry=30))
    assert (both.text, [r.max_tokens for r in made]) == (SAYS, [8, 1, 21])


def test_an_engine_that_knows_chats_only_is_refused(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(engine), "continues", False)
    with pytest.raises(ValueError, match="a chat's answer cannot be continued: leave out thinking_tokens"):
        asked(engine, 9, Limits(retry=10))
    assert asked(engine, 9, Limits())[0].finish == "length"


def test_rows_say_it_and_flops_count_each_pass(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"q": "5"}\n', encoding="utf-8")
    mode = {"temperature": 0.0, "top_p": 1.0, "top_k": -1}
    plain = {**mode, "max_tokens": 3, "chat_template_kwargs": {"enable_thinking": False}}
    thought = {**mode, "max_tokens": 9, "retry": {"max_tokens": 30}, "thinking_tokens": 8}
    config = {
        "model": engine._model_path, "revision": None, "seed": 0,
        "thinking": {"open": "<think>", "close": "</think>"},
        "prompts": [{"path": str(tmp_path / "p.jsonl"), "column": "q", "count": None, "seed": 0}],
        "modes": {"ift": plain, "reasoning": {**thought, "chat_template_kwargs": {"enable_thinking": True}}},
    }  # fmt: skip
    ctx = tiny.context(tmp_path / "s", Unit("generate", "t", config, execution={"engine": "transformers"}))
    generate.run(ctx)
    (file,) = (ctx.folder.out / "chunks").iterdir()
    one, two = read_jsonl(file)
    assert "passes" not in one
    assert "retried" not in one
    assert (two["text"], two["finish"], two["retried"]) == (SAYS, "stop", True)
    assert "thinking_cut" not in two
    total = two["tokens"]["reasoning"] + two["tokens"]["answer"]
    start = two["tokens"]["prompt"]
    assert two["passes"] == [[start, 8], [start + 8, 1], [start + 9, total - 9]]
    result, shape = read_json(ctx.folder.result), generate.teacher_shape(ctx)
    assert result["retried"] == {"reasoning": 1}
    assert "thinking_cut" not in result
    expected = sum(generate_flops(shape, prompt, new) for prompt, new in two["passes"])
    assert result["flops_by_mode"]["reasoning"] == expected
    counted = sums.nothing()
    sums.count(counted, {**two, "thinking_cut": True}, shape)
    assert counted["thinking_cut"] == {"reasoning": 1}


def test_keys_left_out_leave_no_trace_and_limits_must_leave_room() -> None:
    asks: dict[str, Any] = {"chat_template_kwargs": {}, "max_tokens": 9}
    old = {"temperature": 0.0, "top_p": 1.0, "top_k": -1}
    assert Sampling().model_dump(mode="json") == old
    assert Mode.model_validate(asks).model_dump(mode="json") == {**old, **asks}
    given: dict[str, Any] = {
        "min_p": 0.1,
        "seed_each": True,
        "thinking_tokens": 8,
        "retry": {"max_tokens": 10},
    }
    assert Mode.model_validate({**asks, **given}).model_dump(mode="json") == {**old, **asks, **given}
    assert issubclass(Mode, Strict)
    with pytest.raises(ValueError, match="'thinking_tokens' is 9, which leaves nothing of 'max_tokens: 9'"):
        Mode.model_validate({**asks, "thinking_tokens": 9})
    with pytest.raises(ValueError, match=r"continues answers that reach 'max_tokens: 9' .* no more: 9"):
        Mode.model_validate({**asks, "retry": {"max_tokens": 9}})
