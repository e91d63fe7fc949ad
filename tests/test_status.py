"""The exit codes of `sor status`, and that it waits for as long as something comes by itself."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_slurm import write_cluster
from small_study import publish, runs, sor, start, wait_for, watched_study

from jobs.core.causes import Cause
from jobs.core.unit import Unit
from jobs.store.rundir import StudyDir
from launch.state.backend import LiveJobs
from launch.state.exit_code import Outlook, outlook
from launch.state.ledger import Attempt, Job, Started
from launch.state.lock import Held
from launch.state.reconcile import reconcile
from launch.state.states import State
from launch.state.status import Keeper, StudyStatus, UnitStatus
from launch.study.cluster import load_cluster
from launch.study.plan import plan
from launch.study.schema import load_study
from launch.study_run import open_project
from launch.views import headline

A, B = Unit("train", "a", {}), Unit("evaluate", "b", {})
PASSES, STAYS = {"written": {"cause": Cause.NODE}}, {"written": {"cause": Cause.CODE}}
NEVER, REDO = (
    {"live": LiveJobs(State.QUEUED, (), "asks for more", dead=True, again=again), "in_vain": True}
    for again in (False, True)
)
DONE, ON, YOU = Outlook.DONE, Outlook.CONTINUES, Outlook.NEEDS_ATTENTION


def seen(unit: Unit, state: State, started: float = 100.0, **more: Any) -> UnitStatus:
    """A unit that was started once, unless it is told otherwise."""
    attempt = Attempt(1, started, "generic", (Job("s", "1", "here", 0),))
    facts = {"reason": None, "attempt": attempt, "live": None, "in_vain": False, "published": False, **more}
    return UnitStatus(unit, StudyDir(Path("s")), state, progress=None, **facts)


def keeper(ended: str | None = None, lives: bool = True) -> Keeper:
    attempt = Attempt(3, 100.0, "generic", (Job("k", "9", "here"),), ended, "why")
    return Keeper(attempt, LiveJobs(State.QUEUED, attempt.jobs) if lives else None)


def since(time: float) -> dict[str, Held]:
    return {"submitting": Held(time, "somebody")}


# Of two units, each with its state and what else is known; what is known of the study.
CASES: dict[str, tuple[tuple[Any, ...], tuple[Any, ...], dict[str, Any], Outlook]] = {
    "all done": ((State.DONE,), (State.DONE,), {}, DONE),
    "all done, the keeper to end": ((State.DONE,), (State.DONE,), {"keeper": keeper()}, DONE),
    "never submitted": ((State.WAITING, {"attempt": None}), (State.WAITING, {"attempt": None}), {}, YOU),
    "being submitted": ((State.WAITING,), (State.WAITING,), since(200.0), ON),
    "queued": ((State.DONE,), (State.QUEUED,), {}, ON),
    "running": ((State.RUNNING,), (State.QUEUED,), {}, ON),
    "preempted": ((State.PREEMPTED,), (State.QUEUED,), {}, ON),
    "stalled beside others": ((State.STALLED,), (State.RUNNING,), {"keeper": keeper()}, YOU),
    "held": ((State.RUNNING,), (State.QUEUED, {"reason": "JobHeldUser"}), {}, YOU),
    "put back and held": ((State.PREEMPTED, {"reason": "JobHoldMaxRequeue"}), (State.QUEUED,), {}, YOU),
    "asks for too much": ((State.RUNNING,), (State.WAITING, NEVER), {"keeper": keeper()}, YOU),
    "its input failed": ((State.RUNNING,), (State.WAITING, REDO), {}, YOU),
    "its input failed, a keeper": ((State.RUNNING,), (State.WAITING, REDO), {"keeper": keeper()}, ON),
    "its input failed, submitted now": ((State.RUNNING,), (State.WAITING, REDO), since(1.0), ON),
    "hours used up": ((State.RUNNING,), (State.QUEUED, {"reason": "AssocGrpBillingMinutes"}), {}, YOU),
    "partition down": ((State.RUNNING,), (State.QUEUED, {"reason": "PartitionDown, gpu"}), {}, ON),
    "no room yet": ((State.RUNNING,), (State.WAITING,), {}, ON),
    "no room, and nothing in hand": ((State.DONE,), (State.WAITING,), {}, YOU),
    "no room, a keeper": ((State.DONE,), (State.WAITING,), {"keeper": keeper()}, ON),
    "the keeper gave up": ((State.DONE,), (State.WAITING,), {"keeper": keeper("over", False)}, YOU),
    "the keeper is gone": ((State.DONE,), (State.WAITING,), {"keeper": keeper(None, False)}, YOU),
    "failed": ((State.FAILED, STAYS), (State.BLOCKED,), {}, YOU),
    "failed beside others": ((State.FAILED, PASSES), (State.RUNNING,), {}, YOU),
    "failed, and a keeper repeats it": ((State.FAILED, PASSES), (State.BLOCKED,), {"keeper": keeper()}, ON),
    "failed, which no keeper repeats": ((State.FAILED, STAYS), (State.RUNNING,), {"keeper": keeper()}, YOU),
    "failed before, submitted now": ((State.FAILED, STAYS), (State.BLOCKED,), since(200.0), ON),
    "failed since then": ((State.FAILED, STAYS), (State.RUNNING,), since(50.0), YOU),
    "failed since then, repeated": ((State.FAILED, PASSES), (State.WAITING,), since(50.0), ON),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_becomes_of_it(case: str) -> None:
    a, b, of_study, code = CASES[case]
    units = [seen(unit, of[0], **dict(*of[1:])) for unit, of in ((A, a), (B, b))]
    assert outlook(StudyStatus(StudyDir(Path("s")), tuple(units), **of_study)) is code


# The program


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of a small study; no process of its jobs may be left when the test is over."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SOR_NOTIFY", raising=False)
    with watched_study(tmp_path) as file:
        yield file


@pytest.mark.parametrize(
    ("first", "more", "verb"),
    [
        ((State.STALLED,), {}, "monitor"),  # a submit would leave it alone
        ((State.QUEUED, {"reason": "JobHeldUser"}), {}, "monitor"),
        ((State.QUEUED, {"reason": "AssocGrpGRESMinutes"}), {}, "monitor"),
        ((State.DAMAGED, {"attempt": None}), {}, "monitor"),
        ((State.FAILED, STAYS), {}, "submit"),
        ((State.FAILED, STAYS), since(50.0), "monitor"),  # a second one would be refused
        ((State.QUEUED, REDO), {}, "submit"),  # it would replace the job
        ((State.RUNNING,), {}, "monitor"),
    ],
)
def test_a_submit_is_advised_only_if_it_would_do_something(
    first: tuple[Any, ...], more: dict[str, Any], verb: str
) -> None:
    state, *facts = first
    units = (seen(A, state, **(facts[0] if facts else {})), seen(B, State.DONE))
    now = StudyStatus(StudyDir(Path("s")), units, **more)
    assert headline(now)[1] == f"sor {verb} s"
    assert outlook(now) == (ON if state == State.RUNNING else YOU)
    assert not reconcile(now).nothing or verb == "monitor"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where run directories go."""
    return tmp_path / "runs"


