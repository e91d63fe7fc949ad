"""The program as people and other programs use it: answers, exit codes, JSON, and what it leaves behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_study import (
    TESTS,
    environment,
    lives,
    publish,
    runs,
    sor,
    start,
    wait_for,
    watched_study,
)  # fmt: skip

from jobs.core.unit import STAGES, Unit
from jobs.store import journal
from jobs.store.rundir import StudyDir, read_json, write_json
from jobs.store.schema import ATTEMPT
from launch.commands.logs import print_logs
from launch.local.backend import GRACE, Local
from launch.state.backend import LiveJobs
from launch.state.ledger import Attempt
from launch.state.log_files import logs_of
from launch.state.states import State
from launch.state.status import StudyStatus
from launch.study.cluster import load_cluster
from launch.study.plan import plan
from launch.study.schema import load_study
from launch.study_run import open_project

HEAVY = ("torch", "pandas", "numpy", "pydantic", "vllm", "transformers", "matplotlib", "submitit", "lm_eval")
COUNTS = [
    "waiting", "queued", "running", "stalled", "preempted", "done", "failed", "blocked", "damaged",
]  # fmt: skip


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Path]:
    """The file of a small study; no process of its jobs may be left when the test is over."""
    with watched_study(tmp_path) as file:
        yield file


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where run directories go."""
    return tmp_path / "runs"


def look(study: Path, out: Path) -> StudyStatus:
    return open_project(str(study), None, out).poll()


def units(study: Path) -> list[Unit]:
    return plan(load_study(str(study)), load_cluster("local"))


