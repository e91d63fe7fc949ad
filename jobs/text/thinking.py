"""Where the thinking of an answer ends and the answer proper begins. Pure text and numbers, no models.

A thinking answer reads "<think>\\nREASONING\\n</think>\\n\\nANSWER". A chat template may have written a part
of that into the prompt: the open tag, or a whole empty thinking. What the model writes then lacks that part,
so every function here is told the `State` in which the prompt leaves the thinking.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

# What a rendered prompt leaves to the model: free, to think or not; open, inside a thinking that the prompt
# began; closed, after a thinking that the prompt ended.
State = Literal["free", "open", "closed"]


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

    def state(self, prompt: str) -> State:
        """In which state the end of a rendered prompt leaves the thinking."""
        end = prompt.rstrip()
        if self.open and end.endswith(self.open):
            return "open"
        return "closed" if self.close and end.endswith(self.close) else "free"

    def split(self, text: str, state: State = "free") -> Parts:
        """Reasoning and answer of a generated text, without the tags and the line breaks around them.

        A text that never thinks is all answer, to the letter. Thinking that never ends is all reasoning. Tags
        that are left in a part are stray; see `stray`.
        """
        if not self.close or state == "closed":
            return Parts("", text, True)
        before, close, after = text.partition(self.close)
        begun = before.lstrip()
        if state == "free" and not close and not begun.startswith(self.open):
            return Parts("", text, False)
        reasoning = (begun.removeprefix(self.open) if state == "free" else before).strip("\n")
        return Parts(reasoning, after.lstrip("\n"), bool(close))

    def stray(self, *parts: str) -> bool:
        """Whether a tag stands inside parts of an answer: it was doubled, or belongs to no thinking."""
        return any(tag and tag in part for part in parts for tag in (self.open, self.close))

    def written(self, reasoning: str, answer: str, prompt: str = "") -> str:
        """What a model must write after `prompt` to give this answer; the reverse of `split`.

        Where the prompt leaves the thinking open, an answer without reasoning closes it at once.

        Args:
            reasoning: empty for an answer without reasoning; it cannot follow a thinking that was closed.
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
        """What ends the thinking that a prompt leaves open, as an answer without reasoning begins."""
        return self.written("", "", prompt) if self.state(prompt) == "open" else ""

    def end(self, text: str, until: Sequence[str], state: State = "free") -> int | None:
        """Where in `text` the first stop string of its answer begins, or None. Thinking never stops it."""
        parts = self.split(text, state)
        if not parts.closed and (parts.reasoning or state == "open"):
            return None
        start = len(text) - len(parts.answer)
        found = [at for stop in until if stop and (at := text.find(stop, start)) >= 0]
        return min(found, default=None)

    def counts(
        self, ids: Sequence[int], decode: Callable[[Sequence[int]], str], state: State = "free"
    ) -> tuple[int, int]:
        """How many of an answer's tokens are thinking (tags included) and how many are answer.

        Args:
            ids: the generated tokens.
            decode: tokens to text, the tags kept.
        """
        parts = self.split(decode(ids), state)
        if not self.close or state == "closed" or not (parts.closed or parts.reasoning):
            return 0, len(ids)
        if not parts.closed:
            return len(ids), 0
        # The shortest prefix that holds the closing tag: its tokens may be one, or one a letter.
        end = bisect_left(range(len(ids) + 1), True, key=lambda n: self.close in decode(ids[:n]))
        return end, len(ids) - end
