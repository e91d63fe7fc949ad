"""Estimate of the GPU memory that a training needs, before it is submitted: bytes of one GPU. Pure.

Counted from what our trainer, PyTorch 2.13, transformers 5.19 and DeepSpeed 0.19 keep; docs/gpu-memory.md
explains it, and says how well it has been measured. Whether it fits, and what would, is for `gpu_fit.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jobs.core.widths import Widths

GIB = 2**30
FP32, BF16 = 4, 2
CONTEXT = 2 * GIB  # CUDA's context, NCCL's buffers, cuBLAS's workspace, what the driver keeps for itself
SLACK = 0.05  # of what each step allocates and frees: micro-batches differ in size, and leave gaps
ELEMENTS, FEWEST = 2**25, 256  # of the loss's chunks, as in jobs.training.loss
PIECE, SCORES = (
    512,
    6,
)  # queries whose scores exist at once, as jobs.training.attention.STEP, and copies of them
BUCKET = 500_000_000  # numbers that DeepSpeed reduces at once, unless its configuration says otherwise
LIVE = 1_000_000_000  # numbers that ZeRO 3 keeps gathered, and that its optimizer updates at once


@dataclass(frozen=True)
class Way:
    """How a student is trained, as far as it decides the memory of one process.

    Args:
        block: tokens of a packed block.
        micro_batch: blocks of a forward pass.
        repeated: whether a step has more than one micro-batch.
        checkpointing: whether activations are computed again in the backward pass.
        deepspeed: DeepSpeed's configuration; None: without DeepSpeed.
        processes: all of the training.
        dtype: bf16 or fp32.
        shared: processes that share the tokens of a micro-batch (`sequence_parallel`).
    """

    block: int
    micro_batch: int
    repeated: bool
    checkpointing: bool
    deepspeed: Mapping[str, Any] | None
    processes: int
    dtype: str
    shared: int = 1

    @property
    def tokens(self) -> int:
        """Tokens of a process in a forward pass; padding is left out, so this is the most."""
        return math.ceil(self.block * self.micro_batch / self.shared)

    @property
    def zero(self) -> Mapping[str, Any]:
        """DeepSpeed's settings of ZeRO; empty without DeepSpeed."""
        found: Mapping[str, Any] = (self.deepspeed or {}).get("zero_optimization", {})
        return found

    @property
    def stage(self) -> int:
        """The ZeRO stage; 0 without."""
        return int(self.zero.get("stage", 0))

    @property
    def stored(self) -> int:
        """Bytes of a weight in the model, and of a number between layers: bf16 with ZeRO only."""
        return BF16 if self.dtype == "bf16" and self.stage else FP32

    @property
    def computed(self) -> int:
        """Bytes of a number that goes into a matrix product."""
        return BF16 if self.dtype == "bf16" else FP32

    @property
    def casts(self) -> bool:
        """Whether fp32 weights and activations are copied to bf16 for each product (autocast)."""
        return self.stored != self.computed

    def offloads(self, what: str) -> bool:
        """Return whether DeepSpeed keeps "optimizer" or "param" on the host."""
        return (self.zero.get(f"offload_{what}") or {}).get("device") in ("cpu", "nvme")


@dataclass(frozen=True)
class Estimate:
    """Bytes of one GPU at the peak of a training.

    Args:
        weights, gradients, optimizer: those that the process holds.
        activations: of the micro-batch, its loss among them.
        communication: buckets and gathered weights.
        known: whether they are counted from the model's own code; else from the closest that is known.
    """

    weights: float
    gradients: float
    optimizer: float
    activations: float
    communication: float
    known: bool

    @property
    def states(self) -> float:
        """What does not depend on the micro-batch."""
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> float:
        """All of it, with the constant and the allocator's slack."""
        return self.states + (1 + SLACK) * (self.activations + self.communication) + CONTEXT


