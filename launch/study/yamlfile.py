"""One YAML document -> mappings, lists, strings, finite numbers, booleans and null, each with its position.

Values are built from PyYAML's events, since its own constructors keep the last of two equal keys, turn
strings into dates and sexagesimal numbers, expand aliases without limit, and raise many kinds of errors.
Numbers follow YAML 1.2: `1e-5` is one; `1:30`, `010` and dates are strings. `yes`, `no`, `on` and `off` are
booleans as in YAML 1.1, but recorded, for messages where a string was meant. Keys are strings.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import yaml

from launch.study.textfile import Position, Unusable

try:
    from yaml import CSafeLoader as SafeLoader  # ten times as fast
except ImportError:  # PyYAML was built without libyaml
    from yaml import SafeLoader  # type: ignore[assignment]

DEPTH = 50  # of nested mappings and lists
VALUES = 100_000  # per file, those of an alias counted each time
DIGITS = 20  # of an integer
TAGS = ("!", "tag:yaml.org,2002:str", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
NULL = ("", "~", "null", "Null", "NULL")
BOOLEANS = {
    word: value
    for value, words in ((True, ("true", "yes", "on")), (False, ("false", "no", "off")))
    for lower in words
    for word in (lower, lower.capitalize(), lower.upper())
}
CLEAR = ("true", "false")
WHOLE = re.compile(r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0o[0-7_]+|0b[01_]+)")
REAL = re.compile(r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))([eE][-+]?[0-9]+)?")
ENDLESS = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
INDENTED = re.compile(r" *\t")
NUL_OR_HALF = re.compile("[\0\ud800-\udfff]")

Place = tuple[str, ...]  # path of keys and list indices to a value


@dataclass(frozen=True)
class Document:
    """The contents of a file.

    Args:
        positions: of each key and list item.
        words: the spelling of booleans other than `true` and `false`.
    """

    data: dict[str, Any]
    positions: dict[Place, Position] = field(default_factory=dict)
    words: dict[Place, str] = field(default_factory=dict)

    def position(self, keys: Iterable[Any]) -> Position | None:
        """Return the position of the value at these keys, or of its closest known parent.

        Returns:
            None if unknown.
        """
        return self.positions.get(self.place(keys))

    def place(self, keys: Iterable[Any]) -> Place:
        """Return the longest prefix of these keys that the file has; one value may stand for a list."""
        at: Place = ()
        for key in map(str, keys):
            if (*at, key) in self.positions:
                at = (*at, key)
            elif key != "0":
                break
        return at

    def key(self, keys: Iterable[Any]) -> str:
        """Return the name of a place as in the file: without the index of a value that stands for a list."""
        at: Place = ()
        parts = list[str]()
        for key in map(str, keys):
            at = (*at, key)
            if key == "0" and at not in self.positions:
                at = at[:-1]
            else:
                parts.append(key)
        return ".".join(parts)


def parse_yaml(text: str) -> Document:
    """Parse a document that is a mapping.

    Raises:
        Unusable: it is not a mapping, or uses unsupported YAML.
    """
    builder = _Builder(text)
    try:
        data = builder.document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = " ".join(filter(None, (error.context, error.problem)))
        line = text.splitlines()[mark.line : mark.line + 1] if mark else []
        hint = "; YAML is indented with spaces, not tabs" if any(INDENTED.match(one) for one in line) else ""
        raise Unusable(f"not YAML: {words}{hint}", _position(mark) if mark else None) from None
    except yaml.YAMLError as error:
        raise Unusable(f"not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        what = "nothing" if data is None else f"a {'list' if isinstance(data, list) else 'single value'}"
        raise Unusable(f"a mapping of keys is needed, found {what}")
    return Document(data, builder.positions, builder.words)


class _Builder:
    """Builds the values of one document from its events."""

    def __init__(self, text: str) -> None:
        self.positions: dict[Place, Position] = {}
        self.words: dict[Place, str] = {}
        self._events = yaml.parse(text, SafeLoader)
        self._anchors: dict[str, tuple[Any, int] | None] = {}  # value and size; None while it is built
        self._size = 0  # values so far

    def document(self) -> Any:
        next(self._events)  # the stream starts
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return None
        data = self._value(next(self._events), ())
        next(self._events)  # the document ends
        after = next(self._events)
        if not isinstance(after, yaml.StreamEndEvent):
            raise Unusable("a second document begins; a file holds one", _at(after))
        return data

    def _value(self, event: Any, at: Place) -> Any:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, at)
        tag = event.tag
        if tag is not None and tag not in TAGS:
            shown = tag.replace("tag:yaml.org,2002:", "!!")
            raise Unusable(f"the tag {shown} is not allowed; values need none", _at(event), at)
        if event.anchor:
            self._anchors[event.anchor] = None
        before = self._size
        self._grow(1, event, at)
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event, at)
        elif len(at) >= DEPTH:
            raise Unusable(f"nested more than {DEPTH} deep", _at(event), at[:3])
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self._list(at)
        else:
            value = self._mapping(at)
        if event.anchor:
            self._anchors[event.anchor] = value, self._size - before
        return value

    def _grow(self, by: int, event: Any, at: Place) -> None:
        self._size += by
        if self._size > VALUES:
            words = f"more than {VALUES:,} values, those of aliases counted each time"
            raise Unusable(words, _at(event), at[:3])

    def _alias(self, event: Any, at: Place) -> Any:
        if event.anchor not in self._anchors:
            raise Unusable(f"*{event.anchor} is nothing: no &{event.anchor} before it", _at(event), at)
        found = self._anchors[event.anchor]
        if found is None:
            raise Unusable(f"&{event.anchor} contains itself", _at(event), at)
        self._grow(found[1], event, at)
        return found[0]

    def _list(self, at: Place) -> list[Any]:
        found: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            place = (*at, str(len(found)))
            self.positions[place] = _at(event)
            found.append(self._value(event, place))
        return found

    def _mapping(self, at: Place) -> dict[str, Any]:
        found: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        seen: dict[str, Position] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise Unusable("a key must be a single word, not a list, mapping or alias", _at(event), at)
            key, here = _text(event, at), _at(event)
            place = (*at, key)
            if key in seen:
                raise Unusable(f"given twice, first in line {seen[key].line}: keep one of them", here, place)
            self.positions[place] = seen[key] = here
            value = self._value(next(self._events), place)
            if key == "<<" and event.implicit[0]:
                merged = _merged(value, here, place)
            else:
                found[key] = value
        return {**merged, **found}

    def _scalar(self, event: Any, at: Place) -> Any:
        text = _text(event, at)
        if not event.implicit[0]:  # quoted, or tagged as a string
            return text
        if text in NULL:
            return None
        if text in BOOLEANS:
            if text not in CLEAR:
                self.words[at] = text
            return BOOLEANS[text]
        if WHOLE.fullmatch(text):
            return _whole(text, _at(event), at)
        if REAL.fullmatch(text) or ENDLESS.fullmatch(text):
            number = float(text.replace("_", "")) if not ENDLESS.fullmatch(text) else math.inf
            if not math.isfinite(number):
                words = f"found {text[:40]}; a finite number is needed (a text stands in quotes)"
                raise Unusable(words, _at(event), at)
            return number
        return text


def _at(event: Any) -> Position:
    return _position(event.start_mark)


def _position(mark: Any) -> Position:
    return Position(mark.line + 1, mark.column + 1)


def _text(event: Any, at: Place) -> str:
    text: str = event.value
    if NUL_OR_HALF.search(text):
        raise Unusable("a null byte or half of a surrogate pair in a text: remove it", _at(event), at)
    return text


def _whole(text: str, position: Position, at: Place) -> int:
    plain = text.replace("_", "")
    if len(plain) > DIGITS + 2:
        raise Unusable(f"a number of more than {DIGITS} digits (a text stands in quotes)", position, at)
    try:
        return int(plain, 0)
    except ValueError:  # 0x_
        raise Unusable(f"found {text}; no number (a text stands in quotes)", position, at) from None


def _merged(value: Any, position: Position, at: Place) -> dict[str, Any]:
    """Return what `<<` merges in: a mapping, or several, of which the first that holds a key counts."""
    parts = value if isinstance(value, list) else [value]
    if not all(isinstance(part, dict) for part in parts):
        raise Unusable("'<<' takes a mapping, or a list of them", position, at)
    return {key: part[key] for part in reversed(parts) for key in part}
