"""Split answers into thinking and answer proper. Text and numbers only, no models.

A thinking answer reads "<think>\\nREASONING\\n</think>\\n\\nANSWER". A chat template may already have written
part of that into the prompt: the opening tag, or a whole empty thinking. The model's output then lacks that
part, so every function here takes the `State` in which the prompt leaves the thinking.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

# What a rendered prompt leaves to the model: free (may think or not), open (inside a thinking that the prompt
# began) or closed (after a thinking that the prompt ended).
State = Literal["free", "open", "closed"]


class Parts(NamedTuple):
    """Parts of an answer; `closed` says whether its thinking ended."""

    reasoning: str
    answer: str
    closed: bool


@dataclass(frozen=True)
class Thinking:
    """The tags around a model's thinking; both empty for a model without tags."""

    open: str
    close: str

    @classmethod
    def of(cls, config: dict[str, str] | None) -> Thinking:
        """Build from a study's `thinking`; None means a model without tags."""
        return cls(config["open"], config["close"]) if config else cls("", "")

    def state(self, prompt: str) -> State:
        """Return the state in which the end of a rendered prompt leaves the thinking."""
        end = prompt.rstrip()
        if self.open and end.endswith(self.open):
            return "open"
        return "closed" if self.close and end.endswith(self.close) else "free"

    def split(self, text: str, state: State = "free") -> Parts:
        """Split a generated text into reasoning and answer, without tags and adjacent line breaks.

        Text without thinking is all answer, verbatim. Unclosed thinking is all reasoning. Tags left in a part
        are stray; see `stray`.
        """
        if not self.close or state == "closed":
            return Parts("", text, True)
        before, close, after = text.partition(self.close)
        reasoned = before.lstrip()
        if state == "free" and not close and not reasoned.startswith(self.open):
            return Parts("", text, False)
        reasoning = (reasoned.removeprefix(self.open) if state == "free" else before).strip("\n")
        return Parts(reasoning, after.lstrip("\n"), bool(close))

    def stray(self, *parts: str) -> bool:
        """Whether a tag occurs inside parts of an answer: duplicated, or without a matching tag."""
        return any(tag and tag in part for part in parts for tag in (self.open, self.close))

    def written(self, reasoning: str, answer: str, prompt: str = "") -> str:
        """Return what a model must write after `prompt` to give this answer; the inverse of `split`.

        If the prompt leaves the thinking open, an answer without reasoning closes the thinking immediately.

        Args:
            reasoning: Empty for an answer without reasoning; must be empty if the prompt closed the thinking.
        """
        state = self.state(prompt)
        assert not (reasoning and state == "closed"), "a second thinking"
        if not self.close:
            return f"{reasoning}\n\n{answer}" if reasoning else answer
        if state == "open":
            line = "" if prompt.endswith("\n") else "\n"
            return f"{line}{reasoning}\n{self.close}\n\n{answer}"
        return f"{self.open}\n{reasoning}\n{self.close}\n\n{answer}" if reasoning else answer

    def shut(self, prompt: str) -> str:
        """Return the text that closes a thinking left open by the prompt; empty if it is not open."""
        return self.written("", "", prompt) if self.state(prompt) == "open" else ""

    def end(self, text: str, until: Sequence[str], state: State = "free") -> int | None:
        """Return where the answer's first stop string begins in `text`, or None; thinking is not searched."""
        parts = self.split(text, state)
        if not parts.closed and (parts.reasoning or state == "open"):
            return None
        start = len(text) - len(parts.answer)
        found = [at for stop in until if stop and (at := text.find(stop, start)) >= 0]
        return min(found, default=None)

    def counts(
        self,
        ids: Sequence[int],
        text: str,
        decode: Callable[[Sequence[int]], str],
        state: State = "free",
        mark: int | None = None,
    ) -> tuple[int, int]:
        """Count an answer's thinking tokens (tags included) and its answer tokens.

        Args:
            ids: The generated tokens.
            text: All of them as text.
            decode: Converts tokens to text, keeping the tags.
            mark: The token that is the closing tag, if there is one.
        """
        parts = self.split(text, state)
        if not self.close or state == "closed" or not (parts.closed or parts.reasoning):
            return 0, len(ids)
        if not parts.closed:
            return len(ids), 0
        if mark in ids and self.close not in decode(ids[: (end := ids.index(mark))]):
            return end + 1, len(ids) - end - 1
        # Find the shortest prefix that contains the closing tag, which may be one token per character.
        end = bisect_left(range(len(ids) + 1), True, key=lambda n: self.close in decode(ids[:n]))
        return end, len(ids) - end
