"""What `sor submit` and `sor cancel` do, on a Slurm that takes every script and starts nothing.

With a real one: test_submit_slurm.py and test_submit_crash.py.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from made_projects import made_project
from rich.prompt import Confirm
from small_study import publish, unit

from jobs.core import secrets
from jobs.core.plain import PlainConsole
from jobs.core.unit import Unit
from jobs.store import journal
from jobs.store.checkpoints import Checkpoints, Meta
from jobs.store.rundir import read_json
from launch.commands import submit as submitting
from launch.commands.submit import cancel, preview, submit
from launch.local.backend import Local
from launch.local.stopping import Stopping
from launch.slurm import backend
from launch.slurm.backend import Slurm
from launch.slurm.client import SlurmClient
from launch.slurm.limits import Association, Limits, Partition, Qos, parse_partitions
from launch.slurm.parse import (
    Config,
    NodeGroup,
    PastJob,
    QueuedJob,
    Refused,
    expand,
    parse_queue,
)
from launch.slurm.text import SEPARATOR, Table
from launch.state.backend import LiveJobs
from launch.state.command_line import command
from launch.state.errors import SlurmUnavailable
from launch.state.job_ids import JobId
from launch.state.ledger import KEEPER, Started
from launch.state.lock import Lock, Locked, Lost, holder
from launch.state.reconcile import reconcile
from launch.state.states import State
from launch.state.status import NEVER, StudyStatus
from launch.study_run import Project
from launch.submit import array_jobs, trust
from launch.submit.array_jobs import submit_one
from launch.submit.limits import Refusal
from launch.submit.steps import WITHDRAWN

MAIN = "PartitionName=main Default=YES MaxNodes=UNLIMITED MaxTime=UNLIMITED State={state} TotalNodes=4"
MOST = 20  # jobs that the controller holds


class Paper(SlurmClient):
    """A Slurm that takes every script and starts nothing.

    Attributes:
        jobs: that live, by their ids: submission, state and reason.
        taken: what each script asked for: options of sbatch by name.
        script: the last one.
        asked: how often for its settings.
        ended: ids in the order in which they were cancelled.
        refuses: what the names of submissions begin with that it does not take.
        state: of its partition.
        accounts: whether they answer.
        enforced: what they enforce.
    """

    def __init__(self) -> None:
        super().__init__()
        self.jobs: dict[str, tuple[str, str, str]] = {}
        self.taken: list[dict[str, str]] = []
        self.script = ""
        self.asked = 0
        self.ended: list[str] = []
        self.refuses: str | None = None
        self.state = "UP"
        self.accounts = True
        self.enforced: tuple[str, ...] = ("associations",)
        self.at_submit: Callable[[], object] = bool
        self.at_look: Callable[[], object] = bool

    def add(self, array: str, name: str, *indices: int, state: str = "PENDING", reason: str = "None") -> None:
        for id in [f"{array}_{index}" for index in indices] or [array]:
            self.jobs[id] = name, state, reason

    def submit(self, script: Path) -> JobId:
        self.at_submit()
        self.script = script.read_text(encoding="utf-8")
        options = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", self.script, re.MULTILINE))
        if self.refuses and script.parent.name.startswith(self.refuses):
            raise Refused("not today", "ask the help desk")
        array = str(100 + len(self.taken))
        self.taken.append(options)
        indices = expand(f"{array}_[{options['array']}]") if "array" in options else ()
        self.add(array, script.parent.name, *(int(id.partition("_")[2]) for id in indices))
        return JobId(array)

    def queue(self) -> Table[QueuedJob]:
        self.at_look()
        told = (
            (id, state, reason, "N/A", "", "main", "", "", name)
            for id, (name, state, reason) in self.jobs.items()
        )
        return parse_queue("\n".join(map(SEPARATOR.join, told)))

    def history(self, since: int) -> Table[PastJob]:
        return Table(())

    def config(self) -> Config:
        self.asked += 1
        return Config("lab", "22.05", 1001, MOST, 300, True, self.enforced, True)

    def partitions(self) -> Table[Partition]:
        return parse_partitions(MAIN.format(state=self.state))

    def nodes(self) -> Table[NodeGroup]:
        return Table((NodeGroup("main", 4, 8, (), 64_000),))

    def associations(self, cluster: str) -> Table[Association]:
        assert cluster == "lab"
        if not self.accounts:
            raise SlurmUnavailable("no answer")
        return Table((Association("ours", "me", None, Limits(), Limits(), (), None),))

    def qos(self) -> Table[Qos]:
        return Table(())

    def cancel(self, jobs: Sequence[str]) -> None:
        for id in jobs:
            self.ended += expand(id)
        for id in self.ended:
            self.jobs.pop(id, None)


@pytest.fixture
def paper(monkeypatch: pytest.MonkeyPatch) -> Paper:
    monkeypatch.setattr(submitting, "snapshot", lambda root, keeper: root.code / f"keeper-{keeper}")
    monkeypatch.setattr(array_jobs, "snapshot", lambda root: root.code)
    monkeypatch.setattr(submitting, "untracked", lambda: ["own.py", "b.py"])
    monkeypatch.setattr(backend, "SETTLE", 0.0)
    monkeypatch.setenv("COLUMNS", "200")
    return Paper()


def project_of(folder: Path, paper: Paper, *units: Unit, **settings: object) -> Project:
    project = replace(made_project(folder, units, **settings), backend=Slurm(paper))  # type: ignore[arg-type]
    project.backend.settle = 0.0
    return project


def started(project: Project, unit: Unit, array: str | None, number: int = 1) -> str:
    """Write an attempt of one job into the ledger; returns its submission's name."""
    name = f"prepare-{unit.name}-{number}"
    project.ledger.intent(name, [Started(unit.id, number, 0)])
    if array:
        project.ledger.submitted(name, array)
    return name


