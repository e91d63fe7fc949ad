"""The text of the page: the tables as JSON inside the template, with style and scripts."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import plots
from analysis.page.provenance import provenance
from analysis.statistics.frontier import (
    NEAR,
    asked_level,
    asked_scopes,
    distinct,
    size_order,
    supervision,
    trained_on,
)
from jobs.core.wording import about

HERE = Path(__file__).parent
PARTS = {
    "__STYLE__": ("style.css",),
    "__SCRIPT__": ("base.js", "charts.js", "tables.js", "page.js"),
}


def page(
    path: Path,
    results: pd.DataFrame,
    tables: dict[str, pd.DataFrame],
    sentences: Sequence[str],
    warnings: Sequence[str],
    files: Sequence[str],
) -> str:
    """Return the page.

    Args:
        path: The run directory or folder of results.
        results, tables, sentences, warnings: Those of `analysis.report.Report`.
        files: Names of the files beside the page.
    """
    data = _data(path, results, tables) | {
        "sentences": list(sentences), "warnings": list(warnings), "files": list(files)
    }  # fmt: skip
    text = json.dumps(data, allow_nan=False)
    text = text.replace("<", "\\u003c")  # keep "</script>" in a name from ending the script
    made = _file("page.html")
    for mark, names in PARTS.items():
        made = made.replace(mark, "\n".join(map(_file, names)))
    return made.replace("__DATA__", text)


def _file(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _data(path: Path, results: pd.DataFrame, tables: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """Return the data of the page's scripts as JSON values; missing and infinite numbers are null."""

    def records(table: pd.DataFrame) -> Any:
        return json.loads(table.to_json(orient="records", double_precision=15))

    points, compared = tables["frontier"], tables["matched"]
    style = plots.Style.of(points)
    if len(compared):
        words = {"supervision": trained_on(compared), "break_even": _break_even(compared)}
        compared = compared.assign(**words)
    shown = (
        "standing", "answers", "questions", "teacher", "dropped", "filtered", "contaminated", "usage",
    )  # fmt: skip
    return {
        "study": path.resolve().name,
        "counts": {**results[["student", "benchmark"]].nunique().to_dict(), "row": len(results)},
        "points": records(points.assign(supervision=trained_on(points))),
        "scopes": distinct(results, points),
        "asked": asked_scopes(results, points),
        "level": asked_level(points),
        "results": records(results),
        "matched": records(compared),
        **{name: records(tables[name]) for name in shown},
        "near": NEAR,
        "sizes": size_order(points),
        "colors": style.colors,
        "markers": [[share, marker, supervision(share)] for share, marker in style.markers.items()],
        "both_orders": style.both_orders,
        "provenance": provenance(path, results),
    }


def _break_even(matched: pd.DataFrame) -> list[str]:
    """Describe the compute at which plain answers reach the same accuracy: a ratio, or why there is none."""

    def word(value: float, own: float) -> str:
        if pd.isna(value):
            return "–"
        if value in (0, math.inf):
            return "never" if value else "any"
        return f"{about(value / own)}×"

    bounds = matched[["break_even", "break_even_low", "break_even_high", "flops"]].itertuples(index=False)
    return [f"{word(best, own)} [{word(low, own)}, {word(high, own)}]" for best, low, high, own in bounds]
