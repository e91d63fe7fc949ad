"""Where the cases of `make bench-gpu` are measured, how, and on which rows; on a CPU all of it is tiny."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from jobs.core.gpus import peak_flops
from jobs.core.paths import DATA
from jobs.data.blocks import Blocks
from jobs.text.encoding import Row

WARM_UP, FEWEST, MOST = 3, 5, 10  # passes
BUDGET = 10.0  # seconds for the timed passes of a case, if there are more than the fewest
GIB = 1 << 30
ONE = np.arange(1)  # the only block
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
        "vocab_size": 256}  # fmt: skip

Figures = dict[str, float | None]


class LeftOut(Exception):
    """A case that this machine cannot measure, and why."""


@dataclass(frozen=True)
class Machine:
    """Where cases are measured.

    Attributes:
        device: "cuda" or "cpu"; on a CPU, shapes are tiny.
    """

    device: str

    @property
    def tiny(self) -> bool:
        """Whether shapes are tiny."""
        return self.device == "cpu"

    @property
    def sizes(self) -> tuple[str, ...]:
        """Sizes of Qwen2.5, smallest first; tiny ones differ in whether their embeddings are tied."""
        return ("0.5B", "7B") if self.tiny else ("0.5B", "1.5B", "3B", "7B")

    @cached_property
    def peak(self) -> float | None:
        """Peak FLOP/s in bf16; None if unknown."""
        if self.device == "cpu":
            return None
        try:
            return peak_flops(torch.cuda.get_device_name())
        except ValueError:
            return None

    @property
    def memory(self) -> float | None:
        """The GPU's memory in GiB; None without one."""
        return None if self.device == "cpu" else torch.cuda.get_device_properties(0).total_memory / GIB

    def shape(self, size: str) -> dict[str, Any]:
        """Return the architecture of a size of Qwen2.5, from its preset."""
        import yaml  # transformers needs it, too

        preset = DATA / "configs" / "models" / f"qwen2.5-{size.lower()}.yaml"
        found = yaml.safe_load(preset.read_text(encoding="utf-8"))["architecture"]
        return {**found, **TINY} if self.tiny else found

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def mark(self) -> Any:
        """Return a point in the device's time, for `between`."""
        if self.device == "cpu":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, first: Any, second: Any) -> float:
        """Return the seconds between two marks that the device has passed."""
        return second - first if self.device == "cpu" else first.elapsed_time(second) / 1000

    def timed(self, work: Callable[[], Any]) -> Figures:
        """Return the median seconds of some work, and the peak of all allocated memory meanwhile in GiB."""
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for _ in range(0 if self.tiny else WARM_UP - 1):
            work()
        self.synchronize()
        started = time.perf_counter()
        work()
        self.synchronize()
        often = min(MOST, max(FEWEST, int(BUDGET / (time.perf_counter() - started))))
        times = 1 if self.tiny else often
        marks = [self.mark()]
        for _ in range(times):
            work()
            marks.append(self.mark())
        self.synchronize()
        peak = None if self.device == "cpu" else torch.cuda.max_memory_allocated() / GIB
        return {"seconds": float(np.median([self.between(*pair) for pair in pairwise(marks)])), "peak": peak}

    def clear(self) -> None:
        """Free what an earlier case has left."""
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()


def packed_rows(tokens: int, words: int) -> Blocks:
    """Return a block full of rows, few of them long, as reasoning traces are; an eighth of each is prompt."""
    rng = np.random.default_rng(0)
    lengths = list[int]()
    while room := tokens - sum(lengths):
        lengths.append(min(room, tokens // 4, 1 + round(rng.lognormal(6.2, 1.0))))
    rows = [rng.integers(0, words, length).tolist() for length in lengths]
    return Blocks.of_rows((Row(row[: 1 + len(row) // 8], row[1 + len(row) // 8 :]) for row in rows), tokens)