def loaded_by(code: str) -> set[str]:
    """The modules that are loaded after some code ran in a fresh Python."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        env=environment(), capture_output=True, encoding="utf-8", check=True,
    )  # fmt: skip
    return set(done.stdout.splitlines()[-1].split())


def test_help_lists_the_commands_and_loads_nothing_heavy() -> None:
    done = sor("--help")
    assert done.returncode == 0
    for command in (
        "plan",
        "prefetch",
        "submit",
        "status",
        "monitor",
        "cancel",
        "logs",
        "report",
        "export",
        "doctor",
    ):
        assert re.search(rf"\b{command}\b", done.stdout)
    loaded = loaded_by("from launch.cli import app; app(['--help'], standalone_mode=False)")
    assert "launch.cli" in loaded
    assert not loaded & {*HEAVY, "launch.study.schema"}


def test_planning_loads_no_model_libraries_either() -> None:
    code = "import pathlib, launch.study_run as p; p.open_project('demo', None, pathlib.Path('none')).poll()"
    assert not loaded_by(code) & {"torch", "pandas", "numpy", "vllm", "transformers", "matplotlib", "pyarrow"}


def test_plan_of_the_whole_study(out: Path) -> None:
    done = sor("plan", "scale-or-reason", "--runs", out)
    assert done.returncode == 0
    assert "qwen2.5-14b-r100" in done.stdout
    last = done.stdout.split("\n\n")[-1]
    assert [line.split()[0] for line in last.splitlines() if line.split()[0] in STAGES] == [
        "generate", "collate", "tokenize", "train", "evaluate", "report",
    ]  # fmt: skip
    assert re.search(r"^all +129 +\d\.\d\de21 +[\d,]+$", last, re.MULTILINE)
    assert not out.exists()


def test_plan_json(study: Path, out: Path) -> None:
    publish(StudyDir(out / "small"), units(study)[0])
    done = sor("plan", study, "--runs", out, "--json")
    assert done.returncode == 0
    data = json.loads(done.stdout)
    assert list(data) == ["study", "units", "totals"]
    assert data["study"] == "small"
    assert list(data["totals"]) == ["units", "flops", "gpu_hours"]
    assert data["totals"] == {"units": len(data["units"]), "flops": None, "gpu_hours": 0}
    expected = {u.id: u for u in units(study)}
    assert [u["id"] for u in data["units"]] == list(expected)
    for unit in data["units"]:
        assert list(unit) == ["id", "stage", "name", "after", "resources", "flops", "gpu_memory", "state"]
        known = expected[unit["id"]]
        assert (unit["stage"], unit["name"]) == (known.stage, known.name)
        assert unit["after"] == [i.id for i in known.inputs]
        assert set(unit["after"]) <= set(expected)
        assert unit["resources"]["nodes"] == 1
        assert unit["flops"] is None or isinstance(unit["flops"], int)
        assert unit["state"] == ("done" if unit["stage"] == "prepare" else "waiting")


def test_status_json(study: Path, out: Path) -> None:
    (study.parent / "study.fail").touch()
    assert sor("submit", study, "--runs", out, "--yes").returncode == 1
    done = sor("status", study, "--runs", out, "--json")
    assert done.returncode == 4
    data = json.loads(done.stdout)
    assert list(data) == ["study", "root", "stages", "units"]
    assert (data["study"], data["root"]) == ("small", str(out / "small"))
    for stage in data["stages"]:
        assert list(stage) == ["stage", "total", *COUNTS]
        assert stage["total"] == sum(stage[c] for c in COUNTS)
    assert {s["stage"]: s["failed"] for s in data["stages"]}["prepare"] == 1
    assert sum(s["blocked"] for s in data["stages"]) == len(units(study)) - 1
    for unit in data["units"]:
        assert list(unit) == [
            "id", "stage", "name", "state", "job", "attempts", "reason", "cause", "log", "progress",
            "phase", "memory", "gpus", "updated",
        ]  # fmt: skip
    first = data["units"][0]
    assert (first["stage"], first["state"], first["attempts"]) == ("prepare", "failed", 1)
    assert first["job"] == str(runs(study.parent)[0]["parent"])
    assert first["reason"] == "RuntimeError: study was told to fail"
    assert (first["cause"], first["log"][-2]) == ("code error", first["reason"])
    assert {(u["cause"], u["log"]) for u in data["units"][1:]} == {(None, None)}
    assert first["progress"] == {"done": 1, "total": 2, "unit": "parts"}
    assert isinstance(first["updated"], float)
    last = data["units"][-1]
    assert (last["job"], last["attempts"], last["progress"], last["updated"]) == (None, 0, None, None)
    shown = sor("status", study, "--runs", out).stdout
    assert "failed: prepare small: RuntimeError: study was told to fail" in shown


MISTAKES = {
    "mixtures": {"shares": [1.5]},
    "training": {"epoch": 3},
    "students": ["nobody"],
    "expect": {"prompt": "many", "ift": 1, "reasoning": 1},
}


@pytest.mark.parametrize("command", ["plan", "submit", "status", "report", "cancel"])
def test_all_mistakes_at_once_and_nothing_written(command: str, study: Path, out: Path) -> None:
    study.write_text(
        yaml.safe_dump(yaml.safe_load(study.read_text(encoding="utf-8")) | MISTAKES), encoding="utf-8"
    )
    done = sor(command, study, "--runs", out)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == len(MISTAKES)
    for key in ("mixtures.shares.0", "training.epoch", "students", "expect.prompt"):
        named = re.compile(rf"sor: {re.escape(str(study))}:\d+:\d+: {re.escape(key)}: .{{10}}")
        assert len([line for line in lines if named.match(line)]) == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (
            ["plan", "no-such-study"],
            "no such study: neither a YAML file, nor a study that was submitted, nor one of demo, pairs, sc",
        ),
        (["plan", "demo", "--cluster", "moon"], "no such cluster; known are"),
        (["submit", "demo", "--only", "trian"], "'trian' is not a stage; stages are prepare, generate"),
        (["logs", "demo", "nobody"], "'nobody' is not a unit"),
        (["logs", "demo", "demo"], "names several units: give one of prepare/demo, collate/demo"),
        (["cancel", "demo", "nobody"], "'nobody' is not a unit"),
        (["plan"], "Missing argument 'STUDY'"),
        (["fly", "demo"], "No such command 'fly'"),
    ],
)
def test_wrong_words_are_answered(args: list[str], words: str, out: Path) -> None:
    done = sor(*args, SOR_RUNS=str(out))
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()


def test_looking_and_dry_runs_write_nothing(study: Path, out: Path) -> None:
    calls: list[list[str | Path]] = [
        ["plan", study], ["status", study], ["submit", study, "--dry-run"], ["submit", study],
    ]  # fmt: skip
    for args in calls:
        done = sor(*args, SOR_RUNS=str(out))
        assert done.returncode == (4 if args[0] == "status" else 2 if args == calls[-1] else 0)
    assert "no terminal to ask" in done.stderr
    assert "+ train 4: s-r0, s-r50, m-r0, m-r50" in done.stdout
    assert sor("logs", study, "prepare/small", "--runs", out).returncode == 1
    assert sor("report", study, "--runs", out).returncode == 1
    assert "nothing to cancel" in sor("cancel", study, "--runs", out).stdout
    assert not out.exists()


def test_a_failure_is_named_with_cause_and_log_and_tried_again(study: Path, out: Path) -> None:
    (study.parent / "study.fail").touch()
    done = sor("submit", study, "--runs", out, "--yes")
    assert done.returncode == 1
    assert "failed: prepare small: RuntimeError: study was told to fail" in done.stdout
    assert f"1 failed, {len(units(study)) - 1} blocked by that" in done.stdout
    found = re.search(r"^ +log: (.+)$", done.stdout, re.MULTILINE)
    assert found
    assert "told to fail" in Path(found[1]).read_text(encoding="utf-8")
    logs = sor("logs", study, "prepare/small", "--runs", out)
    assert logs.returncode == 0
    assert logs.stdout == Path(found[1]).read_text(encoding="utf-8")

    (study.parent / "study.fail").unlink()
    done = sor("submit", study, "--runs", out, "--yes", "--only", "prepare")
    assert done.returncode == 0
    assert "+ prepare 1 (1 again): small" in done.stdout
    done = sor("submit", study, "--runs", out, "--yes", "--only", "prepare")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "nothing to do")
    assert len(runs(study.parent)) == 2


def test_two_stages_for_real(study: Path, out: Path) -> None:
    """Its own function makes pairs, which the collate stage reads."""
    for stage in ("prepare", "collate"):
        assert sor("submit", study, "--runs", out, "--yes", "--only", stage).returncode == 0
    states = {s.unit.stage: s.state for s in look(study, out).units}
    assert (states["prepare"], states["collate"], states["tokenize"]) == (
        State.DONE,
        State.DONE,
        State.WAITING,
    )
    root = StudyDir(out / "small")
    collate = root.unit(next(u for u in units(study) if u.stage == "collate"))
    assert read_json(collate.result)["prompts"] == 4
    assert read_json(root.study)["name"] == "small"
    # What was really found serves estimates, and changes no identity.
    planned = json.loads(sor("plan", study, "--runs", out, "--json").stdout)
    assert [u["id"] for u in planned["units"]] == [u.id for u in units(study)]
    assert planned["totals"]["flops"] > 0


@pytest.mark.parametrize("to_all", [True, False], ids=["terminal", "kill"])
def test_ctrl_c_ends_the_jobs_and_the_next_submit_goes_on(study: Path, out: Path, to_all: bool) -> None:
    hold = study.parent / "study.hold"
    hold.touch()
    process = start("submit", study, "--runs", out, "--yes")
    wait_for(lambda: runs(study.parent), "the job to run")
    (os.killpg if to_all else os.kill)(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "To continue: sor submit" in output
    (job,) = runs(study.parent)
    assert not lives(job["pid"])
    assert not lives(job["parent"])
    assert not (out / "small" / "lock").exists()
    first = look(study, out).units[0]
    assert (first.state, first.reason) == (State.WAITING, "cancelled")
    hold.unlink()
    assert sor("submit", study, "--runs", out, "--yes", "--only", "prepare").returncode == 0
    assert look(study, out).units[0].state == State.DONE


def test_ctrl_c_has_a_job_save_what_it_has_and_the_second_one_does_not_wait(study: Path, out: Path) -> None:
    folder = study.parent
    for name in ("study.hold", "study.steps"):  # a job that listens, and keeps a step at once
        (folder / name).touch()
    process = start("submit", study, "--runs", out, "--yes")
    wait_for(lambda: (folder / "study.steps").stat().st_size > 3, "some steps")
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    [end] = journal.read(look(study, out).units[0].folder.attempts, ATTEMPT)
    assert (end["cause"], end["error"]) == ("preempted", "it was preempted or cancelled")
    kept = (folder / "study.steps").stat().st_size
    assert end["kept"] == kept

    (folder / "study.hang").write_text(
        "0", encoding="utf-8"
    )  # it stands still after a step, and does not listen any more
    process = start("submit", study, "--runs", out, "--yes")
    wait_for(lambda: (folder / "study.steps").stat().st_size > kept, "another job's step")
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    assert process.stdout is not None
    while "Ctrl-C again" not in process.stdout.readline():
        pass
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert time.monotonic() - began < GRACE / 2
    assert not lives(runs(folder)[1]["pid"])
    assert look(study, out).units[0].reason == "cancelled"


def test_a_killed_submit_leaves_its_job_and_the_next_one_waits_for_it(study: Path, out: Path) -> None:
    hold = study.parent / "study.hold"
    hold.touch()
    first = start("submit", study, "--runs", out, "--yes")
    wait_for(lambda: runs(study.parent), "the job to run")
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert look(study, out).units[0].state == State.RUNNING
    second = start("submit", study, "--runs", out, "--yes", "--only", "prepare")
    assert second.stdout is not None
    said = second.stdout.readline() + second.stdout.readline()
    assert f"took over the lock of {os.environ.get('USER', 'root')}" in said
    wait_for(
        lambda: str(second.pid) in (out / "small" / "lock").read_text(encoding="utf-8"),
        "the second to have the lock",
    )
    third = sor("submit", study, "--runs", out, "--yes")
    assert third.returncode == 1
    assert f"(process {second.pid})" in third.stderr
    assert second.poll() is None
    hold.unlink()
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 0
    assert re.search(rf"^done, \d+ units left. To continue: sor submit {study} --runs {out}$", output, re.M)
    assert len(runs(study.parent)) == 1


def test_cancel(study: Path, out: Path) -> None:
    (study.parent / "study.hold").touch()
    process = start("submit", study, "--runs", out, "--yes")
    wait_for(lambda: runs(study.parent), "the job to run")
    running = json.loads(sor("status", study, "--runs", out, "--json").stdout)["units"][0]
    assert running["state"] == "running"
    assert "nothing to cancel" in sor("cancel", study, "collate/small", "--runs", out).stdout
    done = sor("cancel", study, "prepare/small", "--runs", out)
    assert (done.returncode, done.stdout) == (0, "canceled: prepare small\n")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "failed: prepare small: cancelled" in output
    now = json.loads(sor("status", study, "--runs", out, "--json").stdout)["units"][0]
    assert (now["state"], now["reason"]) == ("waiting", "cancelled")


def test_logs_follow_until_the_job_ends(study: Path, out: Path) -> None:
    hold = study.parent / "study.hold"
    hold.touch()
    submit = start("submit", study, "--runs", out, "--yes", "--only", "prepare")
    wait_for(lambda: runs(study.parent), "the job to run")
    follow = start("logs", study, "prepare/small", "-f", "--runs", out)
    assert follow.stdout is not None
    wait_for(lambda: "study says hello" in follow.stdout.readline(), "the first words")
    assert follow.poll() is None
    hold.unlink()
    rest, _ = follow.communicate(timeout=30)
    assert "study says goodbye" in rest
    assert follow.returncode == 0
    submit.communicate(timeout=30)
    assert submit.returncode == 0


def test_the_last_words_of_a_job_are_printed(
    study: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The job writes and ends after the log was read and before it is asked whether it lives."""
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    sor("submit", study, "--runs", out, "--yes", "--only", "prepare")
    project = open_project(str(study), None, out)
    root, seen = project.root, project.poll().units[0]
    (log,) = logs_of(seen, root)

    class Ending(Local):
        def live(self, attempts: Mapping[str, Attempt]) -> dict[str, LiveJobs]:
            with log.open("a", encoding="utf-8") as file:
                file.write("last words\n")
            return {}

    assert seen.attempt
    seen = seen._replace(live=LiveJobs(State.RUNNING, seen.attempt.jobs))
    root.unit(units(study)[0]).out.rename(out / "not published yet")
    assert print_logs(seen, replace(project, backend=Ending(root)), follow=True) == 0
    assert capsys.readouterr().out.endswith("last words\n")


