"""Floating-point operations of decoder language models, counted from a Hugging Face config.

One set of formulas serves `sor plan` (before), training (model FLOP utilisation) and the analysis
(the x axis). Hence nothing heavy may be imported here: no torch, numpy or pandas.

Convention
    A multiply-add is 2 operations, and only matrix products are counted; norms, activations, softmax,
    rotary embeddings and the embedding look-up are well below 1 % of them.
    Attention of a sequence of n tokens is counted over all n² pairs of query and key, the masked half
    included. That is how PaLM (Chowdhery et al. 2022, appendix B), Megatron-LM (Narayanan et al. 2021)
    and torch.utils.flop_counter count, so that numbers can be compared with theirs and be tested against
    the counter. A kernel that skips the masked half does up to half of the attention's part less; for a
    7B model and sequences of 4,096 tokens that is 5 % of the total.
    Packed sequences attend only to themselves: the sum of each one's own n², never the block's.
    Decoding with a cache has no masked half: the token at position t is multiplied with t keys.

Derivation, per token, for hidden size h, a heads and k key-value heads of width d, MLP width f
    projections  2·h·a·d (query) + 2·2·h·k·d (key, value) + 2·a·d·h (output)
    gated MLP    3·2·h·f; with experts: top_k·3·2·h·f_expert + 2·h·experts (the router)
    attention    2·a·d (scores) + 2·a·d (weighted values) for each key that the token is multiplied with
    output       2·h·vocabulary, once, whether or not its weights are tied to the embedding
The bias terms are additions, not products, and are not counted.
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
    """What the counts need to know of a model. It may be passed wherever a config may: it is parsed once.

    Args:
        layer_weights: matrix weights of all layers that one token is multiplied with (active experts only).
        output_weights: hidden size × vocabulary.
        attention_width: layers × heads × head width.
        parameters: all, tied ones counted once.
        active_parameters: those in the forward pass of one token: all, unless there are experts.
    """

    layer_weights: int
    output_weights: int
    attention_width: int
    parameters: int
    active_parameters: int


Config = Any  # a Hugging Face config, its dict, a path to config.json or its folder, or an Architecture
Lengths = int | Iterable[int] | Mapping[int, int]  # one sequence, sequences, or {length: how many}


def forward_flops(config: Config, lengths: Lengths) -> int:
    """FLOPs of one forward pass over whole sequences, the output layer at every position.

    Args:
        config: see `architecture`.
        lengths: tokens of one sequence, of each sequence (packed or not: it makes no difference), or a
            histogram {length: number of sequences}.

    Raises:
        ValueError: an unknown architecture, or lengths that are not whole numbers from 0.
    """
    model = architecture(config)
    tokens, squares = _sums(lengths)
    return _count(model, passed=tokens, pairs=squares, rows=tokens)


def train_flops(config: Config, lengths: Lengths) -> int:
    """Model FLOPs of a forward and a backward pass: three times the forward pass.

    For each product Y = X·W of the forward pass the backward pass makes two of the same size,
    dX = dY·Wᵀ and dW = Xᵀ·dY. The two products of attention have two operands that both need a gradient,
    so the same holds for them. The first layer is no exception: the embedding below it is trained.
    What hardware does beyond this is counted by `recompute_flops`; that a flash-attention kernel forms the
    scores again in its backward pass is such work too, and no model FLOPs.
    """
    return 3 * forward_flops(config, lengths)


def recompute_flops(config: Config, lengths: Lengths) -> int:
    """FLOPs that activation checkpointing of every layer adds to `train_flops`: hardware, not model, FLOPs.

    Each layer's forward pass is made again in the backward pass; the output layer's is not. PyTorch's
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
    """FLOPs of generating with a key-value cache, summed over the requests.

    A prompt of p tokens, the first c of which are in a prefix cache already, is read in one pass (attention
    of p-c queries with p keys, output layer at its last position only), which gives the first new token.
    Each further one, i = 1 … n-1, passes the previous token through the model and is multiplied with p+i
    keys:

        tokens passed    p - c + n - 1
        attention pairs  (p-c)·p + (n-1)·p + n·(n-1)/2
        output rows      n

    The last token is never passed through. An empty answer (n = 0) costs what n = 1 does, since only the
    pass over the prompt could tell that it is empty.

    Args:
        prompt_tokens, new_tokens: an int each, or equally long sequences with one entry per request.
        cached_tokens: how many of a prompt's tokens another request left in a prefix cache; an int is that of
            every request. The default is none: no prefix caching. At least one token is always passed.

    Raises:
        ValueError: an unknown architecture, sequences of different lengths, a request without a prompt, or
            one with more cached tokens than its prompt less one.
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
    """The rule of thumb 6·N·D for training on D tokens (Kaplan et al. 2020), for comparison only.

    N is all parameters that are active for a token, embeddings included. It misses attention over the
    sequence and counts the embedding as if it were multiplied.
    """
    return 6 * architecture(config).active_parameters * tokens


def architecture(config: Config) -> Architecture:
    """Read a model's config.

    Args:
        config: a Hugging Face config object, its dict, the path of a config.json or of the folder that holds
            it, or the result of an earlier call.

    Raises:
        ValueError: an architecture that this module does not know, or a key that is missing.
    """
    if isinstance(config, Architecture):
        return config
    where, values = _read(config)
    name = values.get("model_type")
    if name not in KNOWN:
        raise ValueError(f"{where}: the architecture '{name}' is not known, only {', '.join(KNOWN)} are")
    if values.get("use_sliding_window"):
        raise ValueError(f"{where}: use_sliding_window is true; attention in windows is not counted")
    try:
        return _counted(values)
    except KeyError as error:
        raise ValueError(f"{where}: the key {error} of a {name} config is missing") from None


def _read(config: Config) -> tuple[str, dict[str, Any]]:
    """Where a config came from, to name it in errors, and its values by key."""
    where = "config"
    if isinstance(config, str | Path):
        path = Path(config)
        path = path / "config.json" if path.is_dir() else path
        if not path.is_file():
            raise ValueError(f"{path}: there is no such file; a model's folder holds a config.json")
        where, config = str(path), json.loads(path.read_text(encoding="utf-8"))
    elif hasattr(config, "to_dict"):
        config = config.to_dict()
    if not isinstance(config, Mapping):
        raise ValueError(f"{where}: not a model config but {type(config).__name__}")
    values = dict(config)
    if "num_local_experts" in values:  # as transformers 5 saves it
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
    """FLOPs of tokens passed through the layers, pairs of query and key, and rows of the output layer."""
    return 2 * (
        model.layer_weights * passed + 2 * model.attention_width * pairs + model.output_weights * rows
    )


def _attention(config: Mapping[str, Any]) -> tuple[int, int]:
    """Matrix weights of one layer's attention, and its other parameters (biases, norms of query and key)."""
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
    """How many layers have experts in place of one MLP (Qwen3MoeDecoderLayer of transformers)."""
    if config["model_type"] != "qwen3_moe" or not config["num_experts"]:
        return 0
    dense, step = set(config.get("mlp_only_layers") or ()), config.get("decoder_sparse_step", 1)
    return sum(i not in dense and (i + 1) % step == 0 for i in range(config["num_hidden_layers"]))


def _sums(lengths: Lengths) -> tuple[int, int]:
    """Σn and Σn² over the sequences, exact."""
    if isinstance(lengths, Mapping):
        counts = dict(zip(_whole(lengths.keys()), _whole(lengths.values()), strict=True))
        return sum(n * c for n, c in counts.items()), sum(n * n * c for n, c in counts.items())
    sizes = _whole(lengths)
    return sum(sizes), sum(n * n for n in sizes)


def _whole(values: int | Iterable[int]) -> list[int]:
    """Python ints (numpy's would overflow in the products) of one value or of many, each checked."""
    values = values.tolist() if hasattr(values, "tolist") else values
    try:
        whole = list(map(index, values)) if isinstance(values, Iterable) else [index(values)]
    except TypeError as error:
        raise ValueError(f"token counts must be whole numbers: {error}") from None
    if whole and min(whole) < 0:
        raise ValueError(f"token counts must be whole numbers from 0, not {min(whole)}")
    return whole
