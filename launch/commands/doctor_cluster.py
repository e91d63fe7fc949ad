"""The checks of `sor doctor --cluster NAME`: the cluster file against the cluster, and a job on one node.

The job is a prepare unit in its own run directory, with the cluster's template, so it shows what would keep a
study's jobs from running. In the end it is always canceled, and its files are removed.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Event

from jobs.core.secrets import FILE, SecretsError, missing_secrets
from jobs.core.unit import STAGES, Resources, Unit
from jobs.runtime.array_task import ELEMENTS, line
from jobs.runtime.node_check import FINDINGS, MADE_BEFORE, MADE_HERE, Finding, creates, mark
from jobs.store.rundir import StudyDir, read_json, read_jsonl
from launch.commands.doctor_nodes import elsewhere, memory_refused, of_nodes
from launch.slurm.client import SlurmClient
from launch.slurm.parse import QueuedJob, Refused, live_state
from launch.state.errors import SlurmUnavailable
from launch.state.ledger import new_name
from launch.state.states import State
from launch.study import memory
from launch.study.cluster import Cluster
from launch.study.presets import StudyError
from launch.study.shell_options import variable
from launch.submit.array_jobs import SCRIPT
from launch.submit.code_snapshot import snapshot
from launch.submit.limits import ClusterLimits, Refusal
from launch.submit.script import sbatch_script
from launch.submit.site import ask_site

ok, warning, problem = (partial(Finding, verdict) for verdict in ("ok", "warning", "problem"))

PATIENCE = 60.0  # seconds that the job may wait for a node, unless the user says otherwise
LONGEST = 300.0  # seconds that it may run: a first import of torch is slow on a shared file system
NEEDS = Resources(hours=1 / 6, memory=memory.probing())
GPU_STAGES = ("generate", "train", "evaluate")
STAGE = "evaluate"  # the job uses this stage's options: it needs the whole stack, and few nodes
PAUSE = 1.0  # seconds between polls of the queue
GRACE = 15.0  # seconds for a canceled job to end
FOREIGN = "Exec format error"  # of a program for another architecture
WORDS = 8  # lines shown of a failed job's log
UNTESTED = warning("no compute node was tested: fix the problems above first")


@dataclass(frozen=True)
class Job:
    """The probe job: its run directory, and its name (`submission`) and id in Slurm."""

    root: StudyDir
    unit: Unit
    submission: str
    id: str

    @property
    def folder(self) -> Path:
        return self.root.submission(self.submission)


def of_cluster(
    cluster: Cluster, runs: Path, report: Callable[[str], None], patience: float = PATIENCE
) -> Iterator[Finding]:
    """Check a cluster, first without a job, then, if all is well, with one.

    Args:
        report: receives what is being waited for.
        patience: seconds that the job may wait for a node.
    """
    cluster = _for_the_probe(cluster)
    template = f"its template is '{cluster.slurm.template}'"
    yield ok(f"cluster {cluster.name}: its file is valid; {template}")
    client = SlurmClient(cluster=cluster.slurm_cluster)
    try:
        missing = missing_secrets(cluster.slurm.secrets)
        jobs, no_gpu = _jobs(cluster, client, runs)
        nodes = list(of_nodes(cluster, jobs, client, runs))
    except (StudyError, SecretsError, Refusal, SlurmUnavailable) as error:
        yield from (problem(words) for words in str(error).splitlines())
        if isinstance(error, Refusal):
            yield from memory_refused(cluster, STAGE, _kinds(cluster), client, runs)
        yield UNTESTED
        return
    yield ok("partitions and accounts accept jobs of every stage")
    if no_gpu:
        yield ok(f"no GPU ({no_gpu}): only studies whose presets need none run here")
    for name in missing:
        yield problem(f"the secret {name} has no value: export it, or add it to {FILE}")
    yield from nodes
    if missing or any(found.verdict == "problem" for found in nodes):
        yield UNTESTED
    else:
        resources = next(job.resources for job in jobs if job.stage == STAGE)
        yield from _from_a_node(cluster, resources, runs.absolute(), report, patience)


def _kinds(cluster: Cluster) -> tuple[Resources, Resources]:
    """Return what jobs request: one GPU and its cores, and nothing of the kind."""
    return replace(NEEDS, gpus_per_node=1, cpus_per_task=cluster.cpus_per_gpu), NEEDS


def _jobs(cluster: Cluster, client: SlurmClient, runs: Path) -> tuple[list[Unit], str | None]:
    """Return a job of each stage: with one GPU where it needs any; without GPUs if there is none, and why.

    Raises:
        Refusal: jobs of some stage would be refused.
    """
    with_gpu, _ = _kinds(cluster)
    alone = [Unit(stage, "jobs", {}, resources=NEEDS) for stage in STAGES]
    units = [replace(unit, resources=with_gpu) if unit.stage in GPU_STAGES else unit for unit in alone]
    limits = ClusterLimits.ask(cluster, client)
    try:
        return ask_site(limits, units, client, runs).admit(units), None
    except Refusal as error:
        return ask_site(limits, alone, client, runs).admit(alone), str(error)


def _for_the_probe(cluster: Cluster) -> Cluster:
    """Return the cluster with the shell's partition and the like over those of the probe's stage.

    Elsewhere a stage's own options win; here a person names a partition for short tests.
    """
    shell = {name: os.environ.get(variable(name)) for name in ("partition", "qos", "reservation")}
    given = {name: value for name, value in shell.items() if value}
    own = {**cluster.slurm.stages.get(STAGE, {}), **given}
    when = tuple(
        entry.model_copy(update={"set": {n: v for n, v in entry.set.items() if n not in given}})
        for entry in cluster.slurm.when
    )
    update = {"stages": {**cluster.slurm.stages, STAGE: own}, "when": when}
    return cluster.model_copy(update={"slurm": cluster.slurm.model_copy(update=update)}) if given else cluster


def _from_a_node(
    cluster: Cluster, resources: Resources, runs: Path, report: Callable[[str], None], patience: float
) -> Iterator[Finding]:
    """Run the probe job, wait for a limited time, and yield its findings."""
    client = SlurmClient(cluster=cluster.slurm_cluster)
    try:
        with _ctrl_c() as stop, _job(cluster, resources, runs, client) as job:
            yield ok(f"submitted job {job.id}, which tests a node: waiting up to {patience:.0f} s for it")
            last = _wait(client, job.submission, report, stop, patience)
            if stop.is_set():
                return
            if last and live_state(last.state) == State.QUEUED:
                yield warning(
                    f"the queue is busy: job {last.ids[0]} waited {patience:.0f} s ({last.reason}) and is "
                    "canceled now, so that nothing was tested on a node. Try again later, with --patience "
                    f"{10 * patience:.0f} where nodes take minutes to boot, or with "
                    "SBATCH_PARTITION or SBATCH_QOS set to what this cluster has for short tests"
                )
            else:
                yield from _found(job, runs, last.state if last else "one that Slurm forgot")
                yield from _foreign(job, cluster.slurm.template)
    except Refused as error:
        yield problem(f"Slurm refused the job that tests a node: {error}")
        yield from memory_refused(cluster, STAGE, [resources], client, runs)
    except (StudyError, SlurmUnavailable) as error:
        yield from (problem(words) for words in str(error).splitlines())


@contextmanager
def _ctrl_c() -> Iterator[Event]:
    """Defer Ctrl-C to the end, so that it cannot prevent the job's cleanup; yields a flag that it sets."""
    stop = Event()
    before = signal.signal(signal.SIGINT, lambda *_: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
        if stop.is_set():
            raise KeyboardInterrupt


@contextmanager
def _job(cluster: Cluster, resources: Resources, runs: Path, client: SlurmClient) -> Iterator[Job]:
    """Submit the job in a temporary run directory, and end both on exit."""
    with tempfile.TemporaryDirectory(dir=runs, prefix="doctor-", ignore_cleanup_errors=True) as made:
        root, name = StudyDir(Path(made)), new_name("doctor")
        folder = root.submission(name)
        args = {"folder": made, "script": str(folder / SCRIPT), "gpus": resources.gpus_per_node}
        args["keeper"] = cluster.slurm.keeper is not None
        unit = Unit(
            "prepare",
            "probe",
            {"function": "jobs.runtime.node_check:probe", "args": args},
            resources=resources,
        )
        script = sbatch_script(
            cluster, STAGE, resources, folder=folder, study=root.path, code=snapshot(root), array=None,
            dependency=None, once=True,
        )  # fmt: skip
        folder.mkdir(parents=True)
        (folder / ELEMENTS).write_text(line(0, unit, root.path, 1, 0), encoding="utf-8")
        (folder / SCRIPT).write_text(script, encoding="utf-8")
        (root.path / MADE_BEFORE).touch()
        try:
            yield Job(root, unit, name, client.submit(folder / SCRIPT).array)
        finally:
            _end(client, name)


def _row(client: SlurmClient, name: str) -> QueuedJob | None:
    return next((row for row in client.queue().rows if row.name == name), None)


def _wait(
    client: SlurmClient, name: str, report: Callable[[str], None], stop: Event, patience: float
) -> QueuedJob | None:
    """Wait until the job ends or `stop` is set, and return its last state in the queue."""
    began = time.monotonic()
    while (row := _row(client, name)) and (state := live_state(row.state)):
        waited = time.monotonic() - began
        if waited > (patience if state == State.QUEUED else LONGEST):
            return row
        report(f"job {row.ids[0]} is {state}{f' ({row.reason})' if row.reason else ''}: {waited:.0f} s")
        if stop.wait(PAUSE):
            break
    return row


def _end(client: SlurmClient, name: str) -> None:
    """Cancel the job if it is alive, even if its id is unknown, so that its files can be removed."""
    until = time.monotonic() + GRACE
    while (row := _row(client, name)) and live_state(row.state) and time.monotonic() < until:
        client.cancel(row.ids)
        time.sleep(PAUSE)


def _found(job: Job, runs: Path, state: str) -> Iterator[Finding]:
    """Yield findings from the files that the job left."""
    logs = [log.read_text(errors="replace", encoding="utf-8") for log in job.folder.glob("*_log.out")]
    found = [Finding(**record) for record in read_jsonl(job.root.path / FINDINGS)]
    yield shared(runs, state, bool(logs or found))
    yield from found
    unit = job.root.unit(job.unit)
    if unit.done:
        if creates(job.root.path / MADE_HERE):
            words = f"{runs}: what a node made exclusively can be made again here: use another --runs"
            yield problem(words)
        yield from _cache(read_json(unit.result)["cache"])
    elif logs:
        yield broken_off(state, logs[0])


def _foreign(job: Job, template: str) -> Iterator[Finding]:
    """Yield what to do if the node could not execute this machine's programs."""
    logs = "".join(log.read_text(errors="replace", encoding="utf-8") for log in job.folder.glob("*_log.out"))
    if FOREIGN in logs:
        yield problem(f"the node has another architecture than this machine. {elsewhere(template)}")


def shared(runs: Path, state: str, seen: bool) -> Finding:
    """Report whether this machine and the nodes share files; `seen`: whether any of the job's are here."""
    if seen:
        return ok(f"{runs}: what a compute node writes is seen here")
    return problem(
        f"{runs}: nothing that a job wrote is seen here, and it ended as {state}: name a folder on a file "
        "system that the compute nodes share as --runs",
    )


def broken_off(state: str, log: str) -> Finding:
    """Report a job that did not finish."""
    words = [line for line in log.splitlines() if line.strip()][-WORDS:]
    how = f"was not through after {LONGEST:.0f} s"
    if not live_state(state):
        how = f"ended as {state} before it was through"
    said = "\n".join(["; its last words:", *(f"           {line}" for line in words)]) if words else ""
    return problem(
        f"a job {how}: check the template, its variables in the cluster file, and its Python{said}",
    )


def _cache(found: tuple[str, list[int]] | None) -> Iterator[Finding]:
    """Check whether the node and this machine share the hub's cache."""
    if found is None:
        return
    path, there = Path(found[0]), found[1]
    if path.is_dir() and mark(path) == there:
        yield ok(f"{path} is one folder here and there: jobs find what is fetched here")
    else:
        yield warning(
            f"{path} is another folder here than on the node: set HF_HOME, in the template and here, to a "
            "folder on the shared file system",
        )