@pytest.fixture
def finished(study: Path, out: Path) -> list[Unit]:
    """The units of the study, all of them published."""
    root = StudyDir(out / "small")
    for unit in units(study):
        result = {"prompts": 4, "lengths_in": "characters", "training": {"flops": 1.0}, "benchmarks": []}
        publish(root, unit, result)
    return units(study)


def dry(study: Path, out: Path) -> dict[str, int]:
    """How many units of each stage a submit would run."""
    shown = sor("submit", study, "--runs", out, "--dry-run").stdout
    return {m[1]: int(m[2]) for m in re.finditer(r"^\+ (\w+) (\d+)", shown, re.MULTILINE)}


def test_nothing_to_do_when_all_is_done(study: Path, out: Path, finished: list[Unit]) -> None:
    done = sor("submit", study, "--runs", out, "--yes")
    assert (done.returncode, done.stdout) == (
        0,
        f"{len(finished)} done, 0 queued or running\nnothing to do\n",
    )
    assert sor("monitor", study, "--runs", out).returncode == 0
    assert runs(study.parent) == []


def test_one_students_result_deleted(study: Path, out: Path, finished: list[Unit], tmp_path: Path) -> None:
    root = StudyDir(out / "small")
    gone = next(u for u in finished if u.name == "s-r50")
    root.unit(gone).out.rename(tmp_path / "gone")
    assert dry(study, out) == {"train": 1, "evaluate": 2, "report": 1}
    assert list(out.rglob("superseded.*")) == []
    assert all(root.unit(u).done for u in finished if u != gone)