def code(study: Path, out: Path, *more: str) -> int:
    return sor("status", study, "--runs", out, *more).returncode


def publish_others(study: Path, out: Path) -> None:
    """Publish all but what `prepare` makes."""
    for unit in plan(load_study(str(study)), load_cluster("local"))[1:]:
        publish(StudyDir(out / "small"), unit, {"prompts": 4, "lengths_in": "characters"})


def test_it_waits_for_a_study_that_is_at_work_and_says_nothing_before_the_end(study: Path, out: Path) -> None:
    hold = study.parent / "study.hold"
    hold.touch()
    assert code(study, out) == code(study, out, "--wait") == YOU
    submit = start("submit", study, "--runs", out, "--yes", "--only", "prepare")
    wait_for(lambda: runs(study.parent), "the job to run")
    publish_others(study, out)
    assert code(study, out) == code(study, out, "--json") == ON
    waiting = start("status", study, "--runs", out, "--wait", "--interval", "1")
    time.sleep(3)
    assert waiting.poll() is None
    hold.unlink()
    said, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == DONE
    assert said.startswith("small: done, 16 units")
    assert said.count("prepare") == 1
    submit.communicate(timeout=60)
    assert code(study, out, "--wait", "--json") == DONE


def test_what_is_begun_again_is_waited_for_and_what_is_not_ends_the_waiting(study: Path, out: Path) -> None:
    hold = study.parent / "study.hold"
    hold.touch()
    submit = start("submit", study, "--runs", out, "--yes")
    wait_for(lambda: runs(study.parent), "the job to run")
    waiting = start("status", study, "--runs", out, "--wait", "--interval", "1")
    for count in (1, 2):
        os.kill(runs(study.parent)[-1]["pid"], signal.SIGKILL)
        wait_for(lambda count=count: len(runs(study.parent)) > count, "another run")
    time.sleep(2)
    assert waiting.poll() is None
    (study.parent / "study.fail").touch()
    os.kill(runs(study.parent)[-1]["pid"], signal.SIGKILL)
    said, _ = waiting.communicate(timeout=60)
    submit.communicate(timeout=60)
    assert waiting.returncode == code(study, out) == YOU
    assert "failed: prepare small: RuntimeError: study was told to fail" in said