def estimate(model: Widths, way: Way) -> Estimate:
    """Estimate the memory of a training."""
    weights, gradients, optimizer = states(model.parameters, way)
    # Without partitions, gradients exist from the backward pass of a step's first micro-batch on.
    late = gradients if not way.repeated and way.stage in (0, 2) else 0
    head = way.stored * model.head if late else 0
    always, reducing, stepping = _communication(model, way)
    forward, backward, last = activations(model, way)
    phases = [
        (forward - late, always),
        (backward - late + head, always + reducing),
        (last, always + reducing),
        (0.0, always + stepping),
    ]
    active, sent = max(phases, key=sum)
    return Estimate(weights, gradients, optimizer, active, sent, not (model.guessed or model.scored))


def states(count: int, way: Way) -> tuple[float, float, float]:
    """Return the bytes of weights, gradients and optimizer of one process.

    Without ZeRO all are fp32: 4 + 4 + 8 bytes a parameter. With it, weights are bf16, with a master copy and
    two moments in fp32 split over the processes. ZeRO 1 adds up gradients in fp32, whole on each process, and
    keeps those in bf16 from which it does (DeepSpeed's BF16_Optimizer). ZeRO 2 and 3 split the former, and
    keep none of the latter; ZeRO 3 splits weights.
    """
    if not way.stage:
        return FP32 * count, FP32 * count, 2 * FP32 * count
    part = count / way.processes
    gradients = FP32 * part if way.stage > 1 else (FP32 + BF16) * count
    if way.stage == 1 and way.stored == FP32:  # by the optimizer of ZeRO 2
        gradients = FP32 * (count + part)
    weights = way.stored * (part if way.stage == 3 else count)
    offloaded = way.offloads("optimizer")
    return (
        0 if way.offloads("param") else weights,
        0 if offloaded and way.stage > 1 else gradients,
        0 if offloaded else 3 * FP32 * part,
    )


def activations(model: Widths, way: Way) -> tuple[float, float, float]:
    """Return the bytes of activations: at the end of the forward pass, at start and end of the backward pass.

    The loss is computed in the forward pass, its gradients with it; at the start of the backward pass these
    or the last layer's own gradients come on top of what all layers have kept. At its end only the first
    layer is left.
    """
    sparse, dense = model.sparse_layers, model.layers - model.sparse_layers
    kinds = [
        (number, way.tokens * _kept(model, way, experts), _passing(model, way, experts))
        for number, experts in ((dense, False), (sparse, True))
        if number
    ]
    one = max(kept + passing for _, kept, passing in kinds)
    if way.checkpointing:
        kept, layer = way.tokens * model.layers * way.stored * model.hidden, one
    else:
        kept = sum(number * kept for number, kept, _ in kinds)
        layer = max(passing for *_, passing in kinds)
    if model.scored:
        layer += SCORES * FP32 * math.ceil(model.heads / way.shared) * PIECE * way.block
    around = way.tokens * model.hidden * (_norm(model, way) + way.stored)  # by the last norm
    copies = BF16 * model.dense_weights if way.casts else 0
    now = copies / model.layers if way.checkpointing else copies
    computing, differentiating = _loss(model, way)
    head = way.stored * model.head
    # The gradient of a tied head waits for the embedding's, which is as large.
    backward = now + max(around + differentiating, layer + (head if model.tied else 0))
    # At the end, the embedding's gradient comes: added to a tied head's, there are three of them.
    last = max(one + copies / model.layers + (head if model.tied else 0), (3 if model.tied else 1) * head)
    return kept + around + copies + computing, kept + backward, last


def _norm(model: Widths, way: Way) -> int:
    """Return the bytes that a norm keeps of each number that it is given.

    A LayerNorm keeps its input. An RMSNorm keeps its input in fp32, and the normalized numbers: in the
    input's dtype, or in fp32 where they are multiplied by the weight before they are rounded.
    """
    if model.layer_norms:
        return way.stored
    return FP32 + (FP32 if model.wide_norms else way.stored)


