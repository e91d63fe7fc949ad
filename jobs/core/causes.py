"""Why a run of a unit ended and what follows from it: one table for jobs and for launch.

After an infrastructure failure the run is repeated, as long as runs keep making progress; after an error in
code or settings it is not. The module is pure: it reads no files and queries no machine.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any


class Cause(StrEnum):
    """Why a run ended without the unit's result."""

    PREEMPTED = "preempted"
    TIME_LIMIT = "time limit"
    NODE = "node failure"
    MEMORY = "out of memory"
    GPU_MEMORY = "out of GPU memory"
    NETWORK = "network"
    DISK = "disk full"
    HUB = "hub unreachable"
    ENDPOINT = "endpoint unreachable"
    HANG = "hang"
    KILLED = "killed"
    CODE = "code error"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Answer:
    """Response to a cause.

    Attributes:
        fruitless: Number of consecutive runs without progress that are still followed by another run; None if
            no run follows, whatever was kept.
        advice: What the user can do.
    """

    fruitless: int | None
    advice: str


ANSWERS = {
    Cause.PREEMPTED: Answer(10, "it was preempted repeatedly before it had saved anything"),
    Cause.TIME_LIMIT: Answer(
        0, "the next submit requests max_hours of the cluster file; raise that if it was not enough"
    ),
    Cause.NODE: Answer(
        3, "check the node (sinfo -R), or exclude it in the cluster file (sbatch: {exclude: NODE})"
    ),
    Cause.MEMORY: Answer(
        1,
        "the next submit requests twice as much; the cluster file can set more (stages: {STAGE: {mem: …}})",
    ),
    Cause.GPU_MEMORY: Answer(
        None,
        "lower micro_batch (in generation max_model_len), or use more GPUs, a higher ZeRO stage, or "
        "sequence_parallel",
    ),
    Cause.NETWORK: Answer(3, "find the first rank that ended; NCCL_DEBUG=INFO in the template logs more"),
    Cause.DISK: Answer(3, "free some space, or get a larger quota; finished work is kept"),
    Cause.HUB: Answer(
        3, "set 'offline: true' in the cluster file, and run 'sor prefetch STUDY' on a login node"
    ),
    Cause.ENDPOINT: Answer(
        3, "see that the endpoint (serving.url of the teacher) answers, then submit again; rows are kept"
    ),
    Cause.HANG: Answer(3, "the log contains all ranks' stacks at that moment"),
    Cause.KILLED: Answer(3, "find out what killed it: the memory limit, an administrator, the node"),
    Cause.CODE: Answer(None, "fix the error in the log"),
    Cause.CANCELLED: Answer(None, "the next submit continues from the work that is kept"),
}

# The first match counts. Errors that only look like an outage come first.
SIGNS = (
    # The words of an endpoint follow, which may be any.
    (Cause.CODE, r"\bEndpointRefused: "),
    (Cause.ENDPOINT, r"\bEndpointFailed: "),
    (Cause.CODE, r"\b(Repository|Revision|RemoteEntry)NotFoundError|GatedRepoError|40[134] Client Error"),
    (Cause.CODE, r"\bHFValidationError|Repo id must be in the form"),
    (Cause.CODE, r"offline mode is enabled|outgoing traffic has been disabled"),
    (Cause.CODE, r"exit code \d+ without (an error message|saying why)"),
    (Cause.DISK, r"\[Errno (28|122)\]|No space left|os error 28\b|[Dd]isk quota exceeded"),
    (Cause.DISK, r"PytorchStreamWriter failed|inline_container\.cc.*unexpected pos"),
    (Cause.GPU_MEMORY, r"(CUDA|HIP|XPU) out of memory|torch\.OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED"),
    (Cause.GPU_MEMORY, r"CUDA error: out of memory|Cuda failure 'out of memory'"),
    (Cause.GPU_MEMORY, r"No available memory for the cache blocks|Free memory on device"),
    (Cause.MEMORY, r"MemoryError\b|\[Errno 12\]|[Cc]annot allocate memory|can't allocate memory"),
    (Cause.MEMORY, r"std::bad_alloc|oom[-_]kill|ran out of memory|[Ee]xceeded .*memory limit"),
    (Cause.NODE, r"ECC error|fallen off the bus|unspecified launch failure|CUDA error: unknown error"),
    (Cause.NODE, r"CUDA-capable device|devices? (is|are) busy or unavailable|library version mismatch"),
    (Cause.NODE, r"\[Errno (5|107|116|121)\]|Stale file handle|its node (failed|did not boot)"),
    (Cause.HUB, r"huggingface_hub\.errors\.|\bhttpx\.|on the Hub|couldn't connect to 'http|LocalEntryNotF"),
    (Cause.HUB, r"Max retries exceeded with url|429 Client Error|50\d Server Error"),
    (Cause.NETWORK, r"\bDist(Network|Backend|Store)?Error|\bNCCL|\bnccl\w+Error|\bgloo\b|pair closure"),
    (Cause.NETWORK, r"\[Errno (104|11[0-3])\]|Connection (closed|reset|refused)|Broken pipe"),
    (Cause.NETWORK, r"\bConnection\w*Error|Name or service not known|Watchdog caught collective"),
    (Cause.NETWORK, r"[Tt]imed out (waiting|after) "),
    (Cause.KILLED, r"EngineDeadError|EngineCore|killed by signal|without an error|without a word"),
    (Cause.KILLED, r"without saying why|left no result|as [A-Z_]+ (according to Slurm|by Slurm's account)"),
    (Cause.TIME_LIMIT, r"time limit"),
    (Cause.PREEMPTED, r"preempted"),
    (Cause.CANCELLED, r"\bcancelled\b|KeyboardInterrupt"),
)


