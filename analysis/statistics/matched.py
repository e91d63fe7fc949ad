"""Reasoning versus plain answers at matched compute, and what mixtures of both keep.

Pure functions on the tables of `frontier` and the resamples of `bootstrap`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.results.table import few, warn
from analysis.statistics.bootstrap import LEVEL, Array, intervals
from analysis.statistics.frontier import AXES, Redrawn

NODES = NDArray[np.intp]


def at_compute(flops: Array, accuracy: Array, at: Array) -> Array:
    """Return the frontier of some students at any compute, interpolated linearly in log FLOPs.

    The frontier never falls: students beaten by a cheaper one are skipped, and after the best student it
    stays level up to the most expensive one. Outside the students' range the nearest segment is extended
    (within 0 and 1); callers must mark such values as extrapolated. A single student (or several of equal
    compute) gives a constant.

    Args:
        flops: Compute of each student, above 0.
        accuracy: … × students.
        at: The FLOPs at which to evaluate.

    Returns:
        … × `at`.
    """
    x, heights = _envelope(flops, accuracy)
    if len(x) == 1:
        return np.broadcast_to(heights, (*heights.shape[:-1], len(at))).copy()
    left, right = _nodes(heights)
    piece = np.clip(np.searchsorted(x, np.log(at), side="right") - 1, 0, len(x) - 2)
    left, right = left[..., piece], right[..., piece + 1]
    low, high = (np.take_along_axis(heights, node, axis=-1) for node in (left, right))
    along = (np.log(at) - x[left]) / (x[right] - x[left])
    return np.clip(low + (high - low) * along, 0.0, 1.0)


def break_even(flops: Array, accuracy: Array, wanted: Array) -> Array:
    """Return the compute at which the frontier of `at_compute` reaches an accuracy.

    Args:
        flops, accuracy: As for `at_compute`.
        wanted: Accuracies to reach, … × count, of the same leading shape.

    Returns:
        FLOPs, … × count; ∞ if no student reaches the accuracy, 0 if the cheapest already does, NaN if that
        is unknown.
    """
    x, heights = _envelope(flops, accuracy)
    first = (heights[..., None, :] < wanted[..., :, None]).sum(axis=-1)  # index of the first that reaches it
    inside = np.minimum(first, len(x) - 1)
    left = np.take_along_axis(_nodes(heights)[0], inside - 1, axis=-1)
    low, high = (np.take_along_axis(heights, node, axis=-1) for node in (left, inside))
    with np.errstate(all="ignore"):  # values without a segment are replaced below
        found = np.exp(x[left] + (wanted - low) / (high - low) * (x[inside] - x[left]))
    found = np.where(first == 0, 0.0, np.where(first == len(x), np.inf, found))
    unknown = np.isnan(heights).any(axis=-1, keepdims=True) | np.isnan(wanted)
    return np.where(unknown, np.nan, found)


def _envelope(flops: Array, accuracy: Array) -> tuple[Array, Array]:
    """Return distinct log FLOPs in ascending order, and the best accuracy up to each."""
    order = np.argsort(flops)
    distinct, starts = np.unique(flops[order], return_index=True)
    best = np.maximum.reduceat(accuracy[..., order], starts, axis=-1)
    return np.log(distinct), np.maximum.accumulate(best, axis=-1)


def _nodes(heights: Array) -> tuple[NODES, NODES]:
    """Return, per index of an envelope, the nearest index where it rises or ends, before and after."""
    count = heights.shape[-1]
    bends = np.ones(heights.shape, dtype=bool)
    bends[..., 1:-1] = heights[..., 1:-1] > heights[..., :-2]
    places = np.arange(count)
    before = np.maximum.accumulate(np.where(bends, places, 0), axis=-1)
    after = np.minimum.accumulate(np.where(bends, places, count - 1)[..., ::-1], axis=-1)[..., ::-1]
    return before, after


def matched(points: pd.DataFrame, drawn: Redrawn) -> pd.DataFrame:
    """Compare each student that saw reasoning with plain answers at exactly its compute.

    The frontier of plain answers is that of the configurations with share 0, recomputed for every resample.
    For the intervals see `bootstrap`; a family is all rows of one axis and kind of scope, extrapolated ones
    separately. Intervals of extrapolated rows take the frontier's continuation for granted, and are too
    narrow where it is clipped at 0 or 1.

    Args:
        points: Table of `analysis.statistics.frontier.frontier_table`.
        drawn: Its accuracies from `analysis.statistics.frontier.redrawn`.

    Returns:
        An empty table if there is nothing to compare; else
        kind, scope, axis, student, size, share, order, recipe, flops, accuracy, plain (of plain answers),
        difference (accuracy - plain), the columns of `intervals`, extrapolated ("", "below" or "above" the
        compute of all plain students), break_even (FLOPs at which plain answers reach the accuracy, see
        `break_even`), break_even_low and break_even_high.
    """
    shares = set(points["share"].dropna())
    if 0 not in shares or not shares - {0}:
        have = "no student is known to be" if 0 not in shares else "all known students are"
        warn(f"Nothing can be compared at matched compute: {have} trained on plain answers alone (share 0).")
        return pd.DataFrame()
    tables = []
    for axis in AXES:
        if parts := list(_compared(points, drawn, axis)):
            table = pd.concat([made for made, _ in parts], ignore_index=True)
            differences = np.concatenate([draws for _, draws in parts], axis=1)
            family = (table["kind"] + (table["extrapolated"] != "").map(str)).to_numpy()
            tables.append(table.join(intervals(table["difference"].to_numpy(), differences, family)))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _compared(points: pd.DataFrame, drawn: Redrawn, axis: str) -> Iterator[tuple[pd.DataFrame, Array]]:
    """Yield each scope's rows and their resampled differences."""
    for scope, own in points.groupby("scope", sort=False):
        draws = drawn[str(scope)]
        usable = (own[axis] > 0) & own["accuracy"].notna()
        plain, others = (usable & kind for kind in (own["share"] == 0, own["share"] > 0))
        if not plain.any() or not others.any():
            continue
        flops, height = own[axis].to_numpy(), own["accuracy"].to_numpy()
        x, at = flops[plain], flops[others]
        columns = ["kind", "scope", "student", "size", "share", "order", "recipe", "accuracy"]
        made = own.loc[others, columns].assign(axis=axis, flops=at)
        made["plain"] = at_compute(x, height[plain], at)
        made["difference"] = made["accuracy"] - made["plain"]
        made["extrapolated"] = np.where(at < x.min(), "below", np.where(at > x.max(), "above", ""))
        made["break_even"] = break_even(x, height[plain], height[others])
        reached = break_even(x, draws[:, plain], draws[:, others])
        made[["break_even_low", "break_even_high"]] = _percentiles(reached).T
        yield made, draws[:, others] - at_compute(x, draws[:, plain], at)


