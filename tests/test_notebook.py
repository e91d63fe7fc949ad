"""The notebook of docs/, run cell by cell on made-up results; tables and figures for papers."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_results import nine_students
from matplotlib.figure import Figure
from matplotlib.text import Text

import analysis

NOTEBOOK = Path(__file__).parent.parent / "docs" / "notebook.ipynb"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that the notebook defines, and what its cells show, after it was run in an empty folder."""
    nine_students(tmp_path / "runs" / "demo")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"shown": [], "printed": io.StringIO()}
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            *first, last = ast.parse("".join(cell["source"])).body
            assert isinstance(last, ast.Expr)  # each cell shows something
            with contextlib.redirect_stdout(names["printed"]):
                exec(compile(ast.Module(first, []), NOTEBOOK, "exec"), names)
                names["shown"].append(eval(compile(ast.Expression(last.value), NOTEBOOK, "eval"), names))
    return names


def test_the_notebook_runs(run: dict[str, Any]) -> None:
    assert {p.name for p in Path().glob("*.[pc]*")} == {"frontier.pdf", "mixtures.pdf", "frontier.csv"}
    report, *_ = run["shown"]
    assert re.search(
        r"^9 students, 2 benchmarks; tables: frontier \(\d+ rows\), ", repr(report), re.MULTILINE
    )
    (figure,) = (shown for shown in run["shown"] if isinstance(shown, Figure))
    assert figure.get_size_inches()[0] == pytest.approx(6.6)
    assert len(pd.read_csv("frontier.csv")) == len(run["rows"])
    assert run["printed"].getvalue().count(r"\\") == len(run["rows"]) + 1
    flops, generated = run["shown"][-1]
    assert flops > generated > 0


def test_every_table_is_explained(run: dict[str, Any]) -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    for name in run["report"].tables:
        assert f"`{name}`" in text, name


@pytest.mark.parametrize("across", [1, 2])
def test_figures_have_a_papers_width_and_no_title(run: dict[str, Any], across: int) -> None:
    tables = run["report"].tables
    for figure in (
        analysis.plots.frontier(run["each"], across=across), analysis.plots.mixtures(run["each"], across),
        analysis.plots.gains(tables["gains"], across),
    ):  # fmt: skip
        assert figure.get_size_inches()[0] == pytest.approx(3.3 * across)
        assert not figure.legends[0].get_title().get_text()
        texts = [text for text in figure.findobj(Text) if isinstance(text, Text) and text.get_text().strip()]
        assert min(float(text.get_fontsize()) for text in texts) >= 8


def test_infinity_as_latex() -> None:
    table = pd.DataFrame({"gap": [math.inf, -math.inf, np.float32(np.inf)]})
    assert analysis.latex(table).splitlines()[4:7] == [r"$\infty$ \\", r"$-\infty$ \\", r"$\infty$ \\"]


def test_numbers_and_texts_as_latex() -> None:
    table = pd.DataFrame({
        "a_name": ["50 % & more", None], "n": pd.array([3, pd.NA], "Int64"), "flops": [6.67e10, np.nan],
        "accuracy": [0.53249, 1.0], "count": [123456, 12345678], "on": [True, False],
    })  # fmt: skip
    assert analysis.latex(table).splitlines() == [
        r"\begin{tabular}{lrrrrl}", r"\toprule",
        r"a name & n & flops & accuracy & count & on \\", r"\midrule",
        r"50 \% \& more & $3$ & $6.67\times10^{10}$ & $0.532$ & $123456$ & True \\",
        r"-- & -- & -- & $1$ & $1.23\times10^{7}$ & False \\", r"\bottomrule", r"\end{tabular}",
    ]  # fmt: skip
    assert analysis.latex(table.head(0)).splitlines()[2:5] == [
        r"a name & n & flops & accuracy & count & on \\", r"\midrule", r"\bottomrule",
    ]  # fmt: skip
