"""The report of a study: tables, figures for print, one page for the browser, one table for the terminal.

Everything that is doubtful about the results stands in the report itself, beside the numbers. The page
(report.html here is its template) works without a network: data, style and script are inside it.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table

from analysis import plots
from analysis.collect import DataWarning, collect
from analysis.frontier import AVERAGE, AXES, frontier_table, size_order, supervision
from jobs.rundir import StudyDir, UnitDir, read_json, study_of

if TYPE_CHECKING:
    from jobs.context import Context

TEMPLATE = Path(__file__).with_name("report.html")
# Figures of one kind of scopes each: the end of the file name, and the kinds.
PARTS = (("", ("average", "group")), ("-benchmarks", ("benchmark",)))


@dataclass(frozen=True)
class Report:
    """What was written, and what it was written from."""

    page: Path
    results: pd.DataFrame
    points: pd.DataFrame
    warnings: tuple[str, ...]


def write_report(path: str | Path, out: str | Path, units: Container[str] | None = None) -> Report:
    """Write results.csv, frontier.csv, figures (.svg, .png) and report.html.

    Args:
        path, units: see `analysis.collect.collect`.
        out: the folder to write to; made if it does not exist.

    Raises:
        ValueError: there are no results, or they cannot be understood.
    """
    path, out = Path(path), Path(out)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DataWarning)
        results = collect(path, units)
        points = frontier_table(results)
    said = tuple(dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, DataWarning)))
    out.mkdir(parents=True, exist_ok=True)
    results.to_csv(out / "results.csv", index=False)
    points.to_csv(out / "frontier.csv", index=False)
    files = ["results.csv", "frontier.csv"]
    for name, figure in _figures(points):
        _save(figure, out, name)
        files += [f"{name}.svg", f"{name}.png"]
    page = out / "report.html"
    data = _page_data(path, results, points, said) | {"files": files}
    text = json.dumps(data, allow_nan=False).replace(
        "<", "\\u003c"
    )  # no "</script>" of a name ends the script
    page.write_text(TEMPLATE.read_text(encoding="utf-8").replace("__DATA__", text), encoding="utf-8")
    return Report(page, results, points, said)


def run(ctx: Context) -> None:
    """The report stage: publish a report on exactly the evaluations that are the unit's inputs."""
    staged = ctx.staging()
    wanted = {given.id for given in ctx.unit.inputs if given.stage == "evaluate"}
    results = write_report(study_of(ctx.folder.path).path, staged, wanted).results
    counts = {"students": results["student"].nunique(), "benchmarks": results["benchmark"].nunique()}
    ctx.publish(staged, {**counts, "rows": len(results)})


def terminal_table(results: pd.DataFrame, width: int | None = None) -> Table:
    """The frontier as text: each student's compute and accuracy, ● where no other student beats it.

    Args:
        results: the table of `analysis.collect.collect`. What it lacks is shown as –.
        width: columns of the terminal, by default those of this one. The accuracies of the groups are
            shown where they fit.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # said when the results were collected; here it is a –
        points = frontier_table(results)
    names = list(dict.fromkeys(points.loc[points["kind"] == "group", "scope"]))
    room = (width or shutil.get_terminal_size().columns) - 85
    groups = names if 1 < len(names) <= room // 12 else []
    words = dict(zip(results["student"], _trained_on(results), strict=True))
    table = Table(
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        caption="● on the frontier: none is as accurate at less compute",
    )
    table.add_column("student", overflow="fold")
    table.add_column("trained on")
    for name in ("training\nFLOPs", "FLOPs\nper item", "tokens\nper item", "accuracy\n%", *groups):
        table.add_column(name.replace(", ", ",\n").replace("-", "-\n"), justify="right", no_wrap=True)
    cells = {(row["scope"], row["student"]): row for row in points.to_dict("records")}
    for student, own in results.groupby("student", sort=False):
        average = cells.get((AVERAGE, student), {})
        flops = {"training_flops": own["training_flops"].iloc[0], **average}
        table.add_row(
            str(student),
            words[str(student)],
            *(_scientific(flops.get(x)) + (" ●" if average.get(mark) else "  ") for x, mark in AXES.items()),
            _rounded(average.get("output_tokens")),
            *(_percent(cells.get((scope, student), {})) for scope in (AVERAGE, *groups)),
            style="bold" if any(average.get(mark) for mark in AXES.values()) else None,
        )
    return table


def _trained_on(table: pd.DataFrame) -> list[str]:
    """Each row's supervision in words, the order only where mixtures of both orders are compared."""
    both = plots.Look.of(table).both_orders
    return [supervision(s, o if both else None) for s, o in zip(table["share"], table["order"], strict=True)]


