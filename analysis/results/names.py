"""Identify the model of a result file, and name models so that different ones are distinct.

A model is more than its name: another revision, adapter, quantization or prompt format is another model.
Arguments that only say how to run it (device, memory, batches, precision) are not part of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.results.table import plain

# Where lm-eval looks for a model's name, in its order; an adapter is given together with its base model.
NAMED_BY = ("peft", "delta", "pretrained", "model", "path", "engine", "model_name")
RUNNING = {
    "add_bos_token", "attn_implementation", "auth_token", "backend", "base_url", "batch_size", "cache_dir",
    "cpu_offload_gb", "data_parallel_size", "device", "device_map", "device_map_option", "disable_log_stats",
    "distributed_executor_backend", "dtype", "enable_chunked_prefill", "enable_prefix_caching",
    "enforce_eager", "eos_string", "gpu_memory_utilization", "gpus", "kv_cache_dtype", "logits_cache",
    "low_cpu_mem_usage", "max_batch_size", "max_cpu_memory", "max_gen_toks", "max_length", "max_lora_rank",
    "max_memory_per_gpu", "max_model_len", "max_new_tokens", "max_num_batched_tokens", "max_num_seqs",
    "max_retries", "mixed_precision_dtype", "num_concurrent", "offload_folder", "parallelize",
    "pipeline_parallel_size", "prefix_token_id", "seed", "swap_space", "tensor_parallel_size", "timeout",
    "token", "tokenized_requests", "tokenizer_backend", "tokenizer_mode", "trust_remote_code",
    "use_accelerate", "use_cache", "use_fast_tokenizer", "verify_certificate",
}  # fmt: skip
DEFAULTS = {"revision": "main", "model_revision": "main", "subfolder": ""}
LOCAL = ("/", "./", "../", "~")


@dataclass(frozen=True)
class Model:
    """A model as described by one result file.

    Args:
        name: As given: a hub name or a path.
        details: Arguments that distinguish the model from others of its name, in alphabetical order.
        sha: Commit of its weights, if the file has it.
    """

    name: str
    details: tuple[tuple[str, str], ...] = ()
    sha: str = ""


def arguments(given: Any) -> dict[str, str]:
    """Parse lm-eval's `model_args`, either text (`pretrained=a/b,revision=c`) or an object."""
    if isinstance(given, str):
        # A comma ends an argument only if another argument follows: values may be JSON.
        parts = re.split(r",(?=\s*\w+=)", given)
        return {key.strip(): value.strip() for key, has, value in (p.partition("=") for p in parts) if has}
    if isinstance(given, Mapping):
        return {str(key): str(value) for key, value in given.items() if value is not None}
    return {}


def model_of(name: Any, given: Any, sha: Any, otherwise: str) -> Model:
    """Return the model of a result file.

    Args:
        name: The file's `model_name`; may be missing or empty.
        given: Its `model_args`.
        sha: Its `model_sha`.
        otherwise: Name to use if the file has none.
    """
    known = arguments(given)
    named_by = next((key for key in NAMED_BY if known.get(key)), None)
    chosen = name if isinstance(name, str) and name.strip() else known.get(named_by or "", "")
    details = {
        key: plain(value)
        for key, value in known.items()
        if key not in RUNNING and value not in ("", "None", chosen, DEFAULTS.get(key))
    }
    chosen = plain(chosen).rstrip("/") or plain(otherwise)
    return Model(chosen, tuple(sorted(details.items())), sha if isinstance(sha, str) else "")


def distinct_names(models: Iterable[Model]) -> dict[Model, str]:
    """Return a name for each model, as short as possible while all are distinct.

    A path is named by its last part if that is unique. Models of one name are distinguished by the details
    that differ; commits are included only if there are several.
    """
    found = list(dict.fromkeys(models))
    short = {m.name: Path(m.name).name if m.name.startswith(LOCAL) else m.name for m in found}
    taken = list(short.values())
    names = {}
    for model in found:
        alike = [other for other in found if other.name == model.name]
        shas = {other.sha[:12] for other in alike if other.sha}
        marks = [f"{key}={value}" for key, value in model.details if _differs(key, alike)]
        if len(shas) > 1 and model.sha:
            marks.append(f"commit {model.sha[:12]}")
        name = short[model.name] if taken.count(short[model.name]) == 1 else model.name
        names[model] = f"{name} ({', '.join(marks)})" if marks else name
    return names


def _differs(key: str, models: list[Model]) -> bool:
    return len({dict(model.details).get(key) for model in models}) > 1
