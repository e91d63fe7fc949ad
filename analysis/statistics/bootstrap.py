"""Uncertainty of accuracies: joint resampling of all accuracies, and intervals from the resamples.

Method
    Students answer the same items, so their errors are correlated, and a difference is known more precisely
    than its two sides. So items are resampled with replacement (Efron 1979), the same ones for all students:
    every quantity computed from the accuracies, however many it involves, is recomputed from each resample.
    If a configuration was trained with k > 1 seeds, its seeds are resampled as well, independently of the
    items (the two-way "pigeonhole" bootstrap, Owen 2007, which errs slightly on the wide side). Drawing k of
    k seeds would underestimate their variance by the factor (k-1)/k; the weights are stretched by
    √(k/(k-1)), as in Rao and Wu (1988). With one seed the intervals cover items only: another training run
    could differ by more.
    A student with all or no answers correct never varies in a resample. Its variance is filled up to
    p(1-p)/(n+4) at p = (correct+2)/(n+4) of Agresti and Coull (1998); the added part is close to zero unless
    p is near 0 or 1.
    Benchmarks are taken as given, not as a sample of possible benchmarks; compute as measured.
    Without item scores a configuration's errors are normal and independent, from its standard error.
    With few items the error estimate itself is uncertain. So each resample's distance from the mean over n
    items is stretched by √(n/χ²), with n-1 degrees of freedom and the same for all students, as Student's t
    has wider tails than the normal distribution. Without that, one study in five finds a difference between
    equally good students at 20 items, and one in ten at 30 (simulated, six students, accuracies near a half).
    Below MIN_ITEMS stretching does not help, as half of all significant differences are wrong at one item:
    errors then count as unknown.

Intervals
    For an estimate v with resamples v*, se the resamples' standard deviation and T* = |v* - v| / se, the
    interval is v ± q·se with q the 95 % quantile of T* (the symmetric bootstrap interval of Hall 1988, scaled
    by a fixed se). For a family of estimates q is that of the largest T* in it (single-step max-T: Westfall
    and Young 1993; Romano and Wolf 2005): in 95 % of studies *all* of its intervals hold. Unlike Holm's or
    Bonferroni's correction, this exploits the estimates' correlation through shared items and students, and
    it gives intervals, not only tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.results.metrics import is_accuracy
from analysis.results.table import few, warn

Array = NDArray[np.float64]
RESAMPLES, LEVEL, MIN_ITEMS = 1000, 0.95, 20
EXACT = 1e-12  # differences and errors below this are rounding and count as 0


@dataclass(frozen=True)
class Resampled:
    """Resampled accuracies of every configuration on every benchmark.

    Args:
        configurations, benchmarks: Labels of the last two axes.
        accuracy: Resamples × configurations × benchmarks; NaN if a result or its error is unknown.
        items: Number of items of each accuracy, configurations × benchmarks; NaN if unknown.
    """

    configurations: tuple[str, ...]
    benchmarks: tuple[str, ...]
    accuracy: Array
    items: Array

    def mean(self, configurations: list[str], benchmarks: list[str]) -> Array:
        """Return means over some benchmarks, NaN for too few items: resamples × configurations."""
        rows = [self.configurations.index(name) for name in configurations]
        columns = [self.benchmarks.index(name) for name in benchmarks]
        means = self.accuracy[:, :, columns].mean(axis=2)[:, rows]
        means[:, self.items[:, columns].sum(axis=1)[rows] < MIN_ITEMS] = np.nan
        return np.asarray(means)


def resample(
    results: pd.DataFrame,
    scores: Mapping[str, pd.DataFrame],
    resamples: int = RESAMPLES,
    seed: int = 250922193,
) -> Resampled:
    """Resample all accuracies.

    Args:
        results: Table of `collect` with the column "configuration", which is shared by seeds.
        scores: Scores of `analysis.results.items.item_scores`; benchmarks or students may be missing.
        resamples: Number of resamples.
        seed: Seed of the random numbers. The default is not 0, in case simulated scores were drawn with 0.
    """
    rng = np.random.default_rng(seed)
    configurations = tuple(dict.fromkeys(results["configuration"]))
    benchmarks = tuple(sorted(set(results["benchmark"])))
    redrawn = np.full((resamples, len(configurations), len(benchmarks)), np.nan)
    items = np.full(redrawn.shape[1:], np.nan)
    seeds: dict[tuple[str, ...], Array] = {}
    for b, benchmark in enumerate(benchmarks):
        rows = results[results["benchmark"] == benchmark].dropna(subset="accuracy")
        table = scores.get(benchmark, pd.DataFrame())
        means = dict(zip(table.index, _means(table, resamples, rng).T, strict=True))
        for configuration, own in rows.groupby("configuration"):
            students, c = tuple(own["student"]), configurations.index(str(configuration))
            if students not in seeds:
                seeds[students] = _seed_weights(len(students), resamples, rng)
            paired = all(s in means for s in students)
            error = _error(own, items=paired) * rng.standard_normal(resamples)
            items[c, b] = _items(own)
            if paired:
                center = (seeds[students] * np.stack([means[s] for s in students], axis=1)).sum(axis=1)
            else:
                center = np.full(resamples, own["accuracy"].mean())
                error *= _stretch(items[c, b], resamples, rng)
            redrawn[:, c, b] = center + error
    small = [name for name, counts in zip(benchmarks, items.T, strict=True) if (counts < MIN_ITEMS).any()]
    if small:
        warn(f"Fewer than {MIN_ITEMS} items: for themselves these are evidence for nothing: {few(small)}.")
    return Resampled(configurations, benchmarks, redrawn, items)


def _items(rows: pd.DataFrame) -> float:
    """Return the number of items behind an accuracy; derived from the standard error if not recorded."""
    if not is_accuracy(rows["metric"].iloc[0]):
        return np.inf  # the number of items does not determine whether its error is known
    n = rows["n"].astype("float64").mean()
    if n > 0:
        return float(n)
    p, variance = rows["accuracy"].mean(), rows["stderr"].pow(2).mean()
    return float(p * (1 - p) / variance) if variance > 0 else np.nan


def _means(table: pd.DataFrame, resamples: int, rng: np.random.Generator) -> Array:
    """Return means of each row of a score table over resampled columns: resamples × rows."""
    if table.empty:
        return np.empty((resamples, 0))
    values = table.to_numpy(dtype="float64").T
    items, scored = len(values), ~np.isnan(values)
    counts = rng.multinomial(items, np.full(items, 1 / items), size=resamples).astype("float64")
    if scored.all():
        means, drawn = values.mean(axis=0), counts @ values / items
    else:
        means = np.nanmean(values, axis=0)
        drawn = (counts @ np.nan_to_num(values)) / (counts @ scored)
    return np.asarray(means + (drawn - means) * _stretch(items, resamples, rng)[:, None])


def _stretch(items: float, resamples: int, rng: np.random.Generator) -> Array:
    """Return each resample's factor for distances from a mean over `items` items."""
    if not 1 < items < np.inf:
        return np.ones(resamples)
    return np.asarray(np.sqrt(items / rng.chisquare(items - 1, resamples)))


