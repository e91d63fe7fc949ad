"""The report of a study: tables, figures for print, an HTML page, tables for the terminal.

The report states all doubts about the results next to the numbers. The page (its template is report.html in
this folder) works offline: data, style and script are embedded.
"""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from analysis import plots
from analysis.results.collect import DataWarning, collect, lineage
from analysis.results.csv_files import write_csv
from analysis.results.dropped import dropped, dropped_line
from analysis.results.files import Unreadable, read_object, section
from analysis.results.items import Scores, item_scores
from analysis.results.usage import usage
from analysis.statistics.bootstrap import resample
from analysis.statistics.claims import claims
from analysis.statistics.frontier import (
    AVERAGE,
    AXES,
    NEAR,
    SHARED,
    both_orders,
    frontier_table,
    redrawn,
    size_order,
    standing,
    supervision,
    with_configuration,
)
from analysis.statistics.matched import gains, kept, matched
from jobs.core.plain import PlainConsole
from jobs.core.wording import span
from jobs.store.rundir import StudyDir, UnitDir, study_of

if TYPE_CHECKING:
    from jobs.runtime.context import Context

TEMPLATE = Path(__file__).with_name("report.html")
# Figures by kind of scope: suffix of the file name, and the kinds.
PARTS = (("", ("average", "group")), ("-benchmarks", ("benchmark",)))


@dataclass(frozen=True)
class Report:
    """Results and derived tables of a study.

    Args:
        results: Table of `analysis.results.collect.collect`.
        tables: Derived tables by file name: "frontier" and "standing" (functions of `statistics.frontier`),
            "matched", "kept" and "gains" (of `statistics.matched`), "claims", "dropped" and "usage".
        warnings: Doubts about the results.
        page: The written report; None if it was not written.
    """

    results: pd.DataFrame
    tables: dict[str, pd.DataFrame]
    warnings: tuple[str, ...]
    page: Path | None = None


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
            "dropped": dropped(path, results), "usage": usage(path, joules)
        }  # fmt: skip
    said = dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, DataWarning))
    return Report(results, tables, tuple(said))


def derive(results: pd.DataFrame, scores: Scores) -> dict[str, pd.DataFrame]:
    """Derive the tables of a `Report` from the results and their items' scores."""
    points = frontier_table(results)
    drawn = redrawn(results, points, resample(with_configuration(results), scores))
    tables = {
        "standing": standing(points, drawn), "matched": matched(points, drawn), "kept": kept(points, drawn)
    }  # fmt: skip
    gain = gains(results, points, drawn)
    return {"frontier": points, **tables, "gains": gain, "claims": claims(points, **tables)}


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
    for name, figure in _figures(found.tables):
        _save(figure, out, name)
        files += [f"{name}.svg", f"{name}.png"]
    page = out / "report.html"
    data = _page_data(path, found) | {"files": files}
    text = json.dumps(data, allow_nan=False)
    text = text.replace("<", "\\u003c")  # keep "</script>" in a name from ending the script
    page.write_text(TEMPLATE.read_text(encoding="utf-8").replace("__DATA__", text), encoding="utf-8")
    return page


def run(ctx: Context) -> None:
    """Run the report stage: publish a report on exactly the evaluations that are the unit's inputs."""
    staged = ctx.staging()
    wanted = {given.id for given in ctx.unit.inputs if given.stage == "evaluate"}
    results = write_report(study_of(ctx.folder.path).path, staged, wanted).results
    counts = {"students": results["student"].nunique(), "benchmarks": results["benchmark"].nunique()}
    ctx.publish(staged, {**counts, "rows": len(results)})


def print_report(report: Report) -> None:
    """Print a written report to the terminal: frontier, claims, dropped prompts, usage, warnings."""
    console = PlainConsole()
    console.print(terminal_table(report.results, report.tables["frontier"]))
    console.print(claims_table(report.tables["claims"]))
    if lost := dropped_line(report.tables["dropped"]):
        console.print(lost)
    if took := usage_line(report.tables["usage"]):
        console.print(took)
    for warning in report.warnings:
        console.print(f"! {warning}", style="yellow")
    console.print(f"report: {report.page}", soft_wrap=True)


