"""Metrics of evaluation tools: which one is a task's accuracy, and on which scale.

Names are those of lm-eval (`metric,filter`), evalchemy and lighteval. Whether a number is a percentage
follows from metric and task, never from the number: 0.9 of squadv2's `exact` is 0.9 %.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

# A task's accuracy is the first of these metrics that it has.
ACCURACIES = (
    "exact_match", "acc", "pass@1", "pass_at_1", "prompt_level_strict_acc", "em", "exact", "contains",
    "math_verify", "accuracy_avg", "accuracy", "overall_accuracy", "prompt-level", "extractive_match", "qem",
    "pem", "pass@k:k=1", "maj@8", "loglikelihood_acc", "acc_norm", "f1",
)  # fmt: skip
LANGUAGE = re.compile(r"[a-z]+_(pass@1)")  # evalchemy's HumanEval: python_pass@1
# Scores that are not a proportion of correct items: shown individually, excluded from means of accuracies.
SCORES = re.compile(
    r"(?i)(mcc|matthews.*|.*bleu.*|chrf.*|rouge.*|bert_?score.*|meteor.*|comet.*|sari|eqbench|likelihood"
    r"|spearman.*|pearson.*|.*correlation.*|kappa|.*_diff)(?<!_acc)"
)
CORRELATIONS = re.compile(r"(?i)(mcc|matthews.*|spearman.*|pearson.*|.*correlation.*|kappa)")  # range -1 to 1
LOWER = re.compile(
    r"(?i).*perplexity|bits_per_byte|ter|wer|cer|brier.*|.*(toxicity|bias)_?score.*|.*loss|pct_stereotype"
    r"|likelihood_diff|pct_invalid|.*no_?answer"
)
# On a scale to 100, by (task, metric); tasks in FRACTIONS use another implementation of the same name.
PERCENT = (
    (".*", r"(s|.*_)?bleu(_\d+|_max|_diff)?|chrf(\+\+|pp)?|eqbench|percent_parseable"),
    (r".*squad_?v2.*", r"((HasAns|NoAns|best)_)?(exact|f1)"),
    (r"scrolls.*", r"em|f1|rouge.*"),
    (r".*truthfulqa.*", r"rouge.*_(max|diff)"),
    (r"norsumm.*", r"rouge.*"),
)
FRACTIONS = re.compile(r"(meddialog|mts_dialog|careqa|medtext|olaph|meqsum|mimic_repsum|mediqa).*")
NOT_METRICS = {"alias", "name", "sample_len", "sample_count", "samples"}
# evalchemy's counts and statistics of its runs.
COUNTS = re.compile(
    r"(?i)(num|total|count|n)_.*|.*_(total|count|num|std|std_err|variance)|solved.*|run_stats"
)


def number(value: Any) -> float:
    """Convert a JSON number; NaN for anything else: lm-eval writes "N/A" without a standard error."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def count(value: Any) -> int | None:
    """Convert a number of items; None if it is not one."""
    found = number(value)
    return int(found) if 0 <= found < 2**53 else None


def split(key: str) -> tuple[str, str]:
    """Split lm-eval's `metric,filter`."""
    name, _, chosen = key.partition(",")
    found = LANGUAGE.fullmatch(name)
    return (found[1] if found else name), chosen


def accuracies(values: Mapping[str, Any], higher_is_better: Mapping[str, Any]) -> list[str]:
    """Return the keys of metrics that can serve as a task's accuracy, the best known first.

    Of two filters, the one that the task lists first comes first. Keys of unknown metrics count if they have
    lm-eval's form.
    """
    rank = {name: place for place, name in enumerate(ACCURACIES)}
    found = [
        key
        for key in measured(values)
        if not lower_is_better(key, higher_is_better)
        and ("," in key or SCORES.fullmatch(key) or split(key)[0] in {*rank, *higher_is_better})
    ]
    return sorted(
        found, key=lambda key: rank.get(split(key)[0], len(rank) + bool(SCORES.fullmatch(split(key)[0])))
    )


def measured(values: Mapping[str, Any]) -> list[str]:
    """Return the keys of all of a task's metrics."""
    return [
        key
        for key, value in values.items()
        if key not in NOT_METRICS
        and "_stderr" not in key
        and isinstance(value, int | float)
        and not isinstance(value, bool)
        and not COUNTS.fullmatch(split(key)[0])
    ]


def lower_is_better(key: str, higher_is_better: Mapping[str, Any]) -> bool:
    name = split(key)[0]
    said = higher_is_better.get(name)
    return not said if isinstance(said, bool) else bool(LOWER.fullmatch(name))


@cache
def is_accuracy(metric: str) -> bool:
    """Whether the metric is a proportion of items, so that it can be averaged with others."""
    return not SCORES.fullmatch(split(str(metric))[0])


def scale(task: str, key: str) -> float:
    """Return the divisor that converts a metric's numbers to fractions of 1."""
    name = split(key)[0]
    if FRACTIONS.fullmatch(task):
        return 1.0
    percent = any(re.fullmatch(t, task) and re.fullmatch(m, name) for t, m in PERCENT)
    return 100.0 if percent else 1.0


def impossible(metric: str, accuracy: float) -> bool:
    """Whether a value, including NaN, is outside its metric's range."""
    low = -1.0 if CORRELATIONS.fullmatch(split(str(metric))[0]) else 0.0
    return not low <= accuracy <= 1


def stderr_of(values: Mapping[str, Any], key: str) -> float:
    """Return the standard error that a file states for a metric.

    evalchemy's `accuracy_std_err` of several runs on the same items is the spread between these runs over the
    root of their number. It does not cover other items, so it is not the accuracy's standard error.
    """
    name, comma, chosen = key.partition(",")
    if name == "accuracy_avg":
        return math.nan if number(values.get("num_repeat")) > 1 else number(values.get("accuracy_std_err"))
    return number(values.get(f"{name}_stderr{comma}{chosen}"))
