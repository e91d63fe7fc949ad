"""Texts from the values of a column: a text, a list of texts, or the messages of a chat.

Chats come as lists of messages with `role` and `content`, or `from` and `value` (ShareGPT). Reasoning stands
in a field of the answer, or between tags in it. Students are asked single questions, so that conversations of
several turns and system messages are refused unless the study says what becomes of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jobs.text.thinking import Thinking

USER, ASSISTANT, SYSTEM = "user", "assistant", "system"
ROLES = {
    "user": USER, "human": USER, "assistant": ASSISTANT, "gpt": ASSISTANT, "model": ASSISTANT,
    "system": SYSTEM, "developer": SYSTEM,
}  # fmt: skip
KEYS = (("role", "content"), ("from", "value"))
REASONING = ("reasoning_content", "reasoning", "thinking")
PAIR_COLUMNS = ("prompt", "reasoning", "ift")
NONE = Thinking("", "")
REFERENCE = "reference"  # a part that may be a number, too
TURNS, CUT_SYSTEM = "turns", "system"  # what may be left out of a row


@dataclass(frozen=True)
class Reading:
    """How rows of a source become a prompt and its answers.

    Args:
        columns: Names of the columns, by what is read from them: prompt, reasoning, ift.
        thinking: Tags in which reasoning from a field is written.
        turns: "first": longer conversations are cut to their first question and its answer.
        system: "ignore": system messages are left out.
    """

    columns: Mapping[str, str]
    thinking: Thinking = NONE
    turns: str | None = None
    system: str | None = None

    @classmethod
    def of(cls, how: Reading | Sequence[str]) -> Reading:
        """Return a reading, or build one of columns by name."""
        return how if isinstance(how, Reading) else cls({name: name for name in how})

    @classmethod
    def of_prompts(cls, spec: Mapping[str, Any]) -> Reading:
        """Build from an entry of a unit's `prompts`."""
        return cls({"prompt": spec["column"]}, turns=spec.get("turns"), system=spec.get("system"))

    @classmethod
    def of_pairs(cls, spec: Mapping[str, Any], thinking: Thinking) -> Reading:
        """Build from an entry of a unit's `pairs`."""
        columns = {name: name for name in PAIR_COLUMNS} | (spec.get("columns") or {})
        return cls(columns, thinking, spec.get("turns"), spec.get("system"))

    @classmethod
    def of_references(cls, spec: Mapping[str, Any], are_pairs: bool) -> Reading:
        """Build for the prompts of a source and their reference answers, in the column `reference`."""
        of = cls.of_pairs(spec, NONE) if are_pairs else cls.of_prompts(spec)
        return replace(of, columns={"prompt": of.columns["prompt"], REFERENCE: spec["reference"]})

    @property
    def names(self) -> list[str]:
        """The columns, each once."""
        return list(dict.fromkeys(self.columns.values()))


def texts_of(where: str, row: Mapping[str, Any], how: Reading) -> tuple[list[str | None], set[str]]:
    """Return a row's texts, in the order of the reading's columns, None where the row has none.

    Args:
        where: File and line, for errors.

    Returns:
        The texts, and what was left out of the row: TURNS, CUT_SYSTEM.

    Raises:
        ValueError: A value is neither text nor a chat that can be read, or cannot be encoded as UTF-8.
    """
    found, cut = list[str | None](), set[str]()
    for part, column in how.columns.items():
        value = row.get(column)
        if part == REFERENCE and type(value) in (int, float):
            value = str(value)
        if value is not None and not isinstance(value, str):
            try:
                value, left_out = _text(value, part, how)
            except ValueError as error:
                raise ValueError(f"{where}: column {column!r} {error}") from None
            cut |= left_out
        if value is not None and not value.isascii():
            _check_encoding(where, column, value)
        found.append(value)
    return found, cut


def _check_encoding(where: str, column: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        words = f"column {column!r} holds half of a surrogate pair, \\u{ord(text[error.start]):04x}"
        raise ValueError(f"{where}: {words}: remove it") from None


def _text(value: Any, part: str, how: Reading) -> tuple[str | None, set[str]]:
    """Return the text of a list: its first text, or what its messages say as a prompt or an answer."""
    if not isinstance(value, list):
        raise ValueError(f"must hold text or messages, and holds a {type(value).__name__}")
    items = [item for item in value if item is not None]
    if all(isinstance(item, str) for item in items):
        return (items[0] if items else None), set()
    return _of_chat([_message(item) for item in items], part, how)


def _message(item: Any) -> tuple[str, str, str]:
    """Return a message's role, text and reasoning."""
    role, content = next(
        (keys for keys in KEYS if isinstance(item, dict) and set(keys) <= item.keys()), KEYS[0]
    )
    if not isinstance(item, dict) or role not in item:
        raise ValueError("holds a list of something else than messages with 'role' and 'content'")
    name = ROLES.get(str(item[role]))
    if name is None:
        raise ValueError(f"holds a message of the role {item[role]!r}; read are {', '.join(ROLES)}")
    reasoning = next((item[key] for key in REASONING if isinstance(item.get(key), str)), "")
    return name, _content(item.get(content)), reasoning


def _content(value: Any) -> str:
    """Return the text of a message's content, which may be a list of parts."""
    if value is None or isinstance(value, str):
        return value or ""
    parts = [part for part in value if part is not None] if isinstance(value, list) else [value]
    texts = [
        part["text"] if isinstance(part, dict) and part.get("type") == "text" else part for part in parts
    ]
    if wrong := [part for part in texts if not isinstance(part, str)]:
        kind = wrong[0].get("type") if isinstance(wrong[0], dict) else type(wrong[0]).__name__
        raise ValueError(f"holds a message with a part of the type {kind}, and only text can be learned")
    return "".join(texts)


def _of_chat(messages: list[tuple[str, str, str]], part: str, how: Reading) -> tuple[str | None, set[str]]:
    """Return the first question of a chat, or the answer to it."""
    cut = set[str]()
    if any(role == SYSTEM and text.strip() for role, text, _ in messages):
        if how.system != "ignore":
            raise ValueError(
                "holds a system message, and students are asked without one: 'system: ignore' leaves it out"
            )
        cut.add(CUT_SYSTEM)
    turns = [message for message in messages if message[0] != SYSTEM]
    if turns and turns[0][0] != USER:
        raise ValueError("holds a chat that does not begin with the user")
    questions = [place for place, (role, _, _) in enumerate(turns) if role == USER]
    if len(questions) > 1:
        if how.turns != "first":
            words = "'turns: first' takes the first question and its answer"
            raise ValueError(f"holds a chat of {len(questions)} turns: {words}")
        cut.add(TURNS)
    first = turns[: questions[1]] if len(questions) > 1 else turns
    if part == "prompt":
        return (first[0][1] if first else None), cut
    _, text, reasoning = first[1] if len(first) > 1 else (ASSISTANT, None, "")
    if text is not None and reasoning.strip() and part == "reasoning":
        text = how.thinking.written(reasoning.strip("\n"), text)
    return text, cut
