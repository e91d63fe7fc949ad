"""Results are published whole and once, and files survive writers that die in the middle."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_study import lives, publish, wait_for

from jobs.core.unit import Unit
from jobs.runtime.context import Context
from jobs.store.rundir import (
    Damaged,
    StudyDir,
    UnitDir,
    append_jsonl,
    look_at,
    read_json,
    read_jsonl,
    study_of,
    write_json,
)

FORK = multiprocessing.get_context("fork")
FILES = 20


def stage(folder: UnitDir, attempt: str) -> Path:
    """A result of several files that all name their attempt."""
    staged = folder.staging(attempt)
    staged.mkdir(parents=True)
    for name in ("result.json", *(f"{i}.txt" for i in range(1, FILES))):
        (staged / name).write_text(attempt, encoding="utf-8")
    return staged


def race(folder: UnitDir, attempt: str, go: Any, answers: Any) -> None:
    staged = stage(folder, attempt)
    go.wait()
    answers.put((attempt, folder.publish(staged)))


@pytest.mark.parametrize("again", range(5))
def test_of_two_publishers_one_wins_and_the_other_is_told(tmp_path: Path, again: int) -> None:
    folder = UnitDir(tmp_path / "unit")
    go, answers = FORK.Barrier(2), FORK.SimpleQueue()
    racers = [FORK.Process(target=race, args=(folder, a, go, answers)) for a in ("1", "2")]
    for racer in racers:
        racer.start()
    told = dict(answers.get() for _ in racers)
    for racer in racers:
        racer.join(10)
    (winner,) = [attempt for attempt, won in told.items() if won]
    assert sorted(told) == ["1", "2"]
    assert {p.read_text(encoding="utf-8") for p in folder.out.iterdir()} == {winner}
    assert len(list(folder.out.iterdir())) == FILES
    assert [p.name for p in folder.path.iterdir()] == ["out"], "the loser's result is still there"


def test_publish_does_not_hide_other_errors(tmp_path: Path) -> None:
    folder = UnitDir(tmp_path / "unit")
    folder.path.mkdir()
    with pytest.raises(OSError, match="No such file"):
        folder.publish(folder.staging("1"))
    assert not folder.done


def link_to_another(out: Path) -> None:
    write_json(made(out.with_name("else")) / "result.json", {})
    out.symlink_to("else")


IN_THE_WAY: dict[str, Callable[[Path], object]] = {
    "a file": lambda out: out.write_text("mine", encoding="utf-8"),
    "a FIFO": os.mkfifo,
    "a folder without result.json": lambda out: out.mkdir(),
    "a link": lambda out: out.symlink_to("nowhere"),
    "a link, not the folder of a result": link_to_another,
    "result.json: empty": lambda out: (made(out) / "result.json").touch(),
    "result.json: a folder": lambda out: (made(out) / "result.json").mkdir(),
    "result.json: a FIFO": lambda out: os.mkfifo(made(out) / "result.json"),
    "result.json: a link": lambda out: (made(out) / "result.json").symlink_to("/etc/hostname"),
}  # fmt: skip


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def kind(path: Path) -> tuple[int, int]:
    return path.lstat().st_ino, path.lstat().st_mode


@pytest.mark.parametrize("what", IN_THE_WAY)
def test_what_is_no_result_is_named_and_stays(tmp_path: Path, what: str) -> None:
    folder = UnitDir(tmp_path / "unit")
    staged = stage(folder, "1")
    IN_THE_WAY[what](folder.out)
    before = kind(folder.out)
    assert not folder.done
    assert what in str(look_at(str(folder.out)).harm)
    assert f"Move {folder.out} away, then submit again to remake it" in str(look_at(str(folder.out)).harm)
    if "result.json: " not in what:
        with pytest.raises(Damaged, match=re.escape(f"{folder.out}: ")):
            folder.publish(staged)
        assert (kind(folder.out), (staged / "1.txt").exists()) == (before, True)
    assert StudyDir(tmp_path.parent).published(tmp_path.name) == []
    with pytest.raises(Damaged):
        folder.read_result()


def test_a_result_costs_two_questions_and_what_has_none_one(tmp_path: Path) -> None:
    folder = UnitDir(tmp_path / "unit")
    script = (
        "import os, sys; from jobs.store.rundir import look_at; asked = []; real = os.lstat\n"
        "os.lstat = lambda path: (asked.append(path), real(path))[1]\n"
        "print(look_at(sys.argv[1]).there, len(asked))"
    )

    def cost() -> str:
        command = [sys.executable, "-c", script, str(folder.out)]
        return subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout.strip()

    assert cost() == "False 1"
    folder.publish(stage(folder, "1"))
    assert cost() == "True 2"


def test_a_result_is_set_aside_any_number_of_times(tmp_path: Path) -> None:
    folder = UnitDir(tmp_path / "unit")
    folder.path.mkdir()
    names = [folder.new_superseded(3).name for _ in range(3)]
    assert names == ["superseded.3", "superseded.3.2", "superseded.3.3"]


WRITER = """
import sys
from pathlib import Path
from jobs.store.rundir import UnitDir

