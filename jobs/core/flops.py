"""Floating-point operations of decoder language models, counted from a Hugging Face config.

The same formulas serve `sor plan` (estimates), training (model FLOP utilization) and the analysis (the x
axis). Hence no heavy imports: no torch, numpy or pandas. `architectures` reads the configs.

Convention
    A multiply-add is 2 operations, and only matrix products are counted; norms, activations, softmax,
    rotary embeddings and the embedding look-up are well below 1 % of them.
    Attention of a sequence of n tokens is counted over all n² query-key pairs, including the masked half.
    PaLM (Chowdhery et al. 2022, appendix B), Megatron-LM (Narayanan et al. 2021) and
    torch.utils.flop_counter count the same way, so numbers are comparable with theirs and can be tested
    against the counter. A kernel that skips the masked half does up to half of attention's part less; for a
    7B model and sequences of 4,096 tokens that is 5 % of the total.
    Packed sequences attend only to themselves: the sum of each one's own n², never the block's.
    Decoding with a cache has no masked half: the token at position t is multiplied with t keys.
    A layer with a sliding window of w tokens counts the pairs within the band |i - j| < w: by the same rule,
    both halves of it. See `_pairs`. For n ≤ w that is the full square.

Derivation, per token, for hidden size h, a heads and k key-value heads of width d, MLP width f
    projections  2·h·a·d (query) + 2·2·h·k·d (key, value) + 2·a·d·h (output)
    MLP          3·2·h·f if it is gated, else 2·2·h·f
    experts      top_k·3·2·h·f_expert + 2·h·experts (the router); shared experts are an MLP, with a gate of
                 2·h in Qwen's
    attention    2·a·d (scores) + 2·a·d (weighted values) for each key that the token is multiplied with
    output       2·h·vocabulary, once, whether or not its weights are tied to the embedding
Bias terms are additions, not products, and are not counted.

Multi-head latent attention (DeepSeek) projects through vectors of widths r_q (queries) and r (keys and
values), with heads of widths d_n and d_r (without and with rotary embeddings) and values of width d_v:
    projections  2·h·r_q + 2·r_q·a·(d_n+d_r) + 2·h·(r+d_r) + 2·r·a·(d_n+d_v) + 2·a·d_v·h
    attention    2·a·(d_n+d_r) + 2·a·d_v for each key
Keys and values are counted once for each token. An engine that caches the vectors of width r instead of keys
and values does more while it decodes: it expands them at each step, or attends in their larger width.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from operator import index
from pathlib import Path
from typing import Any

from jobs.core.architectures import FAMILIES, Architecture, counted, measured

KNOWN = tuple(FAMILIES)
MEASURE = "'sor init FILE --model MODEL' measures others with torch and writes a preset"
Config = Any  # a Hugging Face config, its dict, a path to config.json or its folder, or an Architecture
Lengths = int | Iterable[int] | Mapping[int, int]  # one sequence, several sequences, or {length: count}


def forward_flops(config: Config, lengths: Lengths) -> int:
    """Return the FLOPs of one forward pass over whole sequences, with the output layer at every position.

    Args:
        config: See `architecture`.
        lengths: Tokens of one sequence, of each sequence (packed or not), or a histogram {length: number of
            sequences}.

    Raises:
        ValueError: The architecture is unknown, or lengths are not whole numbers from 0.
    """
    model = architecture(config)
    counts = _histogram(lengths)
    tokens = sum(n * times for n, times in counts.items())
    return _count(model, _whole_sequences(model, counts), passed=tokens, rows=tokens)


def train_flops(config: Config, lengths: Lengths) -> int:
    """Return the model FLOPs of a forward and a backward pass: three times the forward pass.

    For each product Y = X·W of the forward pass the backward pass computes two of the same size,
    dX = dY·Wᵀ and dW = Xᵀ·dY. Both operands of attention's two products need a gradient, so the same holds
    for them. The first layer is no exception: the embedding below it is trained. `recompute_flops` counts
    additional hardware work. Recomputing scores in flash attention's backward pass is such work too, not
    model FLOPs.
    """
    return 3 * forward_flops(config, lengths)


def recompute_flops(config: Config, lengths: Lengths) -> int:
    """Return the hardware FLOPs that activation checkpointing of every layer adds to `train_flops`.

    Each layer's forward pass is repeated in the backward pass; the output layer's is not. PyTorch's
    non-reentrant checkpointing stops once it has all it needs, which saves each layer's last product; this
    function counts the whole layer, as Korthikanti et al. 2022 do.
    """
    model = architecture(config)
    counts = _histogram(lengths)
    tokens = sum(n * times for n, times in counts.items())
    return _count(model, _whole_sequences(model, counts), passed=tokens, rows=0)


def generate_flops(
    config: Config,
    prompt_tokens: int | Iterable[int],
    new_tokens: int | Iterable[int],
    cached_tokens: int | Iterable[int] = 0,
) -> int:
    """Return the FLOPs of generating with a key-value cache, summed over the requests.

    A prompt of p tokens, the first c of them already in a prefix cache, is processed in one pass (attention
    of p-c queries with p keys, output layer at the last position only), which gives the first new token. Each
    further token, i = 1 … n-1, passes the previous token through the model and attends to p+i keys:

        tokens passed    p - c + n - 1
        attention pairs  (p-c)·p + (n-1)·p + n·(n-1)/2
        output rows      n

    The last token is never passed through. An empty answer (n = 0) costs as much as n = 1, since only the
    pass over the prompt can show that it is empty.

    Args:
        prompt_tokens, new_tokens: An int each, or equally long sequences with one entry per request.
        cached_tokens: Number of prompt tokens in a prefix cache; an int applies to every request. The default
            is no prefix caching. At least one token is always passed.

    Raises:
        ValueError: The architecture is unknown, sequences differ in length, a prompt is empty, or all of a
            prompt's tokens are cached.
    """
    model = architecture(config)
    prompts, news = _whole(prompt_tokens), _whole(new_tokens)
    if len(prompts) != len(news):
        raise ValueError(f"generate_flops: {len(prompts)} prompt lengths but {len(news)} answer lengths")
    if prompts and min(prompts) < 1:
        raise ValueError("generate_flops: a prompt of 0 tokens; a request starts from at least one token")
    caches = _whole(cached_tokens)
    caches = caches * len(prompts) if len(caches) == 1 else caches
    if len(caches) != len(prompts) or any(c >= p for c, p in zip(caches, prompts, strict=True)):
        raise ValueError("generate_flops: each prompt needs fewer cached tokens than it is long")
    passed = products = rows = 0
    for p, n, c in zip(prompts, news, caches, strict=True):
        steps = max(n, 1) - 1
        passed += p - c + steps
        products += sum(each * _pairs(window, p, c, steps) for window, each in model.pair_products)
        rows += steps + 1
    return _count(model, products, passed, rows)


def architecture(config: Config) -> Architecture:
    """Read a model's config.

    Args:
        config: Hugging Face config object, its dict, the path of a config.json or of its folder, or the
            result of an earlier call.

    Raises:
        ValueError: The architecture is unknown, or a key is missing.
    """
    if isinstance(config, Architecture):
        return config
    where, values = _read(config)
    name = values.get("model_type")
    if name not in FAMILIES and not isinstance(values.get("flops"), Mapping):
        raise ValueError(f"{where}: unknown architecture '{name}'; {MEASURE}; known are {', '.join(KNOWN)}")
    try:
        return counted(values) if name in FAMILIES else measured(values["flops"])
    except KeyError as error:
        raise ValueError(f"{where}: the key {error} of a {name} config is missing") from None


def _read(config: Config) -> tuple[str, dict[str, Any]]:
    """Return the origin of a config, for errors, and its values by key."""
    where = "config"
    if isinstance(config, str | Path):
        path = Path(config)
        path = path / "config.json" if path.is_dir() else path
        if not path.is_file():
            raise ValueError(f"{path}: no such file; a model's folder contains a config.json")
        where, config = str(path), json.loads(path.read_text(encoding="utf-8"))
    elif hasattr(config, "to_dict"):
        config = config.to_dict()
    if not isinstance(config, Mapping):
        raise ValueError(f"{where}: not a model config but {type(config).__name__}")
    values = dict(config)
    if "num_local_experts" in values:  # transformers 5 saves it under this key
        values["num_experts"] = values["num_local_experts"]
    return where, values


def _count(model: Architecture, products: int, passed: int, rows: int) -> int:
    """Return FLOPs from attention's multiply-adds, tokens passed through the layers, and output rows."""
    return 2 * (model.layer_weights * passed + products + model.output_weights * rows)


