"""Engine arguments of vLLM in a preset's `serving.vllm`: which there are, and which change results.

They are those of the pinned version, from configs/schema/vllm.json (`make reference`); vLLM is not imported.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from launch.study.presets import CONFIGS, shown

FILE = CONFIGS / "schema" / "vllm.json"
KINDS: dict[str, tuple[Any, str]] = {  # of JSON: types of Python, and words
    "boolean": (bool, "true or false"), "integer": (int, "a whole number"),
    "number": (int | float, "a number"), "string": (str, "a text"), "array": (list, "a list"),
    "object": (dict, "a mapping"), "null": (type(None), "null"),
}  # fmt: skip
ELSEWHERE = {  # arguments that sor sets, and from what
    **dict.fromkeys(("model", "hf_config_path", "served_model_name"), "'model' of the preset"),
    **dict.fromkeys(("revision", "code_revision"), "'revision' of the preset"),
    **dict.fromkeys(("tokenizer", "tokenizer_revision"), "'model' and 'revision' of the preset"),
    "seed": "'seeds' of the study",
    "max_model_len": "'serving: {max_model_len: …}'",
    "hf_token": "the environment (HF_TOKEN): a preset holds no secrets",
    **dict.fromkeys(
        ("nnodes", "node_rank", "master_addr", "master_port", "distributed_executor_backend",
         "ray_workers_use_nsight"),
        "'serving: {nodes: …}'",
    ),
    "device_ids": "'serving: {gpus: …, replicas: …}'",
    **dict.fromkeys(
        ("data_parallel_size", "data_parallel_size_local", "data_parallel_rank", "data_parallel_start_rank",
         "data_parallel_address", "data_parallel_rpc_port", "data_parallel_backend",
         "data_parallel_hybrid_lb", "data_parallel_external_lb", "data_parallel_multi_port_external_lb"),
        "'serving: {replicas: …}' and 'workers': vLLM's data parallelism needs its server, and sor's engines "
        "share the prompts without it",
    ),
    **dict.fromkeys(("log_level", "log_config_file", "logging_config"), "vLLM's variables (VLLM_LOGGING_…)"),
    **dict.fromkeys(
        ("runner", "convert", "skip_tokenizer_init", "tokens_only", "pooler_config"),
        "what sor does: it generates text",
    ),
}  # fmt: skip
# Arguments that change how fast, on what and in which memory answers are made, and these by rounding at most.
# All others count as changing results: units that are given them are new.
SPEED = frozenset({
    "tensor_parallel_size", "pipeline_parallel_size", "prefill_context_parallel_size",
    "decode_context_parallel_size", "enable_expert_parallel", "expert_placement_strategy", "enable_eplb",
    "eplb_config", "all2all_backend", "disable_custom_all_reduce", "distributed_timeout_seconds",
    "cpu_distributed_timeout_seconds", "numa_bind", "numa_bind_nodes", "numa_bind_cpus",
    "gpu_memory_utilization", "kv_cache_memory_bytes", "num_gpu_blocks_override", "block_size",
    "cpu_offload_gb", "offload_backend", "kv_offloading_size", "kv_offloading_backend",
    "max_num_batched_tokens", "max_num_seqs", "max_num_active_seqs", "max_num_scheduled_tokens",
    "enable_chunked_prefill", "enable_prefix_caching", "prefix_caching_hash_algo", "async_scheduling",
    "scheduler_reserve_full_isl", "long_prefill_token_threshold", "performance_mode", "enable_dbo",
    "enforce_eager", "compilation_config", "optimization_level", "cudagraph_capture_sizes",
    "max_cudagraph_capture_size", "attention_backend", "moe_backend", "linear_backend",
    "download_dir", "safetensors_load_strategy", "safetensors_prefetch_num_threads",
    "safetensors_prefetch_block_size", "max_parallel_loading_workers", "disable_log_stats",
    "use_tqdm_on_load", "shutdown_timeout",
})  # fmt: skip


@cache
def known() -> dict[str, Any]:
    """Return the JSON Schemas of the arguments that a preset may give, by their names."""
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))["properties"]
    return {name: schema for name, schema in found.items() if name not in ELSEWHERE}


def argument_faults(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield mistakes in engine arguments: their names and messages."""
    allowed = known() if given else {}
    for name, value in given.items():
        if name in ELSEWHERE:
            yield name, f"is set by sor: leave it out; it comes from {ELSEWHERE[name]}"
        elif name not in allowed:
            near = difflib.get_close_matches(name.replace("-", "_"), allowed, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            yield name, f"vLLM has no such engine argument{hint}"
        elif (why := _fault(allowed[name], value)) is not None:
            yield name, why


def changing(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that change results, and are part of the identity of units."""
    return {name: value for name, value in given.items() if name not in SPEED}


def _fault(schema: Mapping[str, Any], value: Any) -> str | None:
    if "enum" in schema:
        choices = ["null" if choice is None else str(choice) for choice in schema["enum"]]
        if any(value == choice and type(value) is type(choice) for choice in schema["enum"]):
            return None
        return f"found {shown(value)}; allowed are {', '.join(choices)}"
    names = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    if not any(_is(name, value) for name in names):
        return f"found {shown(value)}; {' or '.join(KINDS[name][1] for name in names)} is needed"
    if isinstance(value, list) and "items" in schema:
        wrong = (_fault(schema["items"], item) for item in value)
        return next((why for why in wrong if why), None)
    return None


def _is(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    return isinstance(value, KINDS[name][0])
