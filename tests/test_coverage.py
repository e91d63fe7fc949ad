"""A simulated study whose truth is known: intervals cover it as often as they say they do."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_results import results_table

from analysis.statistics.bootstrap import resample
from analysis.statistics.frontier import AVERAGE, average, over_seeds, standing, with_configuration
from analysis.statistics.matched import at_compute, break_even, kept, matched

ITEMS, BENCHMARKS, RESAMPLES = 250, 2, 400
SIZES = {"1B": (1.0, -0.6), "3B": (3.0, 0.0), "7B": (7.0, 0.45), "14B": (14.0, 0.75)}
SHARES = {0.0: (1.0, 0.0), 0.5: (4.0, 0.35), 1.0: (7.0, 0.5)}  # times the compute, more ability
SPREAD = 0.15  # of ability between seeds


def truth(ability: float, seeds: int) -> float:
    """The share of all questions, whose difficulty is normal, that a student of this ability gets right."""
    return NormalDist().cdf(ability / (2 + (SPREAD**2 if seeds > 1 else 0)) ** 0.5)


def students() -> list[tuple[str, str, float, float, float]]:
    """Name, size, share, FLOPs and ability."""
    return [
        (f"{size}-{share}", size, share, 1e20 * flops * times, ability + more)
        for size, (flops, ability) in SIZES.items()
        for share, (times, more) in SHARES.items()
    ]


def study(rng: np.random.Generator, seeds: int) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """One study's results and scores: new questions, new answers and new trainings."""
    rows, scores = [], {}
    trained = [
        (name + (f"-s{seed}" if seed else ""), size, share, flops, seed,
         ability + (rng.normal(scale=SPREAD) if seeds > 1 else 0.0))
        for name, size, share, flops, ability in students() for seed in range(seeds)
    ]  # fmt: skip
    for benchmark in (f"b{b}" for b in range(BENCHMARKS)):
        difficulty = rng.normal(size=ITEMS)
        table = {}
        for name, size, share, flops, seed, ability in trained:
            table[name] = correct = (ability + rng.normal(size=ITEMS) > difficulty).astype(float)
            rows.append(
                {"student": name, "size": size, "share": share, "seed": seed, "benchmark": benchmark,
                 "accuracy": correct.mean(), "stderr": correct.std() / ITEMS**0.5, "n": ITEMS,
                 "training_flops": flops, "inference_flops": flops / 1e9}
            )  # fmt: skip
        scores[benchmark] = pd.DataFrame(table).T
    return results_table(rows), scores


def covered(rng: np.random.Generator, seeds: int, paired: bool) -> dict[str, float]:
    """Of one study's intervals, which hold the truth: each one's mean, or whether all of a family do."""
    made = students()
    names = [s[0] for s in made]
    flops, true = (
        np.array(column) for column in zip(*((s[3], truth(s[4], seeds)) for s in made), strict=True)
    )
    by_name, plain = dict(zip(names, true, strict=True)), np.array([s[2] == 0 for s in made])
    results, scores = study(rng, seeds)
    resampled = resample(
        with_configuration(results), scores if paired else {}, RESAMPLES, int(rng.integers(10**9))
    )
    points = average(over_seeds(results)).assign(kind="average", scope=AVERAGE)
    drawn = {AVERAGE: resampled.mean(points["student"].tolist(), list(resampled.benchmarks))}

    rows = matched(points, drawn)
    rows = rows[(rows["axis"] == "training_flops") & (rows["extrapolated"] == "")]
    right = rows["student"].map(by_name).to_numpy()
    difference = right - at_compute(flops[plain], true[plain], rows["flops"].to_numpy())
    even = break_even(flops[plain], true[plain], right)
    stood = standing(points, drawn)
    stood = stood[stood["axis"] == "training_flops"].set_index("student").loc[names]
    cheaper = (flops[:, None] <= flops) & ~np.eye(len(made), dtype=bool)
    gap = np.where(cheaper, true[:, None] - true, -np.inf).max(axis=0)
    part, whole = (
        sum(by_name[f"{size}-{share}"] - by_name[f"{size}-0.0"] for size in SIZES) for share in (0.5, 1.0)
    )
    return {
        "each difference": float(within(difference, rows, "low", "high").mean()),
        "all differences": float(within(difference, rows, "low_all", "high_all").all()),
        "each break-even": float(within(even, rows, "break_even_low", "break_even_high").mean()),
        "part kept": float(within(part / whole, kept(points, drawn), "kept_low", "kept_high").all()),
        "all gaps": float(within(gap, stood, "gap_low", "gap_high").all()),
        "the whole frontier": float(
            within(np.maximum(true, true + gap), stood, "band_low", "band_high").all()
        ),
    }


def within(truth: Any, table: pd.DataFrame, low: str, high: str) -> pd.Series[bool]:
    return (table[low] <= truth) & (truth <= table[high])


# What of many truths is bounded by the extreme of several intervals is covered more often than each of them.
EXACT = ("each difference", "all differences", "part kept")


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 4])
def test_intervals_cover_the_truth_as_often_as_stated(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    rates = pd.DataFrame([covered(rng, seeds, paired=True) for _ in range(200)]).mean()
    assert rates[list(EXACT)].between(0.90, 0.99).all(), rates
    assert rates.min() >= 0.90, rates


def test_without_scores_of_items_intervals_are_wide_rather_than_wrong() -> None:
    rng = np.random.default_rng(0)
    rates = pd.DataFrame([covered(rng, 1, paired=False) for _ in range(60)]).mean()
    assert rates.min() >= 0.93, rates
