"""Widths of the vectors that a model computes for each token, from which the memory of training is estimated.

Read from the same descriptions as FLOPs (`architectures.py`); nothing here depends on how a model is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jobs.core.architectures import (
    FAMILIES,
    attention_part,
    completed,
    counted,
    head_width,
    latent_part,
    mlp_part,
    sparse_layers,
)

HEAD = 64  # width of a head where a config of another family does not say it


@dataclass(frozen=True)
class Widths:
    """Widths of the vectors that a model computes for each token.

    Args:
        parameters: all of the model's, tied ones counted once.
        hidden, layers, vocabulary, heads: as in the config.
        queries, keys, values: of all heads together, as attention's kernel takes them.
        output: of all heads together, as attention's kernel returns it.
        inner: of the MLP of a layer without experts.
        dense_weights: matrix weights of all layers, without those of experts.
        tied: whether the output layer has the embedding's weights.
        latents: of all latent vectors that queries, keys and values are projected from; 0: there are none.
        vectors: of the inner width, that an MLP keeps: 4 if it is gated, else 2.
        norms: of a layer, over the hidden size.
        layer_norms: whether these are LayerNorms, which keep only their input, instead of RMSNorms.
        wide_norms: whether norms multiply by their weight in fp32.
        qk_norm: whether queries and keys are normalized.
        fused: whether queries, keys and values, and an MLP's gate and input, come from one matrix each.
        experts, active, expert: experts of a layer, those that a token passes, and the inner width of one.
        sparse_layers: layers with experts.
        expert_vectors: of the expert's width, that each active expert keeps.
        shared: inner width of the MLP beside the experts; 0: there is none.
        scored: whether attention needs a matrix of scores, whose size depends on the lengths of rows.
        guessed: whether the config's family is unknown, so that a llama of the same weights stands in.
    """

    parameters: int
    hidden: int
    layers: int
    vocabulary: int
    heads: int
    queries: int
    keys: int
    values: int
    output: int
    inner: int
    dense_weights: int
    tied: bool = False
    latents: int = 0
    vectors: int = 4
    norms: int = 2
    layer_norms: bool = False
    wide_norms: bool = False
    qk_norm: bool = False
    fused: bool = False
    experts: int = 0
    active: int = 0
    expert: int = 0
    sparse_layers: int = 0
    expert_vectors: int = 4
    shared: int = 0
    scored: bool = False
    guessed: bool = False

    @property
    def head(self) -> int:
        """Weights of the output layer."""
        return self.hidden * self.vocabulary

    @property
    def matrix(self) -> int:
        """Weights of the largest matrix of a layer; those of its experts are one, for gate and input."""
        return self.hidden * max(2 * self.expert * self.experts, self.inner)


def widths(config: Mapping[str, Any]) -> Widths:
    """Return the widths of a Hugging Face config, which may have measured FLOPs under `flops`.

    Raises:
        KeyError: the family is unknown and its FLOPs were not measured, or a key of the config is missing.
    """
    if config.get("model_type") not in FAMILIES:
        return _guessed(config)
    if "num_local_experts" in config:  # transformers 5 saves it under this key
        config = {**config, "num_experts": config["num_local_experts"]}
    parameters = counted(config).parameters
    family, config = completed(config)
    hidden, heads, layers = (config[k] for k in ("hidden_size", "num_attention_heads", "num_hidden_layers"))
    attention = latent_part(config) if family.latent else attention_part(config, family)
    sparse, inner = sparse_layers(config, family), config["intermediate_size"]
    weights = layers * attention.weights
    weights += (layers - sparse) * mlp_part(config, family, inner, False).weights
    found: dict[str, Any] = {}
    if family.latent:  # values are padded to the width of keys, and the output is cut to that of values
        wide = heads * (config["qk_nope_head_dim"] + config["qk_rope_head_dim"])
        found |= dict.fromkeys(("queries", "keys", "values"), wide)
        found["output"] = wide + heads * config["v_head_dim"]
        found["latents"] = config["kv_lora_rank"] + (config["q_lora_rank"] or 0)
    else:
        width, groups = head_width(config), config.get("num_key_value_heads") or heads
        found |= dict.fromkeys(("queries", "output"), heads * width)
        found |= dict.fromkeys(("keys", "values"), groups * width)
    if sparse:
        shared = family.shared(config) if family.shared else 0
        beside = hidden * config["num_experts"] + mlp_part(config, family, shared, False).weights
        weights += sparse * beside
        found |= {"experts": config["num_experts"], "active": config["num_experts_per_tok"], "shared": shared}
        found |= {"expert": config["moe_intermediate_size"], "sparse_layers": sparse}
        found["expert_vectors"] = 7 if family.expert_biases else 4  # GPT-OSS also keeps clamped values
    return Widths(
        parameters, hidden, layers, config["vocab_size"], heads, inner=inner, dense_weights=weights,
        vectors=4 if family.matrices == 3 else 2, norms=family.norms, layer_norms=family.norm_vectors == 2,
        wide_norms=family.wide_norms, qk_norm=bool(family.qk_norm), fused=family.fused,
        scored=family.capped or family.sinks, tied=bool(config.get("tie_word_embeddings")), **found,
    )  # fmt: skip


def _guessed(config: Mapping[str, Any]) -> Widths:
    """Return the widths of a llama whose tokens are multiplied with as many weights."""
    hidden, layers, vocabulary = (config[k] for k in ("hidden_size", "num_hidden_layers", "vocab_size"))
    weights = config["flops"]["per_token"] // 2
    heads = config.get("num_attention_heads") or max(1, hidden // HEAD)
    width, groups = head_width({**config, "num_attention_heads": heads}), config.get("num_key_value_heads")
    queries, keys = heads * width, (groups or heads) * width
    inner = max(0, weights // layers - 2 * hidden * (queries + keys)) // (3 * hidden)
    return Widths(
        config["flops"]["parameters"], hidden, layers, vocabulary, heads, queries, keys, keys, queries, inner,
        weights, guessed=True, tied=bool(config.get("tie_word_embeddings")),
    )  # fmt: skip
