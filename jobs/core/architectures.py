"""Shapes of decoder language models, read from a Hugging Face config: a row for each family in FAMILIES.

Only what decides a count is read: matrices, parameters, which keys a query attends to, and (by `widths.py`)
the vectors that training keeps of a token. Where a config lacks a key, its family's `defaults` stand in,
which are those of transformers' config classes. Tests build each family's model with transformers, and
compare its parameters, and torch's counts of its FLOPs and of the memory of a training step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Config = Mapping[str, Any]
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
LATENT = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
TYPES = ("full_attention", "sliding_attention")  # of layers, in `layer_types`


@dataclass(frozen=True)
class Architecture:
    """Model quantities needed for the counts; accepted wherever a config is, to parse a config only once.

    Args:
        layer_weights: Matrix weights of all layers that one token is multiplied with (active experts only).
        output_weights: Hidden size × vocabulary.
        pair_products: Multiply-adds of a query-key pair, summed over the layers with the same window:
            (window, products); the window is None for layers without one.
        parameters: All parameters, tied ones counted once.
        active_parameters: Parameters in the forward pass of one token; differs only with experts.
    """

    layer_weights: int
    output_weights: int
    pair_products: tuple[tuple[int | None, int], ...]
    parameters: int
    active_parameters: int


@dataclass(frozen=True)
class Family:
    """How the models of one `model_type` differ from a llama.

    Args:
        defaults: What transformers assumes where a config lacks the key.
        fixed: What the model does whatever its config says.
        aliases: The family's own names of keys, by ours.
        matrices: Of an MLP: 3 if it is gated, else 2.
        norms: Of each layer, over the hidden size.
        norm_vectors: Parameters of a norm, in vectors: a weight (RMSNorm), or that and a bias (LayerNorm).
        wide_norms: Whether norms multiply by their weight in fp32, before they round.
        qkv_bias: Whether `qkv_bias` gives queries, keys and values a bias.
        qk_norm: Widths that queries and keys are normalized over: "", "head", or "all" heads together.
        fused: Whether queries, keys and values, and an MLP's gate and input, come from one matrix each.
        latent: Whether keys and values are projected from a latent vector (DeepSeek's MLA).
        sparse: Whether a layer, by its index, has experts; None: no layer has.
        shared: Width of an MLP beside the experts that every token passes; None: there is none.
        gated: Whether that MLP's output is gated by a product of its own.
        expert_biases: Whether experts and their router have biases.
        sinks: Whether each attention head has a learned sink.
        capped: Whether scores of attention are limited.
        sliding: Whether a layer, by its index, attends in a window if the config has no `layer_types`; None:
            no layer can.
    """

    defaults: Config = field(default_factory=dict)
    fixed: Config = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    matrices: int = 3
    norms: int = 2
    norm_vectors: int = 1
    wide_norms: bool = False
    qkv_bias: bool = False
    qk_norm: str = ""
    fused: bool = False
    latent: bool = False
    sparse: Callable[[Config, int], bool] | None = None
    shared: Callable[[Config], int] | None = None
    gated: bool = False
    expert_biases: bool = False
    sinks: bool = False
    capped: bool = False
    sliding: Callable[[Config, int], bool] | None = None

    @property
    def typed(self) -> bool:
        """Whether a config may say which layers attend in a window."""
        return self.sliding is not None and "layer_types" not in self.fixed

    @property
    def needed(self) -> tuple[str, ...]:
        """The keys that a config must have, in its family's names."""
        experts = ("num_experts", "num_experts_per_tok", "moe_intermediate_size") if self.sparse else ()
        keys = (*SIZES, *experts, *(LATENT if self.latent else ()))
        return tuple(dict.fromkeys(self.aliases.get(key, key) for key in keys))


def _every(config: Config, layer: int) -> bool:
    return True


def _even(config: Config, layer: int) -> bool:
    return layer % 2 == 0


def _upper(config: Config, layer: int) -> bool:
    return layer >= config["max_window_layers"]


def _step(config: Config, layer: int) -> bool:
    """Return whether a layer of a Qwen mixture has experts instead of one MLP."""
    dense = config.get("mlp_only_layers") or ()
    return (
        bool(config["num_experts"]) and layer not in dense and not (layer + 1) % config["decoder_sparse_step"]
    )


# Keys of windows: Qwen's are off unless `use_sliding_window`; others lack that, some `layer_types` too.
SWITCHED = {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28}
TYPED = {"use_sliding_window": True}
UNIFORM = {"use_sliding_window": True, "layer_types": None}
UNBIASED = {"attention_bias": False, "mlp_bias": False}
BIASED = {"attention_bias": "use_bias", "mlp_bias": "use_bias"}
GEMMA = {"num_key_value_heads": 4, "head_dim": 256, "sliding_window": 4096, "tie_word_embeddings": True}

FAMILIES: dict[str, Family] = {
    "llama": Family(),  # also SmolLM2
    "qwen2": Family(
        defaults=SWITCHED, fixed={"qkv_bias": True, "attention_bias": False}, qkv_bias=True, sliding=_upper
    ),  # also Qwen2.5
    "qwen3": Family(defaults={**SWITCHED, "head_dim": 128}, qk_norm="head", sliding=_upper),
    "qwen3_moe": Family(
        defaults={**SWITCHED, "decoder_sparse_step": 1}, fixed={"layer_types": None},
        qk_norm="head", sparse=_step, sliding=_every,
    ),
    "mistral": Family(
        defaults={"num_key_value_heads": 8, "sliding_window": 4096}, fixed=UNBIASED | UNIFORM, sliding=_every
    ),
    "mixtral": Family(
        defaults={"num_key_value_heads": 8}, fixed=UNBIASED | UNIFORM,
        aliases={"moe_intermediate_size": "intermediate_size"}, sparse=_every, sliding=_every,
    ),
    "gemma2": Family(
        defaults=GEMMA, fixed={**TYPED, "mlp_bias": False},
        norms=4, wide_norms=True, capped=True, sliding=_even,
    ),
    "gemma3_text": Family(
        defaults={**GEMMA, "sliding_window_pattern": 6}, fixed={**TYPED, "mlp_bias": False},
        norms=4, wide_norms=True, qk_norm="head",
        sliding=lambda c, i: (i + 1) % c["sliding_window_pattern"] != 0,
    ),
    "phi3": Family(fixed=UNBIASED | UNIFORM, fused=True, sliding=_every),  # also Phi-4
    "olmo2": Family(fixed={"mlp_bias": False}, wide_norms=True, qk_norm="all"),
    "granite": Family(),
    "smollm3": Family(
        defaults={
            "num_key_value_heads": 4, "use_sliding_window": False, "no_rope_layer_interval": 4,
            "tie_word_embeddings": True,
        },
        sliding=lambda c, i: not _rotary(c)[i],
    ),
    "gpt_oss": Family(
        defaults={"num_key_value_heads": 8, "head_dim": 64, "sliding_window": 128, "attention_bias": True},
        fixed=TYPED, aliases={"moe_intermediate_size": "intermediate_size"}, sparse=_every,
        wide_norms=True, expert_biases=True, sinks=True, sliding=_even,
    ),
    "qwen2_moe": Family(
        defaults={
            **SWITCHED, "num_key_value_heads": 16, "qkv_bias": True, "decoder_sparse_step": 1,
            "shared_expert_intermediate_size": 5632,
        },
        fixed=UNBIASED, qkv_bias=True, sparse=_step, gated=True,
        shared=lambda c: int(c["shared_expert_intermediate_size"]),
        sliding=lambda c, i: _even(c, i) and not _upper(c, i),
    ),
    "deepseek_v3": Family(
        defaults={
            "num_key_value_heads": 128, "q_lora_rank": 1536, "first_k_dense_replace": 3,
            "n_shared_experts": 1, "n_group": 8, "topk_group": 4,
        },
        fixed={"mlp_bias": False}, aliases={"num_experts": "n_routed_experts"}, latent=True,
        sparse=lambda c, i: bool(i >= c["first_k_dense_replace"]),
        shared=lambda c: int(c["n_shared_experts"] * c["moe_intermediate_size"]),
    ),
    "starcoder2": Family(
        defaults={"num_key_value_heads": 2, "use_bias": True, "tie_word_embeddings": True},
        fixed=UNIFORM, aliases=BIASED, matrices=2, norm_vectors=2, sliding=_every,
    ),
    "gpt_neox": Family(  # also Pythia
        defaults={"attention_bias": True},
        fixed={"mlp_bias": True, "num_key_value_heads": None, "head_dim": None},
        matrices=2, norm_vectors=2, fused=True,
    ),
}  # fmt: skip


class Part(NamedTuple):
    """A part of a layer, in numbers of parameters.

    Args:
        weights: of its matrices, with which a token is multiplied.
        other: biases and norms.
    """

    weights: int
    other: int = 0


def counted(values: Config) -> Architecture:
    """Return the quantities of a model of a known family.

    Raises:
        KeyError: a key of the config is missing.
    """
    family, config = completed(values)
    hidden, layers, vocabulary = (config[k] for k in ("hidden_size", "num_hidden_layers", "vocab_size"))
    heads, norm = config["num_attention_heads"], family.norm_vectors * hidden
    attention = latent_part(config) if family.latent else attention_part(config, family)
    dense = mlp_part(config, family, config["intermediate_size"], bool(config.get("mlp_bias")))
    with_experts = sparse_layers(config, family)
    sparse, idle = _experts(config, family) if with_experts else (Part(0), 0)
    weights = layers * attention.weights + (layers - with_experts) * dense.weights
    weights += with_experts * sparse.weights
    other = layers * (attention.other + family.norms * norm) + norm
    other += (layers - with_experts) * dense.other + with_experts * sparse.other
    embedding = vocabulary * hidden * (1 if config.get("tie_word_embeddings") else 2)
    width = _pair_width(config, family) * heads
    return Architecture(
        layer_weights=weights,
        output_weights=hidden * vocabulary,
        pair_products=tuple((window, width * n) for window, n in _windows(config, family).items()),
        parameters=weights + other + embedding + with_experts * idle,
        active_parameters=weights + other + embedding,
    )


def measured(flops: Config) -> Architecture:
    """Return the quantities of a model of another family, from the coefficients in its preset.

    Raises:
        KeyError: one of them is missing.
    """
    windows = [(layers["window"], layers["per_pair"] // 2) for layers in flops.get("windows") or ()]
    return Architecture(
        layer_weights=flops["per_token"] // 2,
        output_weights=flops["per_output"] // 2,
        pair_products=((None, flops["per_pair"] // 2), *windows),
        parameters=flops["parameters"],
        active_parameters=flops["active_parameters"],
    )


def completed(values: Config) -> tuple[Family, dict[str, Any]]:
    """Return a config's family, and the config with its defaults, under our names of keys."""
    family = FAMILIES[values["model_type"]]
    config = {**family.defaults, **values, **family.fixed}
    return family, config | {ours: config[own] for ours, own in family.aliases.items()}


def sparse_layers(config: Config, family: Family) -> int:
    """Return the number of layers with experts."""
    return sum(family.sparse(config, i) for i in range(config["num_hidden_layers"])) if family.sparse else 0


def head_width(config: Config) -> int:
    """Return the width of a query in one head."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _pair_width(config: Config, family: Family) -> int:
    """Return the width of a query with a key, and of a value, in one head."""
    if family.latent:
        return int(config["qk_nope_head_dim"] + config["qk_rope_head_dim"] + config["v_head_dim"])
    return 2 * head_width(config)


def attention_part(config: Config, family: Family) -> Part:
    """Return the projections of queries, keys, values and outputs, with biases and query and key norms."""
    hidden, width, heads = config["hidden_size"], head_width(config), config["num_attention_heads"]
    queries, keys = heads * width, (config.get("num_key_value_heads") or heads) * width
    biased = config.get("attention_bias")
    other = queries + 2 * keys if biased or (family.qkv_bias and config["qkv_bias"]) else 0
    other += hidden if biased else 0
    other += {"": 0, "head": 2 * width, "all": queries + keys}[family.qk_norm]
    other += heads if family.sinks else 0
    return Part(2 * hidden * (queries + keys), other)


def latent_part(config: Config) -> Part:
    """Return the projections of multi-head latent attention (DeepSeek-V2, 2024), with biases and norms."""
    hidden, heads, rank, nope, rope, value = (
        config[key] for key in ("hidden_size", "num_attention_heads", *LATENT)
    )
    down, queries = config["q_lora_rank"], heads * (nope + rope)
    weights = hidden * (rank + rope) + rank * heads * (nope + value) + heads * value * hidden
    weights += (hidden + queries) * down if down else hidden * queries
    bias = rank + rope + hidden + (down or 0) if config.get("attention_bias") else 0
    return Part(weights, rank + (down or 0) + bias)


def mlp_part(config: Config, family: Family, width: int, biased: bool) -> Part:
    """Return an MLP of this inner width."""
    hidden, inner = config["hidden_size"], family.matrices - 1
    return Part(family.matrices * hidden * width, inner * width + hidden if biased else 0)


def _experts(config: Config, family: Family) -> tuple[Part, int]:
    """Return what a token passes in a layer of experts, and the parameters of the experts it does not."""
    hidden, experts, active = (config[k] for k in ("hidden_size", "num_experts", "num_experts_per_tok"))
    expert = mlp_part(config, family, config["moe_intermediate_size"], family.expert_biases)
    shared = mlp_part(config, family, family.shared(config) if family.shared else 0, False)
    router = Part(hidden * experts, experts if family.expert_biases else 0)
    weights = router.weights + active * expert.weights + shared.weights + (hidden if family.gated else 0)
    return Part(weights, router.other + active * expert.other), (experts - active) * sum(expert)


def _windows(config: Config, family: Family) -> dict[int | None, int]:
    """Return the number of layers with each window; None: without one."""
    layers, window = config["num_hidden_layers"], config.get("sliding_window")
    if family.sliding is None or not window or not config["use_sliding_window"]:
        return {None: layers}
    types = config.get("layer_types")
    if types is None:
        in_window = sum(family.sliding(config, i) for i in range(layers))
    else:
        in_window = types[:layers].count("sliding_attention")
    found = {None: layers - in_window, window: in_window}
    return {window: n for window, n in found.items() if n}


def _rotary(config: Config) -> Any:
    """Return whether each layer of a SmolLM3 has rotary embeddings; the others may have a window."""
    step, layers = config["no_rope_layer_interval"], range(config["num_hidden_layers"])
    return config.get("no_rope_layers") or [(i + 1) % step != 0 for i in layers]
