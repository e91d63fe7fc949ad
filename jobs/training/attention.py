"""Attention over packed rows: each row attends to itself only, and no mask of a whole block is ever made.

Registered with transformers under `PACKED`, so that every architecture that uses its attention interface gets
it. Where rows lie is computed once per forward pass (`Rows`) and handed to the model as a keyword argument.
There is no mask function on purpose: transformers would derive rows from positions again, and wait for the
GPU. What this cannot compute must be refused, never approximated.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from inspect import signature
from itertools import pairwise
from typing import Any

from jobs.training.rows import Groups, Rows

PACKED = "packed"  # the attention's name in transformers' interface
STEP = 512  # queries that share a mask where one is needed: in windows, and with capped scores or sinks
WIDEST = 256  # largest head that flash attention supports
REST = "train another architecture, or add this one to jobs/training/attention.py"


@dataclass(frozen=True)
class Kind:
    """What an architecture asks of an attention layer.

    Attributes:
        window: Number of tokens that a token sees, itself included; None if all earlier ones.
        cap: Limit of the scores, which approach it as tanh does; None without.
        sinks: One additional score per head in the denominator of the softmax; None without.
    """

    scale: float
    dropout: float
    window: int | None
    cap: float | None
    sinks: Any

    @property
    def scored(self) -> bool:
        """Return whether it takes a matrix of scores to compute this."""
        return self.cap is not None or self.sinks is not None


def separate_rows(model: Any) -> None:
    """Make a model's attention layers take packed rows, and nothing else.

    Raises:
        ValueError: The architecture has attention of its own.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(PACKED, attend)
    model.set_attn_implementation(PACKED)  # only warns if it cannot
    if model.config.get_text_config()._attn_implementation != PACKED:
        raise refused(model, "does not use transformers' attention interface")


