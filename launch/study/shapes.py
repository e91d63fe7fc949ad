"""Checks of a preset's `architecture`: whether such a model can be built, before any download.

The values are those of a Hugging Face config. Only keys that affect shapes are checked; others, such as
`rope_theta`, may be whatever transformers takes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from jobs.core.architectures import FAMILIES, LATENT, SIZES, TYPES, Family
from jobs.core.flops import KNOWN, MEASURE
from launch.study.presets import shown

MEASURED = ("hidden_size", "num_hidden_layers", "vocab_size")  # needed where FLOPs are given
NULLABLE = ("num_key_value_heads", "head_dim", "max_position_embeddings")
OPTIONAL = (*NULLABLE, "decoder_sparse_step")
SWITCHES = ("tie_word_embeddings", "attention_bias", "mlp_bias", "use_sliding_window")
FROM_ZERO = ("first_k_dense_replace", "max_window_layers")
UNSET = (*NULLABLE, "sliding_window", "q_lora_rank")  # keys that may be null
EXPERTS = (
    "num_experts", "num_local_experts", "n_routed_experts", "num_experts_per_tok", "moe_intermediate_size",
    "shared_expert_intermediate_size", "n_shared_experts", "decoder_sparse_step", "mlp_only_layers",
    "first_k_dense_replace", "n_group", "topk_group",
)  # fmt: skip
WINDOWS = (
    "sliding_window", "use_sliding_window", "max_window_layers", "sliding_window_pattern", "no_rope_layers",
    "no_rope_layer_interval", "layer_types",
)  # fmt: skip
OTHERS = (
    "model_type", "initializer_range", "rms_norm_eps", "layer_norm_eps", "norm_epsilon", "rope_theta",
    "rope_scaling", "rope_parameters", "attention_dropout", "hidden_act", "hidden_activation",
    "norm_topk_prob", "router_aux_loss_coef", "bos_token_id", "eos_token_id", "pad_token_id", "torch_dtype",
    "dtype", "use_cache", "architectures", "transformers_version", "pretraining_tp", "qkv_bias", "use_bias",
    "original_max_position_embeddings", "num_nextn_predict_layers",
)  # fmt: skip
KEYS = (*SIZES, *LATENT, "q_lora_rank", *EXPERTS, *OPTIONAL, *SWITCHES, *WINDOWS, *OTHERS)
SQUARE = ("llama", "gemma2", "gemma3_text", "gpt_neox")  # whose heads divide hidden_size even with a head_dim
LAYERS = 10_000  # no model has more
MOST = 10**8  # no other number is as large
SHARED = 256  # processes of a node; none has more GPUs
CLOSE = 0.85  # similarity, of 1, from which an unknown key counts as a misspelled known one


def shape_faults(config: Mapping[str, Any], measured: bool = False) -> Iterator[tuple[str, str]]:
    """Yield mistakes in an architecture: keys ("" for the whole) and messages.

    Args:
        measured: Whether the preset gives its FLOPs.
    """
    name = config.get("model_type")
    if measured:
        yield from _faults_of_measured(config)
        return
    if not isinstance(name, str) or name not in FAMILIES:
        found = "is missing" if name is None else f"found {shown(name)}"
        yield "model_type", f"{found}; known architectures are {', '.join(KNOWN)}; {MEASURE}"
        return
    family = FAMILIES[name]
    if "num_local_experts" in config:  # the key that transformers 5 saves
        config = {**config, "num_experts": config["num_local_experts"]}
    wrong = list(_faults_of_keys(config, family))
    yield from wrong
    if not wrong:
        yield from _faults_together({**family.defaults, **config}, family)


def heads_fault(config: Mapping[str, Any], processes: int | None) -> str | None:
    """Return why processes cannot share the attention heads of an architecture (`sequence_parallel`).

    Returns:
        None if they can, or if the number of heads is not known here.
    """
    heads: Any = config.get("num_attention_heads")
    if processes is None or not _is_whole(heads) or heads % processes == 0:
        return None
    able = ", ".join(str(n) for n in range(1, min(heads, SHARED) + 1) if heads % n == 0)
    return f"found {processes}, which does not divide the model's {heads} attention heads: {able} do"


def _faults_of_measured(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    name = config.get("model_type")
    if not isinstance(name, str):
        yield "model_type", "is missing" if name is None else f"found {shown(name)}; a text is needed"
    elif name in FAMILIES:
        yield "model_type", f"found {name!r}, whose FLOPs are known: leave 'flops' out"
    for key in MEASURED:
        if key not in config:
            yield key, f"is missing; beside 'flops', {', '.join(MEASURED)} are needed"
        elif words := _number_fault(config, key):
            yield key, words


def _faults_of_keys(config: Mapping[str, Any], family: Family) -> Iterator[tuple[str, str]]:
    name, needed = config["model_type"], family.needed
    for key in config:
        near = difflib.get_close_matches(key, [k for k in KEYS if k not in config], 1, CLOSE)
        if key not in KEYS and near:
            yield key, f"unknown key; did you mean {near[0]!r}?"
    for key in needed:
        if key not in config:
            yield key, f"is missing; {name} needs {', '.join(needed)}"
    own = {key: value for key, value in family.defaults.items() if key in KEYS}
    numbers = [key for key, value in own.items() if not isinstance(value, bool)]
    for key in dict.fromkeys((*needed, *OPTIONAL, *numbers)):
        if key in config and (words := _number_fault(config, key)):
            yield key, words
    for key in dict.fromkeys((*SWITCHES, *(k for k, value in own.items() if isinstance(value, bool)))):
        if not isinstance(config.get(key, False), bool):
            yield key, f"found {shown(config[key])}; true or false is needed"
    layers = config.get("mlp_only_layers") or []
    if not (isinstance(layers, list) and all(_is_whole(layer) for layer in layers)):
        yield "mlp_only_layers", f"found {shown(layers)}; a list of numbers of layers is needed"
    if family.typed:
        yield from _faults_of_lists(config)


def _faults_of_lists(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield mistakes in the lists that have an entry for each layer."""
    layers = config.get("num_hidden_layers")
    for key, allowed in (("layer_types", TYPES), ("no_rope_layers", (0, 1))):
        found = config.get(key)
        if found is None:
            continue
        if not (isinstance(found, list) and all(entry in allowed for entry in found)):
            yield key, f"found {shown(found)}; a list of {' and '.join(map(str, allowed))} is needed"
        elif _is_whole(layers) and len(found) != layers:
            yield key, f"{len(found)} entries for {layers} layers"


