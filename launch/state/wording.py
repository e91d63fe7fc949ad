"""Numbers and lists in messages."""

from __future__ import annotations

from collections.abc import Sequence


def count(number: int, noun: str) -> str:
    """Format a number and a noun: 1 job, 2 jobs."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def some(names: Sequence[object]) -> str:
    """Return the first name and the number of further ones."""
    return str(names[0]) if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
