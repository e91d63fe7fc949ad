"""The processes that train one student together: set up through accelerate, with DeepSpeed where the preset
asks for ZeRO, and what they tell each other.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from jobs.training.schedule import Recipe, micro_steps


def accelerate(recipe: Recipe, execution: dict[str, Any], world: int) -> Any:
    """An Accelerator, with DeepSpeed where `execution` holds a configuration for it.

    Raises:
        ValueError: the global batch does not divide into the processes' micro-batches.
    """
    import torch
    from accelerate import Accelerator

    micro = micro_steps(recipe.batch, execution["micro_batch"], world)
    if execution["deepspeed"] is None:
        mixed = "bf16" if recipe.dtype == "bf16" else "no"
        cpu = not torch.cuda.is_available()
        made = Accelerator(mixed_precision=mixed, cpu=cpu, gradient_accumulation_steps=micro)
    else:
        made = with_deepspeed(recipe, execution, micro)
    assert made.num_processes == world, f"accelerate sees {made.num_processes} processes of {world}"
    return made


def with_deepspeed(recipe: Recipe, execution: dict[str, Any], micro: int) -> Any:
    """An Accelerator that trains through DeepSpeed; `micro` is the number of micro-batches per step."""
    import torch
    from accelerate import Accelerator, PartialState
    from accelerate.utils import DeepSpeedPlugin

    config = {
        **execution["deepspeed"],
        "bf16": {"enabled": recipe.dtype == "bf16"},
        "gradient_clipping": recipe.clip,
        "train_micro_batch_size_per_gpu": execution["micro_batch"],
        "gradient_accumulation_steps": micro,
    }
    # Of a job of one process; without them DeepSpeed would look for MPI.
    alone = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 0}
    for name, value in alone.items():
        os.environ.setdefault(name, str(value))
    on_cpu = not torch.cuda.is_available()
    if on_cpu:
        prepare_cpu()
    plugin = DeepSpeedPlugin(hf_ds_config=config, zero3_init_flag=config["zero_optimization"]["stage"] == 3)
    made = Accelerator(deepspeed_plugin=plugin, gradient_accumulation_steps=micro)
    if on_cpu:  # where accelerate knows no backend it leaves DeepSpeed's processes uncounted
        for state in (PartialState(), made.state):
            state.num_processes = torch.distributed.get_world_size()
            state.process_index = torch.distributed.get_rank()
            state.local_process_index = int(os.environ["LOCAL_RANK"])
    return made


def prepare_cpu() -> None:
    """Have DeepSpeed run on CPUs through gloo, and not compile its shared-memory exchange, which would need
    a minute, a C++ compiler and Python's headers for the sake of small tests."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # `cpu=True` of accelerate would drop DeepSpeed silently
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def summed(loss: Any) -> float:
    """The sum of all processes' parts of the loss."""
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(loss)
    return float(loss)


def agreed(accelerator: Any, values: Sequence[int]) -> list[int]:
    """The largest of each of these numbers over all processes; they wait for each other."""
    import torch

    together = torch.tensor([0, *map(int, values)], device=accelerator.device)  # one number at least
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(together, torch.distributed.ReduceOp.MAX)
    found: list[int] = together.tolist()
    return found[1:]


def part(accelerator: Any) -> None:
    """End what connects the processes, once all of them are here.

    The barrier is the last exchange since it holds no tensor: a thread of gloo that lets go of one needs
    Python's lock, which is held while the end of the group waits for that thread.
    """
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.barrier()
    accelerator.end_training()
