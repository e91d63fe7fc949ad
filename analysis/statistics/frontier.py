"""Which configurations are on the frontier, i.e. not beaten at equal or less compute, and how certainly.

A configuration is what was trained: students that differ only by seed are one, at the mean of their
accuracies. Pure functions on the table of `analysis.results.collect`, without file access or plotting.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.results.metrics import is_accuracy
from analysis.results.table import few, warn
from analysis.statistics.bootstrap import Array, Resampled, intervals, quantile

AXES = {"training_flops": "on_training_frontier", "inference_flops": "on_inference_frontier"}
# Costs of comparison: each axis, and both together (dominance requires no more of either cost).
COSTS = {**{x: (x,) for x in AXES}, "both": tuple(AXES)}
MARKS = {**AXES, "both": "on_both_frontier"}
STUDENT = ["student", "size", "share", "order", "seed", "recipe"]
MEANS = ["inference_flops", "accuracy", "output_tokens", "reasoning_tokens"]
STANDING = [
    "kind", "scope", "axis", "student", "probability", "gap", "gap_low", "gap_high", "plain_gap",
    "plain_gap_low", "plain_gap_high", "band_low", "band_high",
]  # fmt: skip
AVERAGE, SHARED = "all benchmarks", "benchmarks of all students"
Redrawn = dict[str, Array]  # by scope: resamples × its points
NEAR = 0.01  # "near the frontier": at most one percentage point of accuracy below it
FEW = 6  # benchmarks that are looked at one by one; more are looked at in groups


def pareto(table: pd.DataFrame, x: str | Sequence[str], y: str) -> pd.Series[bool]:
    """Mark the rows on the frontier of small `x` and large `y`.

    A row is on the frontier unless another row has every x as small and y as large, with one of them strictly
    better. Rows that are equal in all are on it together. A row without x or y never is.

    Args:
        table: One row per point.
        x: Name of a numeric column, or of several that all count.
        y: Name of a numeric column.

    Returns:
        One bool per row, with the table's index.
    """
    costs = table[[x] if isinstance(x, str) else list(x)].to_numpy(dtype="float64")
    return pd.Series(unbeaten(costs, table[y].to_numpy(dtype="float64")), index=table.index, dtype=bool)


def unbeaten(costs: Array, heights: Array) -> NDArray[np.bool_]:
    """Apply the definition of `pareto` to many sets of heights at once.

    Args:
        costs: Points × kinds of cost.
        heights: … × points.
    """
    found = ~np.isnan(heights) & ~np.isnan(costs).any(axis=1)
    for point, cost in enumerate(costs):
        as_cheap = (costs <= cost).all(axis=1)
        cheaper = as_cheap & (costs < cost).any(axis=1)
        own = heights[..., [point]]
        beaten = (heights[..., as_cheap] > own).any(axis=-1) | (heights[..., cheaper] >= own).any(axis=-1)
        found[..., point] &= ~beaten
    return np.asarray(found)


def with_configuration(results: pd.DataFrame) -> pd.DataFrame:
    """Add the column "configuration": the student's name without its seed's suffix "-sSEED"."""
    students = zip(results["student"], results["seed"], strict=True)
    return results.assign(configuration=[str(name).removesuffix(f"-s{seed}") for name, seed in students])


def over_seeds(results: pd.DataFrame) -> pd.DataFrame:
    """Return a row per configuration and benchmark: means over seeds, "student" being the configuration.

    The squared standard error is the mean of the runs' (they share their items, so it does not shrink) plus
    the variance between the runs divided by their number. "seeds" is the number of seeds.
    """
    results = with_configuration(results)
    groups = results.groupby(["configuration", "benchmark"], sort=False)
    table = groups.first()
    for column in ("training_flops", *MEANS):
        table[column] = groups[column].mean()
    between = groups["accuracy"].var() / groups["accuracy"].count()
    table["stderr"] = np.sqrt(
        groups["stderr"].agg(lambda own: own.pow(2).mean(skipna=False)) + between.fillna(0.0)
    )
    table["seeds"] = groups.size()
    noted = [
        f"{name} ({' and '.join(map(str, sorted(set(counts))))})"
        for name, counts in table["seeds"].groupby("configuration")
        if counts.nunique() > 1
    ]
    if noted:
        warn(f"Benchmarks are means over different numbers of seeds: {few(noted)}.")
    return table.reset_index().assign(student=lambda t: t["configuration"])


def lacking(results: pd.DataFrame) -> dict[str, list[str]]:
    """Return for each student the benchmarks in `results` without a result; an empty list if it has all."""
    wanted = set(results["benchmark"])
    return {
        str(student): sorted(wanted - set(own))
        for student, own in results.dropna(subset="accuracy").groupby("student")["benchmark"]
    }


def average(results: pd.DataFrame) -> pd.DataFrame:
    """Return each student's mean over the benchmarks in `results`, all with the same weight.

    The standard error is that of a mean of independent estimates, √(Σσ²)/k. Students without a result for
    some benchmark are left out: a mean over fewer benchmarks is not comparable.

    Args:
        results: Rows of `over_seeds`, of the benchmarks to average only.

    Returns:
        One row per student: STUDENT, seeds, training_flops, MEANS, stderr, n (total items) and benchmarks
        (their number).
    """
    missing = lacking(results)
    students = results[results["student"].map(lambda student: missing.get(student) == [])].groupby("student")
    count = results["benchmark"].nunique()  # rows per student; with fewer values, its sum is missing
    means = students[MEANS].sum(min_count=count) / count
    return (
        students[[*STUDENT[1:], "seeds", "training_flops"]]
        .first()
        .join(means)
        .assign(stderr=students["stderr"].agg(lambda own: math.hypot(*own)) / count)
        .assign(n=students["n"].sum(min_count=count), benchmarks=count)
        .reset_index()
    )


def scopes(results: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield the scopes of comparison: (kind, name, rows), kind being average, group or benchmark.

    Means are taken over accuracies whose items no other benchmark contains. If students lack some of the
    benchmarks, there is also the mean over those that all students have.

    Args:
        results: Table with the column "configuration".
    """
    counted = results[results["within"].isna() & results["metric"].map(is_accuracy)]
    if len(counted):
        yield "average", AVERAGE, counted
        known = counted.dropna(subset="accuracy")
        shared = set.intersection(*known.groupby("configuration")["benchmark"].agg(set)) if len(known) else ()
        if shared and len(shared) < counted["benchmark"].nunique():
            yield "average", SHARED, counted[counted["benchmark"].isin(shared)]
    for (domain, form), rows in counted.groupby(["domain", "format"]):
        yield "group", f"{domain}, {form}", rows
    for benchmark, rows in results.groupby("benchmark"):
        yield "benchmark", str(benchmark), rows


