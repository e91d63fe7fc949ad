"""Counting FLOPs and collecting results, against the tools that one would otherwise use."""

from __future__ import annotations

import itertools
import json
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from measure import Ratio, median, seconds

sys.path.append(str(Path(__file__).parent.parent))
STUDENTS, BENCHMARKS, ITEMS = 50, 18, 1000


def ratios() -> Iterator[Ratio]:
    """All measurements of this file."""
    yield counting()
    yield from against_torch()
    yield from collecting()
    yield resampling()


def preset() -> dict[str, Any]:
    from launch.study.presets import CONFIGS

    found: dict[str, Any] = yaml.safe_load(
        (CONFIGS / "models" / "qwen2.5-7b.yaml").read_text(encoding="utf-8")
    )
    return found["architecture"]


def counting() -> Ratio:
    """A million rows of a training against a loop that counts each row by itself."""
    from jobs.core.flops import architecture, train_flops

    rng = random.Random(0)
    model, lengths = architecture(preset()), [rng.randint(10, 8000) for _ in range(1_000_000)]
    found: list[int] = []
    ours = seconds(lambda: found.append(train_flops(model, lengths)))
    theirs = seconds(lambda: found.append(sum(train_flops(model, n) for n in lengths)))
    assert found[0] == found[1]
    return Ratio("train_flops of 1e6 rows at once", "row by row", ours, theirs, "s")


def against_torch() -> Iterator[Ratio]:
    """A small model's training step, against running it under torch's counter: time, and the count itself."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoConfig, AutoModelForCausalLM

    from jobs.core.flops import train_flops

    small = {**preset(), "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    small |= {"num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": 1000}
    torch.set_num_threads(1)
    config = AutoConfig.for_model(**small)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    ids = torch.randint(0, 1000, (1, 512))
    counts: list[int] = []

    def count() -> None:
        with FlopCounterMode(display=False) as counter:
            model(input_ids=ids, use_cache=False).logits.sum().backward()
        counts.append(counter.get_total_flops())

    theirs = median(count)
    ours = median(lambda: train_flops(small, 512))
    yield Ratio("train_flops of a step", "torch's FlopCounterMode", ours, theirs, "s")
    yield Ratio("train_flops: count", "torch's FlopCounterMode", train_flops(small, 512), counts[0], "FLOPs")


def collecting() -> Iterator[Ratio]:
    """A study of 50 students x 18 benchmarks x 1,000 items in 900 result files: its table against reading
    them, its report against lm-eval's own table of the same numbers."""
    from lm_eval.utils import make_table
    from made_results import benchmark, evaluation

    from analysis.report import write_report
    from analysis.results.collect import collect
    from analysis.statistics.frontier import frontier_table
    from analysis.terminal import terminal_table

    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "study")
        for s, b in itertools.product(range(STUDENTS), range(BENCHMARKS)):
            scores = {str(item): float(rng.random() < (s + 5) / 60) for item in range(ITEMS)}
            share, cost = s % 5 / 4, 10**18 * (1 + s // 5) * (1 + s % 5)
            made = benchmark(
                f"task{b}", sum(scores.values()) / ITEMS, n=ITEMS, flops_per_item=cost / 1e9,
                domain=("math", "general")[b % 2], format=("open-ended", "multiple-choice")[b % 3 > 1],
            )  # fmt: skip
            who: dict[str, Any] = {"size": f"{1 + s // 5}B", "share": share}
            evaluation(root, f"student{s}", cost, [made], {f"task{b}": scores}, **who)
        counts = [len(list(root.glob(f"evaluate/*/out/{name}"))) for name in ("result.json", "items.jsonl")]
        assert counts == [STUDENTS * BENCHMARKS] * 2
        files = sorted(root.glob("evaluate/*/out/result.json"))
        results = [json.loads(f.read_text(encoding="utf-8")) for f in files]
        ours = median(lambda: collect(root))
        read = median(lambda: [json.loads(f.read_text(encoding="utf-8")) for f in files])
        yield Ratio("collect of 900 result files", "json.loads of its files", ours, read, "s")
        table = collect(root)
        like_lm_eval = [
            {
                "results": {b["task"]: {"exact_match,strict": b["accuracy"], "exact_match_stderr,strict": 0.1}
                            for b in r["benchmarks"]},
                "versions": {b["task"]: 1 for b in r["benchmarks"]},
                "n-shot": {b["task"]: 0 for b in r["benchmarks"]},
                "higher_is_better": {b["task"]: {"exact_match": True} for b in r["benchmarks"]},
            }
            for r in results
        ]  # fmt: skip
        tables = median(lambda: [make_table(r) for r in like_lm_eval])
        yield Ratio(
            "terminal table of 50 x 18", "lm_eval's make_table of each student",
            median(lambda: terminal_table(table, frontier_table(table))), tables, "s",
        )  # fmt: skip
        report = median(lambda: write_report(root, Path(folder, "report")), times=1)
        yield Ratio(
            "whole report of 900 result files, with 1e6 items and figures",
            "lm_eval's make_table",
            report,
            tables,
            "s",
        )


def resampling() -> Ratio:
    """All of a study's accuracies redrawn 1,000 times, and every table from them."""
    import numpy as np
    import pandas as pd
    from made_results import results_table
    from scipy.stats import bootstrap

    from analysis.report import derive

    rng = np.random.default_rng(0)
    scores: dict[str, dict[str, Any]] = {}
    rows: list[dict[str, Any]] = []
    for b, s in itertools.product(range(BENCHMARKS), range(STUDENTS)):
        size, share = s // 5, s % 5 / 4
        correct = (rng.random(ITEMS) < 0.2 + 0.05 * size + 0.1 * share).astype(float)
        scores.setdefault(f"b{b}", {})[f"s{s}"] = correct
        rows.append(
            {"student": f"s{s}", "size": f"{size + 1}B", "share": share, "benchmark": f"b{b}", "n": ITEMS,
             "domain": ("math", "general")[b % 2], "format": ("open-ended", "multiple-choice")[b % 3 > 1],
             "training_flops": 1e20 * (size + 1) * (1 + 5 * share),
             "inference_flops": 1e9 * (size + 1) * (1 + 5 * share), "accuracy": correct.mean()}
        )  # fmt: skip
    results = results_table(rows)
    frames = {name: pd.DataFrame(own).T for name, own in scores.items()}
    ours = seconds(lambda: derive(results, frames))
    one = np.stack(list(scores["b0"].values()))
    theirs = BENCHMARKS * seconds(
        lambda: bootstrap((one,), np.mean, axis=1, n_resamples=1000, batch=50, method="percentile")
    )
    what = "1,000 resamples of 50 x 18 x 1,000, and all tables"
    return Ratio(what, "scipy.stats.bootstrap of the means alone", ours, theirs, "s")


if __name__ == "__main__":
    for ratio in ratios():
        print(ratio)