def kept(points: pd.DataFrame, drawn: Redrawn) -> pd.DataFrame:
    """Return the fraction of reasoning's gain and compute that each mixture keeps, over sizes with both.

    The gain is relative to plain answers at the same size, summed over sizes: the ratio of sums is more
    stable than a mean of ratios, some of which have denominators near zero. Its percentile interval is given
    only if the gain itself is significantly above 0. Whether more than half is kept is tested by the
    difference mixture - (plain + reasoning) / 2, whose interval needs no division. A family is all rows of
    one kind of scope, gains and differences separately.

    Returns:
        kind, scope, share, order, sizes (their number), gain (of reasoning, mean over sizes), gain_low_all
        and gain_high_all, kept, kept_low, kept_high, over_half and its intervals, training and inference
        (fraction of reasoning's FLOPs).
    """
    rows, gains, halves = [], [], []
    for scope, own in points.groupby("scope", sort=False):
        own, draws = own.reset_index(drop=True), drawn[str(scope)]
        for (share, order), mixed in own[own["share"].between(0, 1, inclusive="neither")].groupby(
            ["share", "order"], dropna=False
        ):
            trios = _trios(own, mixed)
            if not trios.size:
                continue
            height = own["accuracy"].to_numpy()
            (gain, part), (gain_drawn, part_drawn) = (_gains(a, trios) for a in (height, draws))
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio, whole = _percentiles(part_drawn / gain_drawn), part / gain
            row = dict(own.loc[0, ["kind", "scope"]], share=share, order=order, sizes=len(trios), gain=gain)
            row |= {"kept": whole, "kept_low": ratio[0], "kept_high": ratio[1]}
            for name, x in (("training", "training_flops"), ("inference", "inference_flops")):
                flops = own[x].to_numpy()
                row[name] = flops[trios[:, 1]].sum() / flops[trios[:, 2]].sum()
            rows.append(row | {"over_half": part - gain / 2})
            gains.append(gain_drawn)
            halves.append(part_drawn - gain_drawn / 2)
    table = pd.DataFrame(rows)
    if table.empty:
        return table
    family = table["kind"].to_numpy()
    of_gain = intervals(table["gain"].to_numpy(), np.stack(gains, axis=1), family)
    half = intervals(table["over_half"].to_numpy(), np.stack(halves, axis=1), family)
    of_gain = of_gain[["low_all", "high_all"]].add_prefix("gain_")
    table = pd.concat([table, of_gain, half.add_prefix("over_half_")], axis=1)
    table.loc[~(table["gain_low_all"] > 0), ["kept", "kept_low", "kept_high"]] = np.nan
    return table


