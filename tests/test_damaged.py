"""One damaged file of a run directory: its unit is shown as damaged, and everything else goes on."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from forked_sor import ForkedSor
from small_study import TESTS, publish, write_study

from jobs.core.unit import Unit
from jobs.store import journal
from jobs.store.checkpoints import Checkpoints, Meta
from jobs.store.rundir import StudyDir, write_json
from launch.state.ledger import Ledger, Started
from launch.study.cluster import load_cluster
from launch.study.plan import plan
from launch.study.schema import load_study

LINES: dict[str, bytes] = {
    "null": b"null\n",
    "a list": b"[]\n",
    "not UTF-8": b'{"time": "\xff\xfe"}\n',
    "cut": b'{"attempt": 1, "resta\n',
    "wrong types": b'{"attempt": "1", "time": [], "event": {}, "done": "x", "host": 3, "told": 0}\n',
    "wrong values": b'{"event": "intent", "time": 1e999, "submission": "../..", "pid": -1, "host": "x"}\n',
    "a huge number": b'{"time": ' + b"9" * 5000 + b"}\n",
    "NaN": b'{"time": NaN, "attempt": NaN, "done": NaN, "updated": NaN, "began": Infinity}\n',
    "deep": b'{"time": ' + b"[" * 100_000 + b"\n",
    "half of a pair": b'{"event": "\\ud800", "error": "\\ud800", "unit": "\\ud800", "user": "\\ud800"}\n',
    "zeros": bytes(64) + b"\n",
}


def a_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # its address may not be long
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)
    os.chdir(here)


INSTEAD: dict[str, Callable[[Path], object]] = {
    "FIFO": os.mkfifo, "socket": a_socket, "folder": Path.mkdir,
    "link": lambda path: path.symlink_to("nowhere"), "loop": lambda path: path.symlink_to(path.name),
}  # fmt: skip


class Made:
    """A study of which the first unit is done, one training failed, and the rest waits."""

    def __init__(self, folder: Path) -> None:
        self.file, self.runs = write_study(folder), folder / "runs"
        self.root = StudyDir(self.runs / "small")
        study = load_study(str(self.file))
        self.units = plan(study, load_cluster("local"))
        self.failed = self.units[0]
        self.other = next(u for u in self.units if not u.inputs or u.inputs[0].id == self.failed.id)
        folder = self.root.unit(self.failed).path
        folder.mkdir(parents=True)
        ledger = Ledger(self.root.ledger)
        ledger.intent("prepare-small-1", [Started(self.failed.id, 1)])
        ledger.submitted("prepare-small-1", "999999999")
        line = {"attempt": 1, "restart": 0, "worker": 0, "rank": 0, "host": "h", "seconds": 1.0, "kept": 0}
        line |= {"micro_batch": None, "error": "ValueError: no", "cause": "code error"}
        journal.append(self.root.unit(self.failed).attempts, line)
        write_json(self.root.unit(self.failed).spec, self.failed.to_json())
        write_json(self.root.study, study.model_dump(mode="json"))

    def state(self, sor: ForkedSor, unit: Unit) -> dict[str, Any]:
        done = sor("status", str(self.file), "--runs", str(self.runs), "--json")
        assert "Traceback" not in done.stderr
        assert done.stdout, done.stderr
        found: dict[str, Any] = next(u for u in json.loads(done.stdout)["units"] if u["id"] == unit.id)
        return found

    def looked_at(self, sor: ForkedSor) -> str:
        """All that shows a study, one after another; returns what they printed."""
        said = ""
        for words in (
            ("status", str(self.file)), ("plan", str(self.file)), ("logs", str(self.file), "--failed"),
            ("logs", str(self.file), self.failed.id), ("monitor", "--once"),
            ("submit", str(self.file), "--dry-run"),
        ):  # fmt: skip
            done = sor(*words, "--runs", str(self.runs))
            assert done.returncode in (0, 1, 2, 3, 4), (words, done.stderr)
            assert "Traceback" not in done.stdout + done.stderr, (words, done.stderr)
            said += done.stdout + done.stderr
        return " ".join(said.split())


@pytest.fixture(scope="module")
def sor() -> Iterator[ForkedSor]:
    forked = ForkedSor(PYTHONPATH=str(TESTS), COLUMNS="300")
    yield forked
    forked.end()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("damaged"))


@pytest.fixture
def made(model: Made) -> Iterator[Made]:
    """The study, put back as it was afterwards."""
    kept = model.runs.with_name("kept")
    shutil.copytree(model.runs, kept)
    yield model
    shutil.rmtree(model.runs)
    kept.rename(model.runs)


@pytest.mark.parametrize("how", LINES)
def test_a_bad_line_about_one_unit(made: Made, sor: ForkedSor, how: str) -> None:
    """The unit is held, with all that is made from it; another one's file is not even looked at."""
    attempts = journal.own(made.root.unit(made.failed).attempts)
    with attempts.open("ab") as file:
        file.write(LINES[how])
        file.write(b"\n")
    found = made.state(sor, made.failed)
    assert (found["state"], f"{attempts}, line 2: " in found["reason"]) == ("damaged", True)
    assert sor("status", str(made.file), "--runs", str(made.runs)).returncode == 4
    shown = sor("submit", str(made.file), "--runs", str(made.runs), "--dry-run").stdout
    assert "! damaged, skipped: prepare" in shown
    assert "+ " not in shown


