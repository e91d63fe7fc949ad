"""Budgets of training FLOPs: what a training with one counts for, and how often it may repeat its rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TOLERANCE = 0.001  # share of a budget by which whole blocks may miss it
# Passes over the same rows up to which they are worth about as much as new ones (Muennighoff et al. 2023,
# arXiv 2305.16264, for pretraining).
PASSES = 4


def compared_flops(training: Mapping[str, Any]) -> Any:
    """Return the FLOPs at which a training is compared with others.

    Trainings with one budget differ by the rounding to whole blocks. To compare them at equal compute, they
    count as their budget if that is all, and else, as all others do, as the FLOPs that were counted.
    """
    flops, budget = training["flops"], training.get("budget")
    if budget is not None and flops is not None and abs(flops - budget) <= TOLERANCE * budget:
        return budget
    return flops
