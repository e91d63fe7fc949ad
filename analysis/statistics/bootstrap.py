"""How far accuracies could be off: all of them redrawn together, and intervals from what was redrawn.

Method
    Students answer the same items, hence their errors go together, and a difference is known better than its
    two sides. So items are resampled with replacement (Efron 1979), the same ones for all students: what is
    computed from the accuracies, however many of them it needs, is computed again from each resample.
    Where a configuration was trained with k > 1 seeds, its seeds are resampled as well, independently of the
    items (the two-way "pigeonhole" bootstrap, Owen 2007, slightly too wide rather than too narrow). Drawing
    k of k seeds would make their variance too small by (k-1)/k; the weights are stretched by √(k/(k-1)) as
    Rao and Wu (1988) do. With one seed the intervals speak of items only: another training run could differ
    by more.
    A student that answers all or none right never varies in a resample. It is given the missing part of the
    variance p(1-p)/(n+4) at p = (correct+2)/(n+4) of Agresti and Coull (1998), which is near nothing unless
    p is near 0 or 1.
    Benchmarks are taken as they are, not as a sample of all that there could be; compute as measured.
    Without scores of items a configuration's errors are normal and independent, from its standard error.
    Few items make an error itself uncertain. So each resample's distance from the mean over n items is
    stretched by √(n/χ²), with n-1 degrees of freedom and the same for all students: as Student's t has wider
    tails than the normal distribution. Without that, one study in five calls equally good students different
    at 20 items, and one in ten at 30 (simulated, six students, accuracies near a half). Below MIN_ITEMS no
    stretching helps, as half of all sure differences are wrong at one item: there, errors are not known.

Intervals
    For an estimate v with resamples v*, se the resamples' standard deviation and T* = |v* - v| / se, the
    interval is v ± q·se with q the 95 % quantile of T* (the symmetric bootstrap interval of Hall 1988, scaled
    by a fixed se). For a family of estimates q is that of the largest T* in it (single-step max-T: Westfall
    and Young 1993; Romano and Wolf 2005): in 95 % of studies *all* of its intervals hold. Unlike Holm's or
    Bonferroni's correction that uses how the estimates hang together through shared items and students, and
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
EXACT = 1e-12  # a difference or an error below this is 0 but for rounding


@dataclass(frozen=True)
class Resampled:
    """Accuracies of every configuration on every benchmark, redrawn.

    Args:
        configurations, benchmarks: what the last two axes stand for.
        accuracy: resamples × configurations × benchmarks; NaN where a result or its error is not known.
        items: how many items each was measured on, configurations × benchmarks; NaN: not known.
    """

    configurations: tuple[str, ...]
    benchmarks: tuple[str, ...]
    accuracy: Array
    items: Array

    def mean(self, configurations: list[str], benchmarks: list[str]) -> Array:
        """Means over some benchmarks, NaN where these have too few items: resamples × configurations."""
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
    """Redraw all accuracies.

    Args:
        results: the table of `collect` with the column "configuration", which seeds of one share.
        scores: those of `analysis.results.items.item_scores`; a benchmark or student may be missing.
        resamples: how often.
        seed: of the random numbers. The default is not 0, which simulated scores may have been drawn with.
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
    """How many items an accuracy is a mean of; from its standard error where nobody counted them."""
    if not is_accuracy(rows["metric"].iloc[0]):
        return np.inf  # its error is known or not, whatever it is a mean of
    n = rows["n"].astype("float64").mean()
    if n > 0:
        return float(n)
    p, variance = rows["accuracy"].mean(), rows["stderr"].pow(2).mean()
    return float(p * (1 - p) / variance) if variance > 0 else np.nan


def _means(table: pd.DataFrame, resamples: int, rng: np.random.Generator) -> Array:
    """Mean of each row of a table of scores over resampled columns: resamples × rows."""
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
    """What distances from a mean over some items are multiplied by, for each resample."""
    if not 1 < items < np.inf:
        return np.ones(resamples)
    return np.asarray(np.sqrt(items / rng.chisquare(items - 1, resamples)))


def _seed_weights(count: int, resamples: int, rng: np.random.Generator) -> Array:
    """Weights of `count` seeds, each row with the sum 1."""
    if count == 1:
        return np.ones((resamples, 1))
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
    return np.asarray((1 + np.sqrt(count / (count - 1)) * (drawn - 1)) / count)


def _error(rows: pd.DataFrame, items: bool) -> float:
    """Standard error that redrawn items and seeds do not show; all of it where there are no items."""
    p, n = rows["accuracy"].mean(), rows["n"].astype("float64").mean()
    if not is_accuracy(rows["metric"].iloc[0]):
        n = np.nan  # p(1-p)/n is the variance of shares only
    extra = max(0.0, _variance((p * n + 2) / (n + 4), n + 4) - _variance(p, n)) if n > 0 else 0.0
    if items:
        return float(np.sqrt(extra))
    known = rows["stderr"].pow(2).mean()
    of_items = known if known > 0 else _variance(p, n)
    of_seeds = rows["accuracy"].var() / len(rows) if len(rows) > 1 else 0.0
    total = of_items + extra + of_seeds
    return float(np.sqrt(total)) if total > 0 else np.nan  # not known, or 0 of an unknown number of items


def _variance(p: float, n: float) -> float:
    return p * (1 - p) / n if n > 0 else np.nan


def intervals(value: Array, redrawn: Array, family: Array | None = None) -> pd.DataFrame:
    """Intervals of many estimates, each for itself and all of a family together.

    Args:
        value: the estimates.
        redrawn: resamples × estimates.
        family: a label for each estimate; without, all are one family.

    Returns:
        A row for each estimate: stderr, low and high (for itself), low_all and high_all (all of its family
        together), p_all (of no difference from 0, corrected for the family). NaN where redrawn has NaN.
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
    """The 95 % quantile over resamples, the first axis."""
    return np.asarray(np.quantile(distances, LEVEL, axis=0, method="higher"))
