"""Common interface of the engines, local or at an endpoint: generate answers, or score given ones.

It hides all differences between the engines; callers see tokens, text and why an answer ended. Engines
know nothing of prompts, studies or benchmarks.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from jobs.text.thinking import State, Thinking

NONE = Thinking("", "")
OPTIONAL = ("min_p", "presence_penalty", "frequency_penalty", "repetition_penalty")  # of a study's sampling
Tick = Callable[[], None]
Pair = tuple[list[int], list[int]]  # context and continuation tokens


def idle() -> None:
    """A tick that does nothing."""


def row_seed(seed: int, prompt: str, mode: str) -> int:
    """Return the seed of one row, independent of the worker that generates it and of other rows."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{prompt}:{mode}".encode()).digest()[:4], "big") >> 1


@dataclass(frozen=True)
class Request:
    """One answer to generate."""

    key: Any  # identifies the request to the caller
    prompt: list[int]
    max_tokens: int
    temperature: float = 0.0  # 0 means greedy decoding
    top_p: float = 1.0  # 1 keeps all tokens
    top_k: int = 0  # 0 keeps all tokens
    min_p: float = 0.0  # share of the likeliest token's probability that a token needs; 0 keeps all
    presence_penalty: float = 0.0  # subtracted from the logits of tokens that the answer has
    frequency_penalty: float = 0.0  # the same, for each time that it has them
    repetition_penalty: float = 1.0  # divides logits of tokens of prompt and answer; 1 changes nothing
    seed: int | None = None  # of this answer's own draws; None: the engine's
    until: tuple[str, ...] = ()  # stop strings, searched in the answer only, not in the thinking
    thinking: Thinking = NONE
    state: State = "free"  # state in which the prompt leaves the thinking
    question: str | None = None  # what the prompt was rendered from, for endpoints that render it themselves
    options: Mapping[str, Any] = field(default_factory=dict)  # of the chat template, for the same


@dataclass(frozen=True)
class Completion:
    """One generated answer."""

    request: Request
    ids: list[int]  # all generated tokens, including end of sequence: what was computed
    text: str  # without special tokens, cut before the stop string
    finish: str  # "stop" or "length"
    reasoning: str  # reasoning and answer parts of the text
    answer: str
    reasoning_tokens: int  # counted in `ids`; tags count as reasoning
    answer_tokens: int
    passes: tuple[tuple[int, int], ...] = ()  # tokens of the prompt and generated, of each of several passes
    thinking_cut: bool = False  # whether its thinking was closed for the model, at the end of its budget
    retried: bool = False  # whether it did not end within its max_tokens, and was continued
    counted: int | None = None  # tokens of the prompt by an endpoint's count; None if it took ours

    @property
    def prompt_tokens(self) -> int:
        return len(self.request.prompt) if self.counted is None else self.counted


