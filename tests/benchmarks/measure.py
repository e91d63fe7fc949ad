"""What the benchmarks share: a clock, and a measurement beside a named alternative's of the same run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ratio:
    """One measurement.

    Args:
        ours: what was measured.
        theirs: the alternative.
        value, other: both results, in `unit`.
    """

    ours: str
    theirs: str
    value: float
    other: float
    unit: str

    def __str__(self) -> str:
        return (
            f"{self.ours}: {self.value:.4g} {self.unit}; {self.theirs}: {self.other:.4g} {self.unit}; "
            f"ratio {self.value / self.other:.3g}"
        )

    def to_json(self) -> dict[str, Any]:
        """As results.json holds it."""
        return {
            "measured": self.ours, "value": self.value, "alternative": self.theirs,
            "value_of_alternative": self.other, "unit": self.unit, "ratio": self.value / self.other,
        }  # fmt: skip


def seconds(work: Callable[[], object]) -> float:
    """Seconds that some work takes, once."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def median(work: Callable[[], object], times: int = 5) -> float:
    """Median seconds of several times, after one to warm up."""
    work()
    return statistics.median(seconds(work) for _ in range(times))
