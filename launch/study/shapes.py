"""Checks of a preset's `architecture`: whether such a model can be built, before any download.

The values are those of a Hugging Face config. Only keys that affect shapes are checked; others, such as
`rope_theta`, may be whatever transformers takes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from jobs.core.flops import KNOWN
from launch.study.presets import shown

SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
EXPERTS = ("num_experts", "num_experts_per_tok", "moe_intermediate_size")
NULLABLE = ("num_key_value_heads", "head_dim", "max_position_embeddings")
OPTIONAL = (*NULLABLE, "decoder_sparse_step")
SWITCHES = ("tie_word_embeddings", "attention_bias", "mlp_bias", "use_sliding_window")
OTHERS = (
    "model_type", "num_local_experts", "mlp_only_layers", "initializer_range", "rms_norm_eps", "rope_theta",
    "rope_scaling", "rope_parameters", "attention_dropout", "hidden_act", "sliding_window", "layer_types",
    "max_window_layers", "norm_topk_prob", "router_aux_loss_coef", "bos_token_id", "eos_token_id",
    "pad_token_id", "torch_dtype", "dtype", "use_cache", "architectures", "transformers_version",
    "pretraining_tp",
)  # fmt: skip
KEYS = (*SIZES, *EXPERTS, *OPTIONAL, *SWITCHES, *OTHERS)
LAYERS = 10_000  # no model has more
MOST = 10**8  # no other number is as large
CLOSE = 0.85  # similarity, of 1, from which an unknown key counts as a misspelled known one


def shape_faults(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield mistakes in an architecture: keys ("" for the whole) and messages."""
    name = config.get("model_type")
    if name not in KNOWN:
        found = "is missing" if name is None else f"found {shown(name)}"
        yield "model_type", f"{found}; known architectures are {', '.join(KNOWN)}"
        return
    if "num_local_experts" in config:  # the key that transformers 5 saves
        config = {**config, "num_experts": config["num_local_experts"]}
    wrong = list(_faults_of_keys(config))
    yield from wrong
    if not wrong:
        yield from _faults_together(config)


def _faults_of_keys(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    name = config["model_type"]
    needed = (*SIZES, *(EXPERTS if name == "qwen3_moe" else ()))
    for key in config:
        near = difflib.get_close_matches(key, [k for k in KEYS if k not in config], 1, CLOSE)
        if key not in KEYS and near:
            yield key, f"unknown key; did you mean {near[0]!r}?"
    for key in needed:
        if key not in config:
            yield key, f"is missing; {name} needs {', '.join(needed)}"
    for key in (*needed, *OPTIONAL):
        value: Any = config.get(key)
        most = LAYERS if key == "num_hidden_layers" else MOST
        unset = value is None and key in NULLABLE
        if key in config and not unset and not (_is_whole(value) and 0 < value <= most):
            yield key, f"found {shown(value)}; a whole number from 1 to {most:,} is needed"
    for key in SWITCHES:
        if not isinstance(config.get(key, False), bool):
            yield key, f"found {shown(config[key])}; true or false is needed"
    layers = config.get("mlp_only_layers") or []
    if not (isinstance(layers, list) and all(_is_whole(layer) for layer in layers)):
        yield "mlp_only_layers", f"found {shown(layers)}; a list of numbers of layers is needed"
    if config.get("use_sliding_window") is True:
        yield "use_sliding_window", "found True; attention in windows is not counted, so leave it out"


def _faults_together(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    width = config.get("head_dim", 128 if config["model_type"] == "qwen3" else None)  # Qwen3Config's default
    fixed = config["model_type"] == "llama"  # LlamaConfig requires this even if the width is given
    if hidden % heads and (width is None or fixed):
        more = "" if fixed else "; or give 'head_dim'"
        yield "num_attention_heads", f"{heads} heads do not divide hidden_size {hidden}{more}"
    elif (width or hidden // heads) % 2:
        key = "head_dim" if width else "num_attention_heads"
        yield key, f"heads of width {width or hidden // heads}: rotary embeddings need an even one"
    groups = config.get("num_key_value_heads") or heads
    if heads % groups:
        yield "num_key_value_heads", f"{groups} key-value heads do not divide the {heads} attention heads"
    if config["model_type"] == "qwen3_moe" and config["num_experts_per_tok"] > config["num_experts"]:
        active, experts = config["num_experts_per_tok"], config["num_experts"]
        yield "num_experts_per_tok", f"{active} active experts of {experts}"


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