def _kept(model: Widths, way: Way, experts: bool) -> int:
    """Return the bytes that a layer keeps of a token for the backward pass."""
    each = way.computed
    # Autocast makes a copy of the hidden states for each matrix, else all share one.
    wide = (1 if model.fused else 3) + (1 if model.fused or model.vectors == 2 else 2) if way.casts else 2
    found = model.hidden * (model.norms * _norm(model, way) + each * wide)
    found += model.latents * (FP32 + 2 * each)
    if model.qk_norm:
        found += (FP32 + (FP32 if model.wide_norms else each)) * (model.queries + model.keys)
    if each == FP32:  # no flash attention: rows are copied into rectangles, keys and values repeated
        found += each * (4 * model.queries + model.output)
    else:
        # Values that are a part of one matrix's product keep all of it.
        values = model.queries + model.keys + model.values if model.fused else model.values
        found += each * (model.queries + model.keys + values + model.output) + FP32 * model.heads
    if not experts:
        return found + each * model.vectors * model.inner
    # Grouped products are not cast; each active expert has its own copy of the token, and of its result.
    found += way.stored * model.active * (2 * model.hidden + model.expert_vectors * model.expert)
    found += 2 * FP32 * model.experts + (FP32 * model.hidden if model.latents else 0)  # the router's
    return found + each * (model.vectors * model.shared + (model.hidden if model.shared else 0))


def _passing(model: Widths, way: Way, experts: bool) -> float:
    """Return the bytes of gradients within a layer that exist at once, at most.

    That is while the MLP's product is differentiated or, where experts have many weights and few tokens,
    while their gradient is computed: the product's, and what was kept for it, have been released by then.
    """
    if not experts:
        return way.tokens * (way.computed * 2 * model.inner + way.stored * 2 * model.hidden)
    vectors = model.active * (2 * model.expert + model.hidden) + 2 * model.hidden
    return way.stored * max(way.tokens * vectors, model.matrix - way.tokens * vectors)


def _loss(model: Widths, way: Way) -> tuple[float, float]:
    """Return the bytes of the loss while it is computed, and when its gradients are handed on.

    Gradients of hidden states and of the head are in fp32. Of a chunk there are logits in fp32, their
    gradient as it is multiplied, and one chunk's gradient of the head. All tokens are taken for answers.
    """
    head, hidden = model.head, model.hidden * way.tokens
    chunk = max(FEWEST * model.vocabulary, min(ELEMENTS, way.tokens * model.vocabulary))
    rounded = BF16 if way.computed == BF16 else 0
    computing = (way.stored + FP32) * hidden + (FP32 + way.computed) * head + (FP32 + rounded) * chunk
    computing += BF16 * head if way.casts else 0
    copied = BF16 if way.stored == BF16 else 0
    return computing, (FP32 + copied) * (hidden + head)


def _communication(model: Widths, way: Way) -> tuple[float, float, float]:
    """Return the bytes of buffers: those that always exist, of the backward pass, of the optimizer's step."""
    count, bucket = model.parameters, int(way.zero.get("reduce_bucket_size", BUCKET))
    full, largest = min(count, bucket), max(model.head, model.matrix)
    if way.deepspeed is None:
        return (FP32 * count if way.processes > 1 else 0), 0, 0
    if way.stage == 0:
        return 0, 0, FP32 * min(count, BUCKET)
    rounded = FP32 if way.stored == BF16 else 0
    if way.stage == 1 and rounded:  # a tensor of all matrices, sent as it is if it is larger than a bucket
        return 0, 0, FP32 * count if count <= BUCKET else 0
    if way.stage < 3:  # two buckets, and a copy of what is sent, also in fp32
        alone = way.stored * largest if largest > bucket else 0
        return 0, 2 * way.stored * bucket + (way.stored + rounded) * max(full, largest) + alone, 0
    # A bucket in fp32, and a copy ordered by process; a larger matrix goes alone, in both dtypes.
    sending = FP32 * full if largest <= bucket else (way.stored + FP32) * largest
    live = way.stored * min(count, int(way.zero.get("stage3_max_live_parameters", LIVE)) + largest)
    return FP32 * bucket + live, sending, FP32 * min(count / way.processes, LIVE)
