"""Nodes on which jobs fail at once: what jobs tell, how it is judged, and what a real Slurm makes of it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster
from small_slurm import by_hand, write_cluster
from small_study import TESTS, unit, wait_for

from jobs.runtime import node_failures
from jobs.runtime.signals import Interrupted
from jobs.store.rundir import StudyDir, read_jsonl
from launch.commands.submit import submit
from launch.state.states import State
from launch.study_run import Project
from launch.submit.bad_nodes import WHILE, BadNode, judge, looks_bad, verdict

NOW = 1e9
HOUR = 3600.0


def failure(unit: str, hours_ago: float = 0.0) -> dict[str, Any]:
    return {"time": NOW - hours_ago * HOUR, "unit": unit, "partition": "main", "error": f"E: {unit}"}


def test_a_node_looks_bad_after_failures_of_several_units_within_a_while() -> None:
    told = {
        "bad": [failure("a", 3), failure("b", 2), failure("a", 1)],
        "few": [failure("a"), failure("b")],
        "one-unit": [failure("a")] * 9,
        "long-ago": [failure("a", 25), failure("b", 1), failure("c")],
    }
    [bad] = looks_bad(told, NOW)
    assert bad == BadNode("bad", "main", ("a", "b", "a"), "E: a", NOW - 3 * HOUR + WHILE)
    assert looks_bad(told, bad.until - 1) == [bad]
    assert looks_bad(told, bad.until + 1) == []


@pytest.mark.parametrize(
    ("bad", "size", "needs", "avoided"),
    [(1, 1, 1, 0), (1, 2, 1, 1), (1, 2, 2, 0), (2, 7, 1, 0), (2, 8, 1, 2), (2, 8, 7, 0), (8, 8, 1, 0)],
)
def test_nodes_are_avoided_only_where_they_are_few(bad: int, size: int, needs: int, avoided: int) -> None:
    found = [BadNode(f"n{i}", "main", ("a",), "E", NOW) for i in range(bad)]
    other = BadNode("m", "other", ("a",), "E", NOW)
    judged = judge([*found, other], {"main": size, "other": 100}, needs)
    assert judged.names == (*(n.name for n in found[:avoided]), "m")
    assert judged.many == tuple(found[avoided:])


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What jobs on node n7 told."""
    monkeypatch.setenv("SLURMD_NODENAME", "n7")
    return StudyDir(tmp_path).node("n7")


def work(folder: Path, error: BaseException | None = None, local_rank: int = 0) -> None:
    """Some work, as a job does it."""
    context = pytest.raises(type(error)) if error else nullcontext()
    with context, node_failures.recorded(StudyDir(folder), "a", local_rank):
        if error:
            raise error


def test_jobs_tell_of_failures_until_work_goes_well(
    told: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work(tmp_path)
    assert not told.parent.exists()
    work(tmp_path, OSError("no disk"))
    work(tmp_path, OSError("no disk"), local_rank=1)
    work(tmp_path, Interrupted("preempted"))
    work(tmp_path, SystemExit(1))
    assert [line["error"] for line in read_jsonl(told)] == ["OSError: no disk", "SystemExit: 1"]
    work(tmp_path)
    assert not told.exists()
    work(tmp_path, OSError("no disk"))
    monkeypatch.setattr(node_failures, "FAST", 0.0)  # as after a minute
    work(tmp_path, OSError("no disk"))
    assert not told.exists()


def test_without_slurm_or_a_disk_nothing_is_told(told: Path, tmp_path: Path) -> None:
    told.parent.touch()  # no folder can be made there
    work(tmp_path, OSError("no disk"))
    work(tmp_path)
    told.parent.unlink()
    del os.environ["SLURMD_NODENAME"]
    work(tmp_path, OSError("no disk"))
    assert not told.parent.exists()


@pytest.fixture
def three(slurm: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster of three nodes."""
    assert slurm  # there is one to be had
    with Cluster(nodes=3, cpus=4, gpus=0, accounting=False) as cluster:
        monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
        monkeypatch.setenv("PYTHONPATH", str(TESTS))
        yield cluster


def test_a_node_that_fails_jobs_at_once_is_avoided(
    three: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def over(project: Project) -> bool:
        return not project.poll().of(State.WAITING, State.QUEUED, State.RUNNING)

    (tmp_path / "bad-node").write_text("n1", encoding="utf-8")
    file = write_cluster(tmp_path / "lab.yaml", sbatch={"exclude": "n3", "nodelist": "n1"})
    units = [unit(tmp_path, name) for name in "abc"]
    project = by_hand(units, file, StudyDir(tmp_path / "root"))
    assert submit(project, yes=True, only=None) == 0
    wait_for(lambda: over(project), "the jobs to fail")
    assert len(project.poll().of(State.FAILED)) == 3
    assert verdict(project).names == ("n1",)

    file = write_cluster(tmp_path / "lab.yaml", sbatch={"exclude": "n3"})
    project = by_hand(units, file, StudyDir(tmp_path / "root"))
    capsys.readouterr()
    assert submit(project, yes=True, only=None) == 0
    said = " ".join(capsys.readouterr().out.split())
    tomorrow = time.strftime("%d %b", time.localtime(time.time() + WHILE))
    assert f"node n1 is avoided until {tomorrow}" in said
    assert "3 jobs in a row failed on it at once; the last error: RuntimeError: n1 is bad" in said
    wait_for(lambda: over(project), "the jobs to end")
    assert len(project.poll().of(State.DONE)) == 3
    ended = ("squeue", "--noheader", "--array", "--states=COMPLETED", "--format=%N")
    wait_for(lambda: three.run(*ended).split() == ["n2"] * 3, "the jobs to have ended on n2")
