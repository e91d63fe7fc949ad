"""Causes told from the words of real libraries, and what follows from a row of runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from huggingface_hub import errors

from jobs.core.causes import (
    ANSWERS,
    Cause,
    Run,
    cause_of,
    failures,
    first_error,
    fitting,
    goes_on,
    last_run,
    named,
)
from jobs.runtime.signals import REASONS

# As they were printed by torch 2.13, NCCL 2.27, vLLM 0.32, transformers 5.19 and datasets 5.2.
TEXTS = {
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.32 GiB. GPU 0 has a total capacity of": (
        Cause.GPU_MEMORY
    ),
    "torch.AcceleratorError: CUDA error: out of memory\nCUDA kernel errors might be asynchronously": (
        Cause.GPU_MEMORY
    ),
    "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED": Cause.GPU_MEMORY,
    "ValueError: Free memory on device cuda:0 (3.1/79.2 GiB) on startup is less than desired GPU memory": (
        Cause.GPU_MEMORY
    ),
    "torch.AcceleratorError: CUDA error: uncorrectable ECC error encountered": Cause.NODE,
    "OSError: [Errno 116] Stale file handle: '/scratch/x'": Cause.NODE,
    "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:3690, remote process exited "
    "or there was a network error, NCCL version 2.27.3\nncclRemoteError: A call failed": Cause.NETWORK,
    "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:432: "
    "Connection reset by peer. This is typically caused by a remote worker hanging": Cause.NETWORK,
    "RuntimeError: [../gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 6000ms": (
        Cause.NETWORK
    ),
    "RuntimeError: Application timeout caused pair closure": Cause.NETWORK,
    "RuntimeError: [enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534": Cause.DISK,
    "SafetensorError: Error while serializing: I/O error: No space left on device (os error 28)": Cause.DISK,
    "OSError: [Errno 122] Disk quota exceeded": Cause.DISK,
    "ConnectionError: Couldn't reach 'openai/gsm8k' on the Hub (LocalEntryNotFoundError)": Cause.HUB,
    "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' or 'namespace/name'"
    ": '/data/out/tokenizer'. Use `repo_type` argument if needed.": Cause.CODE,
    "OSError: We couldn't connect to 'https://huggingface.co' to load the files": Cause.HUB,
    "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. See stack trace (above)": (
        Cause.KILLED
    ),
    "was killed by signal 9": Cause.KILLED,
    "reached its time limit": Cause.TIME_LIMIT,
    "ran out of memory": Cause.MEMORY,
    "its node failed": Cause.NODE,
    "was preempted, and Slurm did not requeue it": Cause.PREEMPTED,
    "was cancelled in Slurm by root": Cause.CANCELLED,
    "KeyboardInterrupt: ": Cause.CANCELLED,
    "KeyError: 'prompt'": Cause.CODE,
    "torch.AcceleratorError: CUDA error: device-side assert triggered": Cause.CODE,
}  # fmt: skip


def raised(code: Callable[[], Any]) -> BaseException:
    with pytest.raises(BaseException) as found:  # noqa: PT011
        code()
    return found.value


@pytest.mark.parametrize("text", TEXTS)
def test_words(text: str) -> None:
    assert cause_of(text) == TEXTS[text]


def test_every_cause_has_an_answer_and_a_signal_its_cause() -> None:
    assert set(ANSWERS) == set(Cause)
    assert [cause_of(reason) for reason in REASONS.values()] == [Cause.TIME_LIMIT, Cause.PREEMPTED]


def test_memory_that_is_not_there() -> None:
    assert cause_of(raised(lambda: torch.empty(10**15))) == Cause.MEMORY
    assert cause_of(raised(lambda: np.zeros(10**14))) == Cause.MEMORY
    assert cause_of(torch.OutOfMemoryError("CUDA out of memory.")) == Cause.GPU_MEMORY
    assert named(torch.OutOfMemoryError("no")).startswith("torch.OutOfMemoryError")


def test_a_full_disk() -> None:
    def write() -> None:
        with open("/dev/full", "w", encoding="utf-8") as full:
            full.write("x")

    assert cause_of(raised(write)) == Cause.DISK


def test_a_hub_that_is_not_there_and_one_that_says_no() -> None:
    def unreachable() -> None:
        try:
            raise httpx.ConnectError("[Errno 111] Connection refused")
        except httpx.ConnectError as error:
            raise errors.LocalEntryNotFoundError(
                "An error happened while trying to locate the file"
            ) from error

    assert cause_of(raised(unreachable)) == Cause.HUB
    assert issubclass(errors.GatedRepoError, errors.RepositoryNotFoundError)
    assert cause_of("huggingface_hub.errors.GatedRepoError: 403 Client Error. Cannot access") == Cause.CODE


def test_a_hub_that_was_switched_off() -> None:
    """In a process of its own: that it is off is read at import."""
    code = (
        "from huggingface_hub import hf_hub_download\nfrom jobs.core.causes import cause_of\n"
        "try: hf_hub_download('a/b', 'config.json')\nexcept Exception as error: print(cause_of(error))\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, encoding="utf-8"
    )
    assert done.stdout == "code error\n", done.stderr


def line(
    cause: Cause | None, kept: int = 0, attempt: int = 1, restart: int = 0, rank: int = 0, **more: Any
) -> dict[str, Any]:
    return {
        "attempt": attempt, "restart": restart, "worker": 0, "rank": rank, "time": 0.0, "cause": cause,
        "error": cause and f"{cause}!", "kept": kept, "micro_batch": None, "seconds": 1.0, "host": "h",
        **more,
    }  # fmt: skip


def test_of_an_attempt_the_last_run_of_each_worker_counts_and_of_a_run_the_first_error() -> None:
    lines = [
        line(Cause.NETWORK, restart=0), line(Cause.HANG, restart=1, time=5.0),
        line(Cause.CODE, restart=1, time=4.0), line(None, restart=0, worker=1),
        line(Cause.DISK, attempt=2),
    ]  # fmt: skip
    assert last_run(lines, 1) == lines[1:4]
    assert first_error(last_run(lines, 1)) == lines[2]
    assert first_error([lines[3]]) is None
    assert [run.cause for run in failures(lines, since=1)] == [Cause.NETWORK, Cause.CODE, Cause.DISK]
    assert [run.cause for run in failures(lines, since=2)] == [Cause.DISK]
    assert failures(lines, since=1, worker=1) == []


def row(cause: Cause, *kept: int) -> list[Run]:
    return [Run(cause, "", each) for each in kept]


FRUITLESS = {  # runs in a row without progress after which another one is started
    Cause.PREEMPTED: 10, Cause.TIME_LIMIT: 0, Cause.NODE: 3, Cause.MEMORY: 1, Cause.GPU_MEMORY: None,
    Cause.NETWORK: 3, Cause.DISK: 3, Cause.HUB: 3, Cause.ENDPOINT: 3, Cause.HANG: 3, Cause.KILLED: 3,
    Cause.CODE: None, Cause.CANCELLED: None,
}  # fmt: skip


@pytest.mark.parametrize("cause", Cause)
def test_runs_go_on_while_they_get_further_and_a_while_longer(cause: Cause) -> None:
    further = row(cause, *range(1, 50))
    fruitless = FRUITLESS[cause]
    assert goes_on(further) == (fruitless is not None)
    if fruitless is not None:
        assert goes_on([*further, *row(cause, *[49] * fruitless)])
        assert not goes_on([*further, *row(cause, *[49] * (fruitless + 1))])
        assert goes_on([*further, *row(cause, *[49] * (fruitless + 1)), *row(cause, 50)])


def test_a_time_limit_that_is_too_short_is_not_tried_twice() -> None:
    assert not goes_on(row(Cause.TIME_LIMIT, 0))
    assert goes_on(row(Cause.TIME_LIMIT, 1))
    assert not goes_on(row(Cause.TIME_LIMIT, 1, 1))


def test_a_micro_batch_that_does_not_fit_is_halved_once() -> None:
    first, second = (Run(Cause.GPU_MEMORY, "", 0, micro) for micro in (8, 4))
    assert goes_on([first], micro_batch=8)
    assert not goes_on([first, second], micro_batch=8)
    assert not goes_on([Run(Cause.GPU_MEMORY, "", 0, 1)], micro_batch=1)
    assert not goes_on([Run(Cause.GPU_MEMORY, "", 0)])  # not a training
    lines = [line(Cause.GPU_MEMORY, micro_batch=8)]
    assert fitting(8, []) == 8
    assert fitting(8, lines) == 4
    assert fitting(6, lines) == 6  # it was changed since
    assert fitting(None, lines) is None
    assert fitting(1, [line(Cause.GPU_MEMORY, micro_batch=1)]) == 1