def terminal_table(results: pd.DataFrame, points: pd.DataFrame, width: int | None = None) -> Table:
    """Return the frontier as text: each student's compute and accuracy, with ● if it is on the frontier.

    Args:
        results: Table of `analysis.results.collect.collect`. Missing values are shown as –.
        points: Table of `analysis.statistics.frontier.frontier_table`.
        width: Columns of the terminal, by default the current one's. Group accuracies are shown if they fit.
    """
    names = list(dict.fromkeys(points.loc[points["kind"] == "group", "scope"]))
    shared = [SHARED] if SHARED in set(points["scope"]) else []
    room = (width or shutil.get_terminal_size().columns) - 85 - 12 * len(shared)
    groups = names if 1 < len(names) <= room // 12 else []
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.caption = "● on the frontier: none is as accurate at less compute"
    table.add_column("student", overflow="fold")
    table.add_column("trained on")
    for name in ("training\nFLOPs", "FLOPs\nper item", "tokens\nper item", "accuracy\n%"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in (*("shared by\nall, %" for _ in shared), *groups):
        heading = name.replace(", ", ",\n").replace("-", "-\n")
        table.add_column(heading, justify="right", no_wrap=True)
    cells = {(row["scope"], row["student"]): row for row in points.to_dict("records")}
    results = with_configuration(results)
    words = dict(zip(results["configuration"], _trained_on(results), strict=True))
    for student, own in results.groupby("configuration", sort=False):
        average = cells.get((AVERAGE, student), {})
        flops = {"training_flops": own["training_flops"].iloc[0], **average}
        table.add_row(
            str(student),
            words[str(student)],
            *(_scientific(flops.get(x)) + (" ●" if average.get(mark) else "  ") for x, mark in AXES.items()),
            _rounded(average.get("output_tokens")),
            *(_percent(cells.get((scope, student), {})) for scope in (AVERAGE, *shared, *groups)),
            style="bold" if any(average.get(mark) for mark in AXES.values()) else None,
        )
    return table


def claims_table(table: pd.DataFrame) -> Table:
    """Format the questions and answers of `analysis.statistics.claims.claims` as text."""
    shown = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, expand=True)
    for name in ("question", "compute", "over", "answer", "evidence"):
        shown.add_column(name, overflow="fold", ratio=3 if name in ("question", "evidence") else 1)
    colors = {"yes": "green", "no": "red"}
    for question, axis, scope, answer, evidence in table.to_numpy():
        color = colors.get(answer.split(",")[0], "yellow")
        shown.add_row(question, axis, scope, Text(answer, color), evidence)
    return shown


def usage_line(table: pd.DataFrame) -> str:
    """Summarize a study's usage (`results.usage.usage`) in one line; empty if nothing is known."""
    if not len(table):
        return ""
    unit = "gpu_hours" if table["gpu_hours"].any() else "hours"
    what = "GPU time" if unit == "gpu_hours" else "job time, without GPUs"
    stages = zip(table["stage"], table[unit], strict=True)
    parts = ", ".join(f"{stage} {span(hours)}" for stage, hours in stages if hours)
    total, runs, interrupted = (table[name].sum() for name in (unit, "runs", "interrupted"))
    energy = f", {table['joules'].sum() / 3.6e6:.2g} kWh of its nodes" if table["joules"].any() else ""
    return f"used: {span(total)} of {what} ({parts}){energy}; {runs} runs, {interrupted} of them interrupted"


def _trained_on(table: pd.DataFrame) -> list[str]:
    """Describe each row's supervision; with the order only if mixtures of both orders are compared."""
    both = both_orders(table)
    return [supervision(s, o if both else None) for s, o in zip(table["share"], table["order"], strict=True)]


def _scientific(value: float | None) -> str:
    return "–" if value is None or pd.isna(value) else f"{value:.2e}".replace("e+", "e")


def _rounded(value: float | None) -> str:
    return "–" if value is None or pd.isna(value) else f"{value:,.0f}"


def _percent(row: dict[Any, Any]) -> str:
    if not row:
        return "–"
    error = "" if pd.isna(row["stderr"]) else f" ± {row['stderr'] * 100:.1f}"
    return f"{row['accuracy'] * 100:.1f}{error}"