def test_a_deleted_result_is_made_again_and_what_it_was_used_for_is_set_aside(
    study: Path, out: Path, finished: list[Unit], tmp_path: Path
) -> None:
    root = StudyDir(out / "small")
    collate = next(u for u in finished if u.stage == "collate")
    later = [u for u in finished if u.stage not in ("prepare", "collate")]
    staged = tmp_path / "pairs.jsonl"
    row = {"prompt": "p", "reasoning": "<think>\nr\n</think>\n\na", "ift": "a"}
    staged.write_text(json.dumps(row), encoding="utf-8")
    staged.rename(root.unit(finished[0]).out / "pairs.jsonl")
    root.unit(collate).out.rename(tmp_path / "gone")
    done = sor("submit", study, "--runs", out, "--yes", "--only", "collate")
    assert done.returncode == 0
    assert "! set aside train s-r50: needs tokenize tokenizer" in done.stdout
    assert read_json(root.unit(collate).result)["prompts"] == 1
    assert root.unit(finished[0]).done
    assert runs(study.parent) == []
    for unit in later:
        assert not root.unit(unit).done
        assert (root.unit(unit).superseded(0) / "out" / "result.json").exists()
    assert sum(dry(study, out).values()) == len(later)


def test_a_change_of_how_it_runs_asks_for_nothing(study: Path, out: Path, finished: list[Unit]) -> None:
    preset = study.parent / "s.yaml"
    data = yaml.safe_load(preset.read_text(encoding="utf-8"))
    data["training"] |= {"micro_batch": 8, "zero": 2}
    preset.write_text(yaml.safe_dump(data), encoding="utf-8")
    assert dry(study, out) == {}
    data["training"]["learning_rate"] = 0.5
    preset.write_text(yaml.safe_dump(data), encoding="utf-8")
    assert dry(study, out) == {"train": 2, "evaluate": 4, "report": 1}