@pytest.mark.parametrize("how", ["null", "cut", "deep"])
def test_a_bad_line_of_the_ledger(made: Made, sor: ForkedSor, how: str) -> None:
    ledger = journal.own(made.root.ledger)
    with ledger.open("ab") as file:
        file.write(LINES[how])
        file.write(f'{{"event": "intent", "elements": [["{made.other.id}", 1]]}}\n'.encode())
    expected = "damaged" if made.other is made.failed else "failed"
    assert made.state(sor, made.failed)["state"] == expected
    found = made.state(sor, made.other)
    assert (found["state"], f"{ledger}, line 4: " in found["reason"]) == ("damaged", True)
    done = sor("status", str(made.file), "--runs", str(made.runs))
    assert (done.returncode, f"damaged: {ledger}, line 3: " in done.stdout) == (4, True)


def test_a_bad_record_of_jobs_submitted_by_hand(made: Made, sor: ForkedSor) -> None:
    record = made.root.by_hand / "1.json"
    record.parent.mkdir()
    record.write_text(f'{{"submission": "s", "attempts": {{"{made.other.id}": [1, [0', encoding="utf-8")
    expected = "damaged" if made.other is made.failed else "failed"
    assert made.state(sor, made.failed)["state"] == expected
    found = made.state(sor, made.other)
    assert (found["state"], found["reason"]) == (
        "damaged",
        f"{record}: not a record of a job that was submitted by hand. Remove the file, and check with "
        "squeue whether the job that it names is live",
    )
    record.write_text("{", encoding="utf-8")
    done = sor("status", str(made.file), "--runs", str(made.runs))
    assert (done.returncode, f"damaged: {record}: not a record of a job" in done.stdout) == (4, True)


PLACES: dict[str, Callable[[Made], Path]] = {
    "attempts": lambda made: journal.own(made.root.unit(made.failed).attempts),
    "progress": lambda made: made.root.unit(made.failed).progress,
    "unit": lambda made: made.root.unit(made.failed).spec,
    "ledger": lambda made: journal.own(made.root.ledger),
    "by hand": lambda made: made.root.by_hand / "1.json",
    "lock": lambda made: made.root.lock,
    "study": lambda made: made.root.study,
    "submitted": lambda made: made.root.submitted,
    "notified": lambda made: journal.own(made.root.notified),
    "node": lambda made: made.root.node("n1"),
    "result": lambda made: made.root.unit(made.failed).result,
    "marker": lambda made: made.root.unit(made.failed).checkpoints / "step-00000004" / "checkpoint.json",
}


@pytest.mark.parametrize("place", PLACES)
def test_no_damage_stops_those_who_look(made: Made, sor: ForkedSor, place: str) -> None:
    path = PLACES[place](made)
    path.parent.mkdir(parents=True, exist_ok=True)
    first = list(PLACES).index(place)
    damages: list[bytes | Callable[[Path], object]] = [*LINES.values(), *INSTEAD.values()]
    for number, damage in list(enumerate(damages, first))[first % 2 :: 2]:
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        path.unlink(missing_ok=True)
        if isinstance(damage, bytes):
            path.write_bytes(damage)
        else:
            damage(path)
        if number in (first + 8, first + 13):
            made.looked_at(sor)
        else:
            done = sor("status", str(made.file), "--runs", str(made.runs))
            assert "Traceback" not in done.stderr, done.stderr
            assert done.returncode in (2, 4)


def test_a_result_that_cannot_be_read_is_no_result(made: Made, sor: ForkedSor) -> None:
    publish(made.root, made.failed)
    assert made.state(sor, made.failed)["state"] == "done"
    result = made.root.unit(made.failed).result
    result.write_bytes(b'{"pairs": ')
    found = made.state(sor, made.failed)
    assert (found["state"], str(result) in found["reason"]) == ("damaged", True)
    assert f"Move {result.parent} away, then submit again to remake it" in found["reason"]
    shown = sor("submit", str(made.file), "--runs", str(made.runs), "--dry-run").stdout
    assert "+ " not in shown


def test_a_checkpoint_whose_marker_cannot_be_read_is_none(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "1.0")
    for step in (4, 8):
        aside = checkpoints.aside(f"step-{step:08}")
        aside.mkdir()
        checkpoints.commit(aside, Meta({"step": step}, 1, None, 1, "1.0"))
    newest = checkpoints.newest()
    assert newest
    assert newest.step == 8
    (newest.path / "checkpoint.json").write_bytes(b"{}\n")
    older = checkpoints.newest()
    assert older
    assert older.step == 4


def test_an_older_versions_files_are_read(made: Made, sor: ForkedSor) -> None:
    """`NAME.jsonl` without a host in its name."""
    for path in (made.root.ledger, made.root.unit(made.failed).attempts):
        journal.own(path).rename(path)
    found = made.state(sor, made.failed)
    assert (found["state"], found["reason"], found["attempts"]) == ("failed", "ValueError: no", 1)
