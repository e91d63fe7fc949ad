"""The small study, and units made by hand, on a Slurm cluster of the tests."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from cluster import Cluster
from small_study import sor, student, write_study

from jobs.core.unit import Unit
from jobs.store.rundir import StudyDir
from launch.slurm.backend import Slurm
from launch.slurm.client import SlurmClient
from launch.state.ledger import Ledger
from launch.state.reconcile import reconcile
from launch.state.status import StudyStatus
from launch.study.cluster import load_cluster
from launch.study.plan import plan
from launch.study.presets import CONFIGS
from launch.study.schema import load_study
from launch.study_run import Project, open_project


def write_cluster(file: Path, **slurm: Any) -> Path:
    """Write a cluster file like `generic`, with these settings of `slurm`."""
    generic = yaml.safe_load((CONFIGS / "clusters" / "generic.yaml").read_text(encoding="utf-8"))
    file.write_text(yaml.safe_dump({**generic, "cpus_per_gpu": 1, "slurm": slurm}), encoding="utf-8")
    return file


def by_hand(units: list[Unit], file: Path, root: StudyDir, timeout: float = 30) -> Project:
    """A project of these units on the cluster of a file; SLURM_CONF has to name it."""
    study = load_study(str(write_study(root.path.parent / "study")))
    cluster = load_cluster(str(file))
    return Project(study, cluster, root, units, Slurm(SlurmClient(timeout, cluster.slurm_cluster)))


def preempt(cluster: Cluster, node: str) -> None:
    """Have Slurm take a node, from jobs of a lower partition, for another one that ends at once."""
    takes = ("--partition=high", f"--nodelist={node}", "--exclusive", "--output=/dev/null", "--wrap=true")
    cluster.run("sbatch", *takes)


@dataclass(frozen=True)
class Submitter:
    """Submits a small study of six arrays to a cluster, which SLURM_CONF has to name.

    Args:
        file: the cluster's.
        inputs: ids, of each unit.
        run: `sor`, with its arguments.
    """

    cluster: Cluster
    study: Path
    file: Path
    inputs: dict[str, set[str]]
    run: Callable[..., subprocess.CompletedProcess[str]] = sor

    @classmethod
    def make(cls, cluster: Cluster, folder: Path, **slurm: Any) -> Submitter:
        study = write_study(folder / "study", {"s": student()}, benchmarks=["easy.yaml"])
        file = write_cluster(folder / "cluster.yaml", **slurm)
        units = plan(load_study(str(study)), load_cluster(str(file)))
        return cls(cluster, study, file, {u.id: {i.id for i in u.inputs} for u in units})

    def command(self, verb: str, runs: Path, *more: str) -> list[str]:
        return [verb, str(self.study), *more, "--cluster", str(self.file), "--runs", str(runs)]

    def sor(self, verb: str, runs: Path, *more: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return self.run(*self.command(verb, runs, *more), **variables)

    def submit(self, runs: Path) -> subprocess.CompletedProcess[str]:
        return self.sor("submit", runs, "--yes")

    def poll(self, runs: Path) -> StudyStatus:
        return open_project(str(self.study), str(self.file), runs).poll()

    def jobs(self, runs: Path) -> list[tuple[str, str]]:
        """Unit and id of each job in the queue that was submitted from here, whatever the ledger knows."""
        return sorted((unit, job) for unit, job, _ in self._queue(runs))

    def check(self, runs: Path, point: object = "") -> None:
        """Submit: then every unit is in the queue once, after its inputs, and the ledger knows it."""
        done = self.submit(runs)
        assert done.returncode == 0, (point, done.stderr)
        jobs = self.jobs(runs)
        assert [unit for unit, _ in jobs] == sorted(self.inputs), (point, done.stdout)
        self._check_order(runs)
        attempts = Ledger(StudyDir(runs / "small").ledger).attempts()
        assert sorted((u, job.id) for u, a in attempts.items() for job in a.jobs) == jobs, point
        difference = reconcile(self.poll(runs))
        assert (difference.nothing, len(difference.active)) == (True, len(self.inputs)), point

    def check_again(self, runs: Path) -> None:
        """Submit: nothing happens."""
        jobs, done = self.jobs(runs), self.submit(runs)
        assert (done.returncode, self.jobs(runs)) == (0, jobs), done.stderr
        assert "nothing to submit" in done.stdout

    def _queue(self, runs: Path) -> list[tuple[str, str, str]]:
        """Unit, id and dependency of each job."""
        found = []
        for line in self.cluster.run("squeue", "--noheader", "--array", "--format=%F %K %E %o").splitlines():
            array, index, waits, script = line.split(maxsplit=3)
            if script.startswith(f"{runs}/"):
                elements = Path(script).with_name("elements.jsonl").read_text(encoding="utf-8").splitlines()
                unit = next(e["unit"]["id"] for e in map(json.loads, elements) if e["index"] == int(index))
                found.append((unit, f"{array}_{index}", waits))
        return found

    def _check_order(self, runs: Path) -> None:
        """Each job waits, by way of jobs in the queue, for those of its inputs."""
        queue = self._queue(runs)
        arrays = {unit: job.partition("_")[0] for unit, job, _ in queue}
        waits = {job.partition("_")[0]: re.findall(r":(\d+)", text) for _, job, text in queue}

        def first(array: str) -> set[str]:
            return {array}.union(*map(first, waits[array]))

        for unit, inputs in self.inputs.items():
            assert {arrays[i] for i in inputs} <= first(arrays[unit])


def before(program: str, folder: Path, script: str) -> str:
    """Write a program that does something before it is one of Slurm's, {real}; returns PATH with it."""
    folder.mkdir(parents=True, exist_ok=True)
    script = f'#!/bin/bash\n{script}\nexec {{real}} "$@"\n'
    (folder / program).write_text(script.replace("{real}", str(shutil.which(program))), encoding="utf-8")
    (folder / program).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def before_sbatch(folder: Path, stage: str, script: str) -> str:
    """The same for sbatch, and the arrays of one stage."""
    return before("sbatch", folder, f'case "$*" in */{stage}-*) {script};; esac')
