"""Prompt rendering and the text that a model must write after it: the only use of chat templates.

Generation, training and evaluation all render prompts through a `Chat`, so a student is asked as it was
trained, and all three know whether the prompt leaves the thinking open. Faulty templates, after which no row
can be correct, are detected by rendering one question, before any token is computed and without transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from jobs.text.thinking import State, Thinking

Message = Mapping[str, Any]
Render = Callable[..., str]  # messages, add_generation_prompt and the template's own options -> text
NONE = Thinking("", "")
# Some templates write the current date. Prompts of training and evaluation must not differ by it, nor may
# results depend on the day they were made.
DATE = datetime(2025, 1, 1)
Q, A = "sor-question", "sor-answer"  # contains nothing that templates look for
QUESTION, ANSWER = {"role": "user", "content": Q}, {"role": "assistant", "content": A}
# Tags with which known model families mark their thinking.
KNOWN_TAGS = (
    ("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"), ("<reasoning>", "</reasoning>"), ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"), ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel>thought", "<channel|>"),
)  # fmt: skip


@dataclass(frozen=True)
class Chat:
    """A model's chat template with its thinking tags.

    Args:
        render: The template.
        name: The tokenizer's name, for messages.
        eos: End-of-sequence token, used if the template writes nothing after a turn.
        options: Additional template variables, such as enable_thinking.
    """

    render: Render
    thinking: Thinking = NONE
    name: str = "the model"
    eos: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, tokenizer: Any, thinking: Thinking = NONE, options: Mapping[str, Any] | None = None) -> Chat:
        """Return the chat of a transformers tokenizer.

        Raises:
            ValueError: The tokenizer has no chat template.
        """
        name = str(tokenizer.name_or_path) or "the model"
        if tokenizer.chat_template is None:
            raise ValueError(f"{name}: its tokenizer has no chat template")

        def render(messages: Sequence[Message], **more: Any) -> str:
            return str(tokenizer.apply_chat_template(list(messages), tokenize=False, **more))

        return cls(render, thinking, name, str(tokenizer.eos_token or ""), dict(options or {}))

    def prompt(self, messages: Sequence[Message]) -> str:
        """Render a conversation up to where the model is to write.

        A final assistant message is the beginning of the answer: it is placed after the thinking.
        """
        *before, last = messages
        if last["role"] == "assistant" and before:
            asked = self.prompt(before)
            return asked + self.thinking.shut(asked) + str(last["content"])
        return self._render(messages, add_generation_prompt=True)

    def ask(self, question: str) -> str:
        """Render the prompt for a question."""
        return self.prompt([{"role": "user", "content": question}])

    @cached_property
    def state(self) -> State:
        """State in which the template leaves the thinking after a question that contains no switch."""
        return self.thinking.state(self.ask(Q))

    @cached_property
    def end(self) -> str:
        """Text with which the template ends an assistant turn, such as <|im_end|>."""
        return self._told.rpartition(A)[2].strip() or self.eos

    def student_fault(self) -> str:
        """Return why this template rules out learning plain answers and reasoning; empty if it does not."""
        fault = self._fault(answers=True)
        if not fault and self.state == "closed":
            fault = (
                f"ends a question with {self._tail!r}, which closes the thinking: no reasoning can follow. "
                "Give the student's preset a 'tokenizer' (a folder, or a name on the hub) whose template "
                "leaves the thinking to the model, or opens it"
            )
        return self._sentence(fault)

    def teacher_fault(self, mode: str) -> str:
        """Return why a teacher cannot answer in this mode with this template; empty if it can."""
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
        """Text that the template writes after a question."""
        return self.ask(Q).rpartition(Q)[2]

    def _fault(self, answers: bool) -> str:
        """Return what is wrong with the template; with `answers`, it must also render given answers."""
        try:
            tail, told = self._tail, self._told if answers else self._told_or_nothing()
        except Exception as error:  # templates raise anything: TemplateError, TypeError …
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
        """Like `_told`, but empty if the template cannot render an answer, which a teacher does not need."""
        try:
            return self._told
        except Exception:
            return ""

    def _difference(self, told: str) -> str:
        """Return how a given answer's position differs from the generation prompt; empty if it does not."""
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
