"""The engine that asks an endpoint, against a server that gives what services give rarely."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny
from loopback_endpoint import CUT, Body, Served, message, serve, text
from test_generate import rows_of, unit, write_prompts

from jobs.core.causes import Cause, cause_of
from jobs.core.unit import Unit
from jobs.engines import endpoint as http
from jobs.engines.base import Completion, Request
from jobs.engines.endpoint import EndpointFailed, EndpointRefused
from jobs.engines.openai import OpenAIEngine
from jobs.runtime.signals import Interrupted
from jobs.stages import generate
from jobs.store.rundir import read_json
from jobs.text.thinking import Thinking

TAGS = Thinking("<think>", "</think>")
KEY = "sk-or-v1-0123456789abcdef"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("models") / "random")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "LONGEST", 0.02)
    monkeypatch.setattr("random.uniform", lambda low, high: 0.01)


def settings(served: Served, model: Path, **more: Any) -> dict[str, Any]:
    return {
        "url": served.url, "model": "m", "key": None, "requests": 4, "per_minute": None, "prompt": "tokens",
        "body": {}, "tokenizer": str(model), "revision": None,
        "architecture": json.loads((model / "config.json").read_text(encoding="utf-8")), **more,
    }  # fmt: skip


@contextmanager
def connected(served: Served, model: Path, **more: Any) -> Iterator[OpenAIEngine]:
    engine = OpenAIEngine(str(model), None, None, settings(served, model, **more))
    try:
        yield engine
    finally:
        engine.close()


def ask(served: Served, model: Path, count: int = 1, **more: Any) -> list[Completion]:
    with serve(served), connected(served, model, **more) as engine:
        prompt = engine.encode("<|user|>1+1=?<|end|><|assistant|>")
        requests = [Request(i, prompt, 40, thinking=TAGS, question="1+1=?") for i in range(count)]
        return sorted(engine.generate(requests), key=lambda c: int(c.request.key))


def test_a_request_says_all_that_a_server_would_else_take_from_the_model(model: Path) -> None:
    served = Served(lambda body: text("7", choice={"token_ids": [13, 4]}))
    with serve(served), connected(served, model) as engine:
        assert engine.max_length == 512
        greedy = Request(0, [5, 6], 40, top_k=0, seed=9, thinking=TAGS)
        sampled = Request(1, [5, 6], 30, temperature=0.6, top_p=0.9, top_k=20, seed=9, thinking=TAGS)
        found = sorted(engine.generate([greedy, sampled]), key=lambda c: int(c.request.key))
        assert [(c.ids, c.finish, c.prompt_tokens) for c in found] == [([13, 4], "stop", 2)] * 2
        with pytest.raises(ValueError, match="no likelihoods"):
            engine.score([([1], [2])])
    bodies = sorted((body for _, _, body in served.asked), key=lambda body: -body["max_tokens"])
    common = {"model": "m", "prompt": [5, 6], "repetition_penalty": 1.0, "stop_token_ids": [4],
              "skip_special_tokens": False, "return_token_ids": True}  # fmt: skip
    assert bodies == [
        {**common, "max_tokens": 40, "temperature": 0.0, "top_p": 1.0, "top_k": -1},
        {**common, "max_tokens": 30, "temperature": 0.6, "top_p": 0.9, "top_k": 20, "seed": 9},
    ]
    assert {path for path, _, _ in served.asked} == {"/v1/completions"}


def once(first: Any) -> Served:
    """A server whose first answer is this one, and all later ones are fine."""
    left = [first]
    return Served(lambda body: left.pop() if left else text("ok"))


@pytest.mark.parametrize(
    "first",
    [
        (500, {}, "Internal Server Error"),
        (503, {}, {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}),
        (502, {}, "<html><body>Bad Gateway</body></html>"),
        (200, {}, "<html>a proxy's page</html>"),
        {"error": {"code": 502, "message": "Provider returned error"}, "user_id": "u"},  # OpenRouter
        {"choices": [{"error": {"code": 429, "message": "Rate limited"}, "message": {"content": ""}}]},
        {"choices": []},
        text("", choice={"finish_reason": "abort"}),  # SGLang
        CUT,
    ],
)
def test_what_passes_is_asked_again(first: Any, model: Path) -> None:
    served = once(first)
    (found,) = ask(served, model)
    assert (found.text, found.finish, len(served.asked)) == ("ok", "stop", 2)


def test_retry_after_is_waited_for_by_all_requests(model: Path) -> None:
    times: list[float] = []

    def answer(body: Body) -> Any:
        times.append(time.monotonic())
        return (429, {"Retry-After": "0.6"}, {"error": "slow down"}) if len(times) == 1 else text("ok")

    ask(Served(answer), model, count=3, requests=1)
    assert len(times) == 4
    assert times[1] - times[0] > 0.55


def test_a_date_to_retry_after_and_too_long_a_wait(model: Path) -> None:
    assert 50 < http.seconds(time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 60))) <= 60
    assert http.seconds("soon") == http.seconds(None) == 0
    served = Served(lambda body: (429, {"Retry-After": "86400"}, {"error": {"message": "daily quota"}}))
    with pytest.raises(EndpointFailed, match=r"429: daily quota \(it asks to wait 86400 s\)") as failed:
        ask(served, model)
    assert len(served.asked) == 1
    assert cause_of(failed.value) == Cause.ENDPOINT


def test_requests_are_paced_and_bounded(model: Path) -> None:
    times: list[float] = []

    def noted(body: Body) -> Any:
        times.append(time.monotonic())
        return text("ok")

    ask(Served(noted), model, count=5, per_minute=600)
    gaps = [b - a for a, b in zip(sorted(times), sorted(times)[1:], strict=False)]
    assert sum(gaps) > 0.38, "four gaps of 0.1 s"
    running, most = [0], [0]

    def slow(body: Body) -> Any:
        running[0] += 1
        most[0] = max(most[0], running[0])
        time.sleep(0.05)
        running[0] -= 1
        return text("ok")

    ask(Served(slow), model, count=12, requests=3)
    assert most[0] == 3


def test_it_gives_up_with_the_endpoints_words_and_keeps_rows(model: Path, tmp_path: Path) -> None:
    served, good = Served(), 10

    def answer(body: Body) -> Any:
        return text("ok") if len(served.asked) <= good else (500, {}, {"error": {"message": "out of luck"}})

    served.answer = answer
    with serve(served):
        made = served_unit(model, tmp_path, served, requests=1)
        ctx = tiny.context(tmp_path / "s", made)
        with pytest.raises(EndpointFailed) as failed:
            generate.run(ctx)
        url = f"POST {served.url}/completions"
        assert str(failed.value) == f"{url}: status 500: out of luck ({http.TRIES} tries)"
        assert cause_of(failed.value) == Cause.ENDPOINT
        kept = [path.read_text(encoding="utf-8") for path in (ctx.folder.work / "parts").iterdir()]
        assert sum(part.count("\n") for part in kept) == good
        good = 1000
        before = len(served.asked)
        generate.run(tiny.context(tmp_path / "s", made, attempt=2))
        assert len(served.asked) - before == 16 - 10, "rows that exist are not asked for again"
    assert len(rows_of(ctx.folder.out)) == 16


def served_unit(model: Path, tmp_path: Path, served: Served, rows: int = 8, **more: Any) -> Unit:
    made = unit(model, write_prompts(tmp_path / "p.jsonl", rows), temperature=0.0, max_tokens=40)
    execution = {"engine": "openai", "tensor_parallel": 1, "max_model_len": None}
    execution["endpoint"] = settings(served, model, **more)
    return Unit(made.stage, made.name, {**made.config, "model": "gone/elsewhere"}, execution=execution)


def test_a_wrong_key_ends_at_once_and_is_in_no_message(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_PHRASE", KEY)
    served = Served(key="another")
    with serve(served), pytest.raises(EndpointRefused) as refused, connected(served, model, key="MY_PHRASE"):
        pass
    assert str(refused.value) == (
        f"GET {served.url}/models: the endpoint refuses the key MY_PHRASE, status 401: Incorrect API key "
        "provided: Bearer [MY_PHRASE]."
    )
    assert cause_of(refused.value) == Cause.CODE
    assert KEY not in "".join(capsys.readouterr())
    monkeypatch.delenv("MY_PHRASE")
    with pytest.raises(ValueError, match="no value for MY_PHRASE, the key of http"):
        OpenAIEngine(str(model), None, None, settings(served, model, key="MY_PHRASE"))
    served = Served(key=KEY)
    monkeypatch.setenv("MY_PHRASE", KEY)
    ask(served, model, key="MY_PHRASE")
    assert served.asked[0][1]["Authorization"] == f"Bearer {KEY}"
    with pytest.raises(EndpointRefused, match=r"a request without a key \(serving.key\), status 401"):
        ask(Served(key=KEY), model)


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        ((404, {}, {"object": "error", "message": "The model `m` does not exist."}), "it has a, b"),
        ((400, {}, {"error": {"message": "m is not a valid model ID", "code": 400}}), "it has a, b"),
    ],
)
def test_an_unknown_model_ends_at_once_with_the_names_of_others(
    refusal: Any, words: str, model: Path
) -> None:
    served = Served(lambda body: refusal, models=[{"id": "b"}, {"id": "a"}])
    with pytest.raises(EndpointRefused, match=words) as refused:
        ask(served, model, count=9, requests=1)
    assert len(served.asked) == 1
    assert "It has no model 'm' (serving.model)" in str(refused.value)


def test_refusals_say_which_setting_helps(model: Path) -> None:
    served = Served(lambda body: (404, {}, "404 page not found"), models=None)
    with pytest.raises(EndpointRefused, match=r"set 'serving: \{prompt: chat\}'"):
        ask(served, model)
    served = Served(lambda body: (422, {}, {"detail": [{"loc": ["body", "top_k"], "msg": "extra"}]}))
    with pytest.raises(EndpointRefused, match=r"'top_k'|\"top_k\".*removed with 'serving: \{body: \{KEY"):
        ask(served, model, prompt="chat")
    ask(served := Served(lambda body: message(content="2")), model, prompt="chat", body={"top_k": None})
    assert "top_k" not in served.asked[0][2]
    served = Served(lambda body: (307, {"Location": "https://elsewhere/v1"}, ""))
    with pytest.raises(EndpointRefused, match="redirects to https://elsewhere/v1"):
        ask(served, model)


def test_a_server_that_is_not_there_is_a_failure_of_the_infrastructure(model: Path) -> None:
    with serve(Served()) as gone:
        pass
    with pytest.raises(EndpointFailed, match="ClientConnectorError") as failed:
        OpenAIEngine(str(model), None, None, settings(gone, model))
    assert cause_of(failed.value) == Cause.ENDPOINT


# Answers as services give them: OpenRouter's `reasoning`, SGLang's and llama.cpp's `reasoning_content`,
# Together's "eos" and missing usage, vLLM without a parser of reasoning, a model cut while it thinks.
ANSWERS: dict[str, tuple[Body, tuple[str, str, str, int | None, int | None]]] = {
    "openrouter": (
        message(
            content="2", reasoning="1 and 1", reasoning_details=[{"type": "reasoning.text"}],
            refusal=None, usage={"prompt_tokens": 14, "completion_tokens": 30, "total_tokens": 44,
                                 "completion_tokens_details": {"reasoning_tokens": 25}},
        ),
        ("1 and 1", "2", "stop", 25, 5),
    ),
    "sglang": (
        message(
            content="\n\n2", reasoning_content="\n1 and 1\n", tool_calls=None,
            usage={"prompt_tokens": 14, "completion_tokens": 14, "prompt_tokens_details": None,
                   "reasoning_tokens": 0},
        ),
        ("1 and 1", "2", "stop", 11, 3),
    ),
    "together": (message(content="2", finish_reason="eos", tool_calls=[]), ("", "2", "stop", 0, 2)),
    "null": (
        message(content="2", finish_reason=None, usage={"completion_tokens": 40}), ("", "2", "length", 0, 40),
    ),
    "tags": (
        message(content=tiny.traced("1 and 1", "2"), usage={"prompt_tokens": 14, "completion_tokens": 15}),
        ("1 and 1", "2", "stop", 11, 4),
    ),
    "cut": (
        message(content=None, reasoning_content="1 and", finish_reason="length",
                usage={"prompt_tokens": 14, "completion_tokens": 40}),
        ("1 and", "", "length", 40, 0),
    ),
    "nothing": (message(content=None, usage={"completion_tokens": 0}), ("", "", "stop", 0, 0)),
    "filtered": (message(content="1", finish_reason="content_filter"), ("", "1", "length", 0, 1)),
}  # fmt: skip


@pytest.mark.parametrize("service", ANSWERS)
def test_chats_as_services_answer_them(service: str, model: Path) -> None:
    body, expected = ANSWERS[service]
    served = Served(lambda asked: body)
    (found,) = ask(served, model, prompt="chat")
    reasoning, answer, finish, thought, told = expected
    assert (found.reasoning, found.answer, found.finish) == (reasoning, answer, finish)
    assert (found.reasoning_tokens, found.answer_tokens) == (thought, told)
    assert found.prompt_tokens == ((body["usage"] or {}).get("prompt_tokens") or len(found.request.prompt))
    if reasoning and finish == "stop":
        assert found.text == tiny.traced(reasoning, answer), "as a local engine writes it"
    (path, _, sent), = served.asked  # fmt: skip
    assert path == "/v1/chat/completions"
    assert sent["messages"] == [{"role": "user", "content": "1+1=?"}]
    assert sent["chat_template_kwargs"] == {}


def test_text_is_counted_with_the_tokenizer_where_usage_is_missing(model: Path) -> None:
    (found,) = ask(Served(lambda body: text(tiny.traced("1", "2") + "<|end|>")), model)
    assert (found.reasoning, found.answer) == ("1", "2")
    assert (found.reasoning_tokens, found.answer_tokens) == (5, 4)


def switching(body: Body) -> Any:
    """An endpoint that heeds chat_template_kwargs, as the tiny model's template does."""
    on = body["chat_template_kwargs"]["enable_thinking"]
    usage = {"prompt_tokens": 20 if on else 26, "completion_tokens": 3}
    return message(content=tiny.traced("1", "2") if on else "2", usage=usage)


