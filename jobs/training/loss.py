"""The summed cross-entropy of answer tokens, computed in chunks: the logits of a batch never exist at once.

Only positions that predict an answer token reach the head. Gradients are computed with the loss, chunk by
chunk, and added up in fp32, as is the loss: torch's `linear_cross_entropy` (2.13) would round both to bf16
after every chunk, and knows no capped or scaled logits. Nothing here may depend on an architecture's name:
what a model does to hidden states before its head, and to logits after it, is its own code, run on a copy
without weights (`Around`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from types import MethodType
from typing import Any

from jobs.training.attention import check_separated, refused
from jobs.training.rows import Rows

ELEMENTS = 2**25  # logits that may exist at once
FEWEST = 256  # tokens in a chunk, however large the vocabulary


def teach(model: Any) -> None:
    """Make `model(tokens, positions, rows, predicting, targets)` return the losses of `chunked`.

    The loss must come out of the model's own forward pass: DDP and DeepSpeed gather weights and reduce
    gradients by hooks of modules. Other calls of the model and its head work as before.
    """
    head, around = model.get_output_embeddings(), Around(model)
    plain, project = model.forward, head.forward

    def forward(self: Any, *args: Any, targets: Any = None, **batch: Any) -> Any:
        return plain(*args, **batch) if targets is None else _loss(self, around, targets, **batch)

    def of_targets(self: Any, hidden: Any, targets: Any = None) -> Any:
        if targets is None:
            return project(hidden)
        return chunked(hidden, self.weight, getattr(self, "bias", None), targets, around.after)

    model.forward, head.forward = MethodType(forward, model), MethodType(of_targets, head)


def _loss(
    model: Any, around: Around, targets: Any, tokens: Any, positions: Any, rows: Rows, predicting: Any
) -> Any:
    found = model.base_model(input_ids=tokens, position_ids=positions, use_cache=False, packed_rows=rows)
    check_separated(rows, model)
    hidden = found[0][0].index_select(0, predicting)
    return model.get_output_embeddings()(around.before(hidden), targets)


class Around:
    """What a model computes between its last hidden states and its head, and between head and logits.

    Attributes:
        after: From logits as the head gives them to those of the model; None if they are the same.
    """

    def __init__(self, model: Any) -> None:
        import torch

        self._shell, self._head, self._forward = copy.copy(model), _stub()(), type(model).forward
        names = [name for name, child in model.named_children() if child is model.get_output_embeddings()]
        parts = {model.base_model_prefix: _stub()(), **dict.fromkeys(names, self._head)}
        self._shell.__dict__["_modules"] = parts
        width = model.config.get_text_config().hidden_size
        hidden, logits = torch.linspace(-3, 2, width)[None], torch.linspace(-90, 100, 8)[None]
        try:
            given, returned = self._run(hidden, logits)
        except Exception as error:
            raise refused(model, f"does not let its logits be computed apart ({error})") from error
        self._before = not torch.equal(given, hidden)
        self.after = None if torch.equal(returned, logits) else self._after

    def before(self, hidden: Any) -> Any:
        """Return what the head is given for these hidden states."""
        return self._run(hidden, hidden)[0] if self._before else hidden

    def _after(self, logits: Any) -> Any:
        return self._run(logits, logits)[1]

    def _run(self, hidden: Any, logits: Any) -> tuple[Any, Any]:
        self._head.returned = logits[None]
        found = self._forward(self._shell, input_ids=None, inputs_embeds=hidden[None])
        return self._head.given[0], found.logits[0]


@cache
def _stub() -> Any:
    """Return a class of modules that stand in for a model's body or head.

    A body returns the embeddings that it is given as hidden states; a head returns what it is told to.
    """
    from torch import nn

    class Given(list[Any]):
        def __getattr__(self, name: str) -> Any:
            return self[0] if name == "last_hidden_state" else None

    class Stub(nn.Module):
        @property
        def decoder(self) -> Any:
            return self

        def forward(self, hidden: Any = None, inputs_embeds: Any = None, **_: Any) -> Any:
            if inputs_embeds is not None:
                return Given([inputs_embeds])
            self.given = hidden
            return self.returned

    return Stub


def chunked(
    hidden: Any,
    weight: Any,
    bias: Any,
    targets: Any,
    after: Callable[[Any], Any] | None = None,
    chunk: int | None = None,
) -> Any:
    """Return the summed cross-entropy of the targets, and that of each without a gradient, in fp32.

    Args:
        hidden: Hidden states that predict the targets, of shape (targets, width); there may be none.
        weight, bias: Those of the head; bias may be None.
        after: From the head's logits to the model's; None if they are the same.
        chunk: Tokens at once; by default as many as the size of the vocabulary allows.
    """
    import torch

    dtype, device = hidden.dtype, hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    size = chunk or max(FEWEST, ELEMENTS // weight.shape[0])
    return _function().apply(hidden, weight, bias, targets, after, dtype, size)


@cache
def _function() -> Any:
    """Return the autograd function, defined here so that torch is imported only when it is needed."""
    import torch

    class SummedCrossEntropy(torch.autograd.Function):
        """Computes gradients with the loss; only they are kept for the backward pass."""

        @staticmethod
        def forward(
            ctx: Any, hidden: Any, weight: Any, bias: Any, targets: Any, after: Any, dtype: Any, size: int
        ) -> Any:
            matrix, total = weight.to(dtype), torch.zeros((), device=hidden.device)
            each = torch.zeros(len(targets), device=hidden.device)
            of_hidden, of_weight, of_bias = ctx.grads = [
                torch.zeros_like(x, dtype=torch.float32) if needed else None
                for x, needed in zip((hidden, weight, bias), ctx.needs_input_grad[:3], strict=True)
            ]
            ctx.dtypes = [x is not None and x.dtype for x in (hidden, weight, bias)]
            for start in range(0, len(targets), size):
                part, target = hidden[start : start + size].to(dtype), targets[start : start + size]
                logits = torch.nn.functional.linear(part, matrix).float()
                if bias is not None:
                    logits += bias
                losses, slope = _entropy(logits, target, after)
                each[start : start + size] = losses
                total += losses.sum()
                if of_bias is not None:
                    of_bias += slope.sum(0)
                slope = slope.to(dtype)
                if of_hidden is not None:
                    of_hidden[start : start + size] = slope @ matrix
                if of_weight is not None:
                    of_weight += slope.T @ part
            ctx.mark_non_differentiable(each)
            return total, each

        @staticmethod
        def backward(ctx: Any, grad: Any, _: Any) -> Any:
            grads, ctx.grads = ctx.grads, None  # scaled in place: a second backward pass is an error
            scaled = [
                None if x is None else x.mul_(grad).to(dtype)
                for x, dtype in zip(grads, ctx.dtypes, strict=True)
            ]
            return *scaled, None, None, None, None

    return SummedCrossEntropy


def _entropy(logits: Any, targets: Any, after: Callable[[Any], Any] | None) -> tuple[Any, Any]:
    """Return each target's cross-entropy and the sum's gradient by the logits, which are overwritten."""
    import torch

    with torch.enable_grad():
        given = logits.requires_grad_(after is not None)
        finished = after(given) if after else given
    slope = finished.detach().clone() if after else logits
    top, wanted = slope.amax(-1, keepdim=True), targets[:, None]
    picked = slope.gather(1, wanted) - top
    total = slope.sub_(top).exp_().sum(-1, keepdim=True)
    losses = (total.log() - picked)[:, 0]
    slope.div_(total).scatter_add_(1, wanted, torch.full_like(total, -1.0))
    if after:
        (slope,) = torch.autograd.grad(finished, given, slope)
    return losses, slope
