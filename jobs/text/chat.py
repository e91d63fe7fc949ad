"""How a model is asked and what it must write then: the only place where a chat template is rendered.

Generation, training and evaluation all ask through a `Chat`, so that a student is asked as it was trained,
and all of them know whether the prompt leaves the thinking open. A template behind which no row can be right
is at fault, which shows by rendering a question: before any token is computed, and without transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from jobs.text.thinking import State, Thinking

Message = Mapping[str, Any]
Render = Callable[..., str]  # messages, add_generation_prompt and a template's own options -> text
NONE = Thinking("", "")
# Some templates write the date. Prompts of training and evaluation must not differ by it, nor a result by the
# day on which it was made.
DATE = datetime(2025, 1, 1)
Q, A = "sor-question", "sor-answer"  # nothing that a template looks for
QUESTION, ANSWER = {"role": "user", "content": Q}, {"role": "assistant", "content": A}
# How other families of models mark their thinking.
KNOWN_TAGS = (
    ("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"), ("<reasoning>", "</reasoning>"), ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"), ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel>thought", "<channel|>"),
)  # fmt: skip


@dataclass(frozen=True)
class Chat:
    """A model's chat template with the tags of its thinking.

    Args:
        render: the template.
        name: of the tokenizer, for messages.
        eos: its end-of-sequence token, which ends a turn where the template writes nothing after one.
        options: what the template is told besides, such as enable_thinking.
    """

    render: Render
    thinking: Thinking = NONE
    name: str = "the model"
    eos: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, tokenizer: Any, thinking: Thinking = NONE, options: Mapping[str, Any] | None = None) -> Chat:
        """The chat of a tokenizer of transformers.

        Raises:
            ValueError: it has no chat template.
        """
        name = str(tokenizer.name_or_path) or "the model"
        if tokenizer.chat_template is None:
            raise ValueError(f"{name}: its tokenizer has no chat template")

        def render(messages: Sequence[Message], **more: Any) -> str:
            return str(tokenizer.apply_chat_template(list(messages), tokenize=False, **more))

        return cls(render, thinking, name, str(tokenizer.eos_token or ""), dict(options or {}))

    def prompt(self, messages: Sequence[Message]) -> str:
        """A conversation up to where the model is to write.

        A last message of the assistant is the beginning of its answer: it comes after the thinking.
        """
        *before, last = messages
        if last["role"] == "assistant" and before:
            asked = self.prompt(before)
            return asked + self.thinking.shut(asked) + str(last["content"])
        return self._render(messages, add_generation_prompt=True)

    def ask(self, question: str) -> str:
        """The prompt for a question."""
        return self.prompt([{"role": "user", "content": question}])

    @cached_property
    def state(self) -> State:
        """In which state the template leaves the thinking after a question that switches nothing."""
        return self.thinking.state(self.ask(Q))

    @cached_property
    def end(self) -> str:
        """The text with which the template ends an assistant's turn, such as <|im_end|>."""
        return self._told.rpartition(A)[2].strip() or self.eos

    def student_fault(self) -> str:
        """Why a student cannot learn plain answers and reasoning behind this template; empty if it can."""
        fault = self._fault(answers=True)
        if not fault and self.state == "closed":
            fault = (
                f"ends a question with {self._tail!r}, which closes the thinking: no reasoning can follow. "
                "Give the student's preset a 'tokenizer' (a folder, or a name on the hub) whose template "
                "leaves the thinking to the model, or opens it"
            )
        return self._sentence(fault)

    def teacher_fault(self, mode: str) -> str:
        """Why a teacher cannot answer in this mode behind this template; empty if it can."""
        fault = self._fault(answers=False)
        if not fault and mode == "ift" and self.state == "open":
            fault = (
                f"opens the thinking ({self._tail!r}) in mode ift, too, whose answers are to be plain: "
                "switch the thinking off in modes.ift.chat_template_kwargs, take a teacher that can answer "
                "without, or give answers that exist as 'pairs'"
            )
        if not fault and mode == "reasoning" and self.state == "closed":
            fault = (
                f"closes the thinking ({self._tail!r}) in mode reasoning: switch the thinking on in "
                "modes.reasoning.chat_template_kwargs"
            )
        return self._sentence(fault)

    def _sentence(self, fault: str) -> str:
        return f"the chat template of {self.name} {fault}" if fault else ""

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        given = {"strftime_now": DATE.strftime, **self.options}
        return self.render(messages, add_generation_prompt=add_generation_prompt, **given)

    @cached_property
    def _told(self) -> str:
        return self._render([QUESTION, ANSWER], add_generation_prompt=False)

    @cached_property
    def _tail(self) -> str:
        """What the template writes after a question."""
        return self.ask(Q).rpartition(Q)[2]

    def _fault(self, answers: bool) -> str:
        """What is wrong with the template whatever is asked; with `answers` it must render these, too."""
        try:
            tail, told = self._tail, self._told if answers else self._told_or_nothing()
        except Exception as error:  # a template fails as it likes: TemplateError, TypeError …
            return f"cannot be rendered: {type(error).__name__}: {error}"
        own = (self.thinking.open, self.thinking.close)
        for tags in KNOWN_TAGS:
            if found := next((tag for tag in tags if tag in tail and tag not in own), None):
                return (
                    f"ends a question with {tail!r}; {found!r} marks thinking, for which the preset gives "
                    f"{' and '.join(map(repr, own))}. Set thinking: {{open: '{tags[0]}', close: '{tags[1]}'}}"
                )
        if self.thinking.open and tail.rfind(self.thinking.open) > tail.rfind(self.thinking.close):
            words = tail.rpartition(self.thinking.open)[2].strip()
            if words:
                return f"starts the thinking with words of its own, {words!r}, which no row of data has"
        return self._difference(told) if told else ""

    def _told_or_nothing(self) -> str:
        """As `_told`; empty where the template cannot render an answer, which a teacher never needs."""
        try:
            return self._told
        except Exception:
            return ""

    def _difference(self, told: str) -> str:
        """How a given answer stands elsewhere than where the template asks for one; empty if it does not."""
        if A not in told:
            return "leaves answers out"
        head = self.ask(Q).rstrip()
        for tag in (self.thinking.close, self.thinking.open):
            head = head.removesuffix(tag).rstrip()
        lead = told.removeprefix(head).rpartition(A)[0]
        for tag in filter(None, (self.thinking.open, self.thinking.close)):
            lead = lead.replace(tag, "")
        if told.startswith(head) and not lead.strip():
            return ""
        wrote = told.rpartition(Q)[2].partition(A)[0]
        return (
            f"ends a question with {self._tail!r} where it asks for an answer, and begins a given answer "
            f"with {wrote!r}: what a model must write after the first is not known"
        )
