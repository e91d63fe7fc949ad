"""One layer's attention, and the loss, of both paths: time, memory, and errors against fp32."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from gpu_machine import ONE, Figures, Machine, packed_rows


def off(found: Any, exact: Any) -> float:
    """Return the relative error of a tensor, by the norms."""
    difference = torch.linalg.vector_norm(found.detach().float() - exact.detach())
    return float(difference / torch.linalg.vector_norm(exact.detach()))


def attention(machine: Machine, size: str, tokens: int, window: int | None, ours: bool) -> Figures:
    """Measure one layer's attention and its gradients, and their errors against fp32, row by row."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    from jobs.training.attention import attend
    from jobs.training.rows import Rows

    shape = machine.shape(size)
    heads, groups = shape["num_attention_heads"], shape["num_key_value_heads"]
    width = shape["hidden_size"] // heads
    torch.manual_seed(0)
    query, key, value, slope = (
        torch.randn(1, n, tokens, width, device=machine.device, dtype=torch.bfloat16)
        for n in (heads, groups, groups, heads)
    )
    slope = slope.transpose(1, 2)
    given = [x.requires_grad_() for x in (query, key, value)]
    bounds = packed_rows(tokens, 2).flat(ONE).bounds
    rows = Rows(tuple(bounds.tolist()), torch.from_numpy(bounds.astype(np.int32)).to(machine.device))
    layer = SimpleNamespace(is_causal=True, num_key_value_groups=heads // groups)
    how = {"scaling": width**-0.5, "sliding_window": window}
    mask = None if ours else _mask(rows.bounds, window, machine.device)

    def work() -> Any:
        if ours:
            found = attend(layer, query, key, value, None, packed_rows=rows, **how)[0]
        else:
            found = sdpa_attention_forward(layer, query, key, value, mask, **how)[0]
        return found, torch.autograd.grad(found, given, slope)

    figures = machine.timed(work)
    found, slopes = work()
    exact, *wanted = _exact_attention(given, slope, rows.bounds, window)
    pairs = zip(slopes, wanted, strict=True)
    return {**figures, "error": off(found, exact), "gradient_error": max(off(a, b) for a, b in pairs)}


def _mask(bounds: tuple[int, ...], window: int | None, device: str) -> Any:
    """Return the dense mask of packed rows, of shape (1, 1, tokens, tokens)."""
    tokens = torch.arange(bounds[-1], device=device)
    rows = torch.bucketize(tokens, torch.tensor(bounds, device=device), right=True)
    back = tokens[:, None] - tokens
    seen = (back >= 0) & (rows[:, None] == rows)
    return (seen if window is None else seen & (back < window))[None, None]


def _exact_attention(given: list[Any], slope: Any, bounds: tuple[int, ...], window: int | None) -> list[Any]:
    """Return attention's output and gradients in fp32, through a matrix of scores for each row."""
    outputs, slopes = [], []
    for start, end in pairwise(bounds):
        q, k, v = (x[:, :, start:end].detach().float().requires_grad_() for x in given)
        times = q.shape[1] // k.shape[1]
        scores = q @ k.repeat_interleave(times, 1).transpose(2, 3) * q.shape[-1] ** -0.5
        hidden = ~_mask((0, end - start), window, q.device)
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        found = (weights @ v.repeat_interleave(times, 1)).transpose(1, 2)
        outputs.append(found.detach())
        slopes.append(torch.autograd.grad(found, (q, k, v), slope[:, start:end].float()))
    return [torch.cat(outputs, 1), *(torch.cat(parts, 2) for parts in zip(*slopes, strict=True))]


def loss(machine: Machine, size: str, tokens: int, ours: bool) -> Figures:
    """Measure the head and the loss with their gradients, and their errors against fp32, in chunks."""
    from jobs.training.loss import chunked

    shape = machine.shape(size)
    torch.manual_seed(0)
    hidden, weight = (
        torch.randn(n, shape["hidden_size"], device=machine.device, dtype=torch.bfloat16)
        for n in (tokens, shape["vocab_size"])
    )
    given = [hidden.requires_grad_(), weight.mul_(0.02).requires_grad_()]
    targets = torch.randint(0, len(weight), (tokens,), device=machine.device)

    def work() -> Any:
        if ours:
            found, _ = chunked(hidden, weight, None, targets)
        else:
            logits = torch.nn.functional.linear(hidden, weight).float()
            found = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
        return found.detach(), torch.autograd.grad(found, given)

    figures = machine.timed(work)
    found, slopes = work()
    exact, *wanted = _exact_loss(hidden, weight, targets)
    pairs = zip(slopes, wanted, strict=True)
    return {**figures, "error": off(found, exact), "gradient_error": max(off(a, b) for a, b in pairs)}


def _exact_loss(hidden: Any, weight: Any, targets: Any) -> list[Any]:
    """Return the summed loss and its gradients in fp32."""
    matrix = weight.detach().float().requires_grad_()
    total, of_weight, of_hidden = torch.zeros((), device=hidden.device), torch.zeros_like(matrix), []
    for part, wanted in zip(hidden.detach().float().split(1024), targets.split(1024), strict=True):
        part.requires_grad_()
        logits = torch.nn.functional.linear(part, matrix)
        found = torch.nn.functional.cross_entropy(logits, wanted, reduction="sum")
        slopes = torch.autograd.grad(found, (part, matrix))
        of_hidden.append(slopes[0])
        of_weight += slopes[1]
        total += found.detach()
    return [total, torch.cat(of_hidden), of_weight]
