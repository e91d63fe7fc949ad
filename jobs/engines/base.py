"""One way to run a model forward: generate answers or score given ones, by vLLM or by plain transformers.

Everything that differs between the two engines ends here; callers see tokens, text and why an answer
ended. Nothing here knows prompts, studies or benchmarks.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jobs.text.thinking import State, Thinking

NONE = Thinking("", "")
Tick = Callable[[], None]
Pair = tuple[list[int], list[int]]  # a context and its continuation, in tokens


def idle() -> None:
    """A tick that tells nobody."""


def row_seed(seed: int, prompt: str, mode: str) -> int:
    """The seed of one row: the same whichever worker generates it, beside whatever else."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{prompt}:{mode}".encode()).digest()[:4], "big") >> 1


@dataclass(frozen=True)
class Request:
    """One answer to generate."""

    key: Any  # whatever the caller knows it by
    prompt: list[int]
    max_tokens: int
    temperature: float = 0.0  # 0 takes the likeliest token each time
    top_p: float = 1.0  # 1 keeps all tokens
    top_k: int = 0  # 0 keeps all tokens
    seed: int | None = None  # of this answer alone, so that it does not depend on what else is in the batch
    until: tuple[str, ...] = ()  # strings that end the answer (not the thinking before it)
    thinking: Thinking = NONE
    state: State = "free"  # in which the prompt leaves the thinking


@dataclass(frozen=True)
class Completion:
    """One generated answer."""

    request: Request
    ids: list[int]  # all generated tokens, the end-of-sequence token included: what was computed
    text: str  # without special tokens, and without the stop string and what follows it
    finish: str  # "stop" or "length"
    reasoning: str  # the text, taken apart
    answer: str
    reasoning_tokens: int  # of `ids`; tags are reasoning
    answer_tokens: int


class Engine(ABC):
    """A loaded model."""

    name: str  # which engine, and its version
    tokenizer: Any  # as transformers loads it
    max_length: int  # prompt and answer together, in tokens

    def __init__(self, model: str, revision: str | None) -> None:
        from transformers import AutoTokenizer

        self._model_path, self._revision = model, revision
        self.tokenizer = AutoTokenizer.from_pretrained(model, revision=revision)

    @abstractmethod
    def _generate(self, requests: Iterator[Request], tick: Tick) -> Iterator[Completion]: ...

    @abstractmethod
    def _score(self, pairs: Sequence[Pair], tick: Tick) -> Iterator[tuple[int, float, bool]]: ...

    @abstractmethod
    def close(self) -> None:
        """Give the memory back, as far as the engine can."""

    def request(
        self,
        key: Any,
        text: str,
        sampling: dict[str, Any],
        thinking: Thinking,
        seed: int,
        until: tuple[str, ...] = (),
    ) -> Request:
        """The request for an answer to a rendered prompt.

        Its `max_tokens` are those of `sampling`, or as many as there is room for: 0 or less if there is none.
        """
        prompt = self.encode(text)
        return Request(
            key=key,
            prompt=prompt,
            max_tokens=min(sampling["max_tokens"], self.max_length - len(prompt)),
            temperature=sampling["temperature"],
            top_p=sampling["top_p"],
            top_k=sampling["top_k"],
            seed=seed,
            until=until,
            thinking=thinking,
            state=thinking.state(text),
        )

    def generate(self, requests: Iterable[Request], tick: Tick = idle) -> Iterator[Completion]:
        """Answers, each as soon as it is there, in any order.

        Args:
            requests: drawn as places in the batch become free, so that an endless source keeps it full.
            tick: called at every step of the model, also while no answer is finished.

        Raises:
            ValueError: a prompt and its answer do not fit into the model's context.
        """
        return self._generate(map(self._checked, requests), tick)

    def score(self, pairs: Sequence[Pair], tick: Tick = idle) -> list[tuple[float, bool]]:
        """Of each pair ln p(continuation | context), and whether it is the continuation that taking the
        likeliest token each time would give.

        Raises:
            ValueError: a pair does not fit into the model's context.
        """
        for context, continuation in pairs:
            assert context
            assert continuation
            if len(context) + len(continuation) >= self.max_length:
                raise ValueError(
                    f"scoring needs {len(context)} + {len(continuation)} tokens, and the context holds "
                    f"{self.max_length - 1} beside the one that vLLM adds: use fewer examples (fewshot) or "
                    "a model with a longer context"
                )
        scored: list[tuple[float, bool]] = [(math.nan, False)] * len(pairs)
        for index, logprob, greedy in self._score(pairs, tick):
            scored[index] = (logprob, greedy)
        return scored

    def encode(self, text: str) -> list[int]:
        """Tokens of a rendered prompt; a chat template has written its special tokens already."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int], thinking: Thinking) -> str:
        """Text of generated tokens without special tokens, but with the tags of the thinking."""
        skip = self.specials - self.tags(thinking)
        return str(self.tokenizer.decode([i for i in ids if i not in skip], skip_special_tokens=False))

    @cached_property
    def specials(self) -> frozenset[int]:
        added = self.tokenizer.added_tokens_decoder.items()
        return frozenset(self.tokenizer.all_special_ids) | {i for i, token in added if token.special}

    @cached_property
    def _vocabulary(self) -> dict[str, int]:
        return dict(self.tokenizer.get_vocab())

    def tags(self, thinking: Thinking) -> frozenset[int]:
        """The tags that are tokens of their own, special or not."""
        return frozenset(i for tag in (thinking.open, thinking.close) if (i := self._vocabulary.get(tag)))

    @cached_property
    def ends(self) -> list[int]:
        """Tokens that end an answer: the tokenizer's and those of the model's generation config."""
        from transformers import GenerationConfig

        ends: Any = None
        with suppress(OSError):  # a model may come without one
            revision = self._revision or "main"
            ends = GenerationConfig.from_pretrained(self._model_path, revision=revision).eos_token_id
        found = {self.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
        return sorted(found - {None})

    def _checked(self, request: Request) -> Request:
        assert request.prompt
        assert request.max_tokens > 0
        if len(request.prompt) + request.max_tokens > self.max_length:
            raise ValueError(
                f"a prompt of {len(request.prompt)} tokens and an answer of up to {request.max_tokens} are "
                f"more than the {self.max_length} tokens of the model's context: lower max_tokens, or raise "
                "max_model_len if the model allows more"
            )
        return request

    def completion(self, request: Request, ids: list[int], finish: str) -> Completion:
        """The answer that these tokens are."""
        thinking, state = request.thinking, request.state
        text = self.decode(ids, thinking)
        text = text[: thinking.end(text, request.until, state)]
        parts = thinking.split(text, state)
        counts = thinking.counts(ids, lambda some: self.decode(some, thinking), state)
        return Completion(request, ids, text, finish, parts.reasoning, parts.answer, *counts)


class Watch:
    """Follows one answer as its tokens arrive, for the stop strings that may end it."""

    def __init__(self, engine: Engine, request: Request) -> None:
        from tokenizers.decoders import DecodeStream

        self._request = request
        self._backend = engine.tokenizer.backend_tokenizer
        self._skip = engine.specials - engine.tags(request.thinking)
        self._stream = DecodeStream(skip_special_tokens=False)
        self._text = ""

    def ended(self, token: int) -> bool:
        """Whether this next token completes a stop string."""
        if token in self._skip or not (piece := self._stream.step(self._backend, token)):
            return False
        self._text += piece
        request = self._request
        return request.thinking.end(self._text, request.until, request.state) is not None
