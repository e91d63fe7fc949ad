"""The use of GPUs as a made-up NVML gives it: this has run on no real GPU."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import tiny

from jobs.core.unit import Resources, Unit
from jobs.runtime import gpu_use
from jobs.runtime.gpu_use import GpuUse
from jobs.store.progress import Progress, read_progress
from jobs.store.rundir import read_json
from launch.views import gpu_use as in_words

GIB = 1 << 30
UUIDS = ["GPU-aaaa-1", "GPU-aabb-2", "GPU-cccc-3", "GPU-dddd-4"]
SLICE = "MIG-1111"


class NVMLError(Exception):
    """As pynvml's."""


class Nvml(ModuleType):
    """A node with four GPUs of 80 GiB, of which each has its own use, and a slice of one.

    Args:
        fails: names of functions that fail.
        forbidden: indices of GPUs that this process may not open.
    """

    def __init__(self, fails: tuple[str, ...] = (), forbidden: tuple[int, ...] = ()) -> None:
        super().__init__("pynvml")
        self.fails, self.forbidden = set(fails), forbidden
        self.calls: list[str] = []

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name in self.fails:
            raise NVMLError(name)

    def nvmlInit(self) -> None:
        self._called("nvmlInit")

    def nvmlDeviceGetCount(self) -> int:
        self._called("nvmlDeviceGetCount")
        return len(UUIDS)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        self._called("nvmlDeviceGetHandleByIndex")
        if index in self.forbidden:
            raise NVMLError("Insufficient Permissions")
        return UUIDS[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        self._called("nvmlDeviceGetHandleByUUID")
        if uuid != SLICE:
            raise NVMLError("Not Found")
        return uuid

    def nvmlDeviceGetUUID(self, handle: str) -> bytes | str:
        return handle.encode() if handle == UUIDS[0] else handle  # older modules return bytes

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:
        self._called("nvmlDeviceGetUtilizationRates")
        if handle == SLICE:
            raise NVMLError("Not Supported")
        return SimpleNamespace(gpu=10 * (UUIDS.index(handle) + 1), memory=1)

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:
        self._called("nvmlDeviceGetMemoryInfo")
        if handle == SLICE:
            return SimpleNamespace(used=3 * GIB, total=10 * GIB)
        return SimpleNamespace(used=(UUIDS.index(handle) + 1) * GIB, total=80 * GIB)


def use(index: int) -> dict[str, int]:
    """What the made-up node says of a GPU."""
    return {"busy": 10 * (index + 1), "used": 1024 * (index + 1), "total": 80 * 1024}


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    made = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", made)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return made


@pytest.mark.parametrize(
    ("chosen", "indices"),
    [
        (None, [0, 1, 2, 3]), ("2,0", [2, 0]), (" 1 , 3", [1, 3]), ("GPU-cccc-3,GPU-aaaa", [2, 0]),
        ("3,GPU-aabb", [3, 1]), ("", []), ("-1", []), ("NoDevFiles", []), ("1,-1,2", [1]), ("1,7,2", [1]),
        ("GPU-eeee,0", [0]), ("MIG-2,1", [1]),
    ],
)  # fmt: skip
def test_gpus_are_those_that_the_job_may_use(
    chosen: str | None, indices: list[int], nvml: Nvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert GpuUse().read() == ([use(i) for i in indices] or None)


def test_a_slice_has_memory_and_no_utilisation(nvml: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", SLICE)
    found = GpuUse().read()
    assert found == [{"busy": None, "used": 3 * 1024, "total": 10 * 1024}]
    assert in_words({"gpus": found}) == "GPUs 1, 3 of 10 GiB"


def test_a_gpu_that_may_not_be_opened_is_left_out(nvml: Nvml) -> None:
    nvml.forbidden = (0, 2)
    assert GpuUse().read() == [use(1), use(3)]
    nvml.forbidden = (0, 1, 2, 3)
    assert GpuUse().read() is None


@pytest.mark.parametrize("fails", ["nvmlInit", "nvmlDeviceGetCount"])
def test_without_a_driver_nothing_is_known_and_it_is_asked_once(fails: str, nvml: Nvml) -> None:
    nvml.fails = {fails}
    gpus = GpuUse()
    assert gpus.read() is None
    calls = len(nvml.calls)
    assert gpus.read() is None
    assert len(nvml.calls) == calls


def test_without_a_module_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(gpu_use, "find_spec", lambda name: None)
    assert GpuUse().read() is None


def test_the_module_is_that_of_vllm_where_there_is_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without importing vLLM, which takes long. Here there is no driver behind it."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    before = set(sys.modules)
    module = gpu_use._module()
    assert Path(module.__file__).parts[-3:] == ("vllm", "third_party", "pynvml.py")
    assert not [name for name in set(sys.modules) - before if name.startswith("vllm")]
    asked = (
        "nvmlInit nvmlDeviceGetCount nvmlDeviceGetHandleByIndex nvmlDeviceGetHandleByUUID nvmlDeviceGetUUID"
    )
    for name in [*asked.split(), "nvmlDeviceGetUtilizationRates", "nvmlDeviceGetMemoryInfo"]:
        assert callable(getattr(module, name))


def test_an_error_in_mid_run_hides_what_it_is_about(nvml: Nvml) -> None:
    gpus = GpuUse()
    assert gpus.read() is not None
    nvml.fails = {"nvmlDeviceGetUtilizationRates"}
    assert gpus.read() == [{**use(i), "busy": None} for i in range(4)]
    nvml.fails |= {"nvmlDeviceGetMemoryInfo"}
    assert gpus.read() is None
    nvml.fails = set()
    assert gpus.read() == [use(i) for i in range(4)]
    assert nvml.calls.count("nvmlInit") == 1


def test_progress_holds_the_use_at_its_last_write(nvml: Nvml, tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    progress = Progress(path, gpus=GpuUse().read)
    progress.update(1, 9, "steps", force=True)
    assert read_json(path)["gpus"] == [use(i) for i in range(4)]
    calls = len(nvml.calls)
    progress.update(2, 9, "steps")  # too soon to be written
    progress.stalled("stands still")  # by the watchdog, which must not wait for a driver that hangs
    assert len(nvml.calls) == calls
    assert (read_progress(path) or {})["gpus"] == [use(i) for i in range(4)]
    nvml.fails = {"nvmlDeviceGetUtilizationRates", "nvmlDeviceGetMemoryInfo"}
    progress.update(3, 9, "steps", force=True)
    assert "gpus" not in read_json(path)


def test_only_the_first_process_of_a_job_with_gpus_asks(nvml: Nvml, tmp_path: Path) -> None:
    for gpus, place, asks in (
        (1, {}, True),
        (0, {}, False),
        (1, {"rank": 1}, False),
        (1, {"worker": 1}, False),
    ):
        unit = Unit("train", f"a{gpus}{place}", {}, resources=Resources(gpus_per_node=gpus))
        context = tiny.context(tmp_path, unit, **place)
        nvml.calls.clear()
        context.progress.update(1, 9, "steps", force=True)
        assert bool(nvml.calls) == asks


def test_the_use_in_words_is_the_mean_and_the_fullest() -> None:
    assert in_words(None) == in_words({}) == in_words({"gpus": None}) == ""
    assert in_words({"gpus": [use(0), use(1)]}) == "GPUs 2, 15 % busy, 2 of 80 GiB"
    assert in_words({"gpus": [{**use(0), "used": None}]}) == "GPUs 1, 10 % busy"
    assert in_words({"gpus": [{"busy": None, "used": 0, "total": 1024}]}) == "GPUs 1, 0 of 1 GiB"
    assert in_words({"gpus": [use(0), use(1)]}, short=True) == "15 %, 2 of 80 GiB"
    assert in_words({"gpus": [{}]}) == in_words({"gpus": [{}]}, short=True) == ""