def _figures(tables: dict[str, pd.DataFrame]) -> Iterator[tuple[str, Figure]]:
    """Yield every figure of a report with its file name."""
    points, stood, gain = tables["frontier"], tables["standing"], tables["gains"]
    for suffix, kinds in PARTS:
        part = points[points["kind"].isin(kinds)]
        for x in AXES:
            if part[x].notna().any():  # otherwise a warning says so
                yield f"frontier-{x.removesuffix('_flops')}{suffix}", plots.frontier(part, x, stood)
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


def _page_data(path: Path, found: Report) -> dict[str, Any]:
    """Return the data of the page's script as JSON values; missing and infinite numbers are null."""

    def records(table: pd.DataFrame) -> Any:
        return json.loads(table.to_json(orient="records", double_precision=15))

    results, points, compared = found.results, found.tables["frontier"], found.tables["matched"]
    style = plots.Style.of(points)
    if len(compared):
        words = {"supervision": _trained_on(compared), "break_even": _break_even(compared)}
        compared = compared.assign(**words)
    return {
        "study": path.resolve().name,
        "counts": {**results[["student", "benchmark"]].nunique().to_dict(), "row": len(results)},
        "points": records(points.assign(supervision=_trained_on(points))),
        "results": records(results),
        "matched": records(compared),
        **{name: records(found.tables[name]) for name in ("standing", "claims", "dropped", "usage")},
        "near": NEAR,
        "sizes": size_order(points),
        "colors": style.colors,
        "markers": [[share, marker, supervision(share)] for share, marker in style.markers.items()],
        "both_orders": style.both_orders,
        "warnings": list(found.warnings),
        "provenance": _provenance(path, results),
    }


def _break_even(matched: pd.DataFrame) -> list[str]:
    """Describe the compute at which plain answers reach the same accuracy: a ratio, or why there is none."""

    def word(value: float, own: float) -> str:
        if pd.isna(value):
            return "–"
        if value in (0, math.inf):
            return "never" if value else "any"
        return f"{value / own:.2g}×"

    bounds = matched[["break_even", "break_even_low", "break_even_high", "flops"]].itertuples(index=False)
    return [f"{word(best, own)} [{word(low, own)}, {word(high, own)}]" for best, low, high, own in bounds]


def _provenance(path: Path, results: pd.DataFrame) -> list[dict[str, str]]:
    """Return the results' origins: one entry per stage and combination of code, hardware and packages."""
    entries = Counter[tuple[str, ...]]()
    for stage, record in _records(path, sorted(set(results["source"]))):
        code, hardware = section(record, "code"), section(record, "hardware")
        commit = str(code.get("commit", "unknown"))
        commit += " with uncommitted changes" if code.get("dirty") else ""
        gpus = hardware.get("gpus")
        machine = [
            f"{n} × {gpu}" for gpu, n in Counter(map(str, gpus if isinstance(gpus, list) else ())).items()
        ]
        if hardware:
            processor = hardware.get("cpu") or "an unnamed processor"
            machine.append(f"{hardware.get('cores')} cores of {processor}")
        packages = {"python": record.get("python"), **section(record, "packages")}
        versions = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
        entries[stage, commit, "; ".join(machine) or "unknown", versions or "unknown"] += 1
    names = ("stage", "commit", "hardware", "packages")
    return [dict(zip(names, key, strict=True)) | {"count": str(count)} for key, count in entries.items()]


def _records(path: Path, sources: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each source's provenance: of the evaluation and all units before it, or what lm-eval recorded."""
    own = [path / source for source in sources if Path(source).name == "result.json"]
    notes = [
        (folder.path.parent.name, folder.out / "provenance.json")
        for folder in lineage(StudyDir(path), (UnitDir(result.parent.parent) for result in own))
    ]
    for stage, note in notes:
        with suppress(Unreadable):  # missing or damaged: nothing is known
            yield stage, read_object(note)
    for file in (path / source for source in sources):
        if file.suffix == ".json" and file not in own:
            with suppress(Unreadable):
                data = read_object(file)
                versions = {name: data.get(f"{name}_version") for name in ("lm_eval", "transformers")}
                yield "evaluated elsewhere", {"packages": versions}
