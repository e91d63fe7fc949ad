"""Read run directories and external lm-eval results, and draw the accuracy-versus-FLOPs frontier.

In a notebook, all at once: `import analysis; analysis.analyse("runs/demo").tables`. Or step by step:
`results = analysis.collect("runs/demo")`, `points = analysis.frontier_table(results)`,
`analysis.plots.frontier(points)`. Names are imported lazily, so that counting FLOPs does not need pandas:
`analysis.train_flops(config, lengths)`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis import plots
    from analysis.report import Report, analyse, write_report
    from analysis.results.collect import by_rule_of_thumb, charge_teacher, collect
    from analysis.results.items import item_scores
    from analysis.results.table import COLUMNS
    from analysis.results.usage import usage
    from analysis.statistics.answers import answers
    from analysis.statistics.bootstrap import resample
    from analysis.statistics.claims import claims
    from analysis.statistics.frontier import frontier_table, pareto, redrawn, standing
    from analysis.statistics.matched import gains, kept, matched
    from analysis.statistics.questions import questions
    from analysis.tex import latex
    from jobs.core.flops import forward_flops, generate_flops, train_flops

_OF = {
    "analysis": ("plots",),
    "analysis.tex": ("latex",),
    "analysis.report": ("Report", "analyse", "write_report"),
    "analysis.results.collect": ("by_rule_of_thumb", "charge_teacher", "collect"),
    "analysis.results.items": ("item_scores",),
    "analysis.results.table": ("COLUMNS",),
    "analysis.results.usage": ("usage",),
    "analysis.statistics.answers": ("answers",),
    "analysis.statistics.bootstrap": ("resample",),
    "analysis.statistics.claims": ("claims",),
    "analysis.statistics.frontier": ("frontier_table", "pareto", "redrawn", "standing"),
    "analysis.statistics.matched": ("gains", "kept", "matched"),
    "analysis.statistics.questions": ("questions",),
    "jobs.core.flops": ("forward_flops", "generate_flops", "train_flops"),
}
_MODULES = {name: module for module, names in _OF.items() for name in names}

__all__ = [
    "COLUMNS", "Report", "analyse", "answers", "by_rule_of_thumb", "charge_teacher", "claims", "collect",
    "forward_flops", "frontier_table", "gains", "generate_flops", "item_scores", "kept", "latex", "matched",
    "pareto", "plots", "questions", "redrawn", "resample", "standing", "train_flops", "usage", "write_report",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'analysis' has no attribute {name!r}")
    module = _MODULES[name]
    return import_module(f"{module}.{name}") if name == "plots" else getattr(import_module(module), name)


def __dir__() -> list[str]:
    return sorted(__all__)
