"""A training step of a whole model: ours, and that of HF Trainer for packed rows.

The latter is a model of transformers with the dense mask that it makes for its sdpa attention, and the logits
of all tokens. A step is a forward and a backward pass of one block with weights and gradients in bf16, and no
optimizer's step: with the states of AdamW in fp32, 7B would not fit on one GPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gpu_machine import GIB, ONE, Figures, LeftOut, Machine, packed_rows

from jobs.core.flops import architecture, train_flops
from jobs.data.blocks import Blocks


def step(machine: Machine, size: str, tokens: int, recomputed: bool, ours: bool) -> Figures:
    """Measure a step of a whole model, and note its loss and its gradient's norm, which both paths share."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from jobs.stages.train import answer_losses
    from jobs.training.attention import separate_rows
    from jobs.training.loss import teach

    shape = machine.shape(size)
    _check_room(architecture(shape).parameters, machine)
    blocks = packed_rows(tokens, shape["vocab_size"])
    answers = sum(blocks.answers(ONE))
    torch.manual_seed(0)
    with torch.device(machine.device):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(**shape), dtype=torch.bfloat16, attn_implementation="sdpa"
        )
    if recomputed:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if ours:
        separate_rows(model)
        teach(model)
    model.train()

    def work() -> Any:
        model.zero_grad(set_to_none=True)
        if ours:
            found = answer_losses(model, blocks, ONE, machine.device)[0] / answers
        else:
            found = plain_loss(model, blocks, machine.device)
        found.backward()
        return found.detach()

    figures = machine.timed(work)
    seconds, flops = figures["seconds"], train_flops(shape, blocks.lengths(ONE))
    assert seconds
    norms = [torch.linalg.vector_norm(w.grad, dtype=torch.float32) for w in model.parameters()]
    return {
        **figures,
        "tokens_per_second": tokens / seconds,
        "mfu": machine.peak and flops / seconds / machine.peak,
        "loss": float(work()),
        "gradient_norm": float(torch.stack(norms).norm()),
    }


def plain_loss(model: Any, blocks: Blocks, device: str) -> Any:
    """Return the loss of a model of transformers, which sees from positions where rows start."""
    flat = blocks.flat(ONE)
    labels = np.full(len(flat.tokens), -100)
    labels[flat.predicting + 1] = flat.targets
    ids, positions, wanted = (
        torch.from_numpy(x[None]).to(device) for x in (flat.tokens, flat.positions, labels)
    )
    return model(input_ids=ids, position_ids=positions, labels=wanted, use_cache=False).loss


def _check_room(parameters: int, machine: Machine) -> None:
    """Check that weights and gradients fit.

    Raises:
        LeftOut: They do not, whatever the step.
    """
    needed = 4 * parameters / GIB
    if machine.memory and needed > machine.memory:
        raise LeftOut(f"weights and gradients take {needed:.0f} GiB of this GPU's {machine.memory:.0f}")
