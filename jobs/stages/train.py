"""Train one student on packed blocks, through accelerate, with DeepSpeed if its preset asks for ZeRO.

Its first process packs the mixture, by saying which rows are in which block. The blocks of each step follow
from (seed, phase, epoch) alone, so any number of processes and any micro-batch see the same global batches in
the same order, also after an interruption. The loss is the mean over the answer tokens of the whole global
batch, however it is split over processes: by blocks, or within them.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.core.flops import train_flops
from jobs.data.blocks import Blocks
from jobs.data.packing import packed
from jobs.data.token_store import TokenStore
from jobs.runtime.context import Context
from jobs.store.checkpoints import METRICS, zero_stage
from jobs.store.progress import Progress
from jobs.text.chat import Chat
from jobs.training import stable
from jobs.training.attention import check_positions, separate_rows
from jobs.training.checkpointer import Saving
from jobs.training.distributed import accelerate, import_training, part, summed
from jobs.training.loss import teach
from jobs.training.metrics import Metrics, figures, peak_of_all
from jobs.training.rows import Rows
from jobs.training.schedule import Recipe, Schedule, Totals, own_blocks, scheduled
from jobs.training.sequence import Group, group_of

INDEX = "blocks.npz"  # in the unit's work folder: which rows are in which block
LOG_LINES = 200  # approximate number of metrics lines, whatever the length of the training


def run(ctx: Context) -> None:
    """Train the student described by the unit's config and publish its weights.

    Raises as `Saving.resume`.
    """
    config, execution = ctx.unit.config, ctx.unit.execution
    recipe, shape = Recipe(**config["recipe"]), config["model"]["architecture"]
    store = TokenStore.open(ctx.input("tokenize"))
    blocks, mixed = packed(store, config, ctx.folder.work / INDEX)
    schedule = scheduled(blocks, recipe, shape)
    total = schedule.steps
    ctx.progress.outside("importing transformers", 0, total, "steps")
    from transformers import AutoTokenizer

    ctx.preemption.listen()
    preset = {**config["model"], "model": ctx.resolve(config["model"]["model"] or "")}
    source = ctx.resolve(preset["tokenizer"])
    tokenizer = AutoTokenizer.from_pretrained(source, revision=preset["tokenizer_revision"])
    ctx.progress.outside("loading the model", 0, total, "steps")
    accelerator = accelerate(recipe, execution, ctx.world_size)
    saving = Saving(ctx, accelerator)
    model = build(preset, recipe, execution)
    if recipe.flops:
        check_counts(shape, model.config, blocks.size)
    with saving.guarded():
        model, totals = fit(accelerator, model, blocks, schedule, execution, ctx.progress, saving.log, saving)
        saving.close()
    state = accelerator.get_state_dict(model)  # with ZeRO 3 all processes contribute their shards
    if ctx.rank == 0:
        staged = ctx.staging()
        trained = accelerator.unwrap_model(model)
        save(trained, state, tokenizer, staged / "model", recipe.dtype)
        shutil.copy(saving.log, staged / METRICS)
        about = {"student": preset["name"], "size": preset["size"]}
        about |= {key: config[key] for key in ("share", "order", "seed")}
        if recipe.flops:
            about |= {"budget": recipe.flops, "passes": schedule.passes}
        about |= {"packed": mixed, "parameters": trained.num_parameters()}
        ctx.publish(staged, {**about, **asdict(totals)})
        shutil.rmtree(ctx.folder.checkpoints, ignore_errors=True)
        stable.remove(ctx)
    part(accelerator)


def imports() -> None:
    """Import what every training needs."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer  # noqa: F401

    import_training()


