"""Estimates of GPU memory against PyTorch's memory tracker at real sizes, and what a CPU allocates."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import pytest
from real_models import REAL
from small_study import TESTS, environment, free_port

from jobs.core.widths import widths
from jobs.training import attention, loss
from launch.study import gpu_memory
from launch.study.deepspeed import deepspeed
from launch.study.gpu_memory import Estimate, Way, activations, estimate, states
from launch.study.schema import load_study

tracked = pytest.importorskip("tracked_training")
import deepspeed_memory  # noqa: E402

STUDENTS = {s.name: s.architecture for s in load_study("scale-or-reason").students}
TOKENS = 16_384  # of the paper's blocks
# But models whose code around the head runs beside the model: the tracker takes it for another iteration.
TRACKED = [name for name in REAL if name not in ("gemma-2-2b", "granite-3.1-2b-base")]
FAST = ("qwen2.5-0.5b", "qwen2.5-7b")


def slowly(names: Iterable[str], fast: Iterable[str]) -> list[Any]:
    """Mark all but some as slow."""
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in names]


def experts(name: str) -> int:
    return widths(REAL[name][0]).experts


def how(tokens: int, **more: Any) -> Way:
    """One process, with several micro-batches in a step."""
    usual = {"checkpointing": False, "deepspeed": None, "dtype": "bf16", "processes": 1}
    return Way(block=tokens, micro_batch=1, repeated=True, **{**usual, **more})


def of(config: dict[str, Any], tokens: int, **more: Any) -> Estimate:
    return estimate(widths(config), how(tokens, **more))


def short(config: dict[str, Any], layers: int) -> dict[str, Any]:
    """A model of the same widths with fewer layers: what they keep is proportional to their number."""
    cut = {key: config[key][:layers] for key in ("layer_types", "no_rope_layers") if config.get(key)}
    dense = {"first_k_dense_replace": 1} if "first_k_dense_replace" in config else {}
    return {**config, **cut, **dense, "num_hidden_layers": layers}


def compare(config: dict[str, Any], tokens: int, checkpointing: bool, half: bool) -> None:
    """Compare what the tracker sees beside weights, gradients and optimizer with the estimate.

    Args:
        half: whether weights and gradients are bf16, without DeepSpeed's optimizer; else weights are fp32 and
            cast to bf16 for products.
    """
    seen = tracked.peak(config, tokens, checkpointing, half=half)
    way = how(tokens, checkpointing=checkpointing, deepspeed=deepspeed(1) if half else None)
    model = widths(config)
    held = 4 * model.parameters if half else sum(states(model.parameters, way), 0.0)
    assert max(activations(model, way)) == pytest.approx(seen - held, rel=0.1)


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", slowly(STUDENTS, FAST))
def test_students_need_what_the_tracker_sees(name: str, checkpointing: bool, half: bool) -> None:
    compare(short(STUDENTS[name], 3), 4096, checkpointing, half)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_smallest_student_at_its_full_size(checkpointing: bool) -> None:
    compare(STUDENTS["qwen2.5-0.5b"], TOKENS, checkpointing, half=True)


@pytest.mark.parametrize("name", slowly(TRACKED, ["pythia-1b", "gemma-3-1b-pt"]))
def test_families_need_what_the_tracker_sees_with_zero(name: str) -> None:
    compare(short(REAL[name][0], 2), 2048, False, half=True)


@pytest.mark.parametrize("name", slowly([n for n in TRACKED if not experts(n)], ["starcoder2-3b"]))
def test_families_need_what_the_tracker_sees_without(name: str) -> None:
    """But for experts, whose products torch computes in bf16 only."""
    compare(short(REAL[name][0], 2), 2048, False, half=False)


def test_constants_are_those_of_the_training() -> None:
    assert (gpu_memory.ELEMENTS, gpu_memory.FEWEST) == (loss.ELEMENTS, loss.FEWEST)
    assert gpu_memory.PIECE == attention.STEP


BASE = {
    "vocab_size": 4096, "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 4, "intermediate_size": 704, "max_position_embeddings": 4096,
}  # fmt: skip
SHAPES: dict[str, tuple[dict[str, Any], int, bool]] = {
    "llama": ({"model_type": "llama", **BASE}, 2048, False),
    "tied, recomputed": (
        {"model_type": "qwen2", **BASE, "tie_word_embeddings": True, "num_hidden_layers": 8}, 2048, True,
    ),
    "large vocabulary": ({"model_type": "llama", **BASE, "vocab_size": 32_000}, 1024, False),
    "normalized queries": ({"model_type": "qwen3", **BASE, "head_dim": 64}, 2048, False),
    "plain MLP": ({"model_type": "gpt_neox", **BASE, "intermediate_size": 1024}, 2048, False),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_real_steps_allocate_as_much(name: str) -> None:
    config, tokens, checkpointing = SHAPES[name]
    seen = tracked.allocated(config, tokens, checkpointing)
    need = of(config, tokens, checkpointing=checkpointing, dtype="fp32")
    assert need.states + need.activations == pytest.approx(seen, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "within"), [(1, 0.1), (2, 0.35), (3, 0.35)])
def test_deepspeed_allocates_as_much(stage: int, within: float) -> None:
    """Two processes, each of which holds its part; buckets smaller than the model.

    From ZeRO 2 on, time decides how much is exchanged at once, which counts in a model as small as this.
    """
    bucket, port, processes = 1_000_000, free_port(), []
    for rank in range(2):
        where = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        where |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        command = [sys.executable, str(TESTS / "deepspeed_memory.py"), str(stage), str(bucket)]
        started = subprocess.Popen(
            command, env=environment(**where), stdout=subprocess.PIPE, encoding="utf-8"
        )
        processes.append(started)
    said = [process.communicate(timeout=300)[0] for process in processes]
    zero = {"zero_optimization": {"stage": stage, "reduce_bucket_size": bucket}}
    need = of(deepspeed_memory.CONFIG, deepspeed_memory.TOKENS, deepspeed=zero, processes=2)
    for words in said:
        seen = int(words.split("PEAK ")[1].split()[0])
        assert need.states + need.activations + need.communication == pytest.approx(seen, rel=within)
