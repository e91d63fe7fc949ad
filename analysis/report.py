"""The report of a study: sentences, tables, figures for print, an HTML page, tables for the terminal.

The report begins with the answer to the study's question, and states all doubts next to the numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from analysis import plots
from analysis.page.build import page
from analysis.results.collect import DataWarning, collect
from analysis.results.csv_files import write_csv
from analysis.results.dropped import dropped, dropped_line
from analysis.results.filtered import contaminated, filtered, filtered_line
from analysis.results.items import Scores, item_scores
from analysis.results.teacher import teacher_answers, teacher_line
from analysis.results.usage import usage
from analysis.statistics.answers import answers
from analysis.statistics.bootstrap import resample
from analysis.statistics.claims import claims
from analysis.statistics.frontier import (
    AXES,
    asked_scopes,
    distinct,
    frontier_table,
    redrawn,
    standing,
    with_configuration,
)
from analysis.statistics.matched import gains, kept, matched
from analysis.statistics.questions import questions
from analysis.statistics.sentences import findings, sentences
from analysis.terminal import questions_table, terminal_table, usage_line
from jobs.core.plain import PlainConsole
from jobs.core.wording import count
from jobs.store.rundir import study_of

if TYPE_CHECKING:
    from jobs.runtime.context import Context

# Figures by kind of scope: suffix of the file name, and the kinds.
PARTS = (("", ("average", "group")), ("-benchmarks", ("benchmark",)))


@dataclass(frozen=True)
class Report:
    """Results and derived tables of a study.

    Args:
        results: Table of `analysis.results.collect.collect`.
        tables: Derived tables by file name: "frontier" and "standing" (functions of `statistics.frontier`),
            "matched", "kept" and "gains" (of `statistics.matched`), "claims", "answers", "questions",
            "teacher", "dropped", "filtered", "contaminated" and "usage".
        sentences: The answer to the study's question, in words.
        warnings: Doubts about the results.
        page: The written report; None if it was not written.
    """

    results: pd.DataFrame
    tables: dict[str, pd.DataFrame]
    sentences: tuple[str, ...]
    warnings: tuple[str, ...]
    page: Path | None = None

    def __repr__(self) -> str:
        """Return what a notebook shows: the answer, and what there is to look at."""
        students, benchmarks = (self.results[name].nunique() for name in ("student", "benchmark"))
        size = f"{count(students, 'student')}, {count(benchmarks, 'benchmark')}"
        tables = ", ".join(f"{name} ({count(len(table), 'row')})" for name, table in self.tables.items())
        doubts = [f"warning: {words}" for words in self.warnings]
        return "\n".join([*self.sentences, "", f"{size}; tables: {tables}", *doubts])


def analyse(
    path: str | Path, units: Container[str] | None = None, joules: Mapping[str, float] | None = None
) -> Report:
    """Collect a study's results and derive all tables.

    Args:
        path, units: See `analysis.results.collect.collect`.
        joules: See `analysis.results.usage.usage`.

    Raises:
        ValueError: There are no results, or they cannot be interpreted.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DataWarning)
        results = collect(path, units)
        tables = derive(results, item_scores(path, results)) | {
            "teacher": teacher_answers(path, results), "dropped": dropped(path, results),
            "filtered": filtered(path, results), "contaminated": contaminated(path, results),
            "usage": usage(path, joules),
        }  # fmt: skip
    said = dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, DataWarning))
    words = sentences(tables["answers"], tables["frontier"])
    return Report(results, tables, tuple(words), tuple(said))


def derive(results: pd.DataFrame, scores: Scores) -> dict[str, pd.DataFrame]:
    """Derive the tables of a `Report` from the results and their items' scores."""
    points = frontier_table(results)
    drawn = redrawn(results, points, resample(with_configuration(results), scores))
    tables = {
        "standing": standing(points, drawn), "matched": matched(points, drawn), "kept": kept(points, drawn)
    }  # fmt: skip
    gain = gains(results, points, drawn)
    claimed = claims(points, tables["standing"], tables["kept"])
    answered = answers(points, tables["standing"], tables["matched"])
    asked = {
        "claims": claimed, "answers": answered.assign(finding=findings(answered)),
        "questions": questions(answered, claimed),
    }  # fmt: skip
    return {"frontier": points, **tables, "gains": gain, **asked}