folder = UnitDir(Path(sys.argv[1]))
staged = folder.staging("1")
staged.mkdir(parents=True)
for i in range(10**9):
    (staged / str(i)).write_text("x")
"""


def test_killed_in_the_middle_leaves_nothing_visible_and_the_next_one_publishes(tmp_path: Path) -> None:
    unit = Unit("prepare", "p", {})
    folder = StudyDir(tmp_path).unit(unit)
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(folder.path)])
    wait_for(lambda: (folder.staging("1") / "50").exists(), "the writer to write")
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert not folder.done
    assert StudyDir(tmp_path).published("prepare") == []
    publish(StudyDir(tmp_path), unit)
    assert folder.done
    assert [d.path for d in StudyDir(tmp_path).published("prepare")] == [folder.path]


def test_a_reader_never_sees_half_of_a_json_file(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    big = {"numbers": list(range(5000))}
    write_json(path, big)

    def rewrite() -> None:
        for i in range(300):
            write_json(path, {**big, "i": i})

    writer = FORK.Process(target=rewrite)
    writer.start()
    reads = 0
    while writer.is_alive():
        assert read_json(path)["numbers"] == big["numbers"]
        reads += 1
    writer.join()
    assert reads > 10
    assert read_json(path)["i"] == 299
    assert list(tmp_path.iterdir()) == [path], "temporary files were left"


def test_lines_of_several_writers_stay_whole(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"

    def write(writer: int) -> None:
        for i in range(100):
            append_jsonl(path, {"writer": writer, "i": i, "text": "x" * 3000})

    writers = [FORK.Process(target=write, args=(w,)) for w in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(30)
    records = list(read_jsonl(path))
    for w in range(3):
        assert [r["i"] for r in records if r["writer"] == w] == list(range(100))


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    assert list(read_jsonl(path)) == []
    append_jsonl(path, {"i": 0})
    append_jsonl(path, {"i": 1})
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first + 1, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert list(read_jsonl(path)) == [{"i": 0}]
    path.write_bytes(whole[:-1])  # all but the end of the line: the record itself is whole
    assert list(read_jsonl(path)) == [{"i": 0}, {"i": 1}]


def test_a_torn_line_in_the_middle_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text('{"i": 0}\n{"i": \n{"i": 2}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"ledger\.jsonl, line 2: not JSON .*'\{\"i\": \\n'"):
        list(read_jsonl(path))


def test_a_line_after_a_torn_one_stays_whole(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    append_jsonl(path, {"i": 0})
    with path.open("a", encoding="utf-8") as file:
        file.write('{"i": 1, "te')
    append_jsonl(path, {"i": 2})
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(lines[0]), json.loads(lines[-1])] == [{"i": 0}, {"i": 2}]
    with pytest.raises(ValueError, match=r"line 2: not JSON .*Remove the line, if its writer died"):
        list(read_jsonl(path))


def test_a_full_disk_is_not_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    append_jsonl(path, {"i": 0})

    def write() -> None:
        room = path.stat().st_size + 5
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        try:
            append_jsonl(path, {"i": 1})
        except OSError:
            os._exit(7)

    writer = FORK.Process(target=write)
    writer.start()
    writer.join(10)
    assert writer.exitcode == 7
    assert list(read_jsonl(path)) == [{"i": 0}]


def test_paths_lead_back_to_the_study(tmp_path: Path) -> None:
    study, unit = StudyDir(tmp_path), Unit("train", "s-r50", {})
    folder = study.unit(unit)
    assert study.unit(unit.as_input()) == folder
    assert study_of(folder.path) == study
    publish(study, unit)
    assert folder.unit() == unit


def test_logs_are_those_of_one_job_a_file_a_rank(tmp_path: Path) -> None:
    study = StudyDir(tmp_path)
    assert study.logs("train-s-12", "7_1") == []
    folder = study.submission("train-s-12")
    folder.mkdir(parents=True)
    for name in ("7_1_10", "7_1_9", "7_10_0", "17_1_0"):
        (folder / f"{name}_log.out").touch()
    assert [p.name for p in study.logs("train-s-12", "7_1")] == ["7_1_9_log.out", "7_1_10_log.out"]
    assert study.logs("train-s-12", None) == []


def test_input_that_is_gone_is_named(tmp_path: Path) -> None:
    study = StudyDir(tmp_path)
    first = Unit("prepare", "p", {})
    reader = Unit("collate", "c", {}, (first.as_input(),))
    publish(study, first)
    publish(study, reader)
    ctx = Context(reader, study.unit(reader))
    assert ctx.input("prepare") == study.unit(first).out
    made = study.unit(first).out / "a" / "b"
    with pytest.raises(
        ValueError, match=r"^'prepare' made no 'a/b', only .*: see its function, and '@prepare/a/b'"
    ):
        ctx.resolve("@prepare/a/b")
    made.mkdir(parents=True)
    assert ctx.resolve("@prepare/a/b") == str(made)
    assert ctx.resolve("org/model") == "org/model"
    study.unit(first).out.rename(tmp_path / "away")
    with pytest.raises(FileNotFoundError, match=r"collate c needs the result of prepare p.*was it deleted"):
        ctx.input("prepare")


def test_staging_of_an_attempt_starts_empty(tmp_path: Path) -> None:
    study, unit = StudyDir(tmp_path), Unit("prepare", "p", {})
    folder = study.unit(unit)
    folder.path.mkdir(parents=True)
    write_json(folder.spec, unit.to_json())
    ctx = Context(unit, folder, 3, worker=1)
    (ctx.staging() / "old").touch()
    staged = ctx.staging()
    assert list(staged.iterdir()) == []
    others = [Context(unit, folder, *place) for place in ((3, 0, 0, 1, 0), (4, 0, 0, 1, 1), (3, 1, 1, 2, 1))]
    assert len({staged, *(other.staging() for other in others)}) == 4
    ctx.publish(staged, {"n": 1})
    assert read_json(folder.result) == {"n": 1}
    found = read_json(folder.out / "provenance.json")
    assert found["python"] == sys.version.split()[0]
    assert found["packages"]["submitit"]
    assert found["hardware"]["cores"] >= 1


def test_helper_sees_processes() -> None:
    process = subprocess.Popen(["sleep", "60"])
    assert lives(process.pid)
    process.kill()
    wait_for(lambda: not lives(process.pid), "the process to end")  # a zombie until it is waited for
    process.wait()
    assert not lives(process.pid)