def attend(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    packed_rows: Rows | None = None,
    **how: Any,
) -> tuple[Any, None]:
    """Compute one layer's attention, as transformers' interface asks for it.

    Args:
        query, key, value: Shape (1, heads, tokens, width); keys and values may have fewer heads. Of all
            rows, or of this process's tokens only.
        packed_rows: The rows; passed through the model's layers.

    Returns:
        The output, of shape (1, tokens, heads, width), and no weights.

    Raises:
        ValueError: The architecture needs what packed rows cannot be given, or as from `Shards.by_heads`.
    """
    import torch

    if packed_rows is None:
        raise refused(module, "does not pass rows on to its attention layers")
    if attention_mask is not None or how.get("position_bias") is not None:
        raise refused(module, "has an attention mask or bias of its own")
    if not (getattr(module, "is_causal", True) if how.get("is_causal") is None else how["is_causal"]):
        raise refused(module, "attends to later tokens")
    if key.shape[2] != query.shape[2]:
        raise refused(module, "attends to more than the tokens of its rows")
    packed_rows.layers += 1
    if torch.is_autocast_enabled(query.device.type):
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = (x.to(dtype) for x in (query, key, value))
    scale, width = how.get("scaling") or query.shape[-1] ** -0.5, value.shape[-1]
    dropout, window = how.get("dropout") or 0.0, _window(module, how)
    sinks, shards = how.get("s_aux"), packed_rows.shards
    if shards is not None:
        query, key, value = shards.by_heads(query, key, value)
        sinks = None if sinks is None else shards.own_heads(sinks)
    kind = Kind(scale, dropout, window, how.get("softcap"), sinks)
    # Kernels without a matrix of scores want one width, a multiple of eight; zeros change no score.
    padded = -(-max(query.shape[-1], width) // 8) * 8
    query, key, value = (
        x if x.shape[-1] == padded else torch.nn.functional.pad(x, (0, padded - x.shape[-1]))
        for x in (query, key, value)
    )
    if _flashes(query, kind):
        found = _flash(query, key, value, packed_rows, kind)
    elif not kind.scored and (kind.window is None or kind.window >= packed_rows.longest):
        found = _by_group(query, key, value, packed_rows.groups, kind)
    else:
        found = _by_row(query, key, value, packed_rows, kind)
    found = found[..., :width]
    return (found if shards is None else shards.by_tokens(found)).contiguous(), None


def check_separated(rows: Rows, model: Any) -> None:
    """Check after a forward pass that all layers of the model have kept the rows apart.

    Raises:
        ValueError: Some layers do not attend through this module, so that rows may leak into each other.
    """
    config = model.config.get_text_config()
    other = {*(getattr(config, "layer_types", None) or ())} - {"full_attention", "sliding_attention"}
    if other or getattr(model, "_is_stateful", False) or rows.layers < config.num_hidden_layers:
        raise refused(model, "mixes tokens in layers other than full or sliding attention")


def check_positions(config: Any, block: int) -> None:
    """Check that a row's position embeddings do not depend on how long the other rows of its batch are.

    Raises:
        ValueError: They do for rows of up to `block` tokens.
    """
    config = config.get_text_config()
    found = getattr(config, "rope_parameters", None) or {}
    for rope in (found, *(value for value in found.values() if isinstance(value, dict))):
        most = rope.get("original_max_position_embeddings") or config.max_position_embeddings
        if rope.get("rope_type") in ("longrope", "dynamic") and block > most:
            raise ValueError(
                f"the architecture {config.model_type} rotates all rows of a batch differently if one is "
                f"longer than {most} tokens ({rope['rope_type']}): set training.block to {most} or less"
            )


def refused(module: Any, why: str) -> ValueError:
    """Return the error for an architecture whose rows cannot be packed."""
    kind = getattr(getattr(module, "config", None), "model_type", type(module).__name__)
    return ValueError(f"the architecture {kind} {why}, so it cannot be trained on packed rows: {REST}")


def _window(module: Any, how: dict[str, Any]) -> int | None:
    """Return a layer's sliding window, None without one.

    Some architectures (qwen2_moe, phimoe) tell only their mask function, of which the config decides.
    """
    if "sliding_window" in how:
        window: int | None = how["sliding_window"]
        return window
    if not hasattr(sys.modules[type(module).__module__], "create_sliding_window_causal_mask"):
        return None
    kinds = getattr(module.config, "layer_types", None)
    if kinds is not None and kinds[module.layer_idx] != "sliding_attention":
        return None
    return getattr(module.config, "sliding_window", None)


def _flashes(query: Any, kind: Kind) -> bool:
    """Return whether torch's flash attention for rows of various lengths computes this."""
    import torch

    return (
        not kind.scored
        and not kind.dropout
        and query.is_cuda
        and query.dtype in (torch.float16, torch.bfloat16)
        and query.shape[-1] <= WIDEST
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
    )


def _flash(query: Any, key: Any, value: Any, rows: Rows, kind: Kind) -> Any:
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    where = (rows.cumulative, rows.cumulative, rows.longest, rows.longest)
    back = -1 if kind.window is None else kind.window - 1  # earlier tokens, itself not included
    return varlen_attn(q, k, v, *where, scale=kind.scale, window_size=(back, 0), **_grouped())[None]


@cache
def _grouped() -> dict[str, bool]:
    """Return what lets `varlen_attn` take fewer heads of keys than of queries; torch 2.11 always does."""
    from torch.nn.attention.varlen import varlen_attn

    return {"enable_gqa": True} if "enable_gqa" in signature(varlen_attn).parameters else {}


def _by_group(query: Any, key: Any, value: Any, groups: Groups, kind: Kind) -> Any:
    """Attend to rows of similar lengths in one call, each to all of itself."""
    import torch

    found = []
    for tokens in groups.tokens:
        flat = (
            x[0] if groups.back is None else x[0].index_select(1, tokens.flatten())
            for x in (query, key, value)
        )
        q, k, v = (x.unflatten(1, tokens.shape).transpose(0, 1) for x in flat)
        found.append(_fused(q, k, v, kind).transpose(1, 2).flatten(0, 1))
    return (found[0] if groups.back is None else torch.cat(found).index_select(0, groups.back))[None]


def _by_row(query: Any, key: Any, value: Any, rows: Rows, kind: Kind) -> Any:
    """Attend row by row, and piece by piece where a row needs a mask."""
    import torch
    from torch.utils.checkpoint import checkpoint

    found = []
    for start, end in pairwise(rows.bounds):
        for first, last, since in _pieces(start, end, kind.window, kind.scored):
            parts = query[:, :, first:last], key[:, :, since:last], value[:, :, since:last]
            if not kind.scored:
                found.append(_fused(*parts, kind))
            elif end - start > STEP:  # or else all pieces' scores would be kept for the backward pass
                found.append(checkpoint(_scored, *parts, kind, use_reentrant=False))
            else:
                found.append(_scored(*parts, kind))
    return torch.cat(found, dim=2).transpose(1, 2)


def _pieces(start: int, end: int, window: int | None, scored: bool) -> Iterator[tuple[int, int, int]]:
    """Yield pieces of a row: first query, end of queries and keys, first key.

    A row is one piece if it needs no mask but causality.
    """
    if not scored and (window is None or end - start <= window):
        yield start, end, start
        return
    step = max(window or 0, STEP)
    for first in range(start, end, step):
        yield first, min(first + step, end), start if window is None else max(start, first - window + 1)


def _fused(query: Any, key: Any, value: Any, kind: Kind) -> Any:
    """Attend without holding scores; queries are the last of the keys' tokens."""
    from torch.nn.functional import scaled_dot_product_attention

    grouped = key.shape[1] != query.shape[1]
    if grouped and not query.is_cpu:  # only a kernel that holds all scores would take groups there
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
        grouped = False
    causal = key.shape[2] == query.shape[2] and (kind.window is None or key.shape[2] <= kind.window)
    mask = None if causal else _visible(query, key, kind.window)
    return scaled_dot_product_attention(
        query, key, value, mask, kind.dropout, causal, scale=kind.scale, enable_gqa=grouped
    )


def _scored(query: Any, key: Any, value: Any, kind: Kind) -> Any:
    """Attend through a matrix of scores, for what no kernel offers; queries as in `_fused`."""
    import torch

    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    scores = (query @ key.transpose(2, 3)).float() * kind.scale
    if kind.cap is not None:
        scores = kind.cap * torch.tanh(scores / kind.cap)
    scores = scores.masked_fill(~_visible(query, key, kind.window), float("-inf"))
    if kind.sinks is not None:
        sinks = kind.sinks.float().reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, sinks], dim=-1)
    weights = scores.softmax(-1)[..., : key.shape[2]]
    weights = torch.nn.functional.dropout(weights, kind.dropout)
    return weights.to(value.dtype) @ value


def _visible(query: Any, key: Any, window: int | None) -> Any:
    """Return which keys each query sees, as a boolean matrix."""
    import torch

    seen, all_of = query.shape[2], key.shape[2]
    back = torch.arange(all_of - seen, all_of, device=query.device)[:, None] - torch.arange(
        all_of, device=query.device
    )
    return back >= 0 if window is None else (back >= 0) & (back < window)
