"""Configs as JSON text that does not depend on the order of their keys: what identities are made of.

A study may have very many configs that differ in a few values only. Their text is made once, with gaps, and
none of them is put together before somebody looks into it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

as_text = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode

_MARK = os.urandom(8).hex()  # no config that somebody wrote holds it


def gap(name: str) -> str:
    """What stands in a pattern's config in place of a value that differs."""
    return f"{_MARK}{name}"


def pattern(config: Mapping[str, Any]) -> str:
    """What configs have in common that differ in a few values only, for `Filled`.

    Args:
        config: JSON values, and `gap`s.
    """
    return re.sub(f'"{_MARK}(\\w+)"', r"%(\1)s", as_text(config).replace("%", "%%"))


class Filled(Mapping[str, Any]):
    """The config that a pattern and the JSON texts of its values make, these by the names of the gaps."""

    __slots__ = ("_pattern", "_values")

    def __init__(self, pattern: str, values: Mapping[str, str]) -> None:
        self._pattern, self._values = pattern, values

    @property
    def text(self) -> str:
        """What `canonical` gives of it."""
        return self._pattern % self._values

    def _read(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.text)
        return found

    def __getitem__(self, key: str) -> Any:
        return self._read()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())


def canonical(config: Mapping[str, Any]) -> str:
    """A config as JSON text that does not depend on the order of its keys."""
    return config.text if isinstance(config, Filled) else as_text(config)
