"""How answers are sampled: keys of a study's modes, and of a group of benchmarks."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from launch.study.presets import Count, Real, Strict, Whole

# Minus zero becomes zero: otherwise one share would have two names.
Share = Annotated[Real, Field(ge=0, le=1), AfterValidator(lambda share: share + 0.0)]
Penalty = Annotated[Real, Field(ge=-2, le=2)]


class Sampling(Strict):
    """How tokens are sampled."""

    temperature: Annotated[Real, Field(ge=0)] = 0.0
    """Temperature; 0 takes the likeliest token. Example: `0.6`."""
    top_p: Annotated[Real, Field(gt=0, le=1)] = 1.0
    """Probability mass of the likeliest tokens that are sampled from. Example: `0.95`."""
    top_k: Annotated[Whole, Field(ge=-1)] = -1
    """Likeliest tokens that are sampled from; -1 or 0: all. Example: `20`."""
    min_p: Share | None = None
    """Share of the likeliest token's probability below which tokens are left out; without it, none are.
    Example: `0.05`."""
    presence_penalty: Penalty | None = None
    """Subtracted from the logits of tokens that the answer already has. Example: `1.5`."""
    frequency_penalty: Penalty | None = None
    """Subtracted from the logit of a token for each time that the answer has it."""
    repetition_penalty: Annotated[Real, Field(gt=0, le=2)] | None = None
    """Divides the positive logits of tokens that the prompt or the answer has, and multiplies negative ones.
    Example: `1.05`."""

    @model_serializer(mode="wrap")
    def _given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is not set: units keep their identity when there is a new key."""
        return {
            key: value for key, value in handler(self).items() if value is not None and value is not False
        }


class Retry(Strict):
    """Another pass for answers that were cut off: it continues them."""

    max_tokens: Count
    """Tokens of such an answer, at most, those of its first pass included. Example: `32768`."""


class Mode(Sampling):
    """One of the teacher's two answer modes: chat template arguments and sampling."""

    chat_template_kwargs: dict[str, Any]
    """Arguments of the teacher's chat template, which switch its thinking.
    Example: `{enable_thinking: true}`."""
    max_tokens: Count
    """Tokens of an answer, at most, its reasoning included. Example: `16384`."""
    seed_each: bool = False
    """Whether each answer is sampled with a seed of its own, so that it depends on its prompt alone as far as
    the engine can do that. It costs about a tenth of the speed; without it, the engine is seeded."""
    thinking_tokens: Count | None = None
    """Tokens after which a thinking is closed, in the words of Qwen3's report, and the answer asked for;
    without it, `max_tokens` is the only limit. Rows say `thinking_cut`. Example: `8192`."""
    retry: Retry | None = None
    """Another pass for answers that reach `max_tokens`. Rows say `retried`."""

    @model_validator(mode="after")
    def _rising(self) -> Mode:
        if self.thinking_tokens is not None and self.thinking_tokens >= self.max_tokens:
            raise ValueError(
                f"'thinking_tokens' is {self.thinking_tokens}, which leaves nothing of 'max_tokens: "
                f"{self.max_tokens}' for the answer"
            )
        if self.retry is not None and self.retry.max_tokens <= self.max_tokens:
            raise ValueError(
                f"'retry' continues answers that reach 'max_tokens: {self.max_tokens}' up to its own "
                f"'max_tokens', which is no more: {self.retry.max_tokens}"
            )
        return self


class Modes(Strict):
    """How the teacher is asked, without and with its reasoning."""

    ift: Mode
    """Plain answers (instruction fine-tuning data)."""
    reasoning: Mode
    """Answers with their reasoning."""
