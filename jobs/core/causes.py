"""Why a run of a unit ended, and what follows from that: one table for jobs and for those who look at them.

Infrastructure fails, and the run is repeated, for as long as runs get further than those before; a mistake
in code or settings stays one, and is not. Pure and light: it reads no file and asks no machine.
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
    HANG = "hang"
    KILLED = "killed"
    CODE = "code error"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Answer:
    """What follows from a cause: how many runs in a row that kept nothing beyond those before are followed by
    another one (None: there is no other one, whatever was kept), and what a person can do then."""

    fruitless: int | None
    advice: str


ANSWERS = {
    Cause.PREEMPTED: Answer(10, "it was preempted again and again before it had anything to keep"),
    Cause.TIME_LIMIT: Answer(
        0, "'sor submit' gives it max_hours of the cluster file; raise that if a run had it and got nowhere"
    ),
    Cause.NODE: Answer(3, "look at the node (sinfo -R), or leave it out (sbatch: {exclude: NODE})"),
    Cause.MEMORY: Answer(
        1,
        "'sor submit' asks Slurm for twice as much; 'stages: {STAGE: {mem: …}}' in its file sets more",
    ),
    Cause.GPU_MEMORY: Answer(
        None, "lower micro_batch, or max_model_len where a model answers, or take more GPUs or a higher ZeRO"
    ),
    Cause.NETWORK: Answer(3, "look for the first rank that ended; NCCL_DEBUG=INFO in the template says more"),
    Cause.DISK: Answer(3, "make room, or have your quota raised: what is there stays"),
    Cause.HUB: Answer(3, "fetch it on a login node, and set HF_HUB_OFFLINE=1 in the template"),
    Cause.HANG: Answer(3, "the log holds every rank's stacks at that moment"),
    Cause.KILLED: Answer(3, "look for who killed it: the memory limit, an administrator, the node"),
    Cause.CODE: Answer(None, "fix what the log says"),
    Cause.CANCELLED: Answer(None, "'sor submit' goes on from what is there"),
}

# The first pattern that is found counts. Above all others stand those that only look like an outage.
SIGNS = (
    (Cause.CODE, r"\b(Repository|Revision|RemoteEntry)NotFoundError|GatedRepoError|40[134] Client Error"),
    (Cause.CODE, r"offline mode is enabled|outgoing traffic has been disabled"),
    (Cause.CODE, r"exit code \d+ without saying why"),
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
    (Cause.KILLED, r"EngineDeadError|EngineCore|killed by signal|without a word|without saying why"),
    (Cause.KILLED, r"left no result|as [A-Z_]+ by Slurm's account"),  # without accounts nobody knows more
    (Cause.TIME_LIMIT, r"time limit"),
    (Cause.PREEMPTED, r"preempted"),
    (Cause.CANCELLED, r"\bcancelled\b|KeyboardInterrupt"),
)


def cause_of(error: BaseException | str) -> Cause:
    """The cause that an exception shows, with those that it came from, or what is known of one in words."""
    words = error if isinstance(error, str) else "\n".join(map(named, _chain(error)))
    return _shown_by(words)


@lru_cache(maxsize=4096)  # thousands of units fail in the same words, and are asked about again and again
def _shown_by(words: str) -> Cause:
    return next((cause for cause, sign in SIGNS if re.search(sign, words)), Cause.CODE)


def named(error: BaseException) -> str:
    """An exception with its full type, as tracebacks show it."""
    kind = type(error)
    home = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"{home}{kind.__qualname__}: {error}"


def _chain(error: BaseException) -> list[BaseException]:
    """An exception and those that it came from, the last one first."""
    found: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in found:
        found.append(at)
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)
    return found


@dataclass(frozen=True)
class Run:
    """One run of one worker, all its ranks together. To go on after an interruption is another run."""

    cause: Cause | None  # of what came first; this and the error are None if all went well
    error: str | None
    kept: int  # how much the next run need not do again, in whatever the stage counts
    micro_batch: int | None = None  # of a training, as it was in this run
    attempt: int = 1
    restart: int = 0
    worker: int = 0
    seconds: float | None = None  # from the start of its first process; None if nobody knows
    memory: int | None = None  # MiB that its ranks on one node held at most, as far as they could tell
    asked: int | None = None  # MiB of a node that it was allowed
    host: str | None = None
    ended: float = 0.0  # seconds since the epoch


def runs(lines: Iterable[dict[str, Any]]) -> list[Run]:
    """The runs that lines of attempts.jsonl tell of, in the order in which they were written down."""
    ranks = defaultdict[tuple[int, int, int], list[dict[str, Any]]](list)
    for line in lines:
        ranks[line["attempt"], line["restart"], line["worker"]].append(line)
    return [_run(told) for told in ranks.values()]


def _run(told: list[dict[str, Any]]) -> Run:
    first = first_error(told) or told[0]
    held = Counter[str | None]()
    for rank in told:
        held[rank["host"]] += rank.get("memory") or 0
    return Run(
        memory=max(held.values()) or None,
        asked=max(rank.get("asked") or 0 for rank in told) or None,
        cause=Cause(first["cause"]) if first["error"] else None,
        error=first["error"],
        kept=max(int(rank["kept"]) for rank in told),
        micro_batch=first["micro_batch"],
        attempt=first["attempt"],
        restart=first["restart"],
        worker=first["worker"],
        seconds=max((rank["seconds"] for rank in told if rank["seconds"] is not None), default=None),
        host=first["host"],
        ended=max(rank["time"] for rank in told),
    )


def failures(lines: Iterable[dict[str, Any]], since: int, worker: int = 0) -> list[Run]:
    """The runs of a worker since some attempt that ended without a result, in order."""
    found = [run for run in runs(lines) if run.worker == worker and run.attempt >= since and run.error]
    return sorted(found, key=lambda run: (run.attempt, run.restart))


def last_run(lines: Iterable[dict[str, Any]], attempt: int) -> list[dict[str, Any]]:
    """Of the lines of attempts.jsonl those of an attempt's last run, of each of its workers."""
    mine = [line for line in lines if line["attempt"] == attempt]
    last: dict[int, int] = {}
    for line in mine:
        last[line["worker"]] = max(line["restart"], last.get(line["worker"], 0))
    return [line for line in mine if line["restart"] == last[line["worker"]]]


