"""Jobs that are not the study's on a real Slurm: ids of another study's in its ledger, and other clusters."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster
from small_slurm import Submitter, by_hand, write_cluster
from small_study import runs, unit, wait_for

from jobs.store import journal
from jobs.store.rundir import StudyDir
from launch.commands.submit import cancel, submit
from launch.slurm.backend import Slurm
from launch.slurm.client import SlurmClient
from launch.state.ledger import Ledger, Started
from launch.state.states import State
from launch.study import templates
from launch.study_run import Project

pytestmark = pytest.mark.usefixtures("on_the_cluster")


def jobs(slurm: Cluster, *which: str) -> list[str]:
    """Id, state and name of each job in the queue."""
    return sorted(slurm.run("squeue", "--noheader", "--array", *which, "--format=%i %T %j").splitlines())


def test_jobs_of_another_study_whose_ids_are_in_the_ledger_are_never_touched(
    slurm: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "t").mkdir()
    for name in "ab":
        (tmp_path / "t" / f"{name}.hold").touch()
    file = write_cluster(tmp_path / "lab.yaml")
    theirs = by_hand([unit(tmp_path / "t", n) for n in "ab"], file, StudyDir(tmp_path / "theirs" / "small"))
    assert submit(theirs, yes=True, only=None) == 0
    wait_for(lambda: len(theirs.poll().of(State.RUNNING)) == 2, "them to run")
    before = jobs(slurm)
    file = write_cluster(tmp_path / "hold.yaml", sbatch={"hold": True})
    [array] = {id.partition("_")[0] for id in before}
    units = [unit(tmp_path / "o", name) for name in "ab"]
    ours = by_hand(units, file, StudyDir(tmp_path / "ours" / "small"))
    ours.ledger.intent("prepare-small-1", [Started(u.id, 1, i) for i, u in enumerate(units)])
    ours.ledger.submitted("prepare-small-1", array)  # as after a reset of the controller

    assert [seen.live for seen in ours.poll().units] == [None, None]
    assert cancel(ours, ours.poll(), None) == []
    forged = [job for a in ours.ledger.attempts().values() for job in a.jobs]
    ours.backend.cancel(forged)
    assert jobs(slurm) == before

    assert submit(ours, yes=True, only=None) == 0
    assert len(jobs(slurm)) == 4
    assert len(cancel(ours, ours.poll(), None)) == 2
    assert jobs(slurm) == before
    # Nor is the end of theirs taken for that of ours.
    slurm.run("scancel", array)
    wait_for(lambda: len(Slurm(SlurmClient()).exit_reasons(theirs.ledger.attempts())) == 2, "the accounts")
    last = Ledger(ours.root.ledger).attempts()
    changed = {id: last[id]._replace(jobs=(job,)) for id, job in zip(last, forged, strict=True)}
    assert Slurm(SlurmClient()).exit_reasons(changed) == {}


def test_a_copy_under_the_same_name_is_ended_too(slurm: Cluster, tmp_path: Path) -> None:
    """As where a person, or a wrapper, has submitted a script once more."""
    file = write_cluster(tmp_path / "lab.yaml", sbatch={"hold": True})
    project = by_hand([unit(tmp_path, "a")], file, StudyDir(tmp_path / "runs" / "small"))
    assert submit(project, yes=True, only=None) == 0
    [script] = project.root.path.glob("submissions/*/submit.sh")
    slurm.run("sbatch", str(script))
    assert len(jobs(slurm)) == 2
    assert cancel(project, project.poll(), None) == ["prepare a"]
    assert jobs(slurm) == []


ELSEWHERE = """
export PYTHONPATH={{code}}:"${PYTHONPATH:-}" PYTHONSAFEPATH=1
echo "$SLURM_CLUSTER_NAME" >> {{study}}/ran-on
SLURM_CONF={{conf}} srun --unbuffered --output={{log}} {{python}} -u -m {{module}} {{submission}}
"""


@pytest.fixture(scope="module")
def other(slurm: Cluster) -> Iterator[Cluster]:
    """A second cluster in the same accounts; SLURM_CONF stays that of the first."""
    with Cluster(beside=slurm, nodes=1, gpus=0, name="other") as cluster:
        slurm.run("sacctmgr", "--noheader", "show", "cluster")
        wait_for(lambda: slurm.run("squeue", "--clusters=other", "--noheader") is not None, "it to be known")
        yield cluster


def at_other(folder: Path, other: Cluster, monkeypatch: pytest.MonkeyPatch, **sbatch: str) -> Project:
    """A project of two units on the other cluster, with a template that its nodes need here."""
    (folder / "templates").mkdir(exist_ok=True)
    for name in ("again.bash", "plain.sh"):
        (folder / "templates" / name).write_text(
            (templates.FOLDER / name).read_text(encoding="utf-8"), encoding="utf-8"
        )
    (folder / "templates" / "elsewhere.sh").write_text(ELSEWHERE, encoding="utf-8")
    monkeypatch.setattr(templates, "FOLDER", folder / "templates")
    variables = {"conf": str(other.conf)}
    file = write_cluster(folder / "o.yaml", template="elsewhere", variables=variables, sbatch=sbatch)
    return by_hand([unit(folder, n) for n in "ab"], file, StudyDir(folder / "runs" / "small"))


def test_on_another_cluster_jobs_are_submitted_seen_requeued_and_cancelled(
    slurm: Cluster, other: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = at_other(tmp_path, other, monkeypatch, clusters="other")
    # Jobs of another study with the same numbers, on this cluster.
    here = by_hand(
        [unit(tmp_path / "h", f"h{i}") for i in range(3)],
        write_cluster(tmp_path / "hold.yaml", sbatch={"hold": True}),
        StudyDir(tmp_path / "here" / "small"),
    )
    for _ in range(2):
        slurm.run("sbatch", "--hold", "--output=/dev/null", "--wrap=true")
    assert submit(here, yes=True, only=None) == 0
    before = jobs(slurm, "--clusters=lab")
    for name in "ab":
        (tmp_path / f"{name}.hold").touch()
    (tmp_path / "a.steps").touch()
    assert submit(ours, yes=True, only=None) == 0
    text = journal.own(ours.root.ledger).read_text(encoding="utf-8")
    assert re.search(r'"job": "\d+;other"', text)
    wait_for(lambda: all(runs(tmp_path, name) for name in "ab"), "both to begin")
    assert [seen.state for seen in ours.poll().units] == [State.RUNNING] * 2
    assert (ours.root.path / "ran-on").read_text(encoding="utf-8") == "other\n" * 2

    first = ours.poll().units[0].jobs[0].id
    assert first
    # The job itself has to find its own controller to be put back, though SLURM_CONF is that of the first.
    slurm.run("scancel", "--clusters=other", "--signal=USR2", first)
    queued = ("squeue", "--clusters=other", "--noheader", f"--jobs={first}", "--format=%T %r")
    wait_for(lambda: "PENDING" in slurm.run(*queued), "it to be put back")
    assert submit(ours, yes=True, only=None) == 0  # nothing to do
    assert len(cancel(ours, ours.poll(), None)) == 2
    wait_for(lambda: jobs(slurm, "--clusters=other") == [], "they to end")
    assert jobs(slurm, "--clusters=lab") == before


def test_the_environment_names_the_cluster_once_and_the_ledger_keeps_it(
    slurm: Cluster, other: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Submitter.make(slurm, tmp_path, sbatch={"hold": True})

    def names(cluster: str) -> int:
        return len(jobs(slurm, f"--clusters={cluster}"))

    assert small.sor("submit", tmp_path, "--yes", SLURM_CLUSTERS="other").returncode == 0
    assert (names("lab"), names("other")) == (0, len(small.inputs))
    script = next(tmp_path.glob("small/submissions/*/submit.sh")).read_text(encoding="utf-8")
    assert "#SBATCH --clusters=other\n" in script
    for variables in ({}, {"SLURM_CLUSTERS": "other"}, {"SBATCH_CLUSTERS": "other"}):
        done = small.sor("submit", tmp_path, "--yes", **variables)
        assert (done.returncode, "nothing to submit" in done.stdout) == (0, True), done.stderr
    elsewhere = small.sor("submit", tmp_path, "--yes", SLURM_CLUSTERS="lab")
    assert elsewhere.returncode == 2
    assert f"SLURM_CLUSTERS=other sor cancel {small.study} --cluster {small.file}" in elsewhere.stderr
    listed = small.sor("submit", tmp_path, "--yes", SLURM_CLUSTERS="lab,other")
    assert (listed.returncode, "a study runs on one cluster" in listed.stderr) == (2, True)
    doctor = small.run("doctor", "--cluster", str(small.file), "--runs", str(tmp_path), SLURM_CLUSTERS="none")
    assert doctor.returncode == 1
    assert small.sor("cancel", tmp_path, "--yes").returncode == 0
    assert names("other") == 0
    assert small.sor("submit", tmp_path, "--yes", SLURM_CLUSTERS="lab").returncode == 0
    assert (names("lab"), names("other")) == (len(small.inputs), 0)
