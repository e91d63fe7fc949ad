"""Tables as LaTeX, in the form of papers: horizontal rules only, figures aligned, few digits."""

from __future__ import annotations

import math
import re
from numbers import Integral, Real

import pandas as pd

SPECIAL = re.compile(r"[&%$#_{}~^\\]")
SPOKEN = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LARGE = 10**6  # from here on counts are rounded, too


def latex(table: pd.DataFrame, digits: int = 3) -> str:
    """Return a table for LaTeX; it needs the package booktabs.

    Args:
        table: One of `Report.tables`, or any other; its index is left out.
        digits: Significant digits of numbers that are no counts.

    Returns:
        A tabular: numbers right, texts left, missing values as a dash. An empty table has its head only.
    """
    numbers = [pd.api.types.is_numeric_dtype(t) and not pd.api.types.is_bool_dtype(t) for t in table.dtypes]
    lines = [
        rf"\begin{{tabular}}{{{''.join('r' if number else 'l' for number in numbers)}}}",
        r"\toprule",
        " & ".join(_text(str(name).replace("_", " ")) for name in table.columns) + r" \\",
        r"\midrule",
    ]
    for row in table.itertuples(index=False):
        lines.append(" & ".join(_cell(value, digits) for value in row) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _cell(value: object, digits: int) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return "--"
    if not isinstance(value, Real) or isinstance(value, bool):
        return _text(str(value))
    if math.isinf(value):
        return r"$\infty$" if float(value) > 0 else r"$-\infty$"
    counted = isinstance(value, Integral) and abs(int(value)) < LARGE
    text = str(value) if counted else f"{float(value):.{digits}g}"
    mantissa, power, exponent = text.partition("e")
    return rf"${mantissa}\times10^{{{int(exponent)}}}$" if power else f"${text}$"


def _text(text: str) -> str:
    return SPECIAL.sub(lambda found: SPOKEN.get(found[0], "\\" + found[0]), text)
