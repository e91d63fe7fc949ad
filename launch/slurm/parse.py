"""Parsers for the output of Slurm's programs: text in, frozen dataclasses out.

Pure: client.py makes the calls. A line that does not parse is returned, not dropped: a job that is overlooked
would be submitted twice. Only the text formats are read, which are the same in all versions. Times are
seconds since the epoch, durations seconds, and None is none, unknown or unlimited.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil
from typing import Any, NamedTuple

from launch.slurm.text import Table, names, number, parse_table, split_fields, text_of
from launch.state.errors import SlurmUnavailable
from launch.state.states import State

ID = re.compile(r"\d+(_\d+|\+\d+)?")

QUEUED = frozenset((
    "PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT",
    "POWER_UP_NODE", "EXPEDITING",
))  # fmt: skip
ENDED = frozenset((
    "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY", "BOOT_FAIL",
    "DEADLINE", "REVOKED", "LAUNCH_FAILED", "RECONFIG_FAIL",
))  # fmt: skip


def live_state(state: str) -> State | None:
    """Return the unit's state for Slurm's state of a job.

    An unknown state counts as running: to treat it as ended could start a second copy.

    Returns:
        None if the job has ended; the disk says how.
    """
    if state in ENDED:
        return None
    if state == "SUSPENDED":
        return State.PREEMPTED
    return State.QUEUED if state in QUEUED else State.RUNNING


class NotSetUp(SlurmUnavailable):
    """There is no Slurm on this machine: it is not installed, or configured for no cluster."""


class Refused(RuntimeError):
    """Slurm rejected a submission; `args` are the lines that say why."""

    def __str__(self) -> str:
        return "; ".join(map(str, self.args))


class NoAccounting(SlurmUnavailable):
    """This cluster keeps no accounting: there are no history and no limits to query."""


class QueuedJob(NamedTuple):
    """A job that the controller still knows, or elements of an array that are alike; they may have ended.

    A named tuple, since there may be very many: a frozen dataclass takes four times as long to create.

    Args:
        array: the id of the array, or of the job.
        elements: their indices; None: it is not an array.
        reason: why it is pending, or why it ended, in Slurm's word.
        start: actual start, or Slurm's estimate of it.
        nodes: in Slurm's notation, as `n[1-4]`.
        partition: the one where it runs, or all that it may start in, separated by commas.
        account, qos: empty without accounting.
    """

    array: str
    elements: Sequence[int] | None
    state: str
    reason: str | None
    start: int | None
    nodes: str | None
    partition: str
    account: str
    qos: str
    name: str

    @property
    def ids(self) -> list[str]:
        """Slurm's id of each, as `18_3`."""
        return _ids(self.array, self.elements)


class Place(NamedTuple):
    """Places in the queue: a job, or array elements that are alike, with the fields that limits depend on."""

    array: str
    elements: Sequence[int] | None
    partitions: tuple[str, ...]
    account: str
    qos: str


@dataclass(frozen=True, slots=True)
class PastJob:
    """A run of a job in accounting; a job that was requeued has several.

    Args:
        cancelled_by: the numeric id of the user.
        exit_code, signal: of the batch script. Older versions write an exit code of 128 + n as n.
    """

    id: str
    state: str
    cancelled_by: int | None
    exit_code: int
    signal: int
    submitted: int | None
    name: str


@dataclass(frozen=True, slots=True)
class Consumed:
    """Energy used by a step of a job; accounting's line for the job itself has no step.

    Args:
        step: "batch", "extern" or a number.
        joules: None if not measured. The job's own are those of its last step alone.
    """

    job: str
    step: str | None
    name: str
    joules: int | None