def build(preset: dict[str, Any], recipe: Recipe, execution: dict[str, Any]) -> Any:
    """Build the untrained student from a preset with resolved paths: random or pretrained weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, set_seed

    set_seed(recipe.seed)
    shape = dict(preset["architecture"])
    measured = shape.pop("flops", None)
    if preset["init"] == "random":
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape))
    else:
        # Without ZeRO these are the master weights, so they stay in fp32.
        half = recipe.dtype == "bf16" and bool(zero_stage(execution))
        dtype = torch.bfloat16 if half else torch.float32
        model = AutoModelForCausalLM.from_pretrained(
            preset["model"], revision=preset["revision"], dtype=dtype
        )
    separate_rows(model)
    teach(model)
    if measured:
        model.config.flops = measured  # saved with the weights, for the FLOPs of evaluations
    if execution["gradient_checkpointing"]:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def check_counts(preset: dict[str, Any], config: Any, length: int) -> None:
    """Check that a model costs what its preset says, by which the steps of a budget were chosen.

    Args:
        config: The model's own.
        length: Tokens of the row that is compared.

    Raises:
        ValueError: It does not.
    """
    planned, counted = (train_flops(shape, length) for shape in (preset, config))
    if planned != counted:
        raise ValueError(
            f"training.flops: a row of {length} tokens takes {counted:.4g} FLOPs by the model's config.json, "
            f"and {planned:.4g} by the architecture in its preset: correct that, or have it written anew, by "
            "sor init FILE --model MODEL"
        )


def fit(
    accelerator: Any,
    model: Any,
    blocks: Blocks,
    schedule: Schedule,
    execution: dict[str, Any],
    progress: Progress,
    log: Path,
    saving: Saving | None = None,
) -> tuple[Any, Totals]:
    """Train `model` on a schedule of `blocks`, or on the steps that remain after resuming.

    Args:
        execution: "micro_batch", blocks per forward pass, and "sequence_parallel", processes that share it.
        log: JSONL file for the metrics, written by the main process.
        saving: Handles checkpoints, and raises as its `boundary`; None disables them, for short trainings.

    Returns:
        The prepared model and the totals.
    """
    import torch

    architecture, recipe, total = model.config, schedule.recipe, schedule.steps
    check_positions(architecture, blocks.size)
    groups = decayed(model, recipe.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas, fused=True)
    prepare = partial(accelerator.prepare, model, optimizer)
    (model, optimizer), totals = saving.resume(prepare) if saving else (prepare(), Totals())
    model.train()
    group = group_of(execution["sequence_parallel"])
    micro, size = accelerator.gradient_accumulation_steps, group.size if group else 1
    readers, reader = accelerator.num_processes // size, accelerator.process_index // size
    first, start = totals.step, time.monotonic() - totals.seconds
    peak = peak_of_all(accelerator.num_processes, recipe.dtype)
    events = saving.events if saving else None
    metrics = Metrics(log, events, first) if accelerator.is_main_process else None
    progress.update(first, total, "steps", force=True, kept=progress.kept, phase="training")
    for step in range(first, total):
        if saving:
            saving.boundary(totals)
            if 0 < step == schedule.stable:
                saving.keep(totals)
        blocks.read_ahead(schedule.blocks(step + 1))
        chosen, lr = schedule.blocks(step), schedule.rate(step)
        for settings in optimizer.param_groups:
            settings["lr"] = lr
        answers = blocks.answers(chosen)
        mine = own_blocks(chosen, reader, readers, micro, execution["micro_batch"])
        losses, norm = one_step(accelerator, model, optimizer, blocks, mine, sum(answers), recipe.clip, group)
        lengths = blocks.lengths(chosen)
        totals.step = step + 1
        totals.tokens += sum(lengths)
        totals.answer_tokens += sum(answers)
        totals.flops += train_flops(architecture, lengths)
        totals.seconds = time.monotonic() - start
        speed = totals.tokens / totals.seconds
        if step % max(1, total // LOG_LINES) == 0 or step == total - 1:
            parts = summed(losses)
            totals.loss = sum(parts)
            if metrics:
                line = {**asdict(totals), "learning_rate": lr, "tokens_per_second": speed}
                metrics.write(line | figures(totals, parts, answers, norm, peak))
        shown = {"loss": totals.loss, "tokens_per_second": speed, "phase": "training"}
        progress.update(step + 1, total, "steps", force=step == first, kept=progress.kept, **shown)
    return model, totals


def one_step(
    accelerator: Any,
    model: Any,
    optimizer: Any,
    blocks: Blocks,
    mine: Sequence[tuple[NDArray[np.int64], float]],
    answers: int,
    clip: float,
    group: Group | None = None,
) -> tuple[Any, Any]:
    """Take one optimizer step.

    Args:
        mine: This process's micro-batches, as of `own_blocks`; all of a group have the same.
        answers: Number of answer tokens of the global batch.
        group: The processes that share these blocks' tokens; None if this one has them all.

    Returns:
        This process's part of the loss per answer token of the global batch (a tensor: of plain rows, of rows
        with reasoning), and the norm of that loss's gradient before it was clipped; None where DeepSpeed does
        not keep it (without ZeRO).
    """
    import torch

    shares = accelerator.num_processes * len(mine)
    losses, norm = torch.zeros(2, device=accelerator.device), None
    for chosen, weight in mine:
        with accelerator.accumulate(model):
            loss, parts = answer_losses(model, blocks, chosen, accelerator.device, group)
            loss, parts = (x * weight / max(answers, 1) for x in (loss, parts))
            # Gradients are averaged over processes and micro-steps; the factor turns the average into a sum.
            accelerator.backward(loss * shares)
            if accelerator.sync_gradients and accelerator.state.deepspeed_plugin is None:
                norm = accelerator.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
        losses += parts
    return losses, norm if accelerator.state.deepspeed_plugin is None else model.get_global_grad_norm()


def answer_losses(
    model: Any, blocks: Blocks, chosen: NDArray[np.int64], device: Any, group: Group | None = None
) -> tuple[Any, Any]:
    """Return the summed cross-entropy of the answer tokens of the chosen blocks.

    In a group, it is that of this process's part of the tokens.

    Returns:
        The sum, a scalar tensor, and its parts without a gradient: of plain rows, of rows with reasoning.
    """
    import torch

    flat, shards = blocks.flat(chosen), None
    if group:
        flat = flat.at_least(group.size)  # models do not take a part without a token
        shards = group.shards(len(flat.tokens))
    rows = Rows(tuple(flat.bounds.tolist()), on(device, flat.bounds.astype(np.int32)), shards)
    if shards:
        flat = flat.part(*shards.held)
    loss, each = model(
        tokens=on(device, flat.tokens[None]),
        positions=on(device, flat.positions[None]),
        rows=rows,
        predicting=on(device, flat.predicting),
        targets=on(device, flat.targets),
    )
    reasoning = on(device, flat.reasoning)
    return loss, torch.stack([(each * ~reasoning).sum(), (each * reasoning).sum()])


def on(device: Any, array: NDArray[Any]) -> Any:
    """Copy an array to a device, without waiting for what a GPU is doing."""
    import torch

    tensor = torch.from_numpy(array)
    return (
        tensor.pin_memory().to(device, non_blocking=True) if torch.device(device).type == "cuda" else tensor
    )


def decayed(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """Split the parameters into two groups: matrices decay, norms and biases do not."""
    groups: tuple[list[Any], list[Any]] = ([], [])
    for p in model.parameters():
        if p.requires_grad:
            shape = getattr(p, "ds_shape", p.shape)  # ZeRO 3 flattens partitioned parameters
            groups[len(shape) <= 1].append(p)
    return [{"params": groups[0], "weight_decay": weight_decay}, {"params": groups[1], "weight_decay": 0.0}]


def save(model: Any, state: dict[str, Any], tokenizer: Any, folder: Path, dtype: str) -> None:
    """Write the weights in Hugging Face format with the tokenizer, the end-of-turn token set as EOS.

    vLLM and lm-eval can then load the model and stop its answers without further settings.
    """
    import torch

    end = tokenizer(Chat.of(tokenizer).end, add_special_tokens=False)["input_ids"][0]
    model.config.eos_token_id = model.generation_config.eos_token_id = end
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    to = torch.bfloat16 if dtype == "bf16" else torch.float32
    model.save_pretrained(folder, state_dict={name: weight.to(to) for name, weight in state.items()})
    model.config.dtype = to  # save_pretrained wrote the model's dtype from before the cast
    model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