def failed(project: Project, unit: Unit, error: str, cause: str) -> None:
    """The only process of a unit's first attempt writes down how it ended."""
    project.root.unit(unit).path.mkdir(parents=True)
    line = {"attempt": 1, "worker": 0, "restart": 0, "rank": 0, "host": "n1", "seconds": 1.0, "kept": 0}
    line |= {"micro_batch": None, "error": error, "cause": cause}
    journal.append(project.root.unit(unit).attempts, line)


def test_what_is_missing_is_submitted_once(
    paper: Paper, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, other = unit(tmp_path, "a"), unit(tmp_path, "other")
    project = project_of(tmp_path, paper, a, other, unit(tmp_path, "b", a))
    paper.state = "DOWN"
    assert submit(project, yes=True, only=None) == 0
    assert [(o.get("array"), o.get("dependency")) for o in paper.taken] == [
        ("0-1", None),
        ("0", "afterok:100_0"),
    ]
    said, warned = capsys.readouterr()
    for line in (
        "0 done, 0 queued or running", "+ prepare 3: a, other, b", "         100  prepare, 2 jobs",
        "3 units on made: about 1.5 h of job time; largest job: 1 core, up to 1 h",
        "! jobs run without own.py, b.py, which git does not track: git add what they need",
        f"submitted: you can log out. To watch: {command(project.root, 'monitor')}",
    ):  # fmt: skip
        assert line in said.splitlines()
    assert warned.startswith("sor: partition main is DOWN: it accepts jobs, which start once")
    assert '"name": "small"' in project.root.study.read_text(encoding="utf-8")
    assert read_json(project.root.submitted)["asked"] == [each.id for each in project.units]
    assert str(project.root.code / "keeper-False") in paper.script
    assert holder(project.root.lock) is None
    assert paper.asked == 1

    assert submit(project, yes=True, only=None) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "nothing to submit: the rest is queued or running"
    for each in project.units:
        publish(project.root, each)
    paper.jobs.clear()
    assert submit(project, yes=True, only=None) == 0
    assert capsys.readouterr().out.splitlines() == ["3 done, 0 queued or running", "nothing to do"]
    assert (len(paper.taken), paper.asked) == (2, 1)


def test_a_command_is_one_line_in_a_narrow_terminal(
    paper: Paper, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    project = project_of(tmp_path, paper, unit(tmp_path, "a"))
    assert submit(project, yes=True, only=None) == 0
    watch = f"submitted: you can log out. To watch: {command(project.root, 'monitor')}"
    assert capsys.readouterr().out.splitlines()[-1] == watch


def test_before_anything_is_submitted_all_that_is_known_is_written_down_and_what_is_in_the_way_ended(
    paper: Paper, tmp_path: Path
) -> None:
    a, running, lost, old = (unit(tmp_path, name) for name in ("a", "running", "lost", "old"))
    b = unit(tmp_path, "b", a)
    c, made, made_by_hand = unit(tmp_path, "c", b), unit(tmp_path, "made", a), unit(tmp_path, "by-hand", a)
    project = project_of(tmp_path, paper, a, running, lost, old, b, c, made, made_by_hand)
    started(project, a, "7")
    failed(project, a, "RuntimeError: no", "time limit")
    paper.add("55", started(project, running, None), 0, state="RUNNING")
    started(project, lost, None)
    started(project, old, "6")
    project.ledger.ended("failed", [(old.id, 1, "why")])
    paper.add("8", started(project, b, "8"), 0, reason="DependencyNeverSatisfied")
    paper.add("9", started(project, c, "9"), 0, reason="Dependency")
    started(project, made, "10")
    for each in (made, made_by_hand):
        publish(project.root, each)
        project.root.unit(each).work.mkdir()
    made_result = project.root.unit(made).out
    paper.add("77", "of-another-study", *range(MOST - 3 - 5))  # no place for 7 unless two are given back

    before = len(journal.read(project.root.ledger, {}))
    in_the_way = list[object]()
    paper.at_submit = lambda: in_the_way.append(paper.jobs.keys() & {"8_0", "9_0"} or made_result.exists())
    assert submit(project, yes=True, only=None) == 0
    assert paper.ended == ["9_0", "8_0"]
    assert in_the_way == [False] * 3
    names = {u.id: u.name for u in project.units}
    told = [
        (r["event"], *((names[unit], reason) for unit, _, reason in r.get("attempts", ())))
        for r in journal.read(project.root.ledger, {})[before:]
    ]
    assert told == [
        ("lost", ("lost", NEVER)), ("submitted",), ("failed", ("a", "RuntimeError: no")),
        ("withdrawn", ("b", WITHDRAWN), ("c", WITHDRAWN)),
        ("outdated", ("made", "its inputs were made again")),
        *[("intent",), ("submitted",)] * 3,
    ]  # fmt: skip
    attempts = project.ledger.attempts()
    assert {u.name: attempts[u.id].number for u in project.units} == {
        "a": 2, "running": 1, "lost": 2, "old": 2, "b": 2, "c": 2, "made": 2, "by-hand": 1,
    }  # fmt: skip
    assert attempts[running.id].jobs[0].id == "55_0"
    for each, number in ((made, 1), (made_by_hand, 0)):
        aside = project.root.unit(each).superseded(number)
        assert sorted(path.name for path in aside.iterdir()) == ["out", "work"]
        assert not project.root.unit(each).out.exists()
    assert paper.taken[0]["time"] == str(24 * 60)  # as long as there may be, since it was too short


def test_jobs_of_this_machine_are_waited_for(
    paper: Paper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = unit(tmp_path, "a")
    project = project_of(tmp_path, paper, a)
    here = Local(project.root)
    monkeypatch.setattr(here, "live", lambda attempts: {a.id: LiveJobs(State.RUNNING, attempts[a.id].jobs)})
    cluster = project.cluster.model_copy(update={"backend": "local"})
    project = replace(project, cluster=cluster, backend=here)
    started(project, a, "7")
    waited = list[object]()

    def run_here(*told: object) -> int:
        console, here, now, difference, stopping = told
        assert isinstance(console, PlainConsole)
        assert isinstance(here, Project)
        assert here.fence is not project.fence
        assert isinstance(stopping, Stopping)
        assert isinstance(now, StudyStatus)
        assert difference == reconcile(now)
        waited.append(now.units[0].state)
        return 7

    monkeypatch.setattr(submitting, "run_here", run_here)
    assert submit(project, yes=True, only=None) == 7
    assert waited == [State.RUNNING]
    assert paper.asked == 0


def test_a_submission_that_shows_up_late_is_waited_for(
    paper: Paper, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    a = unit(tmp_path, "a")
    project = project_of(tmp_path, paper, a)
    project.backend.settle = 60.0
    name = started(project, a, None)
    slept = list[float]()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            paper.add("55", name, 0)

    monkeypatch.setattr(time, "sleep", sleep)
    assert submit(project, yes=True, only=None) == 0
    assert (slept, paper.taken) == ([1, 1, 1], [])
    assert project.ledger.attempts()[a.id].jobs[0].id == "55_0"
    waits = "an earlier submit was interrupted: waiting to see which of its jobs Slurm accepted"
    assert capsys.readouterr().out.splitlines()[0] == waits
    assert submit(project, yes=True, only=None) == 0
    assert waits not in capsys.readouterr().out


@pytest.mark.parametrize("refused", ["prepare", "keeper"])
def test_what_slurm_refuses_is_told_and_what_it_took_before_stays(
    paper: Paper, tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: str
) -> None:
    a = unit(tmp_path, "a")
    project = project_of(tmp_path, paper, a, keeper=60)
    paper.refuses = refused
    assert submit(project, yes=True, only=None) == 1
    told = capsys.readouterr()
    assert told.err.splitlines()[:3] == [
        "sor: Slurm refused a submission:", "sor:   not today", "sor:   ask the help desk",
    ]  # fmt: skip
    assert told.err.splitlines()[3].endswith(f"To submit the rest: {command(project.root, 'submit')}")
    assert "you can log out" not in told.out
    assert "sor keep" not in told.err  # would be refused the same
    attempts = project.ledger.attempts()
    assert attempts[a.id].ended == ("refused" if refused == "prepare" else None)
    assert KEEPER not in attempts


def test_nothing_is_done_before_a_person_agrees(
    paper: Paper, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    a = unit(tmp_path, "a")
    project = project_of(tmp_path, paper, a)
    questions = list[str]()

    def ask(question: str, console: PlainConsole, default: bool) -> bool:
        assert isinstance(console, PlainConsole)
        assert default is False  # which is shown as what Enter alone means
        questions.append(question)
        return len(questions) > 1

    monkeypatch.setattr(Confirm, "ask", ask)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False)
    assert submit(project, yes=False, only=None) == 2
    said, refused = capsys.readouterr()
    assert said.splitlines() == [
        "0 done, 0 queued or running", "+ prepare 1: a",
        "1 unit on made: about 30 min of job time; largest job: 1 core, up to 1 h",
    ]  # fmt: skip
    assert refused == "sor: nothing was done: there is no terminal to ask for confirmation. Add --yes\n"
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    assert submit(project, yes=False, only=None) == 1
    assert not project.root.path.exists()
    assert submit(project, yes=False, only="train") == 0
    assert (questions, paper.taken) == (["Submit?"], [])  # there is nothing of that stage
    assert submit(project, yes=False, only=None) == 0
    assert (questions, len(paper.taken)) == (["Submit?"] * 2, 1)
    assert capsys.readouterr().out.count("+ prepare 1: a") == 2
    assert submit(project, yes=False, only=None) == 0
    assert len(questions) == 2
    paper.jobs.clear()
    started(project, a, None, 2)  # whose end is not known without the lock
    assert submit(project, yes=False, only="train") == 0
    assert (len(questions), project.ledger.attempts()[a.id].ended) == (3, "lost")


def test_what_others_can_write_into_is_refused(paper: Paper, tmp_path: Path) -> None:
    project = project_of(tmp_path, paper, unit(tmp_path, "a"))
    project.root.path.mkdir(parents=True)
    project.root.path.chmod(0o777)
    for yes in (True, False):
        with pytest.raises(Refusal, match="can write to it"):
            submit(project, yes=yes, only=None)
    with pytest.raises(Refusal, match="can write to it"):
        cancel(project, project.poll(), None)
    with pytest.raises(Refusal, match="can write to it"):
        preview(project, None, tmp_path / "out")
    assert list(project.root.path.iterdir()) == []


@pytest.mark.parametrize("out", [None, "out"])
@pytest.mark.parametrize("private", ["study", "cluster"])
def test_who_may_not_read_a_file_may_not_enter_the_directory_that_it_is_copied_into(
    paper: Paper, tmp_path: Path, private: str, out: str | None
) -> None:
    project = project_of(tmp_path, paper, unit(tmp_path, "a"))
    project = replace(project, file=tmp_path / "small.yaml")
    {"study": tmp_path / "small.yaml", "cluster": project.cluster.file}[private].chmod(0o600)
    before = os.umask(0o022)
    try:
        assert (preview(project, None, tmp_path / out) if out else submit(project, yes=True, only=None)) == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE(project.root.path.stat().st_mode) == 0o700


def test_a_training_that_could_not_go_on_where_it_stopped_is_refused(paper: Paper, tmp_path: Path) -> None:
    execution = {"deepspeed": None, "micro_batch": 1, "sequence_parallel": None}
    train = Unit("train", "t", {"recipe": {"batch": 1}}, execution=execution)
    project = project_of(tmp_path, paper, train)
    started(project, train, "7")
    failed(project, train, "its node failed", "node failure")
    checkpoints = Checkpoints(project.root.unit(train).checkpoints, "1.0")
    aside = checkpoints.aside("step-00000004")
    aside.mkdir(parents=True)
    checkpoints.commit(aside, Meta({"step": 4}, 1, 2, 1, "1.0"))
    with pytest.raises(Refusal, match="train t: its training stands at step 4, saved with ZeRO 2"):
        submit(project, yes=True, only=None)
    assert paper.taken == []


def test_a_person_is_told_who_could_replace_the_study_and_whose_lock_was_taken(
    paper: Paper, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    warning = f"group g can replace {'x' * 300}"
    monkeypatch.setattr(trust, "replaceable", lambda root: warning)
    project = project_of(tmp_path, paper, unit(tmp_path, "a"))
    project.root.path.mkdir(parents=True)
    project.root.lock.write_text('{"user": "ann", "host": "n1", "pid": 5}', encoding="utf-8")
    os.utime(project.root.lock, (0, 0))
    assert submit(project, yes=True, only=None) == 0
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first == f"note: {warning}"
    assert second.startswith("took over the lock of ann on n1 (process 5)")


def test_secrets_are_neither_shown_nor_missing(
    paper: Paper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOME_TOKEN", raising=False)
    folder = tmp_path / "Säle"
    folder.mkdir()
    project = project_of(folder, paper, unit(tmp_path, "a"), secrets=["SOME_TOKEN"])
    with pytest.raises(Refusal, match="no value for SOME_TOKEN, a secret of the cluster file"):
        submit(project, yes=True, only=None)
    assert project.study.prepare
    monkeypatch.setenv("SOME_TOKEN", str(project.study.prepare.args["folder"]))
    secrets._hidden.cache_clear()
    with pytest.raises(Refusal, match="the study contains the value of SOME_TOKEN, and would be copied"):
        submit(project, yes=True, only=None)
    assert not project.root.study.exists()
    monkeypatch.setenv("SOME_TOKEN", "something else")
    secrets._hidden.cache_clear()
    assert submit(project, yes=True, only=None) == 0
    secrets._hidden.cache_clear()


def test_without_accounts_limits_are_left_to_slurm(
    paper: Paper, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paper.accounts, paper.enforced = False, ()
    assert submit(project_of(tmp_path, paper, unit(tmp_path, "b")), yes=True, only=None) == 0
    assert capsys.readouterr().err == ""
    paper.jobs.clear()
    paper.taken.clear()
    paper.enforced = ("associations",)
    assert submit(project_of(tmp_path, paper, unit(tmp_path, "a")), yes=True, only=None) == 0
    assert capsys.readouterr().err.startswith("sor: Slurm's database (slurmdbd) does not answer")
    assert len(paper.taken) == 1


def test_a_keeper_is_started_with_the_jobs_again_where_it_is_gone_and_ended_with_them(
    paper: Paper, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = unit(tmp_path, "a"), unit(tmp_path, "b")
    project = project_of(tmp_path, paper, a, b, keeper=60)
    paper.add("77", "of-another-study", *range(MOST - 2))  # the keeper needs a place, too
    project.root.nodes.mkdir(parents=True)
    bad = ({"time": time.time(), "unit": name, "partition": "main", "error": "E"} for name in "xyz")
    project.root.node("n3").write_text("\n".join(map(json.dumps, bad)), encoding="utf-8")
    assert submit(project, yes=True, only="prepare") == 0
    assert read_json(project.root.submitted)["only"] == "prepare"
    assert [(o.get("array"), o.get("begin"), o.get("dependency")) for o in paper.taken] == [
        ("0", None, None),
        (None, "now+60", "afterany:100_0"),  # whose place another unit waits for
    ]
    assert project.ledger.attempts()[KEEPER].number == 1
    assert str(project.root.code / "keeper-True") in paper.script
    said = capsys.readouterr().out.splitlines()
    assert [options["exclude"] for options in paper.taken] == ["n3", "n3"]
    assert [line.split(" until ")[0] for line in said if "avoided" in line] == ["node n3 is avoided"]
    assert said[-4:-2] == ["         100  prepare, 1 jobs", "         101  keeper"]
    assert said[-2].startswith("1 unit not submitted yet: the queue has room for 1 more of your jobs")
    del paper.jobs["101"]
    publish(project.root, b)
    assert submit(project, yes=True, only=None) == 0
    assert (len(paper.taken), "begin" in paper.taken[-1]) == (3, True)
    assert (paper.taken[-1]["dependency"], project.ledger.attempts()[KEEPER].number) == ("afterany:100", 2)
    said = capsys.readouterr().out.splitlines()
    assert (said[:2], said[-1]) == (["1 done, 1 queued or running", "+ keeper"], "         102  keeper")
    assert submit(project, yes=True, only=None) == 0
    assert (len(paper.taken), paper.ended) == (3, [])
    publish(project.root, a)
    del paper.jobs["100_0"]
    capsys.readouterr()
    assert submit(project, yes=True, only=None) == 0
    assert (len(paper.taken), paper.ended) == (3, ["102"])
    assert capsys.readouterr().out.splitlines()[:2] == ["2 done, 0 queued or running", "- keeper"]
    assert project.ledger.attempts()[KEEPER].reason == "a person submitted the study again"


def test_scripts_are_written_out_unless_somebody_submits(
    paper: Paper, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    a = unit(tmp_path, "a")
    monkeypatch.setenv("COLUMNS", "40")
    project, out = project_of(tmp_path, paper, a, unit(tmp_path, "b", a)), tmp_path / "out"
    assert preview(project, None, None) == 0
    shown = capsys.readouterr().out.split("\n", 2)
    assert shown[:2] == ["0 done, 0 queued or running", "+ prepare 2: a, b"]
    assert (
        " ".join(shown[2].split()) == "2 units on made: about 1 h of job time; largest job: 1 core, up to 1 h"
    )
    assert preview(project, "train", None) == 0
    assert capsys.readouterr().out.splitlines() == ["0 done, 0 queued or running"]
    assert not project.root.path.exists()
    with Lock(project.root.lock), pytest.raises(Refusal, match="this study is being submitted right now"):
        preview(project, None, out)
    assert not out.exists()
    paper.add("77", "of-another-study", *range(MOST - 1))
    assert preview(project, None, out) == 0
    said = capsys.readouterr().out
    for line in (  # paths and commands are never wrapped
        f"1 scripts; run this one to submit all in order: {out / 'submit_all.sh'}",
        "until an array's first job starts, sor does not know of it, and would submit its units, too",
    ):
        assert line in said.splitlines()
    assert "1 unit not submitted yet: the queue has room for 1 more of your jobs" in " ".join(said.split())
    assert paper.taken == []
    local = replace(project, cluster=project.cluster.model_copy(update={"backend": "local"}))
    with pytest.raises(Refusal, match="--out writes scripts for Slurm"):
        preview(local, None, tmp_path / "other")


def test_cancel_ends_all_jobs_readers_first_or_those_of_some_units(paper: Paper, tmp_path: Path) -> None:
    a, gone = unit(tmp_path, "a"), unit(tmp_path, "gone")
    b, other, failing = unit(tmp_path, "b", a), unit(tmp_path, "other"), unit(tmp_path, "failing")
    project = project_of(tmp_path, paper, a, gone, b, other, failing, keeper=60)
    assert cancel(project, project.poll(), None) == []
    assert not project.root.path.exists()
    assert submit(project, yes=True, only=None) == 0
    del paper.jobs["100_3"]
    failed(project, failing, "ValueError: no", "code error")
    project = replace(project, units=[u for u in project.units if u is not gone])
    project.backend.settle = 0.0

    now = project.poll()
    chosen = [seen for seen in now.units if seen.unit is other]
    assert cancel(project, now, chosen) == ["prepare other"]
    assert paper.ended == ["100_2"]
    attempts = project.ledger.attempts()
    assert (attempts[other.id].ended, attempts[other.id].reason) == ("cancelled", "cancelled")
    assert (attempts[failing.id].ended, attempts[failing.id].reason) == ("failed", "ValueError: no")
    assert cancel(project, project.poll(), None) == [
        "the keeper", "prepare a", "prepare b", "job 100_1 of a unit that the study no longer has",
    ]  # fmt: skip
    assert paper.ended == ["100_2", "102", "101_0", "100_0", "100_1"]
    assert project.ledger.attempts()[KEEPER].reason == "cancelled"
    assert paper.jobs == {}
    assert cancel(project, project.poll(), None) == []


def test_cancel_of_all_stops_a_submit_and_that_of_some_units_waits_for_it(
    paper: Paper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submitting, "PATIENCE", 0.1)
    a = unit(tmp_path, "a")
    project = project_of(tmp_path, paper, a)
    before = project.poll()

    def meanwhile() -> None:
        with pytest.raises(Locked, match="is being submitted by"):
            cancel(project, before, before.units)
        assert cancel(project, before, None) == ["prepare a"]

    paper.at_submit = meanwhile
    with pytest.raises(Lost, match="lock was removed, by a cancellation"):
        submit(project, yes=True, only=None)
    assert paper.jobs == {}  # which Slurm took after it was canceled


def test_cancel_of_some_units_waits_for_a_submit_that_ends_and_for_none_on_this_machine(
    paper: Paper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, c = (unit(tmp_path, name) for name in "abc")
    project = project_of(tmp_path, paper, a, b, c)
    assert submit(project, yes=True, only=None) == 0
    now = project.poll()
    lock = Lock(project.root.lock)
    lock.__enter__()
    threading.Timer(0.3, lock.__exit__, (None, None, None)).start()
    assert cancel(project, now, now.units[:1]) == ["prepare a"]
    monkeypatch.setattr(submitting, "PATIENCE", 0.1)
    local = replace(project, cluster=project.cluster.model_copy(update={"backend": "local"}))
    with Lock(project.root.lock):
        assert cancel(local, now, now.units[1:2]) == ["prepare b"]
    assert paper.ended == ["100_0", "100_1"]


@pytest.mark.parametrize("all_units", [True, False])
def test_cancel_stops_where_somebody_takes_its_lock(paper: Paper, tmp_path: Path, all_units: bool) -> None:
    project = project_of(tmp_path, paper, unit(tmp_path, "a"))
    assert submit(project, yes=True, only=None) == 0
    now = project.poll()
    paper.at_look = lambda: project.root.lock.unlink(missing_ok=True)
    with pytest.raises(Lost):
        cancel(project, now, None if all_units else now.units)
    assert paper.ended == []


def test_nothing_is_submitted_once_another_process_has_taken_over(paper: Paper, tmp_path: Path) -> None:
    a = unit(tmp_path, "a")
    project = project_of(tmp_path, paper, a)

    def fence() -> None:
        """Another process takes over when the intent has just been recorded."""
        if project.ledger.attempts():
            raise Lost("taken over")

    with pytest.raises(Lost, match="taken over"):
        submit_one(replace(project, fence=fence), "prepare-a-1", [Started(a.id, 1)])
    assert paper.taken == []
