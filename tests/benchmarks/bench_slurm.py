"""Submitting and watching at the scale of large clusters, on a real Slurm whose jobs are all held."""

from __future__ import annotations

import gc
import io
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

from bench_launch import SOR
from measure import Ratio, seconds
from rich.console import Console
from submitit import SlurmExecutor

sys.path.append(str(Path(__file__).parent.parent))
from cluster import Cluster, packages
from made_large import large_file
from made_projects import cluster_file, made_project

from jobs.core.unit import Unit
from jobs.runtime.run import run_unit
from launch.cli import GARBAGE
from launch.commands.submit import submit
from launch.state.exit_code import Outlook
from launch.study.cluster import load_cluster
from launch.study.plan import plan
from launch.study.schema import load_study
from launch.study_run import Project, open_project
from launch.views import status_view

SUBMITTED, TURNS = 10_000, 3
HELD = {"hold": True}
SQUEUE = ["squeue", "--noheader", "--array"]
SLURM = {"sbatch", "squeue", "sacct", "sacctmgr", "scontrol", "sinfo"}
started: list[str] = []  # the programs that this process starts
sys.addaudithook(lambda event, args: started.append(args[1][0]) if event == "subprocess.Popen" else None)


def ratios() -> Iterator[Ratio]:
    """All measurements of this file; none where there is no Slurm to be had."""
    if why := packages.install():
        print(why)
        return
    gc.set_threshold(GARBAGE)  # as `sor` does
    # One folder to the end, since ext4 makes files slowly where many were removed a moment ago.
    with tempfile.TemporaryDirectory() as folder:
        for accounting in (True, False):
            with Cluster(nodes=2, gpus=0, accounting=accounting) as cluster:
                os.environ["SLURM_CONF"] = str(cluster.conf)
                where = f"{cluster.run('sbatch', '--version')} with{'' if accounting else 'out'} accounting"
                yield from submitting(cluster, Path(folder, where), where)
                if accounting:
                    yield from watching(cluster, Path(folder))


def units(count: int) -> list[Unit]:
    """So many evaluations as the shipped study has them."""
    shipped = plan(load_study("scale-or-reason"), load_cluster("generic"))
    real = [unit for unit in shipped if unit.stage == "evaluate"]
    chosen = ((i, real[i % len(real)]) for i in range(count))
    return [
        Unit("evaluate", f"{unit.name}-{i}", {**unit.config, "i": i}, (), unit.execution)
        for i, unit in chosen
    ]


@dataclass
class UnitStatus:
    """What some work took, each time that it was done: seconds; and of the last time, programs and files."""

    times: list[float] = field(default_factory=list)
    programs: int = 0
    files: int = 0

    def measure(self, work: Callable[[], object], folder: Path) -> None:
        started.clear()
        self.times.append(seconds(work))
        self.programs = sum(name in SLURM for name in started)
        self.files = sum(1 for path in folder.rglob("*") if path.is_file())


def submitting(cluster: Cluster, folder: Path, where: str) -> Iterator[Ratio]:
    """10,000 units by `sor submit` and by submitit's map_array, in turns; then `sor submit` once more."""
    ours, again, theirs = UnitStatus(), UnitStatus(), UnitStatus()
    for turn in range(TURNS):
        project = made_project(folder / f"ours{turn}", units(SUBMITTED), sbatch=HELD)
        ours.measure(partial(submitted, project), folder / f"ours{turn}")
        again.measure(partial(submitted, project), folder / f"ours{turn}")
        empty(cluster)
        work, other = units(SUBMITTED), folder / f"theirs{turn}"
        theirs.measure(partial(mapped, work, other), other)
        empty(cluster)
    what, same = f"sor submit of {SUBMITTED} units ({where})", "submitit's map_array of the same"
    yield Ratio(what, same, median(ours.times), median(theirs.times), "s")
    yield Ratio(f"{what}: programs of Slurm's", same, ours.programs, theirs.programs, "calls")
    yield Ratio(f"{what}: files", same, ours.files, theirs.files, "files")
    yield Ratio(f"{what}, again", "the first time", median(again.times), median(ours.times), "s")


def submitted(project: Project) -> None:
    with redirect_stdout(io.StringIO()):
        assert submit(project, yes=True, only=None) == 0


def mapped(work: list[Unit], folder: Path) -> None:
    """Hand over with submitit what our jobs run."""
    executor = SlurmExecutor(folder)
    executor.update_parameters(additional_parameters=HELD, array_parallelism=len(work))
    executor.map_array(run_unit, [u.to_json() for u in work], [str(folder)] * len(work), [1] * len(work))


def watching(cluster: Cluster, folder: Path) -> Iterator[Ratio]:
    """A study of 10,000 units in the queue, looked at and shown, by the processor time of both."""
    project, named = large(folder)
    submitted(project)

    def look() -> None:
        Console(file=io.StringIO()).print(status_view(project.poll()))

    def status() -> None:
        done = subprocess.run([SOR, "status", *named], stdout=subprocess.DEVNULL, check=False)
        assert done.returncode == Outlook.NEEDS_ATTENTION  # to release its jobs

    started.clear()
    ours, theirs = processor(look, resource.RUSAGE_SELF), processor(squeue, resource.RUSAGE_CHILDREN)
    assert started == ["squeue"] * 2 * TURNS
    whole = processor(status, resource.RUSAGE_CHILDREN)
    what, other = f"sor status of {len(project.units)} units in the queue", " ".join(SQUEUE)
    yield Ratio(f"{what}: a look, and showing it", other, ours, theirs, "s of a core")
    yield Ratio(f"{what}: the program from its start to its end", other, whole, theirs, "s of a core")
    empty(cluster)


def large(folder: Path) -> tuple[Project, list[str]]:
    """A study of 10,000 units whose jobs are held, and how a command line names it."""
    study, cluster, runs = str(large_file(folder)), str(cluster_file(folder, sbatch=HELD)), folder / "runs"
    return open_project(study, cluster, runs), [study, "--cluster", cluster, "--runs", str(runs)]


def squeue() -> None:
    subprocess.run(SQUEUE, stdout=subprocess.DEVNULL, check=True)


def processor(work: Callable[[], object], whose: int) -> float:
    """Median seconds of processor time."""
    times = []
    for _ in range(TURNS):
        before = resource.getrusage(whose)
        work()
        after = resource.getrusage(whose)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return median(times)


def empty(cluster: Cluster) -> None:
    """End all jobs."""
    cluster.run("scancel", "--me", timeout=120)


if __name__ == "__main__":
    for ratio in ratios():
        print(ratio, flush=True)
