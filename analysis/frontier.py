"""Which students no other one beats: at less or the same compute, more accurate.

Pure functions on the table of `analysis.collect`; nothing here reads files or draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd

from analysis.collect import warn

AXES = {"training_flops": "on_training_frontier", "inference_flops": "on_inference_frontier"}
STUDENT = ["student", "size", "share", "order", "seed"]
MEANS = ["inference_flops", "accuracy", "output_tokens", "reasoning_tokens"]
AVERAGE = "all benchmarks"


def pareto(table: pd.DataFrame, x: str, y: str) -> pd.Series[bool]:
    """Rows on the frontier of small `x` and large `y`.

    A row is on it if no other row has an x as small and a y as large with one of the two strictly better.
    Rows that are equal in both are on it together. A row without x or y never is.

    Args:
        table: one row for each point.
        x, y: names of numeric columns.

    Returns:
        One bool for each row, with the table's index.
    """
    points = table[[x, y]].astype("float64").dropna()
    best = points.groupby(x)[y].max()  # sorted by x
    at_most, before = points[x].map(best), points[x].map(best.cummax().shift())  # shift: at any smaller x
    on = (points[y] == at_most) & ~(points[y] <= before)  # nothing is before the first: NaN, not beaten
    return on.reindex(table.index, fill_value=False).astype(bool)


def average(results: pd.DataFrame, scope: str) -> pd.DataFrame:
    """Each student's mean over the benchmarks in `results`, every benchmark with the same weight.

    The standard error is that of a mean of independent estimates, √(Σσ²)/k. A student that lacks a
    benchmark is left out and said by a warning: a mean over fewer benchmarks is not comparable.

    Args:
        results: rows of `collect`, of the benchmarks to be averaged only.
        scope: what the warning calls them.

    Returns:
        One row for each student: STUDENT, training_flops, MEANS, stderr, n (items in all) and benchmarks
        (how many).
    """
    wanted = set(results["benchmark"])
    lacking = {
        str(student): sorted(wanted - set(own))
        for student, own in results.dropna(subset="accuracy").groupby("student")["benchmark"]
    }
    for student, missing in lacking.items():
        if missing:
            warn(f"{student} has no result for {', '.join(missing)}: it is left out of the mean of {scope}.")
    students = results[results["student"].map(lambda student: lacking.get(student) == [])].groupby("student")
    count = len(wanted)  # of rows of each student: a sum with fewer values than that is missing
    means = students[MEANS].sum(min_count=count) / count
    return (
        students[[*STUDENT[1:], "training_flops"]]
        .first()
        .join(means)
        .assign(stderr=students["stderr"].agg(lambda own: math.hypot(*own)) / count)
        .assign(n=students["n"].sum(min_count=count), benchmarks=count)
        .reset_index()
    )


def scopes(results: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """What accuracies are compared over: (kind, name, rows), kind being average, group or benchmark."""
    yield "average", AVERAGE, results
    for (domain, form), rows in results.groupby(["domain", "format"]):
        yield "group", f"{domain}, {form}", rows
    for benchmark, rows in results.groupby("benchmark"):
        yield "benchmark", str(benchmark), rows


def frontier_table(results: pd.DataFrame) -> pd.DataFrame:
    """Each student at its compute, with and without being on the frontier, for every scope.

    Args:
        results: the table of `collect`.

    Returns:
        kind, scope, the columns of `average`, on_training_frontier and on_inference_frontier; scopes in the
        order of `scopes`, students by training FLOPs.
    """
    tables = []
    for kind, scope, rows in scopes(results):
        points = average(rows, scope)
        for x, mark in AXES.items():
            points[mark] = pareto(points, x, "accuracy")
        points.insert(0, "kind", kind)
        points.insert(1, "scope", scope)
        tables.append(points.sort_values(["training_flops", "student"]))
    return pd.concat(tables, ignore_index=True)


def supervision(share: float, order: str | None = None) -> str:
    """What a student was trained on, in words; `order` is added for mixtures where it is given."""
    if pd.isna(share):
        return "unknown"
    if share in (0, 1):
        return "reasoning" if share else "plain answers"
    return f"{share:.0%} reasoning".replace("%", " %") + (f", {order}" if order else "")


def size_order(table: pd.DataFrame) -> list[str]:
    """The sizes that occur, smallest first: by their number (135M, 0.5B), else by their training FLOPs."""
    sizes = sorted(table["size"].dropna().unique())
    numbers = pd.Series(sizes, dtype="str").str.extract(r"(?i)^([\d.]+)\s*([KMBT])?")
    amounts = pd.to_numeric(numbers[0], errors="coerce") * numbers[1].str.upper().map(
        {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
    )
    if amounts.notna().all():
        return [size for _, size in sorted(zip(amounts, sizes, strict=True))]
    flops = table.groupby("size")["training_flops"].min()
    return sorted(sizes, key=lambda size: (flops[size], size))