def frontier_table(results: pd.DataFrame) -> pd.DataFrame:
    """Return each configuration's compute, accuracy and frontier membership for every scope.

    Args:
        results: Table of `collect`.

    Returns:
        kind, scope, the columns of `average`, and on_training_frontier, on_inference_frontier and
        on_both_frontier; scopes in the order of `scopes`, configurations by training FLOPs.
    """
    tables, noted = [], dict[str, list[str]]()
    for kind, scope, rows in scopes(over_seeds(results)):
        points = average(rows)
        for student, missing in lacking(rows).items():
            if missing:
                noted.setdefault(f"{student} lacks {few(missing, 4)}", []).append(scope)
        for axis, mark in MARKS.items():
            points[mark] = pareto(points, COSTS[axis], "accuracy")
        points.insert(0, "kind", kind)
        points.insert(1, "scope", scope)
        tables.append(points.sort_values(["training_flops", "student"]))
    if noted:
        warn(f"Left out of means: {few(f'{why} ({few(names)})' for why, names in noted.items())}.")
    _warn_scores(results)
    return pd.concat(tables, ignore_index=True)


def _warn_scores(results: pd.DataFrame) -> None:
    used = results[["benchmark", "metric"]].drop_duplicates()
    if noted := [
        f"{benchmark} ({metric})" for benchmark, metric in used.to_numpy() if not is_accuracy(metric)
    ]:
        warn(f"No shares of items, hence in no mean of accuracies: {few(noted)}.")