def _scientific(value: float | None) -> str:
    return "–" if value is None or pd.isna(value) else f"{value:.2e}".replace("e+", "e")


def _rounded(value: float | None) -> str:
    return "–" if value is None or pd.isna(value) else f"{value:,.0f}"


def _percent(row: dict[Any, Any]) -> str:
    if not row:
        return "–"
    return f"{row['accuracy']:.1%}".rstrip("%") + (
        "" if pd.isna(row["stderr"]) else f" ± {row['stderr'] * 100:.1f}"
    )


def _figures(points: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Every figure of a report with its file name."""
    for suffix, kinds in PARTS:
        part = points[points["kind"].isin(kinds)]
        for x in AXES:
            if part[x].isna().all():
                continue  # a warning says so
            yield f"frontier-{x.removesuffix('_flops')}{suffix}", plots.frontier(part, x)
        if part["share"].notna().any():
            yield f"mixtures{suffix}", plots.mixtures(part)


def _save(figure: Figure, out: Path, name: str) -> None:
    """As SVG whose text stays text, the same bytes for the same data, and as PNG for slides."""
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(out / f"{name}.svg", metadata={"Date": None})
        figure.savefig(out / f"{name}.png", dpi=200)


def _page_data(
    path: Path, results: pd.DataFrame, points: pd.DataFrame, said: tuple[str, ...]
) -> dict[str, Any]:
    """What the page's script draws, as JSON values; missing numbers are null."""

    def records(table: pd.DataFrame) -> Any:
        return json.loads(table.to_json(orient="records", double_precision=15))

    look = plots.Look.of(points)
    return {
        "study": path.resolve().name,
        "counts": {name: int(results[name].nunique()) for name in ("student", "benchmark")}
        | {"row": len(results)},
        "points": records(points.assign(supervision=_trained_on(points))),
        "results": records(results),
        "sizes": size_order(points),
        "colours": look.colours,
        "markers": [[share, marker, supervision(share)] for share, marker in look.markers.items()],
        "both_orders": look.both_orders,
        "warnings": list(said),
        "provenance": _provenance(path, results),
    }


def _provenance(path: Path, results: pd.DataFrame) -> list[dict[str, str]]:
    """Where the results come from: one entry for each stage and different code, hardware or packages."""
    entries: dict[tuple[str, ...], int] = {}
    for stage, record in _records(path, sorted(set(results["source"]))):
        code, hardware = record.get("code") or {}, record.get("hardware") or {}
        commit = code.get("commit", "unknown") + (" with uncommitted changes" if code.get("dirty") else "")
        gpus = hardware.get("gpus") or []
        machine = [f"{gpus.count(gpu)} × {gpu}" for gpu in dict.fromkeys(gpus)]
        if hardware:
            machine.append(
                f"{hardware.get('cores')} cores of {hardware.get('cpu') or 'an unnamed processor'}"
            )
        packages = {"python": record.get("python"), **(record.get("packages") or {})}
        versions = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
        key = (stage, commit, "; ".join(machine) or "unknown", versions or "unknown")
        entries[key] = entries.get(key, 0) + 1
    names = ("stage", "commit", "hardware", "packages")
    return [dict(zip(names, key, strict=True)) | {"count": str(count)} for key, count in entries.items()]


def _records(path: Path, sources: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The provenance of each source: of the evaluation and all units before it, or what lm-eval noted."""
    seen: set[Path] = set()
    todo = [(path / source).parent.parent for source in sources if (path / source).name == "result.json"]
    while todo:
        folder = UnitDir(todo.pop(0))
        if folder.path in seen:
            continue
        seen.add(folder.path)
        if (note := folder.out / "provenance.json").exists():
            yield folder.path.parent.name, read_json(note)
        if folder.spec.exists():
            todo += [StudyDir(path).unit(given).path for given in folder.unit().inputs]
    for source in sources:
        if (path / source).name != "result.json":
            data = read_json(path / source)
            versions = {
                "lm_eval": data.get("lm_eval_version"),
                "transformers": data.get("transformers_version"),
            }
            yield "evaluated elsewhere", {"packages": versions}
