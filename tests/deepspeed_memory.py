"""Train a few steps with DeepSpeed as one process of several, and print the bytes at the peak of the last.

Called as `python deepspeed_memory.py STAGE BUCKET`, with the variables of torchrun.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import torch
from small_training import RECIPE
from torch.profiler import ProfilerActivity, profile
from tracked_training import batch, built, running

from jobs.stages.train import decayed
from jobs.training.attention import separate_rows
from jobs.training.distributed import accelerate, part
from jobs.training.loss import teach
from jobs.training.schedule import Recipe
from launch.study.deepspeed import deepspeed

CONFIG: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 2048, "hidden_size": 512, "num_hidden_layers": 2,
    "num_attention_heads": 8, "num_key_value_heads": 8, "intermediate_size": 1408,
    "max_position_embeddings": 1024, "tie_word_embeddings": False,
}  # fmt: skip
TOKENS, STEPS = 64, 2


def main(stage: int, bucket: int) -> int:
    """Return the bytes."""
    world, configuration = int(os.environ["WORLD_SIZE"]), deepspeed(stage)
    assert configuration is not None
    zero = {**configuration["zero_optimization"], "reduce_bucket_size": bucket}
    recipe = Recipe(**{**RECIPE, "dtype": "bf16", "batch": 2 * world})
    execution = {
        "micro_batch": 1,
        "deepspeed": {**configuration, "zero_optimization": zero},
        "sequence_parallel": None,
    }
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        accelerator = accelerate(recipe, execution, world)
        model = built(CONFIG, torch.bfloat16, False)
        separate_rows(model)
        teach(model)
        optimizer = torch.optim.AdamW(decayed(model, 0.1), fused=True)
        model, optimizer = accelerator.prepare(model, optimizer)
        given = batch(TOKENS, CONFIG["vocab_size"])
        for _ in range(STEPS):
            last = time.time_ns()
            for _ in range(2):
                with accelerator.accumulate(model):
                    given["rows"].layers = 0
                    accelerator.backward(model(**given)[0])
                    optimizer.step()
                    optimizer.zero_grad()
    part(accelerator)
    return max(size for when, size in running(profiler) if when >= last)


if __name__ == "__main__":
    found = main(int(sys.argv[1]), int(sys.argv[2]))
    print(f"PEAK {found}", flush=True)
