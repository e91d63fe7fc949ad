"""Reads run directories and anyone's lm-eval results, and draws the accuracy-against-FLOPs frontier.

In a notebook: `import analysis`, then `analysis.collect.collect("runs/demo")`,
`analysis.frontier.frontier_table(results)`, `analysis.plots.frontier(points)`, or all at once,
`analysis.report.analyse("runs/demo").tables`. The modules are loaded when they are first used:
`analysis.flops` and `analysis.gpus` serve programs that must start without pandas.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

__all__ = [
    "bootstrap", "claims", "collect", "flops", "frontier", "gpus", "items", "matched", "plots", "report",
    "usage",
]  # fmt: skip


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return import_module(f"analysis.{name}")
    raise AttributeError(f"module 'analysis' has no attribute {name!r}")