def test_report_of_what_is_done_so_far(study: Path, out: Path, finished: list[Unit], tmp_path: Path) -> None:
    from made_results import benchmark

    root = StudyDir(out / "small")
    evaluations = [u for u in finished if u.stage == "evaluate"]
    for unit in evaluations:
        result = {
            "student": unit.config["student"], "training": {"flops": 10**9},
            "benchmarks": [benchmark(unit.config["group"]["name"], 0.5)],
        }  # fmt: skip
        write_json(root.unit(unit).result, result)
        write_json(root.unit(unit).out / "provenance.json", read_provenance())
        for i in unit.inputs:
            write_json(root.unit(i).out / "provenance.json", read_provenance())
    write_json(root.study, {})
    root.unit(evaluations[0]).out.rename(tmp_path / "gone")
    done = sor("report", study, "--runs", out)
    assert done.returncode == 0, done.stderr
    assert "7 of 8 evaluations are done" in done.stdout
    page = re.search(r"^report: (.+)$", done.stdout, re.MULTILINE)
    assert page
    assert Path(page[1]).is_relative_to(root.written_report)
    assert Path(page[1]).stat().st_size > 10_000
    elsewhere = sor("report", root.path, "--out", tmp_path / "mine")
    assert elsewhere.returncode == 0, elsewhere.stderr
    assert (tmp_path / "mine" / "results.csv").exists()


def read_provenance() -> dict[str, Any]:
    return {
        "python": "3.11", "packages": {"torch": "2"}, "hardware": {"cpu": "A processor", "cores": 2},
        "code": {"commit": "0123456789abcdef", "dirty": False},
    }  # fmt: skip


def test_doctor_finds_this_machine_able(out: Path) -> None:
    done = sor("doctor", "--runs", out)
    assert done.returncode == 0
    assert not re.search(r"^problem", done.stdout, re.MULTILINE)
    assert "exclusive create and rename work" in done.stdout
    assert list(out.iterdir()) == []


def test_doctor_says_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    done = sor("doctor", "--runs", file / "runs")
    assert done.returncode == 1
    said = " ".join(done.stdout.split())  # in lines of a terminal's width
    assert re.search(r"problem \S+file/runs: cannot be written .*use another --runs", said)


def test_a_damaged_ledger_is_named_with_the_line(study: Path, out: Path) -> None:
    ledger = StudyDir(out / "small").ledger
    ledger.parent.mkdir(parents=True)
    ledger.write_text('{"event": "inte\n{"event": "intent"}\n', encoding="utf-8")
    done = sor("status", study, "--runs", out)
    assert done.returncode == 4
    assert f"damaged: {ledger}, line 1: not JSON" in done.stdout.replace("\n", "")
    assert "Traceback" not in done.stderr