def test_ctrl_c_ends_the_waiting_and_nothing_else(study: Path, out: Path) -> None:
    (study.parent / "study.hold").touch()
    submit = start("submit", study, "--runs", out, "--yes", "--only", "prepare")
    wait_for(lambda: runs(study.parent), "the job to run")
    waiting = start("status", study, "--runs", out, "--wait")
    wait_for(lambda: sleeps(waiting.pid), "it to wait")
    os.kill(waiting.pid, signal.SIGINT)
    said, _ = waiting.communicate(timeout=30)
    assert (waiting.returncode, said) == (130, "")
    assert submit.poll() is None
    (study.parent / "study.hold").unlink()
    submit.communicate(timeout=60)
    assert submit.returncode == 0


def sleeps(pid: int) -> bool:
    """Whether a process is past its imports and waits for time to pass."""
    return "nanosleep" in Path(f"/proc/{pid}/wchan").read_text(encoding="utf-8")


SILENT = """#!/bin/bash
echo x >> {folder}/asked
if [ -e {folder}/silent ]; then echo "squeue: error: Unable to contact slurm controller" >&2; exit 1; fi
"""


def test_a_silent_controller_is_named_once_and_outlived(
    study: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    squeue = tmp_path / "bin" / "squeue"
    squeue.write_text(SILENT.format(folder=tmp_path), encoding="utf-8")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{squeue.parent}:{os.environ['PATH']}")
    monkeypatch.delenv("SLURM_CONF", raising=False)
    cluster = write_cluster(tmp_path / "lab.yaml")
    project = open_project(str(study), str(cluster), out)
    first = project.units[0]
    project.ledger.intent("s", [Started(first.id, 1, 0)])
    project.ledger.submitted("s", "7")
    (tmp_path / "silent").touch()
    assert code(study, out) == 1
    waiting = start("status", study, "--runs", out, "--wait", "--interval", "1")
    wait_for(lambda: len((tmp_path / "asked").read_text(encoding="utf-8")) >= 2 * 4, "some questions")
    publish(project.root, first)
    publish_others(study, out)
    (tmp_path / "silent").unlink()
    said, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == DONE, said
    assert said.count("Unable to contact slurm controller") == 1


def test_an_interval_without_waiting_is_a_mistake(study: Path, out: Path) -> None:
    done = sor("status", study, "--runs", out, "--interval", "5")
    assert done.returncode == 2
    assert "needs --wait" in done.stderr


def test_the_help_says_what_the_codes_mean() -> None:
    said = " ".join(sor("status", "--help").stdout.split())
    for words in ("0: all is done", "3: it continues by itself", "4: it needs attention", "SOR_NOTIFY"):
        assert words in said
