"""The loops that `bench_training.py` compares: a process trains in one, and takes a step when it is told to.

All train the same model from the same weights, on the same rows, with the same optimizer and clipping, in
fp32 on one thread. A step is followed by its processor time, and the next one waits for a line of input.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DataCollatorWithFlattening,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

from jobs.core.unit import Unit
from jobs.data.blocks import Blocks
from jobs.runtime.context import Context
from jobs.stages.train import build, decayed, fit
from jobs.store.progress import Progress
from jobs.store.rundir import UnitDir
from jobs.text.encoding import Row
from jobs.training.checkpointer import Saving
from jobs.training.distributed import accelerate
from jobs.training.schedule import Recipe, scheduled
from launch.study.presets import CONFIGS

VOCABULARY, STEPS = 1024, 64  # enough steps that no loop reaches the end of its data
ARCHITECTURE = {
    "model_type": "qwen3", "hidden_size": 128, "num_hidden_layers": 8, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 448, "vocab_size": VOCABULARY,
    "tie_word_embeddings": True, "max_position_embeddings": 4096,
}  # fmt: skip
RATE, DECAY, BETAS, CLIP = 1e-3, 0.1, (0.9, 0.95), 1.0


class Gate:
    """Stands between two steps until the second is wanted."""

    def __init__(self) -> None:
        self._since = time.process_time()

    def passed(self) -> None:
        """Tell how long the step took, and wait."""
        print(json.dumps({"seconds": time.process_time() - self._since}), flush=True)
        if not sys.stdin.readline():
            os._exit(0)  # threads of libraries would hold up an exit
        self._since = time.process_time()


def rows(packed: bool) -> Any:
    """Return the rows of all steps, of shape (steps, rows, tokens)."""
    shape = (STEPS, 16, 256) if packed else (STEPS, 8, 512)
    return np.random.default_rng(0).integers(0, VOCABULARY, shape)


def student() -> Any:
    """Return the untrained model as transformers makes it."""
    set_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**ARCHITECTURE), attn_implementation="sdpa")


def bare(gate: Gate, packed: bool) -> None:
    """Train in a loop that holds nothing but what training needs."""
    model = student().train()
    optimizer = torch.optim.AdamW(decayed(model, DECAY), lr=RATE, betas=BETAS, fused=True)
    for step in torch.from_numpy(rows(packed)):
        tokens, positions = step, None
        if packed:
            tokens, positions = step.reshape(1, -1), torch.arange(256).repeat(1, 16)
        logits = model(input_ids=tokens, position_ids=positions, use_cache=False).logits
        targets = step.roll(-1, dims=1)
        targets[:, -1] = -100  # a row's last token predicts none
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        gate.passed()


class Passing(TrainerCallback):
    """Stops at a gate after each step."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """As transformers calls it."""
        self._gate.passed()


def arguments(rows_at_once: int) -> dict[str, Any]:
    """Return what both trainers of Hugging Face are told; nothing is saved, reported or shown."""
    return {
        "output_dir": "trainer", "per_device_train_batch_size": rows_at_once, "num_train_epochs": 1,
        "learning_rate": RATE, "weight_decay": DECAY, "adam_beta1": BETAS[0], "adam_beta2": BETAS[1],
        "max_grad_norm": CLIP, "optim": "adamw_torch_fused", "lr_scheduler_type": "constant", "use_cpu": True,
        "save_strategy": "no", "report_to": [], "disable_tqdm": True, "dataloader_pin_memory": False,
        "gradient_checkpointing": False, "bf16": False,
    }  # fmt: skip


def hf(gate: Gate, packed: bool) -> None:
    """Train with transformers' Trainer; it packs the rows of a batch with its own collator."""
    every = [{"input_ids": row, "labels": row} for row in rows(packed).reshape(-1, 256 if packed else 512)]
    collator = DataCollatorWithFlattening() if packed else default_data_collator
    told = TrainingArguments(**arguments(16 if packed else 8))
    Trainer(student(), told, collator, every, callbacks=[Passing(gate)]).train()


def trl(gate: Gate, packed: bool) -> None:
    """Train with TRL's SFTTrainer, which packs the rows itself."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from jobs import toy

    every = Dataset.from_dict({"input_ids": rows(packed).reshape(-1, 256 if packed else 512).tolist()})
    packing = {"packing": True, "packing_strategy": "bfd", "max_length": 4096 if packed else 512}
    told = SFTConfig(**arguments(1 if packed else 8), **packing)
    SFTTrainer(
        student(), told, train_dataset=every, processing_class=toy.tokenizer(), callbacks=[Passing(gate)]
    ).train()


class Counted(Progress):
    """Progress that stops at a gate after each step."""

    def __init__(self, path: Path, gate: Gate) -> None:
        super().__init__(path)
        self._gate = gate

    def update(self, done: int, total: int, unit: str, **more: Any) -> None:
        """As `fit` calls it."""
        super().update(done, total, unit, **more)
        if done:
            self._gate.passed()


def ours(gate: Gate, packed: bool, stage: int | None = None) -> None:
    """Train as a unit does, with checkpoints, metrics and progress; `stage` is DeepSpeed's, None without."""
    data = rows(packed)
    batch = 1 if packed else 8
    every = [Row(row[:1], row[1:]) for row in data.reshape(-1, data.shape[-1]).tolist()]
    blocks = Blocks.of_rows(every, data.size // (STEPS * batch))
    zero = CONFIGS / "deepspeed" / f"zero{stage}.yaml"
    settings = None if stage is None else yaml.safe_load(zero.read_text(encoding="utf-8"))
    recipe = Recipe(batch, RATE, "constant", DECAY, BETAS, CLIP, "fp32", seed=0, epochs=1)
    execution = {"micro_batch": batch, "deepspeed": settings, "sequence_parallel": None}
    execution |= {"gradient_checkpointing": False, "mtbf_hours": 24}
    folder = Path(f"unit-{stage}-{packed}").absolute()
    folder.mkdir()
    ctx = Context(Unit("train", "student", {}, execution=execution), UnitDir(folder), 1)
    accelerator = accelerate(recipe, execution, 1)
    saving = Saving(ctx, accelerator)
    model = build({"architecture": ARCHITECTURE, "init": "random"}, recipe, execution)
    progress = Counted(ctx.folder.progress, gate)
    schedule = scheduled(blocks, recipe, ARCHITECTURE)
    fit(accelerator, model, blocks, schedule, execution, progress, saving.log, saving)


LOOPS: dict[str, Callable[[Gate, bool], None]] = {
    "bare": bare,
    "hf": hf,
    "trl": trl,
    "ours": ours,
    "zero1": partial(ours, stage=1),
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    LOOPS[sys.argv[1]](Gate(), sys.argv[2] == "packed")
