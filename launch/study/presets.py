"""YAML files -> frozen schemas: what study files, cluster files and those of configs/ have in common.

Every mistake is reported with file, line, column, key, what was found and what is allowed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
)

from jobs.core.paths import DATA
from launch.study.textfile import UNSHOWABLE, Position, Unusable, read_text, showable
from launch.study.yamlfile import Document, parse_yaml

CONFIGS = DATA / "configs"
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")
SHOWN = 80  # characters of a value in a message


@dataclass(frozen=True)
class Mistake:
    """A mistake in a file, with its line and column if known."""

    file: Path
    key: str
    message: str
    at: Position | None = None

    def __str__(self) -> str:
        where = f"{self.file}:{self.at}" if self.at else str(self.file)
        return showable(": ".join(filter(None, (where, self.key, self.message))))


class StudyError(ValueError):
    """All mistakes in a study and the files it names."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        self.mistakes = mistakes
        super().__init__("\n".join(str(m) for m in mistakes))


class Strict(BaseModel):
    """Base of frozen schemas that reject unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


def is_file_name(name: str) -> bool:
    """Return whether a name means a file, not one in configs/."""
    return name.endswith((".yaml", ".yml"))


def listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _word(value: Any) -> Any:
    if not (isinstance(value, str) and WORD.fullmatch(value)):
        allowed = "up to 60 of A-Z, a-z, 0-9, '.', '_' and '-', the first a letter or a digit"
        found = shown(value)
        raise ValueError(f"found {found}; {allowed}. It is the file's name unless that says 'name: …'")
    return value


def _number(value: Any) -> Any:
    """Reject booleans and strings, which pydantic would accept as numbers."""
    if isinstance(value, bool | str):
        raise ValueError(f"found {shown(value)}; a number is needed, without quotes")
    return value


def _one_line(value: str) -> str:
    if UNSHOWABLE.search(value):
        raise ValueError(f"found {shown(value)}; line breaks and control characters are not possible here")
    return value


def shown(value: Any) -> str:
    """Format a value for a message."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


Name = Annotated[
    str, BeforeValidator(_word), WithJsonSchema({"type": "string", "pattern": f"^{WORD.pattern}$"})
]
Text = Annotated[str, AfterValidator(_one_line), Field(min_length=1)]  # one nonempty line
Whole = Annotated[int, BeforeValidator(_number)]
Real = Annotated[float, BeforeValidator(_number)]
Count = Annotated[Whole, Field(gt=0, le=10**12)]
Positive = Annotated[Real, Field(gt=0)]
T = TypeVar("T")
S = TypeVar("S", bound=Strict)
OneOrMore = Annotated[tuple[T, ...], BeforeValidator(listed), Field(min_length=1)]


def known_names(folder: str) -> list[str]:
    """Return the names of the presets in a folder of configs/."""
    return sorted(path.stem for path in (CONFIGS / folder).glob("[!.]*.yaml"))


def read_yaml(file: Path) -> Document:
    """Read a YAML mapping; "name" defaults to the file's name.

    Raises:
        StudyError: the file holds no mapping.
    """
    try:
        document = parse_yaml(read_text(file))
    except Unusable as error:
        raise StudyError([Mistake(file, ".".join(error.key), error.message, error.at)]) from None
    return replace(document, data={"name": file.stem, **document.data})


def validate(schema: type[S], document: Document, file: Path) -> S:
    """Validate the data of a file as `schema`.

    Raises:
        StudyError: with every mistake.
    """
    try:
        return schema.model_validate(document.data)
    except ValidationError as error:
        mistakes, found = [], error.errors(include_url=False)
        for wrong in found:
            size = len(wrong["loc"])
            if wrong["type"] == "too_short" and any(
                e["loc"][:size] == wrong["loc"] != e["loc"] for e in found
            ):
                continue  # only because its items are wrong
            place = document.place(wrong["loc"])
            message = _in_words(schema, wrong) + _quotes_needed(wrong, document.words.get(place))
            mistakes.append(Mistake(file, document.key(wrong["loc"]), message, document.positions.get(place)))
        raise StudyError(mistakes) from None


def located(mistakes: Iterable[Mistake], document: Document, file: Path) -> list[Mistake]:
    """Return the mistakes, those of this file with their keys as in the file and the positions of these."""
    found = []
    for mistake in mistakes:
        if mistake.file == file and not mistake.at:
            keys = mistake.key.split(".")
            mistake = replace(mistake, key=document.key(keys), at=document.position(keys))
        found.append(mistake)
    return found


def _quotes_needed(wrong: Any, word: str | None) -> str:
    """Return what to add to a message if YAML did not read a value as the text it was meant to be."""
    found = wrong["input"]
    if word is not None and isinstance(found, bool):
        return f" (YAML reads {word} as {str(found).lower()}: put quotes around a text)"
    if wrong["type"] == "string_type" and isinstance(found, bool | int | float):
        return " (put quotes around it)"
    return ""


def _in_words(schema: type[BaseModel], error: Any) -> str:
    """Describe a pydantic error for the file's author: what was found, what is allowed."""
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
    return f"found {shown(found)}; {message[0].lower()}{message[1:]}"


def _fields_at(schema: type[BaseModel], location: tuple[Any, ...]) -> tuple[str, ...]:
    """Return the keys that the schema allows at a location."""
    at: Any = schema
    for part in location:
        if isinstance(part, int):
            continue
        annotation = at.model_fields[part].annotation
        at = next((m for m in models_in(annotation)), None)
        if at is None:
            return ()
    return tuple(at.model_fields)


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the models that an annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for arg in getattr(annotation, "__args__", ()) for m in models_in(arg)]
