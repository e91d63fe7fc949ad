"""`sor keep` without a Slurm: what it refuses, what it waits for, and what ends it."""

from __future__ import annotations

import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from rich.console import Console
from small_slurm import write_cluster
from small_study import SOR, environment, listen, publish, student, unit, wait_for, write_study
from test_submit import Paper, project_of

from jobs.core.causes import Cause
from jobs.store.rundir import StudyDir, write_json
from launch.commands.keep import LONGEST, Lines, _Rounds, keep
from launch.commands.submit import cancel, submit
from launch.slurm.backend import Slurm
from launch.slurm.hourly import HOUR, HourlyClient
from launch.slurm.parse import NotSetUp, Refused
from launch.state.exit_code import Outlook, outlook
from launch.state.ledger import KEEPER, Attempt, Job, Started
from launch.state.lock import STALE, Lock, Locked, holder
from launch.state.states import State
from launch.state.status import StudyStatus
from launch.study_run import Project, open_project
from launch.submit import next_keeper
from launch.submit.limits import Refusal
from launch.submit.rounds import ALL_DONE, FULL, Over
from launch.views import status_view

DEAD = 'echo "slurm_load_jobs error: Unable to contact slurm controller (connect failure)" >&2; exit 1'


@dataclass(frozen=True)
class Lab:
    """A folder with a study that was submitted, on a Slurm whose controller does not answer."""

    folder: Path
    project: Project

    def start(self, log: Path, *before: str) -> subprocess.Popen[str]:
        """Start `sor keep` and wait until it has met the controller."""
        command = [*before, str(SOR), "keep", "study/small.yaml", "--cluster", "lab.yaml", "--runs", "."]
        with log.open("w", encoding="utf-8") as out:
            process = subprocess.Popen(
                command, cwd=self.folder, env=environment(), encoding="utf-8", stdout=out, stderr=out,
                stdin=subprocess.DEVNULL, preexec_fn=listen,
            )  # fmt: skip
        wait_for(lambda: "The next round is in" in log.read_text(encoding="utf-8"), "the first round", 30)
        return process


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    for program in ("squeue", "scontrol", "sinfo", "sacct", "sacctmgr"):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / program).write_text(f"#!/bin/sh\n{DEAD}\n", encoding="utf-8")
        (tmp_path / "bin" / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.delenv("SLURM_CONF", raising=False)
    file = write_cluster(tmp_path / "lab.yaml")
    study = write_study(tmp_path / "study", {"s": student()}, benchmarks=["easy.yaml"])
    project = open_project(str(study), str(file), tmp_path)
    project.root.path.mkdir()
    write_json(project.root.study, project.study.model_dump(mode="json"))
    next_keeper.record(project, None, ())
    return Lab(tmp_path, project)


def lives_on(lab: Lab) -> None:
    """A job of the study may be live, which only Slurm knows."""
    lab.project.ledger.intent("prepare-small-1", [Started(lab.project.units[0].id, 1, 0)])


# What it refuses


def test_a_study_of_this_machine(tmp_path: Path) -> None:
    with pytest.raises(
        Refusal, match=r"^'sor keep' continues studies on Slurm, .*: sor submit demo --cluster NAME"
    ):
        keep(open_project("demo", None, tmp_path), 300.0)


def test_a_study_that_was_never_submitted_or_was_canceled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.submit.code_snapshot.untracked", list)
    paper = Paper()
    project = project_of(tmp_path, paper, unit(tmp_path, "a"), unit(tmp_path, "b"))
    with pytest.raises(Refusal, match=r"never submitted to Slurm, or was canceled\. .*: sor submit "):
        keep(project, 300.0)
    assert not project.root.path.exists()
    assert submit(project, yes=True, only=None) == 0
    assert project.root.submitted.exists()
    cancel(project, project.poll(), list(project.poll().units)[:1])
    assert project.root.submitted.exists()
    with Lock(project.root.keep_lock):
        ended = cancel(project, project.poll(), None)
        assert re.fullmatch(
            r"'sor keep' of \w+ on \S+ \(process \d+\), which ends at its next round", ended[0]
        )
    assert not project.root.submitted.exists()
    with pytest.raises(Refusal, match="or was canceled"):
        keep(project, 300.0)


def test_a_study_that_was_submitted_elsewhere(lab: Lab) -> None:
    other = write_cluster(lab.folder / "other.yaml")
    project = open_project(str(lab.project.file), str(other), lab.folder)
    with pytest.raises(Refusal, match=r"last submitted with --cluster .*lab\.yaml\. To submit it here: sor"):
        keep(project, 300.0)


def test_a_study_with_a_keepers_job(tmp_path: Path) -> None:
    paper = Paper()
    project = project_of(tmp_path, paper, unit(tmp_path, "a"), keeper=60)
    assert submit(project, yes=True, only=None) == 0
    with pytest.raises(
        Refusal, match=r"the keeper's job 101 continues .* remove 'slurm\.keeper' .* sor submit"
    ):
        keep(project, 300.0)
    project.ledger.ended("over", [(KEEPER, 1, "why")])
    with Lock(project.root.keep_lock), pytest.raises(Locked, match="One 'sor keep' is enough"):
        keep(project, 300.0)


def test_a_second_one_on_another_login_node(lab: Lab) -> None:
    written = f'{{"user": "ann", "host": "login7", "pid": 5, "began": {time.time()}}}'
    lab.project.root.keep_lock.write_text(written, encoding="utf-8")
    with pytest.raises(Locked, match=r"being continued by ann on login7 \(process 5\)"):
        keep(lab.project, 300.0)
    os.utime(lab.project.root.keep_lock, (time.time() - STALE - 1,) * 2)
    assert keep(lab.project, 300.0) == 1  # takes over; nothing was asked for


# How it ends


def test_all_is_done(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    for each in lab.project.units:
        publish(lab.project.root, each, {"lengths_in": "characters", "prompts": 4})
    assert keep(lab.project, 300.0) == 0
    *_, stands, last = capsys.readouterr().out.splitlines()
    count = len(lab.project.units)
    assert re.fullmatch(rf"\d\d:\d\d:\d\d {count} of {count} units done, 0 queued or running", stands)
    assert re.fullmatch(rf"\d\d:\d\d:\d\d {ALL_DONE}", last)
    assert not lab.project.root.keep_lock.exists()


def test_nothing_more_can_be_done(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert keep(lab.project, 300.0) == 1
    why = "nothing more can be submitted: the rest was canceled, or its result removed. To submit it: sor"
    assert capsys.readouterr().out.splitlines()[-1][9:].startswith(why)
    lab.project.root.submitted.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"submitted\.json"):
        keep(lab.project, 300.0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_at_once_and_says_how_to_go_on(lab: Lab, number: signal.Signals) -> None:
    lives_on(lab)
    log = lab.folder / "log"
    process = lab.start(log)
    began = time.monotonic()
    process.send_signal(number)
    assert process.wait(timeout=30) == 128 + number
    assert time.monotonic() - began < 5
    said = log.read_text(encoding="utf-8")
    again = "sor keep study/small.yaml --cluster lab.yaml --runs ."
    assert said.splitlines()[-1].endswith(f"To continue submitting: {again}")
    assert "Traceback" not in said
    assert not lab.project.root.keep_lock.exists()
    assert not lab.project.root.lock.exists()


def test_under_nohup_it_outlives_the_terminal(lab: Lab) -> None:
    lives_on(lab)
    process = lab.start(lab.folder / "log", "nohup")
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=1)
    process.terminate()
    assert process.wait(timeout=30) == 128 + signal.SIGTERM


# What it waits for


def rounds(lab: Lab, every: float) -> _Rounds:
    return _Rounds(lab.project.root, lab.folder, every, Lines())


def test_pauses_grow_while_slurm_does_not_answer(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lives_on(lab)
    often, usual, rarely = rounds(lab, 30.0), rounds(lab, 300.0), rounds(lab, 3600.0)
    assert [often.take() for _ in range(7)] == [30.0, 60.0, 120.0, 240.0, 480.0, LONGEST, LONGEST]
    assert [usual.take() for _ in range(3)] == [300.0, LONGEST, LONGEST]
    assert [rarely.take() for _ in range(3)] == [3600.0] * 3
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 3  # one for each outage
    assert "'squeue' failed and said: slurm_load_jobs error" in said[0]


def test_without_any_slurm_it_does_not_wait(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lives_on(lab)
    monkeypatch.setenv("SLURM_CONF", str(lab.folder / "none"))
    with pytest.raises(NotSetUp, match="which does not exist"):
        keep(lab.project, 300.0)
    waits = rounds(lab, 300.0)
    waits._answered = time.time()  # it has been there before
    assert waits.take() == 300.0


def test_a_submit_that_is_in_progress(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    with Lock(lab.project.root.lock):
        assert rounds(lab, 300.0).take() == 30.0
    assert f"being submitted by {os.environ.get('USER', 'root')}" in capsys.readouterr().out
    with pytest.raises(Over):
        rounds(lab, 300.0).take()


def test_a_study_that_it_continues_needs_no_person(lab: Lab) -> None:
    failed = replace_state(lab.project.poll(), State.FAILED, "its node failed")
    assert outlook(failed) is Outlook.NEEDS_ATTENTION
    with Lock(lab.project.root.keep_lock):
        now = lab.project.poll()
        assert now.keeping is not None
        assert now.keeping.who.endswith(f"on {socket.gethostname()} (process {os.getpid()})")
        assert outlook(replace(failed, keeping=now.keeping)) is Outlook.CONTINUES
    assert lab.project.poll().keeping is None


def replace_state(now: StudyStatus, state: State, reason: str) -> StudyStatus:
    """The same study, with a first unit that ended so after an attempt."""
    attempt = Attempt(1, time.time(), "lab", (Job("s", "1", "here", 0),), "failed", reason)
    first = now.units[0]._replace(state=state, reason=reason, attempt=attempt)
    assert first.cause is Cause.NODE
    return replace(now, units=(first, *now.units[1:]))


def test_refusals_that_end_with_other_jobs() -> None:
    for words in (
        "AssocMaxSubmitJobLimit; Job violates accounting/QOS policy (job submit limit, user's size and/or "
        "time limits)",
        "QOSMaxSubmitJobPerUserLimit",
        "[*] Too many simultaneous jobs in queue.; --> Max job limits for ann =  40 jobs",
    ):
        assert FULL.search(words)
    assert not FULL.search("Invalid account or account/partition combination specified")
    assert not FULL.search("Requested node configuration is not available")


def test_limits_are_asked_for_once_an_hour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "calls"
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\necho $* >> {log}\n", encoding="utf-8")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("SLURM_CONF", raising=False)
    client, now = HourlyClient(), time.monotonic()

    def calls() -> int:
        assert client.partitions().rows == ()
        return len(log.read_text(encoding="utf-8").splitlines())

    assert [calls(), calls()] == [1, 1]
    monkeypatch.setattr(time, "monotonic", lambda: now + HOUR + 60)
    assert [calls(), calls()] == [2, 2]
    client.forget()
    assert [calls(), calls()] == [3, 3]


def test_a_refusal_for_the_number_of_jobs_points_to_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Full(Paper):
        def submit(self, script: Path) -> object:  # type: ignore[override]
            raise Refused("AssocMaxSubmitJobLimit", "Job violates accounting/QOS policy")

    project = project_of(tmp_path, Full(), unit(tmp_path, "a"))
    assert isinstance(project.backend, Slurm)
    assert submit(project, yes=True, only=None) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("sor: to have these submitted as jobs end, in tmux or with nohup: sor keep ")


# What it prints


def test_in_a_terminal_the_last_line_is_replaced() -> None:
    program = (
        "from launch.commands.keep import Lines\n"
        "lines = Lines(); lines.show('nothing new'); lines.show('x' * 500); lines.add('news')"
    )
    main, end = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(COLUMNS="80"), stdout=end, check=True
    )
    os.close(end)
    said = os.read(main, 10_000).decode()
    os.close(main)
    assert done.returncode == 0
    first, blanks, second, more, last = said.split("\r")[:5]
    assert re.fullmatch(r"\d\d:\d\d:\d\d nothing new", first)
    assert blanks == " " * len(first)
    assert re.fullmatch(r"\d\d:\d\d:\d\d x+", second)
    assert (len(second), len(more)) == (79, 79)
    assert re.fullmatch(r"\d\d:\d\d:\d\d news", last)


def test_elsewhere_nothing_new_is_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    lines.show("nothing new")
    lines.add("news\x1b[2J")
    assert re.fullmatch(r"\d\d:\d\d:\d\d news\n", capsys.readouterr().out)


def test_the_status_names_it(tmp_path: Path) -> None:
    console = Console(width=200)
    root = StudyDir(tmp_path)
    with Lock(root.keep_lock), console.capture() as said:
        console.print(status_view(StudyStatus(root, (), keeping=holder(root.keep_lock))))
    assert re.search(r"keeper: 'sor keep' of \w+ on \S+ \(process \d+\)", said.get())
