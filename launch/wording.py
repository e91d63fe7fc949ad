"""Validation errors of pydantic, in words for whoever wrote the file: what was found, what is allowed."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import BaseModel


def in_words(schema: type[BaseModel], error: Any) -> str:
    """One validation error, as what was found and what is allowed.

    Args:
        schema: what was validated against.
        error: one of pydantic's `errors()`.
    """
    found = error["input"]
    if error["type"] == "extra_forbidden":
        known = list(_fields_at(schema, error["loc"][:-1]))
        near = difflib.get_close_matches(str(error["loc"][-1]), known, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"unknown key; {hint}allowed are {', '.join(known)}"
    if error["type"] == "missing":
        return "is missing"
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "value_error":
        return message
    return f"found {found!r}; {message[0].lower()}{message[1:]}"


def _fields_at(schema: type[BaseModel], location: tuple[Any, ...]) -> tuple[str, ...]:
    """The keys that the schema allows at a place in it."""
    at: Any = schema
    for part in location:
        if isinstance(part, int):
            continue
        annotation = at.model_fields[part].annotation
        at = next((m for m in _models_in(annotation)), None)
        if at is None:
            return ()
    return tuple(at.model_fields)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for arg in getattr(annotation, "__args__", ()) for m in _models_in(arg)]
