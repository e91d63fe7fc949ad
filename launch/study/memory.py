"""Estimates of the host memory of units, before they run: MiB per node, for `sbatch --mem`.

Pure functions of architectures, row counts and process counts; for GPU memory, see gpu_memory.py. The
estimates aim at a unit's maximum, since a job over its limit is killed; a unit that is killed nevertheless is
restarted once with TWICE as much.

Measured on Linux (x86-64, Python 3.11, torch 2.13, vLLM 0.32, transformers 5.19) as the peak resident memory
of whole processes running models of under 1M parameters; the constants below round those figures up.
"""

from __future__ import annotations

from math import ceil
from typing import Any

from jobs.core.flops import architecture
from jobs.core.unit import Resources
from jobs.core.widths import widths
from launch.study.estimate import ROWS, Lengths
from launch.study.filters import Filters
from launch.study.gpu_memory import Way, estimate
from launch.study.model import Model
from launch.study.placement import Engine
from launch.study.schema import EvalGroup

GIB = 1024
STEP = 256  # MiB; requests are rounded up to a multiple, so that similar units share an array
MARGIN = 1.25
TWICE = 2

# Processes without a model, in MiB.
SCRIPT = 64  # bash, srun and Slurm's helpers, which count toward the job: 12 to 25 measured
KEEPER = 256  # 41 after its imports
TOKENIZE = 700  # transformers' tokenizer: 541 after its imports, 565 on the demo's rows
TOKENIZER = 200  # another process that shares these imports, with a vocabulary of its own
COLLATE = 300  # pyarrow and numpy: 74 after its imports
REPORT = 600  # pandas and matplotlib: 133 after its imports, 180 on a small report
PREPARE = 4 * GIB  # the user's function; the demo's, which trains a model: 611
TRAIN = 900  # torch, transformers, accelerate: 596; with DeepSpeed 645 a rank
SERVE = 1800  # vLLM and its compiled kernels on a CPU: 1,913, with a toy model's use of the cache below
JUDGE = 150  # math-verify and sympy
ITEMS = 150  # hashes of the benchmarks' items
ASK = 700  # an endpoint's client: transformers' tokenizer and aiohttp, 10,000 answers in flight
EVALUATE = 600  # lm-eval, datasets, a benchmark's items: the toy benchmarks add nothing to the engine's peak

# A process with a GPU, in MiB. From public reports, not measured here: the CUDA context, pinned buffers
# of torch and NCCL, and libraries mapped during loading take 5 to 8 GiB.
GPU = 8 * GIB
READ = 16 * GIB  # most of a checkpoint that a process may hold while weights are loaded to its GPU

CPU_CACHE = 1 * GIB  # as jobs.engines.load.CPU_CACHE
BYTES_PER_TOKEN = 5  # of text, in UTF-8
INDEXED = 150  # bytes a prompt, while its rows are packed
FP32 = 4


def generation(model: Model, engine: Engine, evaluates: EvalGroup | None = None) -> int:
    """Return the memory of a node that generates: of the teacher, or of a student being evaluated."""
    if model.endpoint:
        return requested(ASK)
    weights = 2 * architecture(model.shape).parameters  # in bf16
    if model.init == "random" or not engine.gpus:
        weights *= 2  # trained in fp32, it stays so; and CPU kernels need a copy in their own layout
    if engine.gpus:
        part = _mib(weights) / (engine.nodes * engine.gpus)
        need = engine.replicas * engine.gpus * (GPU + min(READ, part))
    else:
        # Weights once as read, once as used; beside an engine's own process there are those that compute.
        processes = 2 if engine.nodes > 1 else 1
        need = engine.replicas * (processes * SERVE + CPU_CACHE + 2 * _mib(weights) / engine.nodes)
    items = sum(min(t.items, t.limit or t.items) for t in evaluates.tasks) if evaluates else 0
    texts = _mib(items * evaluates.max_tokens * BYTES_PER_TOKEN * 4) if evaluates else 0  # samples, as JSON
    return requested(need + (EVALUATE + texts if evaluates else 0))