def test_both_modes_of_a_chat_come_from_the_endpoints_template(model: Path, tmp_path: Path) -> None:
    served = Served(switching)
    with serve(served):
        ctx = tiny.context(tmp_path / "s", served_unit(model, tmp_path, served, prompt="chat"))
        generate.run(ctx)
    rows = rows_of(ctx.folder.out)
    assert [row["reasoning"] for row in rows] == ["", "1"] * 8
    assert [row["tokens"]["prompt"] for row in rows] == [26, 20] * 8
    result = read_json(ctx.folder.result)
    assert result["engine"] == f"openai {served.url} m (chat)"
    assert result["flops"] > 0, "counted from the preset's architecture: the weights are nowhere here"


def test_an_endpoint_that_ignores_the_switch_is_refused_before_the_first_row(
    model: Path, tmp_path: Path
) -> None:
    served = Served(lambda body: message(content="2", usage={"prompt_tokens": 20, "completion_tokens": 1}))
    with serve(served):
        ctx = tiny.context(tmp_path / "s", served_unit(model, tmp_path, served, prompt="chat"))
        with pytest.raises(EndpointRefused, match="counts 20 tokens in the prompts of both modes"):
            generate.run(ctx)
        assert [path.stat().st_size for path in (ctx.folder.work / "parts").iterdir()] == [0]
        assert len(served.asked) == 2
        own = {"chat_template_kwargs": None, "reasoning": {"enabled": "$enable_thinking"}}
        made = served_unit(model, tmp_path, served, prompt="chat", body=own)
        generate.run(tiny.context(tmp_path / "t", made))
    *_, last = served.asked
    assert "chat_template_kwargs" not in last[2]
    assert {str(body["reasoning"]) for _, _, body in served.asked[2:]} == {
        "{'enabled': True}",
        "{'enabled': False}",
    }


def test_a_signal_ends_it_while_answers_are_awaited(model: Path, tmp_path: Path) -> None:
    def slow(body: Body) -> Any:
        time.sleep(0.3)
        return text("ok")

    def tick() -> None:
        raise Interrupted("preempted")

    served = Served(slow)
    with serve(served), connected(served, model) as engine, pytest.raises(Interrupted):
        list(engine.generate((Request(i, [5], 40, thinking=TAGS) for i in range(99)), tick))
    assert len(served.asked) <= 4  # those in flight, of 99
