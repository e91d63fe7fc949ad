"""The records of jobs that were submitted by hand: each attempt has a number of its own."""

from __future__ import annotations

import os
import shutil
import socket
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from small_study import publish, unit

from jobs.core.unit import Unit
from jobs.runtime.array_task import BY_HAND, ELEMENTS, line
from jobs.store import by_hand
from jobs.store.rundir import Damaged, StudyDir, write_json
from launch.state.errors import SlurmUnavailable
from launch.state.ledger import KEEPER, Job, Ledger, Started


def written(root: StudyDir, units: list[Unit], before: int = 0, readers: tuple[str, ...] = ()) -> Path:
    """What --out leaves of a submission of these units."""
    folder = root.path.parent / "out" / "000-prepare"
    folder.mkdir(parents=True, exist_ok=True)
    root.by_hand.mkdir(parents=True, exist_ok=True)
    lines = (line(i, u, root.path, BY_HAND, 0) for i, u in enumerate(units))
    (folder / ELEMENTS).write_text("".join(lines), encoding="utf-8")
    told = {
        "name": "prepare-small-1", "cluster": "made.yaml", "slurm_cluster": "east",
        "numbers": {u.id: before for u in units}, "readers": {u.id: list(readers) for u in units},
    }  # fmt: skip
    write_json(folder / by_hand.NOTE, told)
    return folder


def enter(array: str, folder: Path, root: StudyDir, id: str) -> int:
    """What a process of a job of this array does at its start."""
    os.environ.update(SLURM_ARRAY_JOB_ID=array, SLURM_JOB_NAME="prepare-small-1")
    return by_hand.enter(folder, root, id)


@pytest.fixture(autouse=True)
def _job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_ARRAY_JOB_ID", "SLURM_JOB_NAME"):
        monkeypatch.setenv(name, "")


def test_processes_of_one_array_agree_and_arrays_differ(tmp_path: Path) -> None:
    root, units = StudyDir(tmp_path / "runs" / "small"), [unit(tmp_path, name) for name in "ab"]
    folder, began = written(root, units, before=3), time.time()
    with ProcessPoolExecutor(6) as pool:
        found = {
            array: [pool.submit(enter, array, folder, root, u.id) for u in units for _ in range(3)]
            for array in ("7", "8", "9")
        }
        numbers = {array: {each.result() for each in asked} for array, asked in found.items()}
    assert sorted(numbers.values()) == [{4}, {5}, {6}]
    assert enter("7", folder, root, units[0].id) in numbers["7"]  # as it does after a requeue
    assert len(by_hand.records(root.by_hand)) == 3
    assert not [path for path in root.by_hand.iterdir() if path.name.startswith(".")]
    last = next(array for array, its in numbers.items() if its == {6})
    attempts = Ledger(root.ledger).attempts()
    for index, u in enumerate(units):
        [job] = attempts[u.id].jobs
        assert (attempts[u.id].number, attempts[u.id].cluster) == (6, "made.yaml")
        assert began <= attempts[u.id].started <= time.time()
        assert job == Job("prepare-small-1", last, socket.gethostname(), index, "east")


def test_sor_and_jobs_by_hand_never_take_the_same_number(tmp_path: Path) -> None:
    root, a = StudyDir(tmp_path / "runs" / "small"), unit(tmp_path, "a")
    ledger, folder = Ledger(root.ledger, "made.yaml"), written(root, [a])
    ledger.intent("prepare-small-2", [Started(a.id, 1, 0)])
    assert enter("7", folder, root, a.id) == 2
    with pytest.raises(SlurmUnavailable, match="have just started on the same units"):
        ledger.intent("prepare-small-3", [Started(a.id, 2, 0)])
    assert ledger.attempts()[a.id].jobs[0].id == "7_0"
    ledger.ended("failed", [(a.id, 2, "why")])
    assert ledger.attempts()[a.id].ended == "failed"
    shutil.copytree(root.by_hand, tmp_path / "kept")
    shutil.rmtree(root.by_hand)
    assert ledger.attempts()[a.id].number == 1  # all that is left of it
    (tmp_path / "kept").rename(root.by_hand)
    ledger.intent("keeper-small-1", [Started(KEEPER, 1, 0)])
    ledger.intent("prepare-small-4", [Started(a.id, 3, 0)])
    assert ledger.attempts()[a.id].number == 3
    assert enter("8", folder, root, a.id) == 4
    assert set(ledger.submissions()) == {"keeper-small-1", *(f"prepare-small-{n}" for n in (1, 2, 4))}


def test_readers_of_a_result_that_is_made_again_are_set_aside_once(tmp_path: Path) -> None:
    root, a = StudyDir(tmp_path / "runs" / "small"), unit(tmp_path, "a")
    reader = unit(tmp_path, "r", a)
    folder = written(root, [a], readers=(f"prepare/r-{reader.id}", "prepare/never-made"))
    publish(root, reader)
    its = root.unit(reader)
    assert enter("7", folder, root, a.id) == 1
    assert not its.out.exists()
    assert (its.superseded(1) / "out" / "result.json").is_file()
    publish(root, reader)  # by what came after
    assert enter("7", folder, root, a.id) == 1
    assert its.done
    assert enter("8", folder, root, a.id) == 2
    assert (its.superseded(2) / "out" / "result.json").is_file()


RECORD = """{"submission": "s", "job": "Welcome", "host": "h", "cluster": "c", "time": 1, "attempts": {}}"""


@pytest.mark.parametrize(
    "text", ["", "null", "[]", '{"attempts": 3}', "{", '{"attempts": {"a": null}}', RECORD]
)
def test_a_damaged_record_is_named(text: str, tmp_path: Path) -> None:
    root = StudyDir(tmp_path)
    root.by_hand.mkdir()
    (root.by_hand / "1.json").write_text(text, encoding="utf-8")
    ledger = Ledger(root.ledger)
    assert ledger.attempts() == {}
    assert ledger.submissions() == {}
    [bad] = ledger.damage()
    assert (bad.text.decode(), bad.what) == (text, "the file")
    assert bad.why == f"{root.by_hand}/1.json: not a record of a job that was submitted by hand"
    with pytest.raises(Damaged, match=r"by_hand/1\.json: .* Remove the file once none of its jobs is live"):
        by_hand.records(root.by_hand)
    assert by_hand.reserve(root.by_hand, {"a": 3})  # as 2.json
    (root.by_hand / "1.json").unlink()
    assert by_hand.records(root.by_hand) == [{"reserved": {"a": 3}}]
    assert not ledger.damage()
    assert by_hand.reserve(root.by_hand, {"a": 4})
    assert sorted(path.name for path in root.by_hand.iterdir()) == ["2.json", "3.json"]
