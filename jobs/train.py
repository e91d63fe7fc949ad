"""Train one student on packed blocks, through accelerate, with DeepSpeed where its preset asks for ZeRO.

Each step reads its blocks by arithmetic from (seed, phase, epoch), so that any number of processes and any
micro-batch see the same global batches in the same order. The loss is the mean over the answer tokens of
the whole global batch, whatever their split over processes.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.flops import train_flops
from jobs.context import Context
from jobs.pack import LEARN, Blocks, turn_end
from jobs.progress import Progress
from jobs.rundir import append_jsonl

LOG_LINES = 200  # about as many lines of metrics does a training write, whatever its length


@dataclass(frozen=True)
class Recipe:
    """How a model is trained: the fields of a study's `training` and the preset's learning rate."""

    epochs: int
    batch: int
    learning_rate: float
    warmup: float
    schedule: str
    weight_decay: float
    betas: tuple[float, float]
    clip: float
    dtype: str
    seed: int


@dataclass
class Totals:
    """What a training has done so far, over all processes."""

    step: int = 0
    tokens: int = 0
    answer_tokens: int = 0
    flops: int = 0
    loss: float = math.nan
    seconds: float = 0.0


def run(ctx: Context) -> None:
    """Train the student that the unit's config describes and publish its weights."""
    from transformers import AutoTokenizer

    config, execution = ctx.unit.config, ctx.unit.execution
    recipe = Recipe(**config["recipe"])
    preset = {**config["model"], "model": ctx.resolve(config["model"]["model"] or "")}
    tokenizer = AutoTokenizer.from_pretrained(
        ctx.resolve(preset["tokenizer"]), revision=preset["tokenizer_revision"]
    )
    blocks = Blocks.open(ctx.input("pack"))
    ctx.progress.update(0, steps(blocks, recipe), "steps", force=True, phase="loading the model")
    accelerator = accelerate(recipe, execution, ctx.world_size)
    model = build(preset, recipe, execution)
    log = ctx.folder.work / "metrics.jsonl"
    if ctx.rank == 0:
        ctx.folder.work.mkdir(exist_ok=True)
        log.unlink(missing_ok=True)
    model, totals = fit(accelerator, model, blocks, recipe, execution["micro_batch"], ctx.progress, log)
    state = accelerator.get_state_dict(model)  # with ZeRO 3 all processes give their parts
    if ctx.rank == 0:
        staged = ctx.staging()
        trained = accelerator.unwrap_model(model)
        save(trained, state, tokenizer, staged / "model", recipe.dtype)
        shutil.copy(log, staged / "metrics.jsonl")
        ctx.publish(staged, result(config, trained.num_parameters(), totals))
    accelerator.end_training()


def result(config: dict[str, Any], parameters: int, totals: Totals) -> dict[str, Any]:
    """What a training says of itself."""
    preset = config["model"]
    return {
        "student": preset["name"],
        "size": preset["size"],
        "share": config["share"],
        "order": config["order"],
        "seed": config["seed"],
        "parameters": parameters,
        **asdict(totals),
    }


def accelerate(recipe: Recipe, execution: dict[str, Any], world: int) -> Any:
    """An Accelerator, with DeepSpeed where `execution` holds a configuration for it.

    Raises:
        ValueError: the global batch does not divide into the processes' micro-batches.
    """
    import torch
    from accelerate import Accelerator

    micro = micro_steps(recipe.batch, execution["micro_batch"], world)
    if execution["deepspeed"] is None:
        mixed = "bf16" if recipe.dtype == "bf16" else "no"
        cpu = not torch.cuda.is_available()
        made = Accelerator(mixed_precision=mixed, cpu=cpu, gradient_accumulation_steps=micro)
    else:
        made = with_deepspeed(recipe, execution, micro)
    assert made.num_processes == world, f"accelerate sees {made.num_processes} processes of {world}"
    return made


