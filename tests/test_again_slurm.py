"""Jobs of a real Slurm that are interrupted, killed or fail: started again or not, and with what was kept."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster
from small_slurm import by_hand, preempt, write_cluster
from small_study import runs, unit, wait_for

from jobs.core.causes import Cause
from jobs.core.unit import Unit
from jobs.runtime.exit import WORDLESS
from jobs.store import journal
from jobs.store.rundir import StudyDir
from jobs.store.schema import ATTEMPT
from launch.commands.submit import cancel, submit
from launch.state.ledger import Ledger
from launch.state.log_files import logs_of
from launch.state.states import State
from launch.study_run import Project

WAITS = ("PENDING BeginTime", "PENDING None")  # the state and reason of a job that was put back

pytestmark = pytest.mark.usefixtures("on_the_cluster")


class Job:
    """One unit of two ranks, submitted; it is held until `release`, and does steps where it is to.

    Args:
        partition: lowgrace, low and lowcancel can be preempted from high.
    """

    def __init__(
        self, slurm: Cluster, folder: Path, partition: str, *, steps: bool = True, **needs: Any
    ) -> None:
        self.slurm, self.folder = slurm, folder
        self.unit: Unit = unit(folder, "a", **{"tasks_per_node": 2, "cpus_per_task": 4, **needs})
        (folder / "a.hold").touch()
        if steps:
            (folder / "a.steps").touch()
        file = write_cluster(folder / "cluster.yaml", sbatch={"partition": partition, "exclusive": True})
        self.project: Project = by_hand([self.unit], file, StudyDir(folder / "runs" / "s"))
        assert submit(self.project, yes=True, only=None) == 0
        self.started(1)

    def started(self, times: int) -> None:
        """Wait until all ranks have started this often."""
        ranks = self.unit.resources.world_size
        wait_for(lambda: len(runs(self.folder, "a")) == times * ranks, f"run {times}")

    @property
    def id(self) -> str:
        [seen] = self.project.poll().units
        assert seen.jobs[0].id
        return seen.jobs[0].id

    def state(self) -> str:
        """Slurm's state and reason."""
        return self.slurm.run("squeue", "--noheader", f"--jobs={self.id}", "--format=%T %r")

    def again(self, times: int) -> None:
        """Wait until the job is back in the queue, do not let it wait there, and see it begin."""
        # Alone, since what it made room for might do so again.
        wait_for(
            lambda: self.slurm.run("squeue", "--noheader", "--format=%T %r") in WAITS, "the job to be back"
        )
        self.slurm.run("scontrol", "update", f"job={self.id}", "StartTime=now")
        self.started(times)

    def release(self) -> None:
        (self.folder / "a.hold").unlink()

    def ended(self) -> tuple[State, str | None]:
        """Wait until the job has left the machine; the unit's state and its reason."""
        done = self.project.root.unit(self.unit)

        def gone() -> bool:
            # Slurm 24.11 puts a job that was preempted with a grace time back after its next run, too.
            if done.done and self.state() in WAITS:
                self.slurm.run("scontrol", "update", f"job={self.id}", "StartTime=now")
            return self.slurm.run("squeue", "--noheader") == ""

        wait_for(gone, "the job to end", 60)
        [seen] = self.project.poll().units
        return seen.state, seen.reason

    def preempt(self) -> None:
        """Have Slurm take its node for another job."""
        preempt(self.slurm, self.slurm.run("squeue", "--noheader", f"--jobs={self.id}", "--format=%N"))

    def lines(self) -> list[tuple[int, str | None]]:
        """Restart and cause of each line of attempts.jsonl."""
        found = journal.read(self.project.root.unit(self.unit).attempts, ATTEMPT)
        return sorted((line["restart"], line["cause"]) for line in found)

    def left(self) -> list[Path]:
        """Words that nobody read."""
        return list((self.project.root.path / "submissions").glob("*/*.verdict"))


