"""Floating-point operations of decoder language models, counted from a Hugging Face config.

The same formulas serve `sor plan` (estimates), training (model FLOP utilization) and the analysis (the x
axis). Hence no heavy imports: no torch, numpy or pandas.

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

Derivation, per token, for hidden size h, a heads and k key-value heads of width d, MLP width f
    projections  2·h·a·d (query) + 2·2·h·k·d (key, value) + 2·a·d·h (output)
    gated MLP    3·2·h·f; with experts: top_k·3·2·h·f_expert + 2·h·experts (the router)
    attention    2·a·d (scores) + 2·a·d (weighted values) for each key that the token is multiplied with
    output       2·h·vocabulary, once, whether or not its weights are tied to the embedding
Bias terms are additions, not products, and are not counted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import Any

KNOWN = ("llama", "qwen2", "qwen3", "qwen3_moe")  # SmolLM2 is a llama, Qwen2.5 a qwen2


@dataclass(frozen=True)
class Architecture:
    """Model quantities needed for the counts; accepted wherever a config is, to parse a config only once.

    Args:
        layer_weights: Matrix weights of all layers that one token is multiplied with (active experts only).
        output_weights: Hidden size × vocabulary.
        attention_width: Layers × heads × head width.
        parameters: All parameters, tied ones counted once.
        active_parameters: Parameters in the forward pass of one token; differs only with experts.
    """

    layer_weights: int
    output_weights: int
    attention_width: int
    parameters: int
    active_parameters: int


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
    tokens, squares = _sums(lengths)
    return _count(model, passed=tokens, pairs=squares, rows=tokens)


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
    tokens, squares = _sums(lengths)
    return _count(model, passed=tokens, pairs=squares, rows=0)


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
    passed = pairs = rows = 0
    for p, n, c in zip(prompts, news, caches, strict=True):
        steps = max(n, 1) - 1
        passed += p - c + steps
        pairs += (p - c) * p + steps * p + steps * (steps + 1) // 2
        rows += steps + 1
    return _count(model, passed, pairs, rows)


def six_nd(config: Config, tokens: int) -> int:
    """Return the rule of thumb 6·N·D for training on D tokens (Kaplan et al. 2020), for comparison only.

    N is the number of parameters active for a token, including embeddings. The rule ignores attention over
    the sequence and counts the embedding as a matrix product.
    """
    return 6 * architecture(config).active_parameters * tokens


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
    if name not in KNOWN:
        raise ValueError(f"{where}: unknown architecture '{name}'; known are {', '.join(KNOWN)}")
    if values.get("use_sliding_window"):
        raise ValueError(f"{where}: use_sliding_window is true; attention in windows is not counted")
    try:
        return _counted(values)
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


def _counted(config: Mapping[str, Any]) -> Architecture:
    hidden, layers, vocabulary = (config[k] for k in ("hidden_size", "num_hidden_layers", "vocab_size"))
    attention, attention_other = _attention(config)
    dense = 3 * hidden * config["intermediate_size"]
    dense_bias = 2 * config["intermediate_size"] + hidden if config.get("mlp_bias") else 0
    sparse_layers = _sparse_layers(config)
    router = expert = experts = active = 0
    if sparse_layers:
        experts, active = config["num_experts"], config["num_experts_per_tok"]
        router, expert = hidden * experts, 3 * hidden * config["moe_intermediate_size"]
    dense_layers = layers - sparse_layers
    weights = layers * attention + dense_layers * dense + sparse_layers * (router + active * expert)
    other = layers * (attention_other + 2 * hidden) + dense_layers * dense_bias + hidden  # norms and biases
    embedding = vocabulary * hidden * (1 if config.get("tie_word_embeddings") else 2)
    return Architecture(
        layer_weights=weights,
        output_weights=hidden * vocabulary,
        attention_width=layers * config["num_attention_heads"] * _head_width(config),
        parameters=weights + sparse_layers * (experts - active) * expert + other + embedding,
        active_parameters=weights + other + embedding,
    )


def _count(model: Architecture, passed: int, pairs: int, rows: int) -> int:
    """Return FLOPs from tokens passed through the layers, query-key pairs, and rows of the output layer."""
    return 2 * (
        model.layer_weights * passed + 2 * model.attention_width * pairs + model.output_weights * rows
    )


def _attention(config: Mapping[str, Any]) -> tuple[int, int]:
    """Return matrix weights of one layer's attention, and its other parameters (biases, query/key norms)."""
    hidden, width, name = config["hidden_size"], _head_width(config), config["model_type"]
    queries = config["num_attention_heads"] * width
    keys = (config.get("num_key_value_heads") or config["num_attention_heads"]) * width
    other = queries + 2 * keys if name == "qwen2" or config.get("attention_bias") else 0
    if name != "qwen2" and config.get("attention_bias"):
        other += hidden
    if name in ("qwen3", "qwen3_moe"):
        other += 2 * width
    return 2 * hidden * (queries + keys), other


def _head_width(config: Mapping[str, Any]) -> int:
    width = config.get("head_dim", 128 if config["model_type"] == "qwen3" else None)  # Qwen3Config's default
    return int(width or config["hidden_size"] // config["num_attention_heads"])


def _sparse_layers(config: Mapping[str, Any]) -> int:
    """Return the number of layers with experts instead of one MLP (transformers' Qwen3MoeDecoderLayer)."""
    if config["model_type"] != "qwen3_moe" or not config["num_experts"]:
        return 0
    dense, step = set(config.get("mlp_only_layers") or ()), config.get("decoder_sparse_step", 1)
    return sum(i not in dense and (i + 1) % step == 0 for i in range(config["num_hidden_layers"]))


def _sums(lengths: Lengths) -> tuple[int, int]:
    """Return the exact Σn and Σn² over the sequences."""
    if isinstance(lengths, Mapping):
        counts = dict(zip(_whole(lengths.keys()), _whole(lengths.values()), strict=True))
        return sum(n * c for n, c in counts.items()), sum(n * n * c for n, c in counts.items())
    sizes = _whole(lengths)
    return sum(sizes), sum(n * n for n in sizes)


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