def first_error(lines: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """Of lines of one run that with the error that came first: it led to the others."""
    failed = [line for line in lines if line["error"]]
    return min(failed, key=lambda line: float(line["time"])) if failed else None


def goes_on(failed: Sequence[Run], micro_batch: int | None = None) -> bool:
    """Whether another run follows the last of these, of which there is one at least.

    Args:
        micro_batch: of a training, as configured: where it did not fit into the GPU, half of it is tried.
    """
    last = failed[-1]
    assert last.cause is not None
    if last.cause == Cause.GPU_MEMORY:
        return last.micro_batch == micro_batch and half(micro_batch) is not None
    allowed = ANSWERS[last.cause].fruitless
    return allowed is not None and _fruitless(failed) <= allowed


def _fruitless(failed: Sequence[Run]) -> int:
    """How many of the last runs in a row kept nothing beyond those before."""
    best, count = 0, 0
    for run in failed:
        best, count = (run.kept, 0) if run.kept > best else (best, count + 1)
    return count


def half(micro_batch: int | None) -> int | None:
    """Half of a micro-batch, where it can be halved: any batch that it divides, its half divides, too."""
    return micro_batch // 2 if micro_batch and micro_batch % 2 == 0 else None


def fitting(micro_batch: int | None, lines: Iterable[dict[str, Any]]) -> int | None:
    """The micro-batch to train with: half of the configured one if a run with that one had no room."""
    tried = any(e["cause"] == Cause.GPU_MEMORY and e["micro_batch"] == micro_batch for e in lines)
    return (half(micro_batch) if tried else None) or micro_batch
