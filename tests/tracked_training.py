"""The memory of training steps as PyTorch sees it: on fake tensors, so that any model fits, and on a CPU.

The step is that of jobs/stages/train.py: the same model, attention, loss and optimizer. Fake tensors have
sizes and no contents; the attention's kernel for GPUs is chosen as there.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoModelForCausalLM

from jobs.stages.train import decayed
from jobs.training import attention
from jobs.training.attention import separate_rows
from jobs.training.loss import teach
from jobs.training.rows import Rows

ROW = 1024  # tokens of a row


def built(config: dict[str, Any], dtype: torch.dtype, checkpointing: bool) -> Any:
    """Return a model as jobs/stages/train.py builds it, in the current mode of tensors."""
    shape = {key: value for key, value in config.items() if key != "flops"}
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape), dtype=dtype)
    if checkpointing:
        made.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return made.train()


def batch(tokens: int, vocabulary: int) -> dict[str, Any]:
    """Return rows of ROW tokens one after another; all tokens but the first of each row are answers."""
    bounds = (*range(0, tokens, ROW), tokens)
    rows = Rows(bounds, torch.tensor(bounds, dtype=torch.int32))
    return {
        "tokens": torch.randint(vocabulary, (1, tokens)),
        "positions": torch.arange(tokens)[None] % ROW,
        "rows": rows,
        "predicting": torch.arange(tokens),
        "targets": torch.randint(vocabulary, (tokens,)),
    }


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Choose the attention kernel that a GPU has, wherever it computes that kind of attention."""
    flashes = lambda query, kind: not kind.scored and query.dtype != torch.float32  # noqa: E731
    with patch.object(attention, "_flashes", flashes):
        yield


def peak(config: dict[str, Any], tokens: int, checkpointing: bool, *, half: bool) -> int:
    """Return the bytes at the peak of a micro-batch, after others of its step, and after other steps.

    Args:
        half: whether weights are bf16, as with ZeRO, where DeepSpeed holds the optimizer; else they are fp32,
            are cast to bf16 for products, and have AdamW.
    """
    dtype, mode = torch.bfloat16 if half else torch.float32, FakeTensorMode()
    with as_on_a_gpu():
        with mode:
            model = built(config, dtype, checkpointing)
        separate_rows(model)
        teach(
            model
        )  # outside of the mode: it runs the model's own code around its head on a few real numbers
        with mode:
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)
            optimizer = None if half else torch.optim.AdamW(decayed(model, 0.1), fused=True)
            if optimizer:
                optimizer.step()
            given, tracker = batch(tokens, config["vocab_size"]), MemTracker()
            tracker.track_external(model, *([optimizer] if optimizer else []))
            with tracker:
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not half):
                    loss, _ = model(**given)
                loss.backward()
    [found] = tracker.get_tracker_snapshot("peak").values()
    return int(found["Total"])


def allocated(config: dict[str, Any], tokens: int, checkpointing: bool) -> int:
    """Return the bytes that PyTorch has allocated at the peak of two real steps in fp32 on a CPU."""
    gc.collect()  # what earlier tests have left would be released meanwhile
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        model = built(config, torch.float32, checkpointing)
        separate_rows(model)
        teach(model)
        optimizer = torch.optim.AdamW(decayed(model, 0.1), fused=True)
        given = batch(tokens, config["vocab_size"])
        for _ in range(2):
            for _ in range(2):
                given["rows"].layers = 0
                model(**given)[0].backward()
            optimizer.step()
            optimizer.zero_grad()
    return max(size for _, size in running(profiler))


def running(profiler: Any) -> list[tuple[int, int]]:
    """Return the bytes allocated after each allocation and release, with its time in nanoseconds."""
    changes = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes.sort(key=lambda event: event.start_ns())
    times, sizes = [event.start_ns() for event in changes], [event.nbytes() for event in changes]
    return list(zip(times, accumulate(sizes), strict=True))
