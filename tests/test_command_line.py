"""Commands that are printed to a person, and studies opened by the name that they use."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from small_study import SOR, TESTS, publish, watched_study, write_study

from jobs.store.rundir import StudyDir, write_json
from launch.state.command_line import call_it, command
from launch.study.presets import StudyError
from launch.study_run import open_project


def test_a_command_names_the_run_directory_where_it_is_not_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOR_RUNS", raising=False)
    monkeypatch.chdir(tmp_path)
    assert command(StudyDir(Path("runs/demo")), "submit") == "sor submit demo"
    assert command(StudyDir(tmp_path / "runs/demo"), "submit") == "sor submit demo"
    other = StudyDir(Path("my runs/demo"))
    assert command(other, "logs", "a b") == "sor logs demo 'a b' --runs 'my runs'"
    monkeypatch.setenv("SOR_RUNS", "my runs")
    assert command(other, "status") == "sor status demo"
    assert command(StudyDir(Path("runs/demo")), "status") == "sor status demo --runs runs"


def test_a_command_names_the_file_that_the_user_typed(tmp_path: Path) -> None:
    root = StudyDir(tmp_path / "runs/small")
    call_it(root, "dir with space/small.yaml")
    wanted = ["sor", "submit", "dir with space/small.yaml", "--runs", str(tmp_path / "runs")]
    assert shlex.split(command(root, "submit")) == wanted


def test_a_submitted_study_is_opened_by_its_name_as_it_was_last_submitted(tmp_path: Path) -> None:
    runs, file = tmp_path / "runs", write_study(tmp_path / "study")
    first = open_project(str(file), None, runs)
    with pytest.raises(StudyError, match="no such study"):
        open_project("small", None, runs)
    publish(first.root, first.units[0])
    write_json(first.root.study, first.study.model_dump(mode="json"))
    file.unlink()
    again = open_project("small", None, runs)
    assert (again.file, again.study, again.units) == (None, first.study, first.units)
    assert command(again.root, "status") == shlex.join(["sor", "status", "small", "--runs", str(runs)])
    with pytest.raises(StudyError, match="no such study"):
        open_project("../runs/small", None, runs)
    write_json(first.root.study, {"name": "small", "former": 1})
    with pytest.raises(StudyError, match="another version of sor wrote this"):
        open_project("small", None, runs)


COMMAND = re.compile(
    r"\bsor (?:plan|submit|status|monitor|logs|cancel|report|doctor)\b(?:'[^'\n]*'|[^'\n,;|])*"
)


def test_every_command_that_a_session_prints_works_when_pasted(tmp_path: Path) -> None:
    printed, tried = list[str](), set[str]()

    def run(line: str, codes: tuple[int, ...] = (0, 3, 4)) -> str:
        words = shlex.split(line.replace("sor", str(SOR), 1))
        environment = {**os.environ, "PYTHONPATH": str(TESTS), "COLUMNS": "300"}
        done = subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", check=False
        )
        said = done.stdout + done.stderr
        assert done.returncode in codes, (line, said)
        printed.append(said)
        return said

    with watched_study(tmp_path / "my study") as file:
        study = f"'{file.relative_to(tmp_path)}' --runs 'other runs'"
        (file.parent / "study.fail").touch()
        run(f"sor submit {study} --yes", codes=(1,))
        for verb in ("status", "plan", "monitor --once", "logs --failed", "submit", "submit --dry-run"):
            name, *options = verb.split()
            run(f"sor {name} {study} {' '.join(options)}", codes=(0, 2, 3, 4))
        run(f"sor report {study}", codes=(1,))
        run(f"sor logs {study} nobody", codes=(2,))
        for said in list(printed):
            for line in COMMAND.findall(said):
                line = re.split(r"   | (?:then|lists|continues|restarts|replaces)\b", line)[0].strip()
                if line not in tried and "[OPTIONS]" not in line:
                    tried.add(line)
                    run(line.replace("sor monitor", "sor monitor --once"), codes=(0, 2, 3, 4))
    verbs = {line.split()[1] for line in tried}
    assert verbs >= {"submit", "status", "logs", "plan"}, tried
    assert all("my study" in line for line in tried if "--help" not in line), tried