def write_report(
    path: str | Path,
    out: str | Path,
    units: Container[str] | None = None,
    joules: Mapping[str, float] | None = None,
) -> Report:
    """Analyze, and write a CSV of each table, figures (.svg, .png) and report.html to `out`.

    Raises:
        ValueError: There are no results, they cannot be interpreted, or `out` cannot be written.
    """
    path, out = Path(path), Path(out)
    found = analyse(path, units, joules)
    try:
        return replace(found, page=_write(path, out, found))
    except OSError as error:
        raise ValueError(
            f"{error.filename or out}: the report cannot be written ({error.strerror}). "
            "Name another folder with --out DIR"
        ) from None


def _write(path: Path, out: Path, found: Report) -> Path:
    """Write all files of a report; return the page."""
    out.mkdir(parents=True, exist_ok=True)
    files = []
    for name, table in {"results": found.results, **found.tables}.items():
        if len(table):
            files.append(f"{name}.csv")
            write_csv(table, out / files[-1])
    for name, figure in _figures(found):
        _save(figure, out, name)
        files += [f"{name}.svg", f"{name}.png"]
    written = out / "report.html"
    text = page(path, found.results, found.tables, found.sentences, found.warnings, files)
    written.write_text(text, encoding="utf-8")
    return written


def run(ctx: Context) -> None:
    """Run the report stage: publish a report on exactly the evaluations that are the unit's inputs."""
    staged = ctx.staging()
    wanted = {given.id for given in ctx.unit.inputs if given.stage == "evaluate"}
    results = write_report(study_of(ctx.folder.path).path, staged, wanted).results
    counts = {"students": results["student"].nunique(), "benchmarks": results["benchmark"].nunique()}
    ctx.publish(staged, {**counts, "rows": len(results)})


def print_report(report: Report) -> None:
    """Print a written report to the terminal, beginning with the answer to the study's question."""
    console = PlainConsole()
    for sentence in report.sentences:
        console.print(sentence, style="bold")
    console.print(terminal_table(report.results, report.tables["frontier"]))
    console.print(questions_table(report.tables["questions"]))
    if said := teacher_line(report.tables["teacher"]):
        console.print(said)
    if lost := dropped_line(report.tables["dropped"]):
        console.print(lost)
    if changed := filtered_line(report.tables["filtered"], report.tables["contaminated"]):
        console.print(changed)
    if took := usage_line(report.tables["usage"]):
        console.print(took)
    for warning in report.warnings:
        console.print(f"! {warning}", style="yellow")
    console.print(f"report: {report.page}", soft_wrap=True)


def _figures(report: Report) -> Iterator[tuple[str, Figure]]:
    """Yield every figure of a report, of its distinct scopes, with its file name."""
    tables = (report.tables[name] for name in ("frontier", "standing", "gains", "answers"))
    points, stood, gain, answered = tables
    scopes, asked = distinct(report.results, points), asked_scopes(report.results, points)
    points, stood = (table[table["scope"].isin(scopes)] for table in (points, stood))
    for suffix, kinds in PARTS:
        part = points[points["kind"].isin(kinds)]
        for x in AXES:
            if part[x].notna().any():  # otherwise a warning says so
                said = answered[answered["axis"] == x].set_index("scope")["finding"]
                titles = {scope: str(said[other]) for scope, other in asked.items() if other in said.index}
                name = f"frontier-{x.removesuffix('_flops')}{suffix}"
                yield name, plots.frontier(part, x, stood, titles)
        if part["share"].notna().any():
            yield f"mixtures{suffix}", plots.mixtures(part)
    if len(gain) and (gain["extra_tokens"] > 0).any():
        yield "gains", plots.gains(gain)
    for x in AXES:
        if stood.loc[stood["axis"] == x, "probability"].notna().any():
            yield f"probabilities-{x.removesuffix('_flops')}", plots.probabilities(stood, x)


def _save(figure: Figure, out: Path, name: str) -> None:
    """Save as SVG with text kept as text and reproducible bytes, and as PNG for slides."""
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(out / f"{name}.svg", metadata={"Date": None})
        figure.savefig(out / f"{name}.png", dpi=200)