@pytest.mark.parametrize("partition", ["lowgrace", "lowcancel"])
def test_preempted_with_a_warning_it_goes_on_from_what_it_kept(
    slurm: Cluster, tmp_path: Path, partition: str
) -> None:
    job = Job(slurm, tmp_path, partition)
    job.preempt()
    job.again(2)
    kept = min(line["kept"] for line in journal.read(job.project.root.unit(job.unit).attempts, ATTEMPT))
    assert kept > 0
    job.release()
    assert job.ended() == (State.DONE, None)
    assert job.lines() == [(0, "preempted")] * 2 + [(1, None)] * 2
    assert job.left() == []
    [seen] = job.project.poll().units
    first, second = (log.read_text(encoding="utf-8") for log in logs_of(seen, job.project.root))
    for log in (first, second):  # a restart does not cut off what was there
        assert "preempted: continues in another run" in log
        assert log.count("a says hello") == 2


def test_preempted_at_once_it_starts_over(slurm: Cluster, tmp_path: Path) -> None:
    job = Job(slurm, tmp_path, "low", steps=False)
    job.preempt()
    job.again(2)
    job.release()
    assert job.ended() == (State.DONE, None)
    assert job.lines() == [(0, "preempted")] * 2 + [(1, None)] * 2


def test_cancelled_it_stays_so(slurm: Cluster, tmp_path: Path) -> None:
    job = Job(slurm, tmp_path, "lowgrace")
    assert cancel(job.project, job.project.poll(), None) == ["prepare a"]
    assert job.ended() == (State.WAITING, "cancelled")
    assert job.lines() == [(0, "preempted")] * 2  # a rank cannot tell
    assert len(runs(tmp_path, "a")) == 2


def test_a_code_error_in_one_rank_is_not_repeated_though_its_peer_is_killed(
    slurm: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "a.fail").write_text("1", encoding="utf-8")
    job = Job(slurm, tmp_path, "main")
    assert job.ended() == (State.FAILED, "RuntimeError: a was told to fail")
    assert set(job.lines()) <= {(0, "code error"), (0, "preempted")}  # so it seems to a peer, being ended
    assert len(runs(tmp_path, "a")) == 2
    assert job.left() == []


@pytest.mark.parametrize("killed", [1, 2])
def test_a_job_whose_ranks_were_killed_is_started_again(slurm: Cluster, tmp_path: Path, killed: int) -> None:
    job = Job(slurm, tmp_path, "main", steps=False)
    for run in runs(tmp_path, "a")[:killed]:
        os.kill(run["pid"], signal.SIGKILL)
    job.again(2)
    job.release()
    assert job.ended() == (State.DONE, None)
    first, *later = job.lines()
    assert later == [(1, None)] * 2
    if killed == 1:
        assert first == (0, "preempted")  # so it seems to the peer, which Slurm ends
    else:  # nobody was left to record it but the next run
        assert first == (0, "killed")
        assert journal.read(job.project.root.unit(job.unit).attempts, ATTEMPT)[0]["error"] == WORDLESS


def test_of_an_array_only_the_element_that_was_hit_is_started_again(slurm: Cluster, tmp_path: Path) -> None:
    units = [unit(tmp_path, name) for name in "ab"]
    for name in "ab":
        (tmp_path / f"{name}.hold").touch()
    root = StudyDir(tmp_path / "runs" / "s")
    project = by_hand(units, write_cluster(tmp_path / "cluster.yaml"), root)
    assert submit(project, yes=True, only=None) == 0
    wait_for(lambda: all(runs(tmp_path, name) for name in "ab"), "both to begin")

    def queued(*fields: str) -> list[list[str]]:
        text = slurm.run("squeue", "--noheader", "-o", " ".join(fields))
        return [line.split() for line in text.splitlines()]

    # Slurm gives the element that begins last the number of the whole array.
    [hit] = [int(index) for number, array, index in queued("%A", "%F", "%K") if number == array]
    os.kill(runs(tmp_path, "ab"[hit])[0]["pid"], signal.SIGKILL)
    wait_for(lambda: [str(hit), "PENDING"] in queued("%K", "%T"), "it to be queued again")
    assert [str(1 - hit), "RUNNING"] in queued("%K", "%T")
    slurm.run("scontrol", "update", f"job={queued('%F')[0][0]}_{hit}", "StartTime=now")
    wait_for(lambda: len(runs(tmp_path, "ab"[hit])) == 2, "it to start over")
    for name in "ab":
        (tmp_path / f"{name}.hold").unlink()
    wait_for(lambda: not queued("%A"), "both to end")
    assert all(seen.state == State.DONE for seen in project.poll().units)
    assert len(runs(tmp_path, "ab"[1 - hit])) == 1


