"""Prompts and answers as the text and the tokens that a student is asked and must write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.text.chat import Chat


@dataclass(frozen=True)
class Row:
    """A prompt and its answer as token IDs, and whether the answer has reasoning."""

    prompt: Sequence[int]
    answer: Sequence[int]
    reasoned: bool = False

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


def written(chat: Chat, reasoning: str, answer: str, asked: str) -> str:
    """Return what a student must write after a rendered prompt, including the end of turn."""
    return chat.thinking.written(reasoning, answer, asked) + chat.end


def token_ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Return the tokens of texts, without those that a tokenizer puts around a text of its own accord."""
    if not texts:
        return []
    found: list[list[int]] = tokenizer(texts, add_special_tokens=False, return_attention_mask=False)[
        "input_ids"
    ]
    return found


def encode(
    tokenizer: Any, chat: Chat, prompts: list[str], reasoning: list[str], answers: list[str]
) -> Iterator[Row]:
    """Encode prompts as a student is asked and answers as it must write them.

    Prompt and answer are tokenized separately, as at inference.

    Args:
        reasoning: Reasoning of each answer; empty for none.
    """
    asked = [chat.ask(prompt) for prompt in prompts]
    parts = zip(reasoning, answers, asked, strict=True)
    answered = [written(chat, thought, answer, prompt) for thought, answer, prompt in parts]
    ids = token_ids(tokenizer, asked + answered)
    rows = zip(ids[: len(asked)], ids[len(asked) :], map(bool, reasoning), strict=True)
    yield from (Row(*row) for row in rows)
