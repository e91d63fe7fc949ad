"""Checks values against type annotations, from a module's source alone.

Supported are `TypedDict`, `dict`, `list`, `X | None` and the simple types; others accept any value.
"""

from __future__ import annotations

import ast
import difflib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from launch.study.presets import shown

Faults = Iterator[tuple[str, str]]  # keys, and messages
SIMPLE: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "str": ((str,), "a text"),
    "bool": ((bool,), "true or false"),
    "None": ((type(None),), "null"),
}


# CPython 3.11 counts a tree's depth for all threads together, and fails if two parse at once.
_PARSING = threading.Lock()


def parsed(source: str | bytes, mode: str = "exec") -> Any:
    """Return the syntax tree of a source as `ast.parse` does, one thread at a time."""
    with _PARSING:
        return ast.parse(source, mode=mode)


@dataclass(frozen=True)
class Classes:
    """The classes of a module, used to resolve annotations."""

    classes: Mapping[str, ast.ClassDef]

    def faults(self, value: Any, annotation: ast.expr | None, at: str) -> Faults:
        """Yield the mismatches between a value and an annotation; none if the annotation is not supported."""
        if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
            try:
                annotation = parsed(annotation.value, "eval").body
            except SyntaxError:
                return
        name = _last(annotation)
        if isinstance(annotation, ast.BinOp):  # X | None
            sides = [list(self.faults(value, side, at)) for side in (annotation.left, annotation.right)]
            if all(sides):
                yield from min(sides, key=lambda side: side[0][1] == "null is needed")
        elif isinstance(annotation, ast.Subscript):
            yield from self._parts(value, annotation, at)
        elif name in SIMPLE:
            types, words = SIMPLE[name]
            if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
                yield at, f"found {shown(value)}; {words} is needed"
        elif name in self.classes and (fields := self._fields(name, frozenset())) is not None:
            yield from self._dict(value, fields, at)

    def _parts(self, value: Any, annotation: ast.Subscript, at: str) -> Faults:
        name, inner = _last(annotation.value), annotation.slice
        if name == "dict" and isinstance(inner, ast.Tuple) and len(inner.elts) == 2:
            if not isinstance(value, dict):
                yield at, f"found {shown(value)}; a mapping is needed"
                return
            for key, part in value.items():
                yield from self.faults(part, inner.elts[1], f"{at}.{key}")
        elif name == "list":
            if not isinstance(value, list):
                yield at, f"found {shown(value)}; a list is needed"
                return
            for i, part in enumerate(value):
                yield from self.faults(part, inner, f"{at}.{i}")

    def _dict(self, value: Any, fields: dict[str, tuple[ast.expr, bool]], at: str) -> Faults:
        if not isinstance(value, dict):
            yield at, f"found {shown(value)}; a mapping of {', '.join(fields)} is needed"
            return
        for key in value:
            if key not in fields:
                near = difflib.get_close_matches(key, fields, 1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                yield f"{at}.{key}", f"unknown argument; {hint}allowed are {', '.join(fields) or 'none'}"
        for key, (annotation, needed) in fields.items():
            if key in value:
                yield from self.faults(value[key], annotation, f"{at}.{key}")
            elif needed:
                yield f"{at}.{key}", "is missing"

    def _fields(self, name: str, seen: frozenset[str]) -> dict[str, tuple[ast.expr, bool]] | None:
        """Return a TypedDict's fields, each with its annotation and whether it is required.

        Returns:
            None for other classes.
        """
        made, found, known = self.classes[name], dict[str, tuple[ast.expr, bool]](), False
        for parent in map(_last, made.bases):
            if parent in self.classes and parent not in seen:
                more = self._fields(parent, seen | {name})
                known, found = known or more is not None, found | (more or {})
            known = known or parent == "TypedDict"
        total = not any(k.arg == "total" and ast.unparse(k.value) == "False" for k in made.keywords)
        for node in made.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                annotation, needed = node.annotation, total
                mark = _last(annotation.value) if isinstance(annotation, ast.Subscript) else ""
                if isinstance(annotation, ast.Subscript) and mark in ("NotRequired", "Required"):
                    annotation, needed = annotation.slice, mark == "Required"
                found[node.target.id] = annotation, needed
        return found if known else None


def _last(node: ast.expr | None) -> str:
    """Return the last part of a dotted name (`TypedDict` of `typing.TypedDict`); "" for other nodes."""
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Constant) and node.value is None:
        return "None"
    return node.id if isinstance(node, ast.Name) else ""