def _whole_sequences(model: Architecture, counts: Mapping[int, int]) -> int:
    """Return attention's multiply-adds over whole sequences, {length: count}."""
    return sum(
        each * times * _pairs(window, n)
        for window, each in model.pair_products
        for n, times in counts.items()
    )


def _pairs(window: int | None, prompt: int, cached: int = 0, steps: int = 0) -> int:
    """Return the query-key pairs of one pass over a prompt and of the decoding steps after it.

    In a window of w, the query at position i, from 0, attends to the key of its own position and to
    min(i, w-1) earlier ones. Their number for all queries before position i is

        B(i) = Σ_{j<i} min(j, w-1) = i·(i-1)/2 for i ≤ w, else w·(w-1)/2 + (i-w)·(w-1)

    A prompt of p tokens, c of them cached, and s steps pass the positions c … p+s-1: together
    B(p+s) - B(c) earlier keys and p-c+s own ones. The masked half of the pass over the prompt mirrors the
    keys that its queries share with each other: B(p-c) pairs. Decoding has none.

    A whole sequence has 2·B(n) + n pairs, which is n² for n ≤ w and (2w-1)·n - w·(w-1) beyond: all pairs
    with |i - j| < w. Twice what a causal kernel does there, less the diagonal, as n² is without a window.
    The pass over the prompt has (p-c)·p pairs without a window, and each step i = 1 … s has p+i.

    MaxText counts T·W - W²/2 causal pairs for the windows of Gemma 4, which is half of this but for terms of
    the order of T. torch.utils.flop_counter sees the full square where a window is only a mask.
    """
    end = prompt + steps
    earlier = _earlier(window, end) - _earlier(window, cached)
    return earlier + end - cached + _earlier(window, prompt - cached)


def _earlier(window: int | None, end: int) -> int:
    """Return B(end) of `_pairs`."""
    inside = end if window is None else min(end, window)
    beyond = 0 if window is None else (end - inside) * (window - 1)
    return inside * (inside - 1) // 2 + beyond


def _histogram(lengths: Lengths) -> Mapping[int, int]:
    """Return the number of sequences of each length."""
    if isinstance(lengths, Mapping):
        return dict(zip(_whole(lengths.keys()), _whole(lengths.values()), strict=True))
    return Counter(_whole(lengths))


def _whole(values: int | Iterable[int]) -> list[int]:
    """Check one or several values and return them as Python ints; numpy's would overflow in products."""
    values = values.tolist() if hasattr(values, "tolist") else values
    try:
        whole = list(map(index, values)) if isinstance(values, Iterable) else [index(values)]
    except TypeError as error:
        raise ValueError(f"token counts must be whole numbers: {error}") from None
    if whole and min(whole) < 0:
        raise ValueError(f"token counts must be whole numbers from 0, not {min(whole)}")
    return whole
