"""Clusters whose MaxArraySize is 0: each unit is a job of its own, also where it is put back or canceled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster
from small_slurm import Submitter
from small_study import wait_for

from launch.state.states import ACTIVE, State


@pytest.fixture(scope="module")
def cluster(slurm: Cluster) -> Iterator[Cluster]:
    assert slurm  # there is one to be had
    with Cluster(nodes=1, cpus=8, gpus=0, accounting=False, extra="MaxArraySize=0") as cluster:
        yield cluster


def test_a_study_runs_without_arrays(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
    submitter = Submitter.make(cluster, tmp_path, sbatch={"hold": True}, keeper=60)
    runs = tmp_path / "runs"

    def queue() -> list[str]:
        return cluster.run("squeue", "--noheader", "--format=%i").split()

    done = submitter.submit(runs)
    assert done.returncode == 0, done.stderr
    jobs = queue()
    assert len(jobs) == len(submitter.inputs) + 1
    assert all(job.isdigit() for job in jobs)
    now = submitter.poll(runs)
    assert {seen.state for seen in now.units} == {State.QUEUED}
    ids = {int(job.id or 0) for seen in now.units for job in seen.jobs}
    assert ids == set(map(int, jobs)) - {max(map(int, jobs))}
    assert "nothing to submit" in submitter.submit(runs).stdout

    assert submitter.sor("cancel", runs, "--yes").returncode == 0
    wait_for(lambda: queue() == [], "the jobs to be gone")
    submitter = Submitter.make(cluster, tmp_path)
    assert submitter.sor("submit", runs, "--yes", "--only", "prepare").returncode == 0
    wait_for(lambda: submitter.poll(runs).units[0].state not in ACTIVE, "the job to end")
    [first, *_] = submitter.poll(runs).units
    assert first.state is State.DONE, first.reason
    assert first.root.logs(first.jobs[0].submission, first.jobs[0].id)
