"""Set up the processes that train one student, through accelerate, with DeepSpeed if the preset asks for
ZeRO, and their collective operations.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from typing import Any

from jobs.store.checkpoints import zero_stage
from jobs.training.schedule import Recipe, micro_steps


def import_training() -> None:
    """Import what any training needs."""
    import accelerate
    import torch  # noqa: F401

    if accelerate.utils.is_deepspeed_available():
        importlib.import_module("deepspeed")


def accelerate(recipe: Recipe, execution: dict[str, Any], world: int) -> Any:
    """Create an Accelerator, with DeepSpeed if `execution` holds a configuration for it.

    Raises:
        ValueError: As from `micro_steps`.
    """
    import torch
    from accelerate import Accelerator

    micro = micro_steps(recipe.batch, execution["micro_batch"], world, execution["sequence_parallel"] or 1)
    if execution["deepspeed"] is None:
        mixed = "bf16" if recipe.dtype == "bf16" else "no"
        cpu = not torch.cuda.is_available()
        made = Accelerator(mixed_precision=mixed, cpu=cpu, gradient_accumulation_steps=micro)
    else:
        made = with_deepspeed(recipe, execution, micro)
    assert made.num_processes == world, f"accelerate sees {made.num_processes} processes of {world}"
    return made


def with_deepspeed(recipe: Recipe, execution: dict[str, Any], micro: int) -> Any:
    """Create an Accelerator that trains through DeepSpeed; `micro` is the micro-batches per step."""
    import torch
    from accelerate import Accelerator, PartialState
    from accelerate.utils import DeepSpeedPlugin

    config = {
        **precision(recipe.dtype, zero_stage(execution) or 0),
        **execution["deepspeed"],
        "gradient_clipping": recipe.clip,
        "train_micro_batch_size_per_gpu": execution["micro_batch"],
        "gradient_accumulation_steps": micro,
    }
    # For a job of one process; without them DeepSpeed would look for MPI.
    alone = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 0}
    for name, value in alone.items():
        os.environ.setdefault(name, str(value))
    on_cpu = not torch.cuda.is_available()
    if on_cpu:
        prepare_cpu()
    plugin = DeepSpeedPlugin(hf_ds_config=config, zero3_init_flag=config["zero_optimization"]["stage"] == 3)
    made = Accelerator(deepspeed_plugin=plugin, gradient_accumulation_steps=micro)
    if on_cpu:  # without a known backend, accelerate leaves the process counts of DeepSpeed unset
        for state in (PartialState(), made.state):
            state.num_processes = torch.distributed.get_world_size()
            state.process_index = torch.distributed.get_rank()
            state.local_process_index = int(os.environ["LOCAL_RANK"])
    return made


def precision(dtype: str, stage: int) -> dict[str, Any]:
    """Return DeepSpeed's settings for a dtype: weights kept, gradients added up and reduced in fp32.

    DeepSpeed by itself does both in bf16 for a bf16 model. Without ZeRO it cannot do otherwise, so there the
    model stays in fp32 and computes in bf16, as without DeepSpeed.
    """
    if dtype != "bf16":
        return {"bf16": {"enabled": False}}
    if stage == 0:
        return {"bf16": {"enabled": False}, "torch_autocast": {"enabled": True, "dtype": "bfloat16"}}
    fp32 = {"data_types": {"grad_accum_dtype": "fp32"}, "communication_data_type": "fp32"}
    return {"bf16": {"enabled": True}, **fp32}


def prepare_cpu() -> None:
    """Make DeepSpeed run on CPUs through gloo without compiling its shared-memory communication.

    Compilation needs a minute, a C++ compiler and Python's headers, too much for small tests.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # accelerate's `cpu=True` would silently drop DeepSpeed
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def summed(losses: Any) -> list[float]:
    """Sum losses over all processes."""
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(losses)
    found: list[float] = losses.tolist()
    return found


def agreed(accelerator: Any, values: Sequence[int]) -> list[int]:
    """Return the elementwise maximum over all processes; also acts as a barrier."""
    import torch

    if not torch.distributed.is_initialized():
        return [int(value) for value in values]  # without waiting for a GPU
    together = torch.tensor([0, *map(int, values)], device=accelerator.device)  # at least one element
    torch.distributed.all_reduce(together, torch.distributed.ReduceOp.MAX)
    found: list[int] = together.tolist()
    return found[1:]


def part(accelerator: Any) -> None:
    """Tear down the process group once all processes have arrived.

    Whatever releases the group last waits for its threads. DDP's reducer would do that while it holds the
    GIL, which a gloo thread needs to release a tensor: both would wait for ever. So the group is kept until
    the process ends; Python releases it without the GIL.
    """
    import torch

    if torch.distributed.is_initialized():
        _parted.append(torch.distributed.group.WORLD)
        torch.distributed.barrier()
    accelerator.end_training()


_parted = list[Any]()