def training(
    model: Model, resources: Resources, block: int, dtype: str, zero: dict[str, Any] | None, prompts: int = 0
) -> int:
    """Return the memory of all ranks of a training on one node.

    Args:
        resources: nodes, and tasks and GPUs on each.
        block: tokens of a packed block.
        zero: DeepSpeed's configuration; None: without DeepSpeed.
        prompts: those whose rows each rank packs, or finds by the index of the rank that has.
    """
    how = model.training
    assert how is not None  # the study was checked
    ranks, world, count = resources.tasks_per_node, resources.world_size, architecture(model.shape).parameters
    saved = _mib(FP32 * count)  # rank 0 gathers the weights to write them
    if not resources.gpus_per_node:
        assert isinstance(how.micro_batch, int)  # `auto` is for GPUs
        way = Way(block, how.micro_batch, True, bool(how.gradient_checkpointing), zero, world, dtype)
        need = estimate(widths(model.shape), way)
        # Of the buckets only what is written takes room: about one copy of all gradients.
        sent = FP32 * count if zero or world > 1 else 0
        each = TRAIN + _mib(need.states + need.activations + sent + INDEXED * prompts)
        return requested(ranks * each + saved)
    # Each rank reads the weights on the host before they go to its GPU; ZeRO 3 shards them as they are read.
    stage = (zero or {}).get("zero_optimization", {}).get("stage", 0)
    read = _mib((2 if dtype == "bf16" and zero else FP32) * count)
    read = min(READ, read) if stage == 3 else read
    each = GPU + read + _mib(_offloaded(count, zero, world) + INDEXED * prompts)
    return requested(ranks * each + saved)


def tokenizing(rows: Lengths, processes: int) -> int:
    """Return the memory of tokenizing: for each process a row group as text and as tokens."""
    group = min(rows.prompts or ROWS, 1000) * (rows.prompt + rows.ift + rows.reasoning)
    others = processes * TOKENIZER if processes > 1 else 0
    return requested(TOKENIZE + others + _mib(processes * group * (3 * BYTES_PER_TOKEN + 10)))


def collating(rows: Lengths, processes: int, filters: Filters | None = None) -> int:
    """Return the memory of pairing the answers: batches of text for each process, and prompts' hashes."""
    batch = min(rows.prompts or ROWS, 1000) * (rows.prompt + rows.ift + rows.reasoning) * BYTES_PER_TOKEN
    others = processes * COLLATE / 2 if processes > 1 else 0
    need = COLLATE + others + _mib(6 * processes * batch + 20 * (rows.prompts or ROWS))
    return requested(need + (_filtering(rows, processes, filters) if filters else 0))


def _filtering(rows: Lengths, processes: int, filters: Filters) -> float:
    """Return what filters add: hashes of each prompt, references, and what each process holds."""
    prompt = 450 * (filters.near_duplicates is not None) + 250 * (filters.correct is not None) + 16
    process = (JUDGE if filters.correct else 0) + (ITEMS if filters.decontaminate else 0)
    loaded = EVALUATE if filters.decontaminate else 0  # lm-eval, in a process of its own
    return loaded + processes * process + _mib(prompt * (rows.prompts or ROWS))


def reporting(items: int) -> int:
    """Return the memory of a report on this many items over all evaluations."""
    return requested(REPORT + _mib(1500 * items))


def preparing() -> int:
    """Return the memory of the study's own function, whose needs are unknown."""
    return requested(PREPARE / MARGIN)


def keeping() -> int:
    """Return the memory of the keeper."""
    return requested(KEEPER)


def probing() -> int:
    """Return the memory of the probe job of `sor doctor`, which imports all that stages do."""
    return requested(SERVE + EVALUATE)


def requested(need: float) -> int:
    """Return the memory to request for a need: with a margin, in whole steps."""
    return STEP * ceil((MARGIN * need + SCRIPT) / STEP)


def _mib(count: float) -> float:
    """Convert bytes to MiB."""
    return count / 2**20


def _offloaded(parameters: int, zero: dict[str, Any] | None, world: int) -> float:
    """Return the bytes of host memory that one GPU rank pins for what DeepSpeed offloads."""
    found = (zero or {}).get("zero_optimization", {})
    each = {"offload_optimizer": 4 * FP32, "offload_param": 2}  # master weights, moments, gradients; weights
    return sum(
        parameters * size / world for name, size in each.items() if found.get(name, {}).get("device") == "cpu"
    )
