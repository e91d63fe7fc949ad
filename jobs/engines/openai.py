"""Engine of a model that is served elsewhere: any OpenAI-compatible endpoint.

By default, prompts go as token IDs to /completions, as vLLM, SGLang and llama.cpp's server take them: our
chat template has rendered them, so that modes, thinking and counts are those of the local engines, and
an endpoint can neither ignore the switch of the thinking nor add a system prompt. Services that only offer
/chat/completions (OpenRouter, Together) are asked with `prompt: chat`: they render with their own template,
and get `chat_template_kwargs`. Many drop unknown keys without a word, and both modes would be one: before the
first row, `check_switch` compares how many tokens the endpoint counts in the prompts of both modes.

Answers are text, or the generated token IDs where the endpoint returns them (vLLM), which give the very rows
of a local engine. Of text, tokens are those of `usage`, or else counted with the tokenizer.

There is no scoring: evaluations are of students, which are local.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from jobs.engines.base import OPTIONAL, Completion, Engine, Pair, Request, Tick
from jobs.engines.endpoint import Endpoint, EndpointFailed, EndpointRefused

POLL = 1.0  # seconds between two ticks while no answer comes
CUT = (
    "length",
    "max_tokens",
    "model_length",
    "content_filter",
)  # finish reasons of answers that are not whole
BROKEN = ("error", "abort")  # those of answers that were not made
ODD = 3  # tries for such answers


class OpenAIEngine(Engine):
    """A served model.

    Args:
        tokenizer: Folder or hub name of the model's tokenizer.
        length: Context in tokens; None: as the endpoint says, or else as the architecture does.
        settings: `url`, `model` (its name there), `key` (name of a secret), `requests` in flight,
            `per_minute`, `prompt` ("tokens" or "chat"), `architecture`, `body` (more keys of each request;
            null removes one, and `$NAME` is an option of the mode's chat template).

    Raises:
        EndpointRefused, EndpointFailed: The endpoint cannot be used.
    """

    def __init__(
        self, tokenizer: str, revision: str | None, length: int | None, settings: Mapping[str, Any]
    ) -> None:
        super().__init__(tokenizer, revision)
        self._settings, self._places = settings, int(settings["requests"])
        self._chat = settings["prompt"] == "chat"
        self.continues = not self._chat
        self._endpoint = Endpoint(settings["url"], settings["key"], self._places, settings["per_minute"])
        self._loop = asyncio.new_event_loop()
        self.name = f"openai {settings['url']} {settings['model']} ({settings['prompt']})"
        try:
            self._known = self._loop.run_until_complete(self._models())
        except BaseException:
            self.close()
            raise
        self.max_length = length or self._context()

    def close(self) -> None:
        self._loop.run_until_complete(self._endpoint.close())
        self._loop.close()

    def check_switch(self, requests: Sequence[Request]) -> None:
        """Refuse an endpoint that renders both modes alike although the tokenizer's template does not."""
        if not self._chat or "$" in str(self._settings["body"]):  # the endpoint's own switch
            return
        probes = [replace(request, max_tokens=1) for request in requests]
        found = self._loop.run_until_complete(self._all(probes))
        counted = {answer.counted for answer in found}
        if len({len(r.prompt) for r in requests}) > 1 and len(counted) == 1 and None not in counted:
            raise EndpointRefused(
                f"{self._endpoint.url} counts {counted.pop()} tokens in the prompts of both modes, whose "
                f"lengths are {' and '.join(str(len(r.prompt)) for r in requests)}: it ignores "
                "chat_template_kwargs. Set 'serving: {prompt: tokens}' if it offers /completions, or give "
                "its own switch, such as 'serving: {body: {reasoning: {enabled: $enable_thinking}}}'"
            )

    async def _all(self, requests: Sequence[Request]) -> list[Completion]:
        return await asyncio.gather(*map(self._answer, requests))

    def _generate(self, requests: Iterator[Request], tick: Tick) -> Iterator[Completion]:
        running = set[asyncio.Task[Completion]]()
        try:
            while True:
                for request in islice(requests, self._places - len(running)):
                    running.add(self._loop.create_task(self._answer(request)))
                if not running:
                    return
                wait = asyncio.wait(running, timeout=POLL, return_when=asyncio.FIRST_COMPLETED)
                done, running = self._loop.run_until_complete(wait)
                failed = [task for task in done if task.exception()]
                yield from (task.result() for task in done if task not in failed)
                for task in failed:
                    task.result()
                tick()
        finally:
            for task in running:
                task.cancel()
            if running:
                self._loop.run_until_complete(asyncio.wait(running))

    def _score(self, pairs: Sequence[Pair], tick: Tick) -> Iterator[tuple[int, float, bool]]:
        raise ValueError("an endpoint gives no likelihoods: evaluate with the engine vllm or transformers")

    async def _answer(self, request: Request) -> Completion:
        path = "/chat/completions" if self._chat else "/completions"
        for _ in range(ODD):
            try:
                body = await self._endpoint.post(path, self._body(request))
            except EndpointRefused as error:
                raise EndpointRefused(f"{error}{self._way_out(error.status)}") from None
            choices = body.get("choices") or [{"finish_reason": "error"}]
            if choices[0].get("finish_reason") not in BROKEN:
                return self._completion(request, choices[0], body.get("usage") or {})
        raise EndpointFailed(f"POST {self._endpoint.url}{path}: {ODD} times an answer without a result")

    def _body(self, request: Request) -> dict[str, Any]:
        """Return a request's body.

        Defaults are written, too: vLLM and SGLang would take others from the model's generation config.
        """
        top_k = request.top_k if request.top_k > 0 else -1
        body = {
            "model": self._settings["model"],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "top_k": top_k,
            "repetition_penalty": request.repetition_penalty,
        }
        more = {name: getattr(request, name) for name in OPTIONAL if name != "repetition_penalty"}
        body |= {name: value for name, value in more.items() if value}
        if request.temperature and request.seed is not None:
            body["seed"] = request.seed
        if self._chat:
            assert request.question is not None
            body["messages"] = [{"role": "user", "content": request.question}]
            body["chat_template_kwargs"] = dict(request.options)
        else:
            body |= {"prompt": request.prompt, "stop_token_ids": self.ends}
            body |= {"skip_special_tokens": False, "return_token_ids": True}
        given = body | _filled(self._settings["body"], request.options)
        return {key: value for key, value in given.items() if value is not None}

    def _completion(
        self, request: Request, choice: Mapping[str, Any], usage: Mapping[str, Any]
    ) -> Completion:
        total = _count(usage.get("completion_tokens"))
        finish = _finish(choice.get("finish_reason"), total, request.max_tokens)
        if not self._chat and choice.get("token_ids") is not None:
            return self.completion(request, choice["token_ids"], finish)
        text = self._text(request, choice)
        ids = self.encode(text)
        ids += self.ends[:1] if finish == "stop" else []  # as a model ends its answer
        made = self.completion(request, ids, finish)
        parts = request.thinking.split(text, request.state)
        total = len(ids) if total is None else total
        reasoning = _reasoning(usage)
        if reasoning is None:  # an answer without an end is all reasoning, whatever the endpoint's tokens are
            reasoning = made.reasoning_tokens if made.answer_tokens else total
        reasoning = min(reasoning, total)
        return replace(
            made, text=text, reasoning=parts.reasoning, answer=parts.answer, reasoning_tokens=reasoning,
            answer_tokens=total - reasoning, counted=_count(usage.get("prompt_tokens")),
        )  # fmt: skip

    def _text(self, request: Request, choice: Mapping[str, Any]) -> str:
        """Return what the model wrote, as it wrote it: with tags, where the endpoint split it."""
        if not self._chat:
            text = str(choice.get("text") or "")
            for word in self.tokenizer.convert_ids_to_tokens(self.ends):
                text = text.removesuffix(word)
            return text
        message = choice.get("message") or {}
        content = str(message.get("content") or "")
        reasoning = message.get("reasoning_content") or message.get("reasoning")
        tags = request.thinking
        if not reasoning or not tags.close:
            return content
        opened = "" if request.state == "open" else f"{tags.open}\n"
        whole = opened + str(reasoning).strip("\n")
        cut = not content and choice.get("finish_reason") in CUT
        return whole if cut else f"{whole}\n{tags.close}\n\n{content.lstrip()}"

    async def _models(self) -> list[dict[str, Any]]:
        """Return what the endpoint lists under /models; empty if it has no such list."""
        try:
            found = await self._endpoint.get("/models")
        except EndpointRefused as error:
            if error.status in (None, 401, 403):
                raise
            return []
        listed = found.get("data")
        return [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []

    def _context(self) -> int:
        entry = next((m for m in self._known if m.get("id") == self._settings["model"]), {})
        meta = entry.get("meta") or {}
        said = (entry.get("max_model_len"), entry.get("context_length"), meta.get("n_ctx"))
        longest = self._settings["architecture"].get("max_position_embeddings")
        found = next((int(n) for n in (*said, longest) if isinstance(n, int) and n > 0), None)
        if found is None:
            raise ValueError(f"{self._endpoint.url} does not say how long its context is: set max_model_len")
        return found

    def _way_out(self, status: int | None) -> str:
        """Return what to add to a refusal of a request."""
        name, names = self._settings["model"], sorted(str(m.get("id")) for m in self._known)
        if status in (400, 404) and names and name not in names:
            shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
            return f". It has no model {name!r} (serving.model); it has {shown}"
        if status in (400, 404, 405, 415, 422, 501) and not self._chat:
            return (
                ". If it takes no token IDs as prompts, or has no /completions, set 'serving: {prompt: chat}'"
                "; a key that it does not know is removed with 'serving: {body: {KEY: null}}'"
            )
        if status in (400, 422):
            return ". A key that it does not know is removed with 'serving: {body: {KEY: null}}'"
        return ""


def _finish(reason: Any, total: int | None, most: int) -> str:
    """Return "stop" or "length" for an endpoint's word: eos, end_turn, null …; what is cut is too long."""
    if reason is None:
        return "length" if total is not None and total >= most else "stop"
    return "length" if reason in CUT else "stop"


def _filled(body: Any, options: Mapping[str, Any]) -> Any:
    """Return the user's keys of a request, with options of the chat template for `$NAME`."""
    if isinstance(body, Mapping):
        return {key: _filled(value, options) for key, value in body.items()}
    if isinstance(body, str) and body.startswith("$"):
        return options.get(body[1:])
    return body


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _reasoning(usage: Mapping[str, Any]) -> int | None:
    """Return the reasoning tokens that an endpoint counted: within details, or beside the rest (SGLang)."""
    details = usage.get("completion_tokens_details") or {}
    return _count(details.get("reasoning_tokens")) or _count(usage.get("reasoning_tokens")) or None