def test_a_job_killed_for_its_memory_limit_is_requeued_once_with_twice_as_much(
    slurm: Cluster, tmp_path: Path
) -> None:
    """Nobody can write down what happened: Slurm kills every process of the step at once."""
    units = [unit(tmp_path, name, memory=256) for name in "ab"]
    for name, held in {"a": 300, "b": 700}.items():
        (tmp_path / f"{name}.grow").write_text(str(held), encoding="utf-8")
    root = StudyDir(tmp_path / "runs" / "s")
    project = by_hand(units, write_cluster(tmp_path / "cluster.yaml"), root)
    assert submit(project, yes=True, only=None) == 0

    def ended() -> bool:
        for line in slurm.run("squeue", "--noheader", "--array", "--format=%i %T %r").splitlines():
            if "BeginTime" in line:
                slurm.run("scontrol", "update", f"job={line.split()[0]}", "StartTime=now")
        return slurm.run("squeue", "--noheader") == ""

    def told(name: str) -> list[tuple[int, str | None, int]]:
        lines = journal.read(root.unit(units["ab".index(name)]).attempts, ATTEMPT)
        return [(line["attempt"], line["cause"], line["asked"]) for line in lines]

    wait_for(ended, "both to end", 120)
    a, b = project.poll().units
    assert (a.state, b.state, b.cause) == (State.DONE, State.FAILED, Cause.MEMORY)
    assert told("a") == [(1, "out of memory", 256), (1, None, 512)]
    assert told("b") == [(1, "out of memory", 256)]  # the second run was killed, too
    assert b.reason == "ran out of memory: killed at its limit of 512 MiB per node"

    assert submit(project, yes=True, only=None) == 0  # a person wants more
    wait_for(ended, "it to end", 120)
    assert [seen.state for seen in project.poll().units] == [State.DONE, State.DONE]
    assert told("b")[-1] == (2, None, 1024)
    assert Ledger(root.ledger).attempts()[units[1].id].memory == 1024
    used = [line["memory"] for line in journal.read(root.unit(units[1]).attempts, ATTEMPT)]
    assert 700 < used[-1] < 1024


@pytest.mark.slow
def test_near_its_time_limit_it_goes_on_if_it_got_further(slurm: Cluster, tmp_path: Path) -> None:
    job = Job(slurm, tmp_path, "main", hours=1 / 60)
    job.again(2)
    job.release()
    assert job.ended() == (State.DONE, None)
    assert job.lines() == [(0, "time limit")] * 2 + [(1, None)] * 2


@pytest.mark.slow
def test_what_keeps_nothing_has_all_of_its_time_and_is_not_started_again(
    slurm: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "a.hang").write_text("0", encoding="utf-8")
    job = Job(slurm, tmp_path, "main", steps=False, tasks_per_node=1, hours=1 / 60)
    began = time.monotonic()
    wait_for(lambda: slurm.run("squeue", "--noheader") == "", "Slurm to end it", 150)
    assert time.monotonic() - began > 50
    [seen] = job.project.poll().units
    assert (seen.state, seen.cause) == (State.FAILED, Cause.TIME_LIMIT)
    assert "its time limit" in str(seen.reason)
    assert "the study's function starts over" in str(seen.reason)
    assert (job.lines(), job.left()) == ([(0, "time limit")], [])
    assert len(runs(tmp_path, "a")) == 1


@pytest.mark.slow
def test_a_rank_that_stands_still_is_found_and_the_job_finishes(
    slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOR_HANG_SECONDS", "4")
    job = Job(slurm, tmp_path, "main")
    wait_for(lambda: (tmp_path / "a.steps").stat().st_size > 100, "enough steps to learn from")
    (tmp_path / "a.hang").write_text("0", encoding="utf-8")
    wait_for(lambda: job.project.poll().units[0].state == State.STALLED, "it to be shown")
    assert "no progress at" in str(job.project.poll().units[0].reason)
    (tmp_path / "a.hang").unlink()
    job.again(2)
    job.release()
    assert job.ended() == (State.DONE, None)
    assert job.lines()[0] == (0, "hang")
    log = logs_of(job.project.poll().units[0], job.project.root)[0].read_text(encoding="utf-8")
    assert re.search(
        r"no progress for \d+ s at \d+ of 1000000 steps; all stacks:\n(.*\n)*.* in stand_still\n", log
    )