@dataclass(frozen=True)
class Config:
    """The controller's settings that matter here.

    Args:
        max_array_size: the largest index of an array is one less.
        max_jobs: the most jobs and array elements, of all users, that the controller holds.
        min_job_age: seconds for which squeue shows a job that has ended.
        enforced: what accounting enforces, as "associations", "limits", "qos".
        tracks_memory: whether memory is allocated to jobs. If not, nodes need not report how much they have,
            and a job that requests any may be refused.
        all_partitions: whether a job that may start in several must fit into each of them.
        filtered: whether plugins may change or refuse jobs: choose partitions, rename accounts.
    """

    cluster: str
    version: str
    max_array_size: int
    max_jobs: int
    min_job_age: int
    accounting: bool
    enforced: tuple[str, ...]
    tracks_memory: bool
    all_partitions: bool = False
    filtered: bool = False

    @property
    def denies_below(self) -> bool:
        """Whether a partition that denies an account denies those below it: 24.11 does, 22.05 does not."""
        year, _, rest = self.version.partition(".")
        month = rest.partition(".")[0]
        return year.isdecimal() and month.isdecimal() and (int(year), int(month)) >= (24, 11)


@dataclass(frozen=True)
class NodeGroup:
    """Nodes of a partition that are alike.

    Args:
        gpus: of each node, as (type or "gpu", count).
        memory: of each node, in MiB.
    """

    partition: str
    count: int
    cpus: int
    gpus: tuple[tuple[str, int], ...]
    memory: int = sys.maxsize


QUEUE = ("%i", "%T", "%r", "%S", "%N", "%P", "%a", "%q", "%j")
HISTORY = ("JobID", "State", "ExitCode", "Submit", "JobName")
MEMORY = ("JobID", "ReqMem", "MaxRSS", "NTasks", "NNodes", "JobName")
ENERGY = ("JobID", "ConsumedEnergyRaw", "JobName")
NODES = ("%R", "%D", "%c", "%m", "%G")


def parse_queue(text: str) -> Table[QueuedJob]:
    """Parse squeue's lines in the format `QUEUE`."""

    @cache  # the elements of an array differ in little more than their ids, and there may be 50,000
    def rest(text: str) -> tuple[Any, ...]:
        state, reason, start, nodes, *rest = split_fields(text, len(QUEUE) - 1)
        return state, text_of(reason), number(start), text_of(nodes), *rest

    def row(f: Sequence[str]) -> list[QueuedJob]:
        return [QueuedJob(*elements_of(f[0]), *rest(f[1]))]

    return parse_table(text, 2, row)


def places(queue: Table[QueuedJob]) -> list[Place]:
    """Return the places that are taken in the queue; a line that cannot be parsed counts as one."""
    live = [row for row in queue.rows if row.state not in ENDED]
    taken = [Place(row.array, row.elements, names(row.partition), row.account, row.qos) for row in live]
    return taken + [Place("", None, (), "", "")] * len(queue.malformed)


def parse_history(text: str) -> Table[PastJob]:
    """Parse sacct's lines in the format `HISTORY`."""

    def row(f: Sequence[str]) -> list[PastJob]:
        state, _, by = f[1].partition(" by ")
        code, signal = f[2].split(":")
        rest = state.rstrip("+"), number(by), int(code), int(signal), number(f[3]), f[4]
        return [PastJob(id, *rest) for id in expand(f[0])]

    return parse_table(text, len(HISTORY), row)


def parse_memory(text: str) -> dict[tuple[str, str], tuple[int, int]]:
    """Parse sacct's lines in the format `MEMORY`: MiB per node that jobs, by name and id, requested and used.

    MaxRSS is per task, so that all tasks are assumed to need the same; of several runs the maximum counts.
    """
    asked, used, called = Counter[str](), Counter[str](), dict[str, str]()
    for line in parse_table(text, len(MEMORY), lambda f: [f]).rows:
        job, step, _ = line[0].partition(".")
        nodes = int(line[4] or 1)
        if not step:
            asked[job], called[job] = _mebibytes(line[1]) // nodes, line[5]
        elif step not in ("batch", "extern"):
            used[job] = max(used[job], _mebibytes(line[2]) * ceil(int(line[3] or 1) / nodes))
    return {(name, job): (asked[job], used[job]) for job, name in called.items()}


