"""Text formats that Slurm's programs share: lines of fields, numbers, names, durations. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
SEPARATOR = "\x1f"  # a job's name may contain any character that can be typed
NOTHING = {"", "(null)", "None", "N/A", "Unknown", "UNLIMITED", "INFINITE", "NONE", "None assigned"}


@dataclass(frozen=True)
class Table(Generic[T]):
    """Parsed rows, and the lines that could not be parsed."""

    rows: tuple[T, ...]
    malformed: tuple[str, ...] = ()


def parse_table(text: str, count: int, row: Callable[[Sequence[str]], list[T]]) -> Table[T]:
    """Parse line by line; the last field, a job's name, may contain the separator."""
    rows: list[T] = []
    malformed = []
    for line in filter(None, text.split("\n")):
        try:
            rows += row(split_fields(line, count))
        except (ValueError, KeyError):
            malformed.append(line)
    return Table(tuple(rows), tuple(malformed))


def split_fields(text: str, count: int) -> list[str]:
    """Return the fields of a line.

    Raises:
        ValueError: there are fewer than `count`.
    """
    values = text.split(SEPARATOR, count - 1)
    if len(values) != count:
        raise ValueError(f"{len(values)} fields, not {count}")
    return values


def text_of(value: str) -> str | None:
    """Return a text field; None for Slurm's placeholders for nothing."""
    return None if value in NOTHING else value


def number(value: str) -> int | None:
    """Return a whole number; None for Slurm's placeholders for nothing and for no limit."""
    return None if value in NOTHING else int(value)


def names(value: str) -> tuple[str, ...]:
    """Return the names in a comma-separated list."""
    return () if value in NOTHING else tuple(value.split(","))


def parse_duration(text: str) -> int | None:
    """Return the seconds in `7-00:00:00` or `01:00:00`; None for no limit."""
    if text in NOTHING:
        return None
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text)
    if match is None:
        raise ValueError(f"{text!r} is no duration")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
