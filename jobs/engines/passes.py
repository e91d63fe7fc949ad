"""Answers that are made in several passes: a budget for the thinking, and a larger cap for what was cut off.

A pass continues from the tokens of those before it. At the end of its budget, a thinking is closed by words
that the model is told to have written, and the answer follows (as in Qwen3's technical report).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from jobs.engines.base import Completion, Engine, Request, Tick

CLOSING = (
    "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking "
    "directly now.\n{close}\n\n"
)


@dataclass(frozen=True)
class Limits:
    """Limits of an answer besides its `max_tokens`; None: there is no such limit, or no further pass."""

    thinking: int | None = None  # tokens after which a thinking is closed
    retry: int | None = None  # tokens of an answer, at most, that did not end within max_tokens

    @classmethod
    def of(cls, mode: dict[str, Any]) -> Limits:
        """Read the limits from a mode's settings."""
        return cls(mode.get("thinking_tokens"), (mode.get("retry") or {}).get("max_tokens"))


@dataclass
class _Answer:
    """An answer in the making."""

    request: Request  # as it was asked for
    limits: Limits
    ids: list[int] = field(default_factory=list)  # so far
    passes: list[tuple[int, int]] = field(default_factory=list)  # tokens of the prompt, and generated
    budgeted: bool = False  # whether the pass that the thinking's budget limits is over
    cut: bool = False  # whether its thinking was closed for the model
    retried: bool = False


class Passes:
    """Draws requests for an engine, and continues answers that are not complete.

    Args:
        limits: Returns the limits of a request.
    """

    def __init__(
        self, engine: Engine, requests: Iterator[Request], limits: Callable[[Request], Limits]
    ) -> None:
        self._engine, self._requests, self._limits = engine, requests, limits
        self._making: dict[Any, _Answer] = {}
        self._next = deque[Request]()

    def generate(self, tick: Tick) -> Iterator[Completion]:
        """Yield complete answers as they finish; see `Engine.generate`."""
        for part in self._engine.generate(self, tick):
            if (whole := self._continued(part)) is not None:
                yield whole

    def __iter__(self) -> Iterator[Request]:
        return self

    def __next__(self) -> Request:
        if self._next:
            return self._next.popleft()
        request = next(self._requests)
        limits = self._limits(request)
        if limits != Limits():
            if not self._engine.continues:
                raise ValueError(
                    f"{self._engine.name}: a chat's answer cannot be continued: leave out thinking_tokens "
                    "and retry, or set 'prompt: tokens' in 'serving', where the endpoint has /completions"
                )
            self._making[request.key] = _Answer(request, limits)
        first = request.max_tokens if limits.thinking is None else min(request.max_tokens, limits.thinking)
        return replace(request, max_tokens=first) if first < request.max_tokens else request

    def _continued(self, part: Completion) -> Completion | None:
        """Return the answer if it is complete; else continue it."""
        answer = self._making.get(part.request.key)
        if answer is None:
            return part
        answer.ids += part.ids
        answer.passes.append((len(part.request.prompt), len(part.ids)))
        most = answer.request.max_tokens
        if part.finish == "length":
            if answer.limits.thinking is not None and not answer.budgeted:
                answer.budgeted = True
                self._close_thinking(answer)
            if len(answer.ids) >= most and answer.limits.retry:
                answer.retried = True
            if answer.retried:
                most = min(answer.limits.retry or 0, self._engine.max_length - len(answer.request.prompt))
            if len(answer.ids) < most:
                self._next.append(self._rest(answer, most))
                return None
        del self._making[part.request.key]
        if len(answer.passes) == 1 and not answer.cut:
            return replace(part, request=answer.request)
        whole = self._engine.completion(answer.request, answer.ids, part.finish)
        passes = tuple(answer.passes)
        return replace(whole, passes=passes, thinking_cut=answer.cut, retried=answer.retried)

    def _close_thinking(self, answer: _Answer) -> None:
        request, engine = answer.request, self._engine
        thinking = request.thinking
        parts = thinking.split(engine.decode(answer.ids, thinking), request.state)
        if thinking.close and not parts.closed and (parts.reasoning or request.state == "open"):
            answer.ids += engine.encode(CLOSING.format(close=thinking.close))
            answer.cut = True

    def _rest(self, answer: _Answer, most: int) -> Request:
        """Return the request for what follows an answer's tokens so far."""
        request, made = answer.request, len(answer.passes)
        seed = None if request.seed is None else (request.seed + made) % 2**31  # not the same draws again
        return replace(
            request, prompt=request.prompt + answer.ids, max_tokens=most - len(answer.ids), seed=seed
        )
