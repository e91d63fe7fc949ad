"""What the monitor does for a person beside its loop: cancelling and submitting, with what came of it."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from made_projects import made_project
from small_study import unit, write_study

from jobs.store.rundir import write_json
from launch.monitor.actions import OUTDATED, carry_out
from launch.monitor.background import BackgroundCall
from launch.monitor.questions import Action
from launch.state.ledger import Started
from launch.study_run import open_project

LONG = 20.0  # seconds that nothing here takes


def test_a_call_beside_the_loop_brings_its_outcome_back_once() -> None:
    started, go, back = threading.Event(), threading.Event(), threading.Event()

    def call() -> str:
        started.set()
        go.wait(LONG)
        return "done"

    errand = BackgroundCall[str](back.set)
    assert (errand.busy, errand.take()) == (False, None)
    errand.start(call)
    assert started.wait(LONG)
    assert (errand.busy, errand.take()) == (True, None)
    go.set()
    assert back.wait(LONG)
    assert (errand.take(), errand.take(), errand.busy) == ("done", None, False)
    errand.start(lambda: "again")
    assert errand.take(wait=True) == "again"


def test_an_error_of_a_call_is_raised_where_its_outcome_is_taken() -> None:
    back = threading.Event()
    errand = BackgroundCall[float](back.set)
    errand.start(lambda: 1 / 0)
    assert back.wait(LONG)
    with pytest.raises(ZeroDivisionError):
        errand.take()
    assert not errand.busy


def test_nothing_left_to_cancel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = open_project(str(write_study(tmp_path / "study")), None, tmp_path / "runs")
    for units in (None, (project.units[0].id,)):
        said = carry_out(Action("cancel", units=units), project, time.time())
        assert said == "no job was queued or running any more"
    assert capsys.readouterr() == ("", "")


def test_what_goes_wrong_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no Slurm here
    project = made_project(tmp_path, [unit(tmp_path, "a")])
    project.ledger.intent("sub", [Started(project.units[0].id, 1, 0)])
    for kind in ("cancel", "submit"):
        said = carry_out(Action(kind), project, time.time())
        assert f"{kind} failed: 'squeue' is not installed" in said


def test_a_study_that_was_edited_and_submitted_elsewhere_is_left_alone(tmp_path: Path) -> None:
    project = open_project(str(write_study(tmp_path / "study")), None, tmp_path / "runs")
    project.root.path.mkdir(parents=True)
    opened = time.time()
    write_json(project.root.study, {**project.study.model_dump(mode="json"), "seed": 7})
    os.utime(project.root.study, (opened + 1, opened + 1))
    assert carry_out(Action("submit"), project, opened) == OUTDATED
