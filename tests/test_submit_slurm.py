"""Jobs of a real Slurm that fail, are cancelled, requeued or lost; and a Slurm that does not answer."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cluster import Cluster
from small_slurm import Submitter, before, before_sbatch, by_hand, write_cluster
from small_study import TESTS, runs, unit

from jobs.store.rundir import StudyDir
from launch.commands.submit import cancel, submit
from launch.slurm.backend import Slurm
from launch.slurm.client import TIMEOUT, SlurmClient
from launch.state.ledger import Ledger
from launch.state.states import State
from launch.state.status import UnitStatus
from launch.study_run import Project

STARTING = 20.0  # seconds that a program may take besides, on a busy machine


@pytest.fixture(scope="module")
def own(slurm: Cluster) -> Iterator[Cluster]:
    """A cluster without accounting, whose daemons may be ended."""
    with Cluster(nodes=2, gpus=0, accounting=False) as cluster:
        yield cluster


@pytest.fixture
def lab(own: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The same, in use; without jobs afterwards."""
    yield from in_use(own, monkeypatch)


@pytest.fixture
def accounted(slurm: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The cluster with accounting, in use; without jobs afterwards."""
    yield from in_use(slurm, monkeypatch)


def in_use(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield cluster
    cluster.run("scancel", "--me", "--state=PENDING")
    until(lambda: not cluster.run("squeue", "--noheader"))


def until(true: Callable[[], object], seconds: float = 120.0) -> None:
    """Wait until a condition holds; fail if it does not in time."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        time.sleep(0.3)


def look(project: Project) -> dict[str, UnitStatus]:
    return {seen.unit.name: seen for seen in project.poll().units}


def states(project: Project) -> str:
    """The states of all units, as `a done, b failed`."""
    found = ", ".join(f"{name} {seen.state}" for name, seen in look(project).items())
    print(found)
    return found


def reached(project: Project, wanted: str) -> None:
    until(lambda: states(project) == wanted)


def job(project: Project, name: str) -> str:
    """The id of a unit's only job."""
    [found] = Ledger(project.root.ledger).attempts()[look(project)[name].unit.id].jobs
    assert found.id
    return found.id


def queued(cluster: Cluster, job: str, what: str = "%T %r") -> str:
    return cluster.run("squeue", "--noheader", f"--jobs={job}", "--states=all", f"--format={what}")


def numbers(project: Project) -> str:
    """How many attempts each unit had, as `a1 b2`."""
    counts = {name: seen.attempt.number if seen.attempt else 0 for name, seen in look(project).items()}
    return " ".join(f"{name}{count}" for name, count in counts.items())


def test_of_an_array_of_which_half_failed_that_half_runs_again(lab: Cluster, tmp_path: Path) -> None:
    units = [unit(tmp_path, name) for name in "abcdef"]
    project = by_hand(units, write_cluster(tmp_path / "lab.yaml"), StudyDir(tmp_path / "a study"))
    for name in "ace":
        (tmp_path / f"{name}.fail").touch()
    assert submit(project, yes=True, only=None) == 0
    reached(project, "a failed, b done, c failed, d done, e failed, f done")
    assert look(project)["c"].reason == "RuntimeError: c was told to fail"
    first = {job(project, name).partition("_")[0] for name in "abcdef"}
    for name in "ace":
        (tmp_path / f"{name}.fail").unlink()
    assert submit(project, yes=True, only=None) == 0
    assert numbers(project) == "a2 b1 c2 d1 e2 f1"
    second = {job(project, name) for name in "ace"}
    assert [id for id in second if id.partition("_")[0] in first] == []
    array = second.pop().partition("_")[0]
    assert (
        len(lab.run("squeue", "--noheader", "--array", "--states=all", f"--jobs={array}").splitlines()) == 3
    )
    reached(project, "a done, b done, c done, d done, e done, f done")
    assert [len(runs(tmp_path, name)) for name in "abcdef"] == [2, 1, 2, 1, 2, 1]


def test_a_mended_unit_frees_those_that_need_it(lab: Cluster, tmp_path: Path) -> None:
    a = unit(tmp_path, "a")
    b, other = unit(tmp_path, "b", a), unit(tmp_path, "o")
    c = unit(tmp_path, "c", b, other)
    project = by_hand([a, other, b, c], write_cluster(tmp_path / "lab.yaml"), StudyDir(tmp_path / "root"))
    (tmp_path / "a.fail").touch()
    assert submit(project, yes=True, only=None) == 0
    reached(project, "a failed, o done, b blocked, c blocked")
    dead = [job(project, name) for name in "bc"]
    until(lambda: "DependencyNeverSatisfied" in queued(lab, dead[0]))
    reached(project, "a failed, o done, b blocked, c blocked")
    assert [look(project)[name].reason for name in "bc"] == [
        "needs prepare a, which failed", "needs prepare b, which failed",
    ]  # fmt: skip
    (tmp_path / "a.fail").unlink()
    assert submit(project, yes=True, only=None) == 0
    assert numbers(project) == "a2 o1 b2 c2"
    for id in dead:
        assert not queued(lab, id) or "CANCELLED" in queued(lab, id)
    reached(project, "a done, o done, b done, c done")
    assert [len(runs(tmp_path, name)) for name in "aobc"] == [2, 1, 1, 1]


def test_blocked_before_and_after_slurm_knows(lab: Cluster, tmp_path: Path) -> None:
    small = Submitter.make(lab, tmp_path, stages={"collate": {"hold": True}})
    told = small.study.parent
    (told / "study.fail").touch()
    assert small.submit(tmp_path).returncode == 0

    def shown() -> dict[str, dict[str, str]]:
        found = json.loads(small.sor("status", tmp_path, "--json").stdout)["units"]
        return {f"{u['stage']} {u['name']}": u for u in found}

    def check() -> dict[str, str]:
        prepare, collate, *others = shown().values()
        assert (prepare["state"], prepare["reason"]) == ("failed", "RuntimeError: study was told to fail")
        assert (collate["state"], collate["reason"]) == ("blocked", "needs prepare small, which failed")
        assert {u["state"] for u in others} == {"blocked"}
        assert all(re.fullmatch(r"needs .*, which failed", u["reason"]) for u in others)
        return collate

    until(lambda: small.poll(tmp_path).of(State.FAILED))
    collate = check()["job"]
    assert queued(lab, collate) == "PENDING JobHeldUser"
    lab.run("scontrol", "release", collate)
    until(lambda: queued(lab, collate) == "PENDING DependencyNeverSatisfied")
    check()
    (told / "study.hold").touch()
    (told / "study.fail").unlink()
    dead = small.jobs(tmp_path)
    small.check(tmp_path)
    small.check_again(tmp_path)
    assert not set(small.jobs(tmp_path)) & set(dead)
    (told / "study.hold").unlink()
    scripts = list(tmp_path.glob("small/submissions/*/submit.sh"))
    assert len(scripts) == 12
    assert not any("kill-on-invalid-dep" in script.read_text(encoding="utf-8") for script in scripts)


def test_a_controller_that_is_down(lab: Cluster, tmp_path: Path) -> None:
    small = Submitter.make(lab, tmp_path, sbatch={"hold": True})
    pack = next(seen.unit.name for seen in small.poll(tmp_path).units if seen.unit.stage == "tokenize")
    pid = (lab.scratch / "pids" / "slurmctld").read_text(encoding="utf-8")
    end = f"kill {pid}; while grep -qs '^State:.[^Z]' /proc/{pid}/status; do sleep 0.1; done"
    path = before_sbatch(tmp_path, "train", end)

    def refused(program: str, verb: str, runs: Path, *words: str, **variables: str) -> None:
        began = time.monotonic()
        done = small.sor(verb, runs, *words, **variables)
        assert time.monotonic() - began < TIMEOUT + STARTING
        assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
        assert re.search(rf"^sor: '{program}' .*\(slurmctld\) is busy or down.* Try again", done.stderr, re.M)

    try:
        with ThreadPoolExecutor() as pool:
            said = [pool.submit(refused, "sbatch", "submit", tmp_path, "--yes", PATH=path)]
            until(lambda: not lab.processes.alive("slurmctld"))
            said.append(pool.submit(refused, "scontrol", "submit", tmp_path / "other", "--yes"))
            said += [pool.submit(refused, "squeue", verb, tmp_path) for verb in ("status", "cancel")]
            said.append(pool.submit(refused, "squeue", "logs", tmp_path, pack))
        for each in said:
            each.result()
    finally:
        lab.processes.end("slurmctld")
        lab.start_slurmctld()
    small.check(tmp_path)
    small.check(tmp_path / "other")


def test_without_an_answer_of_the_accounts(accounted: Cluster, tmp_path: Path) -> None:
    small = Submitter.make(accounted, tmp_path / "held", sbatch={"hold": True})
    file = write_cluster(tmp_path / "lab.yaml")
    project = by_hand([unit(tmp_path, "a")], file, StudyDir(tmp_path / "root"))
    (tmp_path / "a.hold").touch()
    assert submit(project, yes=True, only=None) == 0
    until(lambda: runs(tmp_path, "a"))
    accounted.processes.end("slurmdbd")
    try:
        done = small.submit(tmp_path / "held")
        assert (done.returncode, "your limits are unknown" in done.stderr) == (0, True), done.stderr
        assert small.sor("status", tmp_path / "held").returncode == 4  # its jobs are held
        accounted.run("scancel", job(project, "a"))
        reached(project, "a failed")
        assert look(project)["a"].reason == "was cancelled in Slurm"
        (tmp_path / "a.hold").unlink()
        assert submit(project, yes=True, only=None) == 0
        reached(project, "a done")
        assert small.sor("cancel", tmp_path / "held", "--yes").returncode == 0
        assert not small.jobs(tmp_path / "held")
    finally:
        accounted.start_slurmdbd()


def test_accounts_that_hang_are_waited_for_once(
    accounted: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tmp_path / "asked"
    for program in ("sacct", "sacctmgr"):
        path = before(program, tmp_path / "bin", f"echo {program} >> {asked}")
    monkeypatch.setenv("PATH", path)
    file = write_cluster(tmp_path / "lab.yaml", sbatch={"hold": True})
    units = [unit(tmp_path, "a"), unit(tmp_path, "b")]
    assert submit(by_hand(units, file, StudyDir(tmp_path / "root")), yes=True, only=None) == 0
    project = by_hand(units, file, StudyDir(tmp_path / "root"), timeout=5)
    accounted.run("scancel", job(project, "a"))  # one of two elements, which squeue forgets at once
    accounted.processes.send("slurmdbd", signal.SIGSTOP)
    asked.unlink()
    try:
        reached(project, "a waiting, b queued")
        assert "its job ended before it started working" in str(look(project)["a"].reason)
        assert submit(project, yes=True, only=None) == 0
    finally:
        accounted.processes.send("slurmdbd", signal.SIGCONT)
    assert asked.read_text(encoding="utf-8") == "sacct\n"
    assert numbers(project) == "a2 b1"


def test_cancelled_by_unit_by_array_and_all(lab: Cluster, tmp_path: Path) -> None:
    small = Submitter.make(lab, tmp_path, sbatch={"hold": True})
    small.check(tmp_path)
    units = {f"{s.unit.stage}/{s.unit.name}": s.unit.id for s in small.poll(tmp_path).units}
    packs = [name for name in units if name.startswith("tokenize/")]
    for names in (["train/s-r0"], packs, ["--yes"]):
        before = dict(small.jobs(tmp_path))
        done = small.sor("cancel", tmp_path, *names)
        assert (done.returncode, done.stderr) == (0, "")
        gone = {units[name] for name in (units if names == ["--yes"] else names)}
        assert done.stdout.count(",") == len(gone) - 1
        assert dict(small.jobs(tmp_path)) == {u: job for u, job in before.items() if u not in gone}
        cancelled = [s for s in small.poll(tmp_path).units if s.attempt and s.attempt.ended == "cancelled"]
        assert {s.unit.id for s in cancelled} == gone
        assert {s.state for s in cancelled} == {State.WAITING}
        small.check(tmp_path)
    small.sor("cancel", tmp_path, "--yes")
    assert small.sor("cancel", tmp_path).stdout == "nothing to cancel: no job is queued or running\n"


def test_running_jobs_that_are_cancelled_or_ended_by_others(accounted: Cluster, tmp_path: Path) -> None:
    units = [unit(tmp_path, name) for name in "abc"]
    units.append(unit(tmp_path, "d", units[2]))
    once = write_cluster(tmp_path / "once.yaml", sbatch={"no-requeue": True})  # a job that is killed ends
    project = by_hand(units, once, StudyDir(tmp_path / "root"))
    for name in "abc":
        (tmp_path / f"{name}.hold").touch()
    assert submit(project, yes=True, only=None) == 0
    until(lambda: all(runs(tmp_path, name) for name in "abc"))
    now = project.poll()
    ended = cancel(project, now, [s for s in now.units if s.unit.name == "a"])
    assert ended == ["prepare a"]
    accounted.run("scancel", job(project, "b"), job(project, "d"))
    reached(project, "a waiting, b failed, c running, d waiting")
    shown = look(project)
    assert (shown["a"].reason, shown["d"].reason) == ("cancelled", "needs prepare c")
    assert str(shown["b"].reason).startswith("was cancelled in Slurm")
    os.kill(runs(tmp_path, "c")[0]["pid"], signal.SIGKILL)
    reached(project, "a waiting, b failed, c failed, d blocked")
    attempts = {u.name: Ledger(project.root.ledger).attempts()[u.id] for u in units[1:3]}

    def by_account() -> str:
        """What the accounts say, once the queue has forgotten."""
        return " ".join(Slurm(SlurmClient()).exit_reasons(attempts).values())

    until(lambda: re.match(r"was cancelled in Slurm by \w+ .*(exit code|signal) \d+", by_account()))
    for name in "abc":
        (tmp_path / f"{name}.hold").unlink()
    assert submit(project, yes=True, only=None) == 0
    reached(project, "a done, b done, c done, d done")
    assert [len(runs(tmp_path, name)) for name in "abcd"] == [2, 2, 2, 1]


def test_a_requeued_job_is_left_to_slurm(lab: Cluster, tmp_path: Path) -> None:
    project = by_hand(
        [unit(tmp_path, "a"), unit(tmp_path, "b")], write_cluster(tmp_path / "lab.yaml"),
        StudyDir(tmp_path / "root"),
    )  # fmt: skip
    file = write_cluster(tmp_path / "once.yaml", sbatch={"no-requeue": True})
    once = by_hand([unit(tmp_path, "c")], file, StudyDir(tmp_path / "once"))
    for name in "abc":
        (tmp_path / f"{name}.hold").touch()
    assert [submit(each, yes=True, only=None) for each in (project, once)] == [0, 0]
    until(lambda: all(runs(tmp_path, name) for name in "abc"))
    again, lost = job(project, "a"), job(project, "b")
    lab.run("scontrol", "requeue", again)
    until(lambda: queued(lab, again) == "PENDING BeginTime")
    nodes = {queued(lab, id, "%N") for id in (lost, job(once, "c"))}
    lab.run("scontrol", "update", f"NodeName={','.join(nodes)}", "State=DOWN", "Reason=test")
    reached(once, "c failed")
    assert look(once)["c"].reason == "its node failed"
    until(lambda: queued(lab, lost) == "PENDING BeginTime")
    reached(project, "a preempted, b preempted")
    assert submit(project, yes=True, only=None) == 0
    assert numbers(project) == "a1 b1"
    (tmp_path / "c.hold").unlink()
    assert submit(once, yes=True, only=None) == 0
    lab.run("scontrol", "update", f"JobId={again}", "StartTime=now")
    (tmp_path / "a.hold").unlink()
    reached(once, "c done")
    reached(project, "a done, b preempted")
    assert [len(runs(tmp_path, name)) for name in "ac"] == [2, 2]
    (tmp_path / "b.hold").unlink()  # some of it may still run on the node that was lost
