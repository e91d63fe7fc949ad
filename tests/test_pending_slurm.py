"""A job that the cluster will not start: a real Slurm says why, `sor` shows the reason and needs a person."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster
from small_slurm import Submitter
from small_study import wait_for

from launch.state.states import State

PARTITION = "lowcancel"


def update(cluster: Cluster, *settings: str) -> None:
    cluster.run("scontrol", "update", f"PartitionName={PARTITION}", *settings)


@pytest.fixture
def submitter(slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Submitter]:
    """The small study for one partition of the shared cluster, which is as it was afterwards."""
    monkeypatch.setenv("SLURM_CONF", str(slurm.conf))
    try:
        yield Submitter.make(slurm, tmp_path, sbatch={"partition": PARTITION})
    finally:
        slurm.run("scancel", "--me")
        update(slurm, "State=UP", "MaxTime=7-0")
        wait_for(lambda: not slurm.run("squeue", "--noheader"), "the queue to be empty")


def test_a_partition_that_is_down_is_named_and_one_that_is_too_short_needs_a_person(
    slurm: Cluster, submitter: Submitter, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    update(slurm, "State=DOWN")
    assert submitter.submit(runs).returncode == 0
    reasons = ("squeue", "--noheader", "--format=%r")
    wait_for(lambda: "PartitionDown" in slurm.run(*reasons), "Slurm to say why")
    status = submitter.sor("status", runs)
    assert status.returncode == 3
    assert f"its partition is down until an administrator brings it up: {PARTITION}" in status.stdout

    update(slurm, "MaxTime=1", "State=UP")
    wait_for(lambda: "PartitionTimeLimit" in slurm.run(*reasons), "Slurm to say why")
    waited = submitter.sor("status", runs, "--wait")
    assert waited.returncode == 4
    said = f"requests more time than its partition allows: {PARTITION}"
    assert said in waited.stdout
    assert "'max_hours', or name another partition, in the cluster file; then: sor submit " in waited.stdout
    assert said in submitter.sor("monitor", runs, "--once").stdout
    [first] = [s for s in submitter.poll(runs).units if s.live and s.live.dead]
    assert (first.state, first.live and first.live.again) == (State.WAITING, False)

    refused = submitter.submit(runs)  # what would wait again is not submitted
    assert refused.returncode == 2
    assert f"partition {PARTITION} or your account allows" in refused.stderr