def _seed_weights(count: int, resamples: int, rng: np.random.Generator) -> Array:
    """Return resampled weights of `count` seeds: resamples × seeds, each row summing to 1."""
    if count == 1:
        return np.ones((resamples, 1))
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
    return np.asarray((1 + np.sqrt(count / (count - 1)) * (drawn - 1)) / count)


def _error(rows: pd.DataFrame, items: bool) -> float:
    """Return the standard error not covered by resampled items and seeds; all of it without items.

    NaN if it is unknown, or stated as 0 with an unknown number of items.
    """
    p, n = rows["accuracy"].mean(), rows["n"].astype("float64").mean()
    if not is_accuracy(rows["metric"].iloc[0]):
        n = np.nan  # p(1-p)/n is the variance of proportions only
    extra = max(0.0, _variance((p * n + 2) / (n + 4), n + 4) - _variance(p, n)) if n > 0 else 0.0
    if items:
        return float(np.sqrt(extra))
    known = rows["stderr"].pow(2).mean()
    of_items = known if known > 0 else _variance(p, n)
    of_seeds = rows["accuracy"].var() / len(rows) if len(rows) > 1 else 0.0
    return float(np.sqrt(of_items + extra + of_seeds))


def _variance(p: float, n: float) -> float:
    return p * (1 - p) / n if n > 0 else np.nan


def intervals(value: Array, redrawn: Array, family: Array | None = None) -> pd.DataFrame:
    """Return intervals of many estimates, individual and simultaneous within a family.

    Args:
        value: The estimates.
        redrawn: Resamples × estimates.
        family: A label per estimate; None makes all one family.

    Returns:
        A row per estimate: stderr, low and high (individual), low_all and high_all (simultaneous within the
        family), p_all (of no difference from 0, corrected for the family). NaN where redrawn has NaN.
    """
    family = np.zeros(len(value)) if family is None else np.asarray(family)
    stderr = redrawn.std(axis=0, ddof=1)
    stderr[stderr < EXACT] = 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        distances = np.abs(redrawn - value) / stderr
        scaled = np.where(np.abs(value) < EXACT, 0.0, np.abs(value) / stderr)
    distances[:, stderr == 0] = 0.0
    q, q_all, p_all = (np.full(len(value), np.nan) for _ in range(3))
    usable = np.isfinite(value) & np.isfinite(stderr)
    q[usable] = quantile(distances[:, usable])
    for label in np.unique(family):
        own = usable & (family == label)
        if own.any():
            largest = distances[:, own].max(axis=1)
            q_all[own] = quantile(largest)
            p_all[own] = (1 + (largest[:, None] >= scaled[own]).sum(axis=0)) / (1 + len(largest))
    each, together = q * stderr, q_all * stderr
    bounds = {
        "low": value - each,
        "high": value + each,
        "low_all": value - together,
        "high_all": value + together,
    }
    return pd.DataFrame({"stderr": stderr, **bounds, "p_all": p_all})


def quantile(distances: Array) -> Array:
    """Return the 95 % quantile over resamples, the first axis."""
    return np.asarray(np.quantile(distances, LEVEL, axis=0, method="higher"))
