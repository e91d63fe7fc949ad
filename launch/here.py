"""What this machine offers to jobs: its GPUs, and whether a unit fits at all. Nothing here loads CUDA."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from jobs.unit import Resources

DRIVER = Path("/proc/driver/nvidia/gpus")  # a folder for each GPU
_ID = re.compile(r"\d+|(?:GPU|MIG)-[\w/-]+")


def visible_gpus(environ: Mapping[str, str] = os.environ, driver: Path = DRIVER) -> tuple[str, ...]:
    """The NVIDIA GPUs that jobs may use, as CUDA_VISIBLE_DEVICES names them: by number, UUID or MIG instance.

    Read as CUDA reads that variable: without it all GPUs count; the list ends at the first entry that names
    none, so that `-1`, an empty list and Slurm's `NoDevFiles` mean no GPU at all.
    """
    installed = len(list(driver.glob("*")))
    limited = environ.get("CUDA_VISIBLE_DEVICES")
    if limited is None:
        return tuple(map(str, range(installed)))
    found: dict[str, None] = {}
    for entry in map(str.strip, limited.split(",")):
        if not _ID.fullmatch(entry) or (entry.isdigit() and 0 < installed <= int(entry)):
            break
        found[str(int(entry)) if entry.isdigit() else entry] = None
    return tuple(found)


def fits(resources: Resources, cores: int, gpus: int) -> str | None:
    """Why a unit can never run on a machine of this size; None if it can."""
    if resources.nodes > 1:
        return f"needs {resources.nodes} nodes, and this is one machine"
    if resources.gpus_per_node > gpus:
        limited = os.environ.get("CUDA_VISIBLE_DEVICES")
        because = "" if limited is None else f" (CUDA_VISIBLE_DEVICES={limited})"
        return f"needs {resources.gpus_per_node} GPUs, and this machine has {gpus}{because}"
    wanted = resources.tasks_per_node * (1 if resources.gpus_per_node else resources.cpus_per_task)
    if wanted > cores:
        return f"needs {wanted} cores, and this machine has {cores}"
    return None