def _number_fault(config: Mapping[str, Any], key: str) -> str | None:
    value, least = config[key], 0 if key in FROM_ZERO else 1
    most = LAYERS if key == "num_hidden_layers" else MOST
    if (value is None and key in UNSET) or (_is_whole(value) and least <= value <= most):
        return None
    return f"found {shown(value)}; a whole number from {least} to {most:,} is needed"


def _faults_together(config: Mapping[str, Any], family: Family) -> Iterator[tuple[str, str]]:
    hidden, heads, name = config["hidden_size"], config["num_attention_heads"], config["model_type"]
    width = None if "head_dim" in family.fixed else config.get("head_dim")
    fixed = name in SQUARE
    if family.latent:
        if config["qk_rope_head_dim"] % 2:
            yield (
                "qk_rope_head_dim",
                f"found {config['qk_rope_head_dim']}: rotary embeddings need an even one",
            )
    elif hidden % heads and (width is None or fixed):
        more = "" if fixed else "; or give 'head_dim'"
        yield "num_attention_heads", f"{heads} heads do not divide hidden_size {hidden}{more}"
    elif (width or hidden // heads) % 2:
        key = "head_dim" if width else "num_attention_heads"
        yield key, f"heads of width {width or hidden // heads}: rotary embeddings need an even one"
    groups = heads if "num_key_value_heads" in family.fixed else config.get("num_key_value_heads") or heads
    if heads % groups:
        yield "num_key_value_heads", f"{groups} key-value heads do not divide the {heads} attention heads"
    elif family.latent and groups != heads:
        yield "num_key_value_heads", f"found {groups}; with latent attention, it equals the {heads} heads"
    if family.sparse:
        yield from _faults_of_experts(config, family)


def _faults_of_experts(config: Mapping[str, Any], family: Family) -> Iterator[tuple[str, str]]:
    key = family.aliases.get("num_experts", "num_experts")
    active, experts = config["num_experts_per_tok"], config[key]
    if active > experts:
        yield "num_experts_per_tok", f"{active} active experts of {experts}"
    elif family.latent:
        groups, chosen = config["n_group"], config["topk_group"]
        if experts % groups or experts < 2 * groups:
            yield "n_group", f"{groups} groups do not divide {experts} experts into two or more each"
        elif chosen > groups or active > chosen * experts // groups:
            yield "topk_group", f"{chosen} of {groups} groups, for {active} of {experts} experts"


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
