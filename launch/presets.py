"""YAML files -> frozen schemas: what study and cluster files and those of configs/ have in common.

Every mistake is named in words, with file, key, what was found and what is allowed.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from jobs.paths import DATA

try:
    from yaml import CSafeLoader as SafeLoader  # ten times as fast
except ImportError:  # PyYAML was built without libyaml
    from yaml import SafeLoader  # type: ignore[assignment]

CONFIGS = DATA / "configs"
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")


@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong in a file."""

    file: Path
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}: {self.key}: {self.message}" if self.key else f"{self.file}: {self.message}"


class StudyError(ValueError):
    """Everything that is wrong in a study and the files it names."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        self.mistakes = mistakes
        super().__init__("\n".join(str(m) for m in mistakes))


class Strict(BaseModel):
    """Frozen, and any key that it does not know is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _word(value: Any) -> Any:
    if not (isinstance(value, str) and WORD.fullmatch(value)):
        allowed = "up to 60 of A-Z, a-z, 0-9, '.', '_' and '-', the first a letter or a digit"
        raise ValueError(f"found {value!r}; {allowed}. It is the file's name unless that says 'name: …'")
    return value


Name = Annotated[str, BeforeValidator(_word)]
Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]
T = TypeVar("T")
S = TypeVar("S", bound=Strict)
OneOrMore = Annotated[tuple[T, ...], BeforeValidator(listed), Field(min_length=1)]


class _Loader(SafeLoader):
    """YAML that reads 1e-5 as a number, as YAML 1.2 does and PyYAML does not."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def known_names(folder: str) -> list[str]:
    """The presets of a folder of configs/."""
    return sorted(path.stem for path in (CONFIGS / folder).glob("*.yaml"))


def read_yaml(file: Path) -> dict[str, Any]:
    """A YAML mapping; its "name" is the file's unless it gives one.

    Raises:
        StudyError: it is none.
    """
    try:
        data = yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except yaml.YAMLError as error:
        raise StudyError([Mistake(file, "", f"not YAML: {' '.join(str(error).split())}")]) from None
    if not isinstance(data, dict):
        raise StudyError([Mistake(file, "", f"a mapping of keys is needed, found {type(data).__name__}")])
    return {"name": file.stem, **data}


def validate(schema: type[S], data: dict[str, Any], file: Path) -> S:
    """The data of a file as `schema`.

    Raises:
        StudyError: with every mistake.
    """
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        raise StudyError([
            Mistake(file, ".".join(map(str, e["loc"])), _in_words(schema, e))
            for e in error.errors(include_url=False)
        ]) from None  # fmt: skip


def _in_words(schema: type[BaseModel], error: Any) -> str:
    """One of pydantic's errors for whoever wrote the file: what was found, what is allowed."""
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
