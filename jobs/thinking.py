"""Where the thinking of an answer ends and the answer proper begins. Pure text and numbers, no models.

A thinking answer reads "<think>\\nREASONING\\n</think>\\n\\nANSWER". A chat template may have put the open
tag at the end of the prompt already; then the text lacks it, which a caller says with `opened`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Parts(NamedTuple):
    """An answer taken apart; `closed` says whether its thinking came to an end."""

    reasoning: str
    answer: str
    closed: bool


@dataclass(frozen=True)
class Thinking:
    """The tags around a model's thinking; both empty for a model that marks none."""

    open: str
    close: str

    @classmethod
    def of(cls, config: dict[str, str] | None) -> Thinking:
        """From a study's `thinking`; None is a model that marks none."""
        return cls(config["open"], config["close"]) if config else cls("", "")

    def opened(self, prompt: str) -> bool:
        """Whether a rendered prompt ends inside the thinking."""
        return bool(self.open) and prompt.rstrip().endswith(self.open)

    def split(self, text: str, opened: bool = False) -> Parts:
        """Reasoning and answer of a generated text, without the tags and the line breaks around them.

        A text that never thinks is all answer, to the letter. Thinking that never ends is all reasoning.
        """
        if not self.close:
            return Parts("", text, True)
        before, close, after = text.partition(self.close)
        inside = opened or before.lstrip().startswith(self.open)
        if not close and not inside:
            return Parts("", text, False)
        reasoning = before.lstrip().removeprefix(self.open).strip("\n")
        return Parts(reasoning, after.lstrip("\n"), bool(close))

    def end(self, text: str, until: Sequence[str], opened: bool = False) -> int | None:
        """Where in `text` the first stop string of its answer begins, or None. Thinking never stops it."""
        parts = self.split(text, opened)
        if not parts.closed and parts.reasoning:
            return None
        start = len(text) - len(parts.answer)
        found = [at for stop in until if stop and (at := text.find(stop, start)) >= 0]
        return min(found, default=None)

    def counts(
        self, ids: Sequence[int], decode: Callable[[Sequence[int]], str], opened: bool = False
    ) -> tuple[int, int]:
        """How many of an answer's tokens are thinking (tags included) and how many are answer.

        Args:
            ids: the generated tokens.
            decode: tokens to text, the tags kept.
        """
        text = decode(ids)
        parts = self.split(text, opened)
        if not self.close or not (parts.closed or parts.reasoning):
            return 0, len(ids)
        if not parts.closed:
            return len(ids), 0
        # The shortest prefix that holds the closing tag: its tokens may be one, or one a letter.
        end = bisect_left(range(len(ids) + 1), True, key=lambda n: self.close in decode(ids[:n]))
        return end, len(ids) - end


def join(reasoning: str, answer: str, open: str = "<think>", close: str = "</think>") -> str:
    """The text of a thinking answer, from its parts; the reverse of `Thinking.split`."""
    return f"{open}\n{reasoning}\n{close}\n\n{answer}"
