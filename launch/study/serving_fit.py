"""Whether an engine's weights leave room for its cache on its GPUs, before it is submitted. Pure."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from jobs.core.flops import architecture
from launch.study.cluster import Cluster
from launch.study.gpu_memory import GIB
from launch.study.model import Model
from launch.study.placement import Engine

UTILIZATION = 0.92  # share of a GPU's memory that vLLM (0.32) takes, unless told otherwise
CACHE = 0.1  # of a GPU's memory; with less for keys and values, few answers are made at once
BYTES = {"float32": 4.0, "float": 4.0}  # of a weight by dtype; all others: 2
# Bits of a weight in layers, by method of quantization; embeddings stay as they are.
QUANTIZED = {"fp8": 8, "fbgemm_fp8": 8, "mxfp8": 8, "awq": 4, "awq_marlin": 4, "gptq": 4, "gptq_marlin": 4,
             "mxfp4": 4, "bitsandbytes": 4}  # fmt: skip
SCALES = 1.05  # for scales and what is not quantized beside the embeddings


class Fault(NamedTuple):
    """Why an engine will or may not run."""

    refused: bool
    words: str


def engine_fault(model: Model, runs: Engine, cluster: Cluster) -> Fault | None:
    """Return why a model's weights do not leave enough of its GPUs' memory; None if they do.

    Returns:
        None also on cores, and for quantizations of unknown size.
    """
    weights = _weights(model, runs.arguments)
    if not runs.gpus or weights is None:
        return None
    memory, source = cluster.memory_of_gpu
    gpus = runs.nodes * runs.gpus
    share = float(runs.arguments.get("gpu_memory_utilization", UTILIZATION))
    each = weights / GIB / gpus
    left = share * memory - each
    if left >= CACHE * memory:
        return None
    enough = 2 ** math.ceil(math.log2(weights / GIB / (share - CACHE) / memory)) if share > CACHE else None
    refused = left <= 0
    room = "no room" if refused else f"{left:.0f} GiB"
    says = f"{model.name}: its weights are {weights / GIB:.0f} GiB, {each:.0f} of each of {gpus} GPUs, which "
    says += f"leaves {room} for the cache of the {share:.0%} that vLLM takes; {source}"
    return Fault(refused, f"{says}. {_advice(enough, cluster)}")


def _advice(enough: int | None, cluster: Cluster) -> str:
    """Return settings that give enough room.

    Args:
        enough: GPUs; None: no number is.
    """
    if enough is None:
        return "Raise 'gpu_memory_utilization' in its preset's 'serving: {vllm: …}'"
    spread = f"gpus: {enough}"
    if cluster.gpus_per_node is None and enough > 8:
        spread = f"nodes: {enough // 8}, gpus: 8"
    return f"Enough is 'serving: {{{spread}}}' in its preset, or quantized weights"


def _weights(model: Model, arguments: dict[str, Any]) -> float | None:
    """Return the bytes of a model's weights as vLLM loads them; None if unknown."""
    found = architecture(model.shape)
    full = BYTES.get(arguments.get("dtype", "auto"), 2.0) * found.parameters
    own = model.architecture.get("quantization_config") or {}
    method = arguments.get("quantization") or own.get("quant_method")
    if method is None:
        return full
    bits = own.get("bits", QUANTIZED.get(method))
    if not isinstance(bits, int):
        return None
    config = model.architecture
    tied = 1 if config.get("tie_word_embeddings") else 2
    embeddings = tied * config.get("vocab_size", 0) * config.get("hidden_size", 0)
    return SCALES * bits / 8 * (found.parameters - embeddings) + 2.0 * embeddings
