"""Differences of accuracies in words: percentage points, rounded before they get a sign."""

from __future__ import annotations

import math


def apart(value: float, low: float, high: float) -> str:
    """Format how far ahead or behind something is, with the interval in the same direction."""
    return behind(-value, -high, -low) if round(100 * value, 1) < 0 else ahead(value, low, high)


def ahead(value: float, low: float, high: float) -> str:
    """Format a lead, with its interval."""
    return f"{in_points(value)} ahead {interval(low, high)}"


def behind(value: float, low: float, high: float) -> str:
    """Format a distance that something is behind, with its interval."""
    return f"{in_points(value)} behind {interval(low, high)}"


def in_points(value: float) -> str:
    """Format a difference of accuracies in percentage points."""
    shown = f"{round(100 * value, 1) + 0.0:.1f}".removesuffix(".0")  # adding 0 turns -0.0 into 0.0
    return f"{shown} point{'' if shown == '1' else 's'}"


def interval(low: float, high: float) -> str:
    """Format an interval in percentage points."""
    if math.isnan(low) or math.isnan(high):
        return "(error not known)"
    low, high = (round(100 * bound, 1) + 0.0 for bound in (low, high))
    return f"({low:.1f} to {high:.1f})"