def asked_level(points: pd.DataFrame) -> str:
    """Return the kind of scope that questions are asked about: "benchmark" if there are FEW, else "group"."""
    scopes = points.groupby("kind")["scope"].nunique()
    return "benchmark" if 0 < scopes.get("benchmark", 0) <= FEW or "group" not in scopes else "group"


def distinct(results: pd.DataFrame, points: pd.DataFrame) -> list[str]:
    """Return the scopes, in order, without those that repeat another one, such as the only group of a study.

    Of scopes with the same benchmarks a mean over all is kept rather than a benchmark, and a benchmark rather
    than a group. A scope without `points` (each student lacks some of its benchmarks) is left out.
    """
    found = _benchmark_sets(results, points)
    kept = dict[frozenset[str], str]()
    for wanted in ("average", "benchmark", "group"):
        for kind, scope, benchmarks in found:
            if kind == wanted:
                kept.setdefault(benchmarks, scope)
    return [scope for _, scope, benchmarks in found if kept[benchmarks] == scope]


def asked_scopes(results: pd.DataFrame, points: pd.DataFrame) -> dict[str, str]:
    """Map scopes to the one of `asked_level` with the same benchmarks, whose answers hold for them, too."""
    found, level = _benchmark_sets(results, points), asked_level(points)
    asked = {benchmarks: scope for kind, scope, benchmarks in found if kind == level}
    return {scope: asked[benchmarks] for _, scope, benchmarks in found if benchmarks in asked}


def _benchmark_sets(results: pd.DataFrame, points: pd.DataFrame) -> list[tuple[str, str, frozenset[str]]]:
    """Return kind, name and benchmarks of each scope with points."""
    return [
        (kind, scope, frozenset(rows["benchmark"]))
        for kind, scope, rows in scopes(with_configuration(results))
        if (points["scope"] == scope).any()
    ]


def redrawn(results: pd.DataFrame, points: pd.DataFrame, resampled: Resampled) -> Redrawn:
    """Return resampled accuracies of `points` (from `frontier_table`) by scope: resamples × its points."""
    over = scopes(with_configuration(results))
    benchmarks = {scope: sorted(set(rows["benchmark"])) for _, scope, rows in over}
    return {
        str(scope): resampled.mean(own["student"].tolist(), benchmarks[str(scope)])
        for scope, own in points.groupby("scope")
    }


def standing(points: pd.DataFrame, drawn: Redrawn) -> pd.DataFrame:
    """Return each configuration's position relative to the frontier, with uncertainty, per scope and axis.

    The gap is the accuracy of the best other configuration at no higher cost, minus its own: positive below
    the frontier, negative by its lead, -∞ if there is no other. The plain gap is that to the best
    configuration with plain answers only. The intervals are those of comparisons with the best (Hsu 1984): a
    max-T interval of every pair's difference gives the bounds max(difference - q·se) and
    max(difference + q·se), which also hold if several are equally good, where a bootstrap of the maximum
    itself fails. One family is all pairs of all scopes of one kind, for one axis.

    The band is that of the frontier's height at this configuration's compute, derived in the same way from
    simultaneous intervals of the accuracies over the whole frontier of the scope.

    Args:
        points: Table of `frontier_table`.
        drawn: Its accuracies from `redrawn`.

    Returns:
        The columns of STANDING: axis is one of COSTS, probability the fraction of resamples in which the
        configuration is on the frontier; NaN if an error is unknown. Configurations of unknown cost have no
        row.
    """
    tables = []
    for axis, columns in COSTS.items():
        for _, rows in points.groupby("kind", sort=False):
            parts, draws = [], []
            for scope, own in rows.groupby("scope", sort=False):
                known = own[[*columns, "accuracy"]].notna().all(axis=1).to_numpy()
                parts.append(own[known])
                draws.append(drawn[str(scope)][:, known])
            costs = [own[list(columns)].to_numpy() for own in parts]
            spread = [_pairs_spread(c, d) for c, d in zip(costs, draws, strict=True)]
            q = float(quantile(np.max([distance for _, distance in spread], axis=0)))
            for own, cost, accuracy, (stderr, _) in zip(parts, costs, draws, spread, strict=True):
                made = own[["kind", "scope", "student"]].assign(axis=axis)
                on = unbeaten(cost, accuracy).mean(axis=0)
                made["probability"] = np.where(np.isnan(accuracy).any(axis=0), np.nan, on)
                height = own["accuracy"].to_numpy()
                every, plain = np.ones(len(own), dtype=bool), (own["share"] == 0).to_numpy()
                for name, rivals in (("gap", every), ("plain_gap", plain)):
                    made[[name, f"{name}_low", f"{name}_high"]] = _gaps(cost, height, q * stderr, rivals)
                made[["band_low", "band_high"]] = _band(cost, height, accuracy)
                tables.append(made)
    return pd.concat(tables, ignore_index=True)[STANDING]


