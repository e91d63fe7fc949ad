"""Resources of this machine for jobs: its GPUs, and whether a unit fits at all. Nothing here loads CUDA."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from jobs.core.unit import Resources

DRIVER = Path("/proc/driver/nvidia/gpus")  # one folder per GPU
_KINDS = {"": re.compile(r"(\d+).*"), "GPU-": re.compile(r"(GPU-.+)"), "MIG-": re.compile(r"(MIG-.+)")}


def visible_gpus(environ: Mapping[str, str] = os.environ, driver: Path = DRIVER) -> tuple[str, ...]:
    """Return the NVIDIA GPUs that jobs may use, in the form of CUDA_VISIBLE_DEVICES: number, UUID or MIG.

    The variable is read as by CUDA's driver: if it is unset, all GPUs count; the list ends at the first entry
    that is invalid, or of another kind than the first one, so that `-1`, an empty list and Slurm's
    `NoDevFiles` mean no GPU at all; so does a duplicate.
    """
    installed = len(list(driver.glob("*")))
    limited = environ.get("CUDA_VISIBLE_DEVICES")
    if limited is None:
        return tuple(map(str, range(installed)))
    entries = [entry.strip() for entry in limited.split(",")]
    kind = _KINDS[entries[0][:4] if entries[0][:4] in _KINDS else ""]
    found: list[str] = []
    for entry in entries:
        named = kind.fullmatch(entry)
        if not named or (kind is _KINDS[""] and 0 < installed <= int(named[1])):
            break
        found.append(str(int(named[1])) if kind is _KINDS[""] else named[1])
    return tuple(found) if len(set(found)) == len(found) else ()


def fits(resources: Resources, cores: int, gpus: int) -> str | None:
    """Return why a unit can never run on a machine of this size.

    Returns:
        None if it can.
    """
    if resources.nodes > 1:
        return f"needs {resources.nodes} nodes, and this is a single machine"
    if resources.gpus_per_node > gpus:
        limited = os.environ.get("CUDA_VISIBLE_DEVICES")
        because = "" if limited is None else f" (CUDA_VISIBLE_DEVICES={limited})"
        return f"needs {resources.gpus_per_node} GPUs, and this machine has {gpus}{because}"
    wanted = resources.tasks_per_node * (1 if resources.gpus_per_node else resources.cpus_per_task)
    if wanted > cores:
        return f"needs {wanted} cores, and this machine has {cores}"
    return None
