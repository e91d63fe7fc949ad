"""Numbers, lists and durations in messages."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal


def count(number: int, noun: str) -> str:
    """Format a number and a noun: 1 job, 2 jobs."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def some(names: Sequence[object]) -> str:
    """Return the first name and the number of further ones."""
    return str(names[0]) if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def about(number: float) -> str:
    """Format a finite number with two significant digits and without an exponent: 0.015, 1.5, 150, 6,900."""
    return f"{Decimal(f'{number:.2g}'):,f}"


def span(hours: float) -> str:
    """Format hours in the largest unit of which there is at least one: 14 s, 30 min, 1.5 h, 2,470 h."""
    if hours >= 1:
        return f"{hours:.3g} h" if hours < 100 else f"{hours:,.0f} h"
    return f"{hours * 60:.0f} min" if hours * 60 >= 1 else f"{hours * 3600:.0f} s"
