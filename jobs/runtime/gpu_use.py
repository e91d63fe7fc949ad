"""Use of a job's GPUs: how busy they are, and how much of their memory is taken.

Asks the library of NVIDIA's driver (NVML), not CUDA: this creates no CUDA context, and includes what the
processes of an engine use. For other GPUs, and without a module for NVML, nothing is known. Never raises.
"""

from __future__ import annotations

import importlib
import os
import sys
from contextlib import suppress
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

MIB = 1 << 20


class GpuUse:
    """Reads the GPUs that this process may use; on a job with several nodes, those of its own node."""

    def __init__(self) -> None:
        self._nvml: Any = None
        self._handles: list[Any] | None = None  # None: not looked for yet

    def read(self) -> list[dict[str, int | None]] | None:
        """Return the use of each GPU of which anything is known.

        Returns:
            "busy": percent of the last second, or less, in which the GPU computed; None for a slice of a GPU
            (MIG). "used" and "total": memory in MiB, by all processes. None instead of an empty list.
        """
        if self._handles is None:
            self._handles = []
            with suppress(Exception):  # missing libraries and drivers fail in many ways
                self._nvml = _module()
                self._nvml.nvmlInit()
                self._handles = _visible(self._nvml, os.environ.get("CUDA_VISIBLE_DEVICES"))
        found = [use for use in map(self._use, self._handles) if any(v is not None for v in use.values())]
        return found or None

    def _use(self, handle: Any) -> dict[str, int | None]:
        use: dict[str, int | None] = {"busy": None, "used": None, "total": None}
        with suppress(Exception):  # not supported (MIG), not permitted (in containers), a lost GPU
            use["busy"] = int(self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        with suppress(Exception):
            memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
            use |= {"used": int(memory.used) // MIB, "total": int(memory.total) // MIB}
        return use


def _module() -> Any:
    """Return nvidia-ml-py's module, or the copy that vLLM has of it, without importing vLLM."""
    with suppress(ImportError):
        return importlib.import_module("pynvml")
    vllm = find_spec("vllm")
    places = (vllm.submodule_search_locations if vllm else None) or []
    path = next(p for place in places if (p := Path(place) / "third_party" / "pynvml.py").is_file())
    spec = spec_from_file_location("_sor_pynvml", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = module_from_spec(spec)  # it looks itself up there
    spec.loader.exec_module(module)
    return module


def _visible(nvml: Any, chosen: str | None) -> list[Any]:
    """Return handles of the GPUs that CUDA_VISIBLE_DEVICES lists: indices, UUIDs or their first letters.

    NVML does not read that variable. In the cgroup of a Slurm job, CUDA and NVML both number the job's own
    GPUs from 0. As for CUDA, what follows an entry like -1 does not count.
    """
    count = nvml.nvmlDeviceGetCount()
    if chosen is None:
        chosen = ",".join(map(str, range(count)))
    handles = []
    for entry in map(str.strip, chosen.split(",")):
        if entry.isdecimal() and int(entry) < count:
            with suppress(Exception):  # not permitted
                handles.append(nvml.nvmlDeviceGetHandleByIndex(int(entry)))
        elif entry.startswith("MIG-"):
            with suppress(Exception):
                handles.append(nvml.nvmlDeviceGetHandleByUUID(entry))
        elif entry.startswith("GPU-"):
            handles += _of_uuid(nvml, count, entry)
        else:
            break
    return handles


def _of_uuid(nvml: Any, count: int, start: str) -> list[Any]:
    """Return the handle of the GPU whose UUID starts so."""
    for index in range(count):
        with suppress(Exception):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            uuid = nvml.nvmlDeviceGetUUID(handle)
            if (uuid.decode() if isinstance(uuid, bytes) else uuid).startswith(start):
                return [handle]
    return []