def cause_of(error: BaseException | str) -> Cause:
    """Return the cause of an exception, including its chain, or of an error message."""
    words = error if isinstance(error, str) else "\n".join(map(named, _chain(error)))
    return _shown_by(words)


@lru_cache(maxsize=4096)  # thousands of units fail with the same message and are polled repeatedly
def _shown_by(words: str) -> Cause:
    return next((cause for cause, sign in SIGNS if re.search(sign, words)), Cause.CODE)


def named(error: BaseException) -> str:
    """Format an exception with its full type, as in tracebacks."""
    kind = type(error)
    home = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"{home}{kind.__qualname__}: {error}"


def _chain(error: BaseException) -> list[BaseException]:
    """Return an exception and its causes, the outermost first."""
    found: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in found:
        found.append(at)
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)
    return found


@dataclass(frozen=True)
class Run:
    """One run of one worker, all its ranks together; resuming after an interruption is another run."""

    cause: Cause | None  # of the first failure; this and `error` are None on success
    error: str | None
    kept: int  # work that the next run need not repeat, in the stage's own unit
    micro_batch: int | None = None  # of a training, in this run
    attempt: int = 1
    restart: int = 0
    worker: int = 0
    seconds: float | None = None  # since the start of its first process; None if unknown
    memory: int | None = None  # peak MiB of its ranks on one node, as far as they could measure
    asked: int | None = None  # MiB of a node granted to it
    host: str | None = None
    ended: float = 0.0  # seconds since the epoch


def runs(lines: Iterable[dict[str, Any]]) -> list[Run]:
    """Group lines of attempts.jsonl into runs, in the order in which they were written."""
    ranks = defaultdict[tuple[int, int, int], list[dict[str, Any]]](list)
    for line in lines:
        ranks[line["attempt"], line["restart"], line["worker"]].append(line)
    return [_run(lines) for lines in ranks.values()]


def _run(lines: list[dict[str, Any]]) -> Run:
    first = first_error(lines) or lines[0]
    held = Counter[str | None]()
    for rank in lines:
        held[rank["host"]] += rank.get("memory") or 0
    return Run(
        memory=max(held.values()) or None,
        asked=max(rank.get("asked") or 0 for rank in lines) or None,
        cause=Cause(first["cause"]) if first["error"] else None,
        error=first["error"],
        kept=max(int(rank["kept"]) for rank in lines),
        micro_batch=first["micro_batch"],
        attempt=first["attempt"],
        restart=first["restart"],
        worker=first["worker"],
        seconds=max((rank["seconds"] for rank in lines if rank["seconds"] is not None), default=None),
        host=first["host"],
        ended=max(rank["time"] for rank in lines),
    )


def failures(lines: Iterable[dict[str, Any]], since: int, worker: int = 0) -> list[Run]:
    """Return a worker's runs from attempt `since` on that ended without a result, in order."""
    found = [run for run in runs(lines) if run.worker == worker and run.attempt >= since and run.error]
    return sorted(found, key=lambda run: (run.attempt, run.restart))


def last_run(lines: Iterable[dict[str, Any]], attempt: int) -> list[dict[str, Any]]:
    """Return the lines of an attempt's last run, for each of its workers."""
    mine = [line for line in lines if line["attempt"] == attempt]
    last: dict[int, int] = {}
    for line in mine:
        last[line["worker"]] = max(line["restart"], last.get(line["worker"], 0))
    return [line for line in mine if line["restart"] == last[line["worker"]]]


def first_error(lines: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the earliest error line of a run, which caused the others; None if there is none."""
    failed = [line for line in lines if line["error"]]
    return min(failed, key=lambda line: float(line["time"])) if failed else None


def goes_on(failed: Sequence[Run], micro_batch: int | None = None) -> bool:
    """Whether another run follows the last of these failures.

    Args:
        failed: At least one run.
        micro_batch: Configured micro-batch of a training; half of it is tried if it did not fit into the GPU.
    """
    last = failed[-1]
    assert last.cause is not None
    if last.cause == Cause.GPU_MEMORY:
        return last.micro_batch == micro_batch and half(micro_batch) is not None
    allowed = ANSWERS[last.cause].fruitless
    return allowed is not None and _fruitless(failed) <= allowed


def _fruitless(failed: Sequence[Run]) -> int:
    """Return the number of trailing runs that kept nothing beyond earlier ones."""
    best, count = 0, 0
    for run in failed:
        best, count = (run.kept, 0) if run.kept > best else (best, count + 1)
    return count


def half(micro_batch: int | None) -> int | None:
    """Return half of an even micro-batch, else None; half of a divisor of the batch divides it, too."""
    return micro_batch // 2 if micro_batch and micro_batch % 2 == 0 else None


def fitting(micro_batch: int | None, lines: Iterable[dict[str, Any]]) -> int | None:
    """Return the micro-batch to train with: half of the configured one if that ran out of GPU memory."""
    tried = any(e["cause"] == Cause.GPU_MEMORY and e["micro_batch"] == micro_batch for e in lines)
    return (half(micro_batch) if tried else None) or micro_batch