def _mebibytes(text: str) -> int:
    """Return the MiB in `300M`, `501728K`, `1.5G` or, before 21.08, `4Gn` and `100Mc`; 0 without a value."""
    match = re.fullmatch(r"([\d.]+)([KMGT]?)[nc]?", text)
    return int(float(match[1]) * 1024 ** ("KMGT".index(match[2] or "M") - 1)) if match else 0


def parse_energy(text: str) -> Table[Consumed]:
    """Parse sacct's lines in the format `ENERGY`."""

    def row(f: Sequence[str]) -> list[Consumed]:
        job, _, step = f[0].partition(".")
        return [Consumed(job, step or None, f[2], number(f[1]) or None)]

    return parse_table(text, len(ENERGY), row)


def parse_config(text: str) -> Config:
    """Parse the output of `scontrol show config`.

    Raises:
        SlurmUnavailable: a setting is missing.
    """
    found = {key.strip(): value.strip() for key, _, value in (ln.partition("=") for ln in text.splitlines())}
    try:
        return Config(
            cluster=found["ClusterName"],
            version=found["SLURM_VERSION"],
            max_array_size=int(found["MaxArraySize"]),
            max_jobs=int(found["MaxJobCount"]),
            min_job_age=int(found["MinJobAge"].split()[0]),
            accounting=found["AccountingStorageType"] not in ("accounting_storage/none", "(null)", ""),
            enforced=names(found["AccountingStorageEnforce"].removesuffix("none")),
            all_partitions=found.get("EnforcePartLimits") == "ALL",
            tracks_memory="MEMORY" in found.get("SelectTypeParameters", "").upper(),
            filtered=any(text_of(found.get(key, "")) for key in ("JobSubmitPlugins", "CliFilterPlugins")),
        )
    except (KeyError, ValueError, IndexError) as error:
        raise SlurmUnavailable(f"'scontrol show config' gave an unknown format: {error!r}") from error


def parse_nodes(text: str) -> Table[NodeGroup]:
    """Parse sinfo's lines in the format `NODES`."""

    def row(f: Sequence[str]) -> list[NodeGroup]:
        gpus = Counter[str]()
        for kind, count in re.findall(r"\bgpu:(?:([^:,(]+):)?(\d+)", f[4]):
            gpus[kind or "gpu"] += int(count)
        return [NodeGroup(f[0], int(f[1]), int(f[2]), tuple(gpus.items()), int(f[3]))]

    return parse_table(text, len(NODES), row)


def expand(id: str) -> list[str]:
    """Return the ids that an id stands for: `18_[3-11:4%3]` is `18_3`, `18_7`, `18_11`."""
    return _ids(*elements_of(id))


def _ids(array: str, elements: Sequence[int] | None) -> list[str]:
    return [array] if elements is None else [f"{array}_{index}" for index in elements]


def elements_of(id: str) -> tuple[str, Sequence[int] | None]:
    """Return the array and the elements that an id stands for: `18_[3-11:4%3]` is 3, 7 and 11 of `18`.

    Raises:
        ValueError: it is not an id, or is truncated.
    """
    array, bracket, listed = id.partition("_[")
    if not bracket:
        if not ID.fullmatch(id):
            raise ValueError(f"{id!r} is no id of a job")
        array, _, index = id.partition("_")
        return array, (int(index),) if index else None
    elements = list[int]()
    for part in listed.removesuffix("]").split("%")[0].split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part)
        if not (match and array.isdigit()):
            raise ValueError(f"{id!r} is no list of elements, or a cut one")
        first, last, step = match.groups()
        elements += range(int(first), int(last or first) + 1, int(step or 1))
    return array, elements


def latest(history: Iterable[PastJob]) -> dict[str, PastJob]:
    """Return the last run of each job, by its id.

    Use it only for jobs that the queue does not hold: until a requeued job starts again, accounting shows
    only the run that ended, as REQUEUED, PREEMPTED or NODE_FAIL.
    """
    last: dict[str, PastJob] = {}
    for job in history:
        if job.id not in last or (job.submitted or 0) >= (last[job.id].submitted or 0):
            last[job.id] = job
    return last