def gains(results: pd.DataFrame, points: pd.DataFrame, drawn: Redrawn) -> pd.DataFrame:
    """Return reasoning's gain over plain answers of the same size on each benchmark.

    Args:
        results: Table of `collect`.

    Returns:
        benchmark, group, size, training_flops, extra_tokens (as a multiple of plain answers'; NaN if these
        have none, as where answers are scored and not generated), gain, and the columns of `intervals`, all
        rows one family.
    """
    group = results.drop_duplicates("benchmark").set_index("benchmark")
    rows, draws = [], []
    for scope, own in points[points["kind"] == "benchmark"].groupby("scope", sort=False):
        own = own.reset_index(drop=True)
        pairs = _trios(own, own[own["share"] == 1])[:, :2]
        for plain, full in (own.loc[list(pair)].to_dict("records") for pair in pairs):
            rows.append(
                {"benchmark": scope, "group": f"{group['domain'][scope]}, {group['format'][scope]}",
                 "size": full["size"], "training_flops": full["training_flops"],
                 "extra_tokens": full["output_tokens"] / (plain["output_tokens"] or np.nan),
                 "gain": full["accuracy"] - plain["accuracy"]}
            )  # fmt: skip
        draws += [drawn[str(scope)][:, full] - drawn[str(scope)][:, plain] for plain, full in pairs]
    table = pd.DataFrame(rows)
    return table.join(intervals(table["gain"].to_numpy(), np.stack(draws, axis=1))) if rows else table


def _percentiles(drawn: Array) -> Array:
    """Return the bounds of the central 95 % of the resamples."""
    return np.asarray(np.quantile(drawn, ((1 - LEVEL) / 2, (1 + LEVEL) / 2), axis=0, method="nearest"))


def _trios(own: pd.DataFrame, mixed: pd.DataFrame) -> NODES:
    """Return row indices of plain answers, mixture and reasoning for each size and recipe with all three."""
    found, twofold = [], []
    places = own.groupby(["share", "size", "recipe"]).groups
    for place, size, recipe in mixed[["size", "recipe"]].itertuples():
        plain, full = (list(places.get((share, size, recipe), ())) for share in (0, 1))
        if len(plain) and len(full):
            found.append((plain[0], place, full[0]))
        if max(len(plain), len(full)) > 1:
            twofold.append(str(size))
    if twofold:
        warn(
            "Several students have one kind of answers, mixtures are compared with the first: "
            f"{few(twofold)}."
        )
    return np.array(found, dtype=np.intp).reshape(-1, 3)


def _gains(accuracy: Array, trios: NODES) -> tuple[Array, Array]:
    """Return the mean gains of reasoning and of the mixture over plain answers."""
    plain, mixed, full = (accuracy[..., trios[:, i]] for i in range(3))
    return (full - plain).mean(axis=-1), (mixed - plain).mean(axis=-1)