def with_deepspeed(recipe: Recipe, execution: dict[str, Any], micro: int) -> Any:
    """An Accelerator that trains through DeepSpeed; `micro` is the number of micro-batches per step."""
    import torch
    from accelerate import Accelerator, PartialState
    from accelerate.utils import DeepSpeedPlugin

    config = {
        **execution["deepspeed"],
        "bf16": {"enabled": recipe.dtype == "bf16"},
        "gradient_clipping": recipe.clip,
        "train_micro_batch_size_per_gpu": execution["micro_batch"],
        "gradient_accumulation_steps": micro,
    }
    # Of a job of one process; without them DeepSpeed would look for MPI.
    for name, value in (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", 1), ("MASTER_ADDR", "127.0.0.1")):
        os.environ.setdefault(name, str(value))
    on_cpu = not torch.cuda.is_available()
    if on_cpu:
        prepare_cpu()
    plugin = DeepSpeedPlugin(hf_ds_config=config, zero3_init_flag=config["zero_optimization"]["stage"] == 3)
    made = Accelerator(deepspeed_plugin=plugin, gradient_accumulation_steps=micro)
    if on_cpu:  # where accelerate knows no backend it leaves DeepSpeed's processes uncounted
        for state in (PartialState(), made.state):
            state.num_processes = torch.distributed.get_world_size()
            state.process_index = torch.distributed.get_rank()
            state.local_process_index = int(os.environ["LOCAL_RANK"])
    return made


def prepare_cpu() -> None:
    """Have DeepSpeed run on CPUs through gloo, and not compile its shared-memory exchange, which would need
    a minute, a C++ compiler and Python's headers for the sake of small tests."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # `cpu=True` of accelerate would drop DeepSpeed silently
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def micro_steps(batch: int, micro_batch: int, world: int) -> int:
    """Micro-batches that each process takes per optimizer step."""
    if batch % (micro_batch * world):
        raise ValueError(
            f"training.batch is {batch} blocks, which {world} processes with a micro_batch of {micro_batch} "
            f"cannot share evenly: make it a multiple of {micro_batch * world}, or change micro_batch"
        )
    return batch // (micro_batch * world)


def build(preset: dict[str, Any], recipe: Recipe, execution: dict[str, Any]) -> Any:
    """The student as it is before training: drawn at random, or read from its preset's weights.

    Args:
        preset: a `Model` of the study, its paths resolved.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, set_seed

    set_seed(recipe.seed)
    attention = "flash_attention_2" if flash() else "sdpa"
    if preset["init"] == "random":
        architecture = AutoConfig.for_model(**preset["architecture"])
        model = AutoModelForCausalLM.from_config(architecture, attn_implementation=attention)
    else:
        # Without DeepSpeed these are the master weights themselves, so they stay in fp32.
        half = recipe.dtype == "bf16" and execution["deepspeed"] is not None
        model = AutoModelForCausalLM.from_pretrained(
            preset["model"],
            revision=preset["revision"],
            dtype=torch.bfloat16 if half else torch.float32,
            attn_implementation=attention,
        )
    if execution["gradient_checkpointing"]:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def flash() -> bool:
    """Whether flash attention is at hand."""
    import torch
    from transformers.utils.import_utils import is_flash_attn_2_available

    return is_flash_attn_2_available() and torch.cuda.is_available()


def training_order(phases: tuple[int, ...], epochs: int, seed: int) -> NDArray[np.int64]:
    """The blocks in the order of training: phase after phase, in each all epochs, each shuffled anew."""
    first = np.cumsum([0, *phases])
    return np.concatenate(
        [
            first[phase] + np.random.default_rng((seed, phase, epoch)).permutation(blocks)
            for phase, blocks in enumerate(phases)
            for epoch in range(epochs)
        ]
    )


def steps(blocks: Blocks, recipe: Recipe) -> int:
    """Optimizer steps of the whole training; blocks that do not fill a last batch are left out.

    Raises:
        ValueError: there is not even one batch.
    """
    available = sum(blocks.phases) * recipe.epochs
    if available < recipe.batch:
        raise ValueError(
            f"the mixture packs into {available} blocks over all epochs, and training.batch asks for "
            f"{recipe.batch} a step: lower training.batch or training.block, or train on more rows"
        )
    return available // recipe.batch


def rate(step: int, total: int, recipe: Recipe) -> float:
    """The learning rate of a step (counted from 0): a linear warm-up, then the schedule down to 0."""
    warmup = math.ceil(recipe.warmup * total)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(total - warmup, 1)
    left = {"cosine": 0.5 + 0.5 * math.cos(math.pi * done), "linear": 1 - done, "constant": 1.0}
    return recipe.learning_rate * left[recipe.schedule]


def fit(
    accelerator: Any,
    model: Any,
    blocks: Blocks,
    recipe: Recipe,
    micro_batch: int,
    progress: Progress,
    log: Path,
) -> tuple[Any, Totals]:
    """Train `model` on all of `blocks`.

    Args:
        micro_batch: blocks that a process takes through the model at once.
        log: JSONL file for the metrics, written by the first process.

    Returns:
        The prepared model and what was done.
    """
    import torch

    optimizer = torch.optim.AdamW(
        decayed(model, recipe.weight_decay), lr=recipe.learning_rate, betas=recipe.betas
    )
    architecture = model.config
    model, optimizer = accelerator.prepare(model, optimizer)
    model.train()
    order, total = training_order(blocks.phases, recipe.epochs, recipe.seed), steps(blocks, recipe)
    totals, start = Totals(), time.monotonic()
    for step in range(total):
        chosen = order[step * recipe.batch : (step + 1) * recipe.batch]
        for group in optimizer.param_groups:
            group["lr"] = rate(step, total, recipe)
        answers = int(np.count_nonzero(blocks.flags[chosen] & LEARN))
        loss = one_step(accelerator, model, optimizer, blocks, chosen, micro_batch, answers, recipe.clip)
        lengths = blocks.lengths(chosen)
        totals.step = step + 1
        totals.tokens += sum(lengths)
        totals.answer_tokens += answers
        totals.flops += train_flops(architecture, lengths)
        totals.seconds = time.monotonic() - start
        if step % max(1, total // LOG_LINES) == 0 or step == total - 1:
            totals.loss = summed(loss)
            if accelerator.is_main_process:
                append_jsonl(log, metrics(totals, rate(step, total, recipe)))
        speed = totals.tokens / totals.seconds
        progress.update(
            step + 1,
            total,
            "steps",
            force=step == 0,
            loss=totals.loss,
            tokens_per_second=speed,
            phase="training",
        )
    return model, totals


def summed(loss: Any) -> float:
    """The sum of all processes' parts of the loss."""
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(loss)
    return float(loss)


def metrics(totals: Totals, learning_rate: float) -> dict[str, Any]:
    """One line of metrics.jsonl."""
    speed = totals.tokens / totals.seconds
    return {**asdict(totals), "learning_rate": learning_rate, "tokens_per_second": speed}


def one_step(
    accelerator: Any,
    model: Any,
    optimizer: Any,
    blocks: Blocks,
    chosen: NDArray[np.int64],
    micro_batch: int,
    answers: int,
    clip: float,
) -> Any:
    """One optimizer step on the chosen blocks.

    Returns:
        This process's part of the loss per answer token of the global batch (a scalar tensor).
    """
    import torch

    world, rank = accelerator.num_processes, accelerator.process_index
    micro = accelerator.gradient_accumulation_steps
    loss = torch.zeros((), device=accelerator.device)
    for i in range(micro):
        mine = chosen[(i * world + rank) * micro_batch :][:micro_batch]
        with accelerator.accumulate(model):
            part = answer_loss(model, blocks, mine, accelerator.device) / max(answers, 1)
            # Gradients are averaged over processes and micro-steps; the factor makes that a sum.
            accelerator.backward(part * world * micro)
            if accelerator.sync_gradients and accelerator.state.deepspeed_plugin is None:
                accelerator.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
        loss += part.detach()
    return loss


def answer_loss(model: Any, blocks: Blocks, chosen: NDArray[np.int64], device: Any) -> Any:
    """Summed cross-entropy of the answer tokens of the chosen blocks (a scalar tensor)."""
    import torch

    tokens = torch.from_numpy(blocks.tokens[chosen].astype(np.int64)).to(device)
    positions = torch.from_numpy(blocks.positions(chosen)).to(device)
    learn = torch.from_numpy((blocks.flags[chosen] & LEARN) != 0).to(device)
    if flash():
        # There, transformers (5.19) tells packed rows apart in a batch of one only: of more, rows would
        # attend to those before them. As one long block they are told apart like the rows within one.
        tokens, positions, learn = (x.reshape(1, -1) for x in (tokens, positions, learn))
    logits = model(input_ids=tokens, position_ids=positions, use_cache=False).logits
    wanted = learn[:, 1:]
    return torch.nn.functional.cross_entropy(
        logits[:, :-1][wanted].float(), tokens[:, 1:][wanted], reduction="sum"
    )


def decayed(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters in two groups: matrices decay, norms and biases do not."""
    groups: tuple[list[Any], list[Any]] = ([], [])
    for p in model.parameters():
        if p.requires_grad:
            shape = getattr(p, "ds_shape", p.shape)  # ZeRO 3 has flattened what it has spread
            groups[len(shape) <= 1].append(p)
    return [{"params": groups[0], "weight_decay": weight_decay}, {"params": groups[1], "weight_decay": 0.0}]


def save(model: Any, state: dict[str, Any], tokenizer: Any, folder: Path, dtype: str) -> None:
    """Write the weights in Hugging Face's format, with a tokenizer and the token that ends an answer, so
    that vLLM and lm-eval load and stop it as it is."""
    import torch

    end = tokenizer(turn_end(tokenizer), add_special_tokens=False)["input_ids"][0]
    model.config.eos_token_id = model.generation_config.eos_token_id = end
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    to = torch.bfloat16 if dtype == "bf16" else torch.float32
    model.save_pretrained(folder, state_dict={name: weight.to(to) for name, weight in state.items()})
    model.config.dtype = to  # there it wrote the model's own, which the weights were just turned from
    model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
