"""Counting FLOPs and collecting results, against the tools that one would otherwise use."""

from __future__ import annotations

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
STUDENTS, BENCHMARKS = 50, 18


def ratios() -> Iterator[Ratio]:
    """All measurements of this file."""
    yield counting()
    yield from against_torch()
    yield from collecting()


def preset() -> dict[str, Any]:
    from launch.study import CONFIGS

    found: dict[str, Any] = yaml.safe_load((CONFIGS / "models" / "qwen2.5-7b.yaml").read_text())
    return found["architecture"]


def counting() -> Ratio:
    """A million rows of a training against a loop that counts each row by itself."""
    from analysis.flops import architecture, train_flops

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

    from analysis.flops import train_flops

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
    """A study of 50 students x 18 benchmarks: its table against reading its files, its report against
    lm-eval's own table of the same numbers."""
    from lm_eval.utils import make_table
    from made_results import benchmark, evaluation

    from analysis.collect import collect
    from analysis.report import terminal_table, write_report

    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "study")
        for student in range(STUDENTS):
            scores = [benchmark(f"task{b}", rng.random()) for b in range(BENCHMARKS)]
            evaluation(root, f"student{student}", 10**18 * (student + 1), scores)
        files = sorted(root.glob("evaluate/*/out/result.json"))
        results = [json.loads(f.read_text()) for f in files]
        ours = median(lambda: collect(root))
        read = median(lambda: [json.loads(f.read_text()) for f in files])
        yield Ratio("collect of 50 x 18", "json.loads of its files", ours, read, "s")
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
            median(lambda: terminal_table(table)), tables, "s",
        )  # fmt: skip
        report = median(lambda: write_report(root, Path(folder, "report")), times=1)
        yield Ratio("whole report of 50 x 18, with figures", "lm_eval's make_table", report, tables, "s")


if __name__ == "__main__":
    for ratio in ratios():
        print(ratio)