class Engine(ABC):
    """A loaded model."""

    name: str  # engine and version
    tokenizer: Any  # as loaded by transformers
    max_length: int  # of prompt and answer together, in tokens
    continues: bool = True  # whether it continues from given tokens, not from a conversation only

    def __init__(self, model: str, revision: str | None) -> None:
        from transformers import AutoTokenizer

        self._model_path, self._revision = model, revision
        self._dropped: dict[Thinking, frozenset[int]] = {}
        self.tokenizer = AutoTokenizer.from_pretrained(model, revision=revision)

    @abstractmethod
    def _generate(self, requests: Iterator[Request], tick: Tick) -> Iterator[Completion]: ...

    @abstractmethod
    def _score(self, pairs: Sequence[Pair], tick: Tick) -> Iterator[tuple[int, float, bool]]: ...

    @abstractmethod
    def close(self) -> None:
        """Free the model's memory as far as the engine can."""

    def check_switch(self, requests: Sequence[Request]) -> None:
        """Check that requests whose prompts are rendered unlike are so where the model is.

        Raises:
            ValueError: They are not. Local engines take the prompts as they are.
        """
        return

    def request(
        self,
        key: Any,
        text: str,
        sampling: dict[str, Any],
        thinking: Thinking,
        seed: int | None,
        until: tuple[str, ...] = (),
    ) -> Request:
        """Build the request for an answer to a rendered prompt.

        Its `max_tokens` are those of `sampling`, limited to the remaining context: 0 or less if none remains.
        """
        prompt = self.encode(text)
        return Request(
            key=key,
            prompt=prompt,
            max_tokens=min(sampling["max_tokens"], self.max_length - len(prompt)),
            temperature=sampling["temperature"],
            top_p=sampling["top_p"],
            top_k=sampling["top_k"],
            **{name: sampling[name] for name in OPTIONAL if name in sampling},
            seed=seed,
            until=until,
            thinking=thinking,
            state=thinking.state(text),
        )

    def generate(self, requests: Iterable[Request], tick: Tick = idle) -> Iterator[Completion]:
        """Yield answers as they finish, in any order.

        Args:
            requests: Drawn as places in the batch become free, so that an endless source keeps it full.
            tick: Called at every step of the model, even if no answer has finished.

        Raises:
            ValueError: A prompt and its answer do not fit into the model's context.
        """
        return self._generate(map(self._checked, requests), tick)

    def score(self, pairs: Sequence[Pair], tick: Tick = idle) -> list[tuple[float, bool]]:
        """Return, per pair, ln p(continuation | context) and whether greedy decoding gives the continuation.

        Raises:
            ValueError: A pair does not fit into the model's context.
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
        """Tokenize a rendered prompt; the chat template has already written the special tokens."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int], thinking: Thinking) -> str:
        """Decode generated tokens, dropping special tokens but keeping thinking tags."""
        skip = self.dropped(thinking)
        return str(self.tokenizer.decode([i for i in ids if i not in skip], skip_special_tokens=False))

    def dropped(self, thinking: Thinking) -> frozenset[int]:
        """Return the special tokens that text leaves out: all but thinking tags."""
        if thinking not in self._dropped:
            self._dropped[thinking] = self.specials - self.tags(thinking)
        return self._dropped[thinking]

    @cached_property
    def specials(self) -> frozenset[int]:
        added = self.tokenizer.added_tokens_decoder.items()
        return frozenset(self.tokenizer.all_special_ids) | {i for i, token in added if token.special}

    @cached_property
    def _vocabulary(self) -> dict[str, int]:
        return dict(self.tokenizer.get_vocab())

    def tags(self, thinking: Thinking) -> frozenset[int]:
        """Return the token IDs of thinking tags that are single tokens, special or not."""
        return frozenset(i for tag in (thinking.open, thinking.close) if (i := self._vocabulary.get(tag)))

    @cached_property
    def ends(self) -> list[int]:
        """Tokens that end an answer: the tokenizer's EOS and those of the model's generation config."""
        from transformers import GenerationConfig

        ends: Any = None
        with suppress(OSError):  # the model may have no generation config
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
        """Build the completion from its generated tokens."""
        thinking, state = request.thinking, request.state
        whole = self.decode(ids, thinking)
        text = whole[: thinking.end(whole, request.until, state)]
        parts = thinking.split(text, state)
        close = self._vocabulary.get(thinking.close)
        counts = thinking.counts(ids, whole, lambda some: self.decode(some, thinking), state, close)
        return Completion(request, ids, text, finish, parts.reasoning, parts.answer, *counts)


class Watch:
    """Searches one answer for stop strings as its tokens arrive."""

    def __init__(self, engine: Engine, request: Request) -> None:
        from tokenizers.decoders import DecodeStream

        self._request = request
        self._backend = engine.tokenizer.backend_tokenizer
        self._skip = engine.dropped(request.thinking)
        self._stream = DecodeStream(skip_special_tokens=False)
        self._text = ""

    def ended(self, token: int) -> bool:
        """Whether this token completes a stop string."""
        if token in self._skip or not (piece := self._stream.step(self._backend, token)):
            return False
        self._text += piece
        request = self._request
        return request.thinking.end(self._text, request.until, request.state) is not None
