"""Names and paths as people have them: each works on a real Slurm, or is refused with what is possible."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cluster import Cluster
from made_projects import made_project
from small_study import TESTS, logs, student, unit, wait_for, write_study

from launch.commands.submit import submit
from launch.state.states import State
from launch.study.presets import StudyError
from launch.study.schema import load_study

LONGEST = "9.a_b-" + "x" * 54
ODD = (
    "r25.Größe 1 %j $HOME 'q' \"d\" [a] *;&"  # part of a unit's name may be the name of a tokenizer's folder
)


def test_a_path_with_spaces_and_odd_names_work(
    slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", str(slurm.conf))
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    folder = tmp_path / "all my  studies"
    project = made_project(folder, [unit(folder, ODD), unit(folder, "plain")], name=LONGEST)
    assert submit(project, yes=True, only=None) == 0
    names = slurm.run("squeue", "--noheader", "--states=all", "--format=%j").splitlines()
    assert [name for name in names if name.startswith(f"prepare-{LONGEST}-")]
    wait_for(lambda: len(project.poll().of(State.DONE)) == 2, "both")
    for each in project.units:
        [log] = logs(project.root, each)
        assert f"{each.name} says goodbye" in log.read_text(encoding="utf-8")
    wait_for(lambda: not slurm.run("squeue", "--noheader", "--me"), "the queue to be empty")


@pytest.mark.parametrize(
    "name", [5, "my study", "étude", "a/b", "../x", ".x", "-x", "%j", "x" * 61, "x\n", "", "a:b", "$(id)"]
)
def test_a_name_that_no_folder_should_bear_is_refused_with_what_is_possible(
    name: object, tmp_path: Path
) -> None:
    file = write_study(tmp_path, name=name)
    with pytest.raises(StudyError) as error:
        load_study(str(file))
    assert re.match(rf"{file}:\d+:\d+: name: found {re.escape(repr(name))}; ", str(error.value))
    assert "up to 60 of A-Z, a-z, 0-9, '.', '_' and '-', the first a letter or a digit" in str(error.value)


def test_a_file_may_have_any_name_if_it_says_another(tmp_path: Path) -> None:
    file = write_study(tmp_path, {"my model": student()})
    with pytest.raises(StudyError, match=r"my model\.yaml: name: found 'my model'.* unless that says 'name"):
        load_study(str(file))
    file = write_study(tmp_path, {"my model": student() | {"name": "mine"}}, name="ours")
    study = load_study(str(file.rename(tmp_path / "my study (1).yaml")))
    assert (study.name, study.students[0].name) == ("ours", "mine")
