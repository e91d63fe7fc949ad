"""Two study files of one name, and files that have moved, through `sor`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from small_study import TESTS, sor, write_study

from jobs.store.rundir import StudyDir
from launch.state.origin import record
from launch.study.presets import CONFIGS


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a study that was submitted, as far as its first stage."""
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    monkeypatch.setenv("SOR_RUNS", str(tmp_path / "runs"))
    written = write_study(tmp_path / "one")
    done = sor("submit", written, "--yes", "--only", "prepare")
    assert done.returncode == 0, done.stderr
    return written


def edited(file: Path, to: Path) -> Path:
    """A copy of the study's folder, where one thing is different."""
    shutil.copytree(file.parent, to)
    text = (to / file.name).read_text(encoding="utf-8")
    (to / file.name).write_text(f"{text}\nseeds: [7]\n", encoding="utf-8")
    return to / file.name


def test_another_file_of_the_same_name_is_refused_before_anything_changes(file: Path, tmp_path: Path) -> None:
    other = edited(file, tmp_path / "two")
    for more in ((), ("--yes",), ("--dry-run",)):
        done = sor("submit", other, *more)
        assert done.returncode == 2
        assert (
            f"name: {tmp_path}/runs/{file.stem} belongs to another file with this name, {file}" in done.stderr
        )
        assert done.stderr.rstrip().endswith(f"mv {file} {file}.old")
        assert done.stdout == ""
    named = other.with_name("third.yaml")
    other.rename(named)
    assert sor("submit", named, "--dry-run").returncode == 0
    assert "nothing to do" in sor("submit", file, "--yes", "--only", "prepare").stdout


def test_a_shipped_study_is_not_to_be_moved_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOR_RUNS", str(tmp_path / "runs"))
    root = StudyDir(tmp_path / "runs" / "demo")
    root.path.mkdir(parents=True)
    record(root, CONFIGS / "studies" / "demo.yaml")
    assert sor("init", tmp_path / "demo.yaml", "--from", "demo").returncode == 0
    done = sor("submit", tmp_path / "demo.yaml", "--dry-run")
    assert done.returncode == 2
    assert done.stderr.rstrip().endswith("or a folder of run directories (--runs DIR)")


def test_a_damaged_record_of_another_study_keeps_none_from_opening(file: Path, tmp_path: Path) -> None:
    broken = tmp_path / "runs" / "a-broken-one"
    broken.mkdir()
    (broken / "origin.json").write_text("{", encoding="utf-8")
    shutil.move(file.parent, tmp_path / "two")
    assert "opens by its name" in sor("status", file).stderr


@pytest.mark.parametrize("how", ["edited", "moved", "copied", "linked", "replaced"])
def test_the_same_study_is_not_another_one(file: Path, tmp_path: Path, how: str) -> None:
    if how == "edited":
        file.write_text(file.read_text(encoding="utf-8") + "\n# a note\n", encoding="utf-8")
    elif how == "moved":
        file = Path(shutil.move(file.parent, tmp_path / "two")) / file.name
    elif how == "copied":
        file = Path(shutil.copytree(file.parent, tmp_path / "two")) / file.name
    elif how == "linked":
        (tmp_path / "two").symlink_to(file.parent)
        file = tmp_path / "two" / file.name
    else:
        other = edited(file, tmp_path / "two")
        file.unlink()
        file = other
    done = sor("submit", file, "--yes", "--only", "prepare")
    assert done.returncode == 0, done.stderr


def test_a_file_that_has_moved_says_how_its_study_opens(file: Path, tmp_path: Path) -> None:
    shutil.move(file.parent, tmp_path / "two")
    done = sor("status", file)
    assert done.returncode == 2
    assert done.stderr == (
        f"sor: {file}: no such file any more. What was submitted from it opens by its name: "
        f"sor status {file.stem}\n"
    )
    assert sor("status", file.stem).returncode in (0, 4)