def _as_cheap(costs: Array) -> NDArray[np.bool_]:
    """Return a matrix of [j, c]: whether j costs no more than c."""
    return np.asarray((costs[:, None] <= costs[None]).all(axis=2))


def _pairs_spread(costs: Array, redrawn: Array) -> tuple[Array, Array]:
    """Return standard errors of all pairwise differences, and each resample's largest compared |T*|."""
    centred = redrawn - redrawn.mean(axis=0)
    cov = centred.T @ centred / (len(centred) - 1)
    variances = cov.diagonal()
    stderr = np.sqrt(np.maximum(variances[:, None] + variances - 2 * cov, 0.0))
    as_cheap, largest = _as_cheap(costs), np.zeros(len(redrawn))
    for c in range(len(costs)):
        rivals = as_cheap[:, c] & (stderr[:, c] > 1e-12)  # false for NaN
        if rivals.any():
            distances = np.abs(centred[:, rivals] - centred[:, [c]]) / stderr[rivals, c]
            np.maximum(largest, distances.max(axis=1), out=largest)
    return stderr, largest


def _gaps(costs: Array, heights: Array, margins: Array, allowed: NDArray[np.bool_]) -> Array:
    """Return gap, gap_low and gap_high of each point to the allowed ones, given margins of differences."""
    rivals = _as_cheap(costs) & ~np.eye(len(costs), dtype=bool) & allowed[:, None]
    difference = heights[:, None] - heights
    bounds = (difference, difference - margins, difference + margins)
    return np.stack(
        [np.where(rivals, bound, -np.inf).max(axis=0, initial=-np.inf) for bound in bounds], axis=1
    )


def _band(costs: Array, heights: Array, redrawn: Array) -> Array:
    """Return simultaneous bounds of the frontier's height at each point's cost."""
    together = intervals(heights, redrawn)[["low_all", "high_all"]].to_numpy()
    return np.where(_as_cheap(costs)[:, :, None], together[:, None], -np.inf).max(axis=0, initial=-np.inf)


def supervision(share: float, order: str | None = None) -> str:
    """Describe what a student was trained on; for mixtures including `order`, if given."""
    if pd.isna(share):
        return "unknown"
    if share in (0, 1):
        return "reasoning" if share else "plain answers"
    return f"{share:.0%} reasoning".replace("%", " %") + (f", {order}" if isinstance(order, str) else "")


def both_orders(table: pd.DataFrame) -> bool:
    """Whether mixtures of more than one order occur."""
    mixed = table["share"].between(0, 1, inclusive="neither")
    return bool(table.loc[mixed, "order"].nunique() > 1)


def trained_on(table: pd.DataFrame) -> list[str]:
    """Describe each row's supervision; with orders and recipes only if several are compared."""
    both = both_orders(table)
    kinds = [supervision(s, o if both else None) for s, o in zip(table["share"], table["order"], strict=True)]
    return [", ".join(filter(None, pair)) for pair in zip(kinds, table["recipe"], strict=True)]


def size_order(table: pd.DataFrame) -> list[str]:
    """Return the sizes, smallest first: by their number (135M, 0.5B), else by their training FLOPs."""
    sizes = sorted(table["size"].dropna().unique())
    numbers = pd.Series(sizes, dtype="str").str.extract(r"(?i)^([\d.]+)\s*([KMBT])?")
    amounts = pd.to_numeric(numbers[0], errors="coerce") * numbers[1].str.upper().map(
        {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
    )
    if amounts.notna().all():
        return [size for _, size in sorted(zip(amounts, sizes, strict=True))]
    flops = table.groupby("size")["training_flops"].min()
    return sorted(sizes, key=lambda size: (flops[size], size))
