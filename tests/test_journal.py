"""Records that several hosts add to: nothing lost where appending is not atomic, and one clock for all."""

from __future__ import annotations

import errno
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import context

from jobs.core.causes import Cause, first_error
from jobs.core.unit import Unit
from jobs.runtime.context import Context
from jobs.runtime.exit import Ending
from jobs.store import clock, journal
from jobs.store.journal import own
from jobs.store.progress import read_progress
from jobs.store.records import COUNT, TIME, Damaged
from jobs.store.rundir import StudyDir
from jobs.store.schema import ATTEMPT
from launch.state.ledger import Ledger, Started
from launch.state.lock import holder

SHAPE = {"time": TIME, "host": COUNT, "n": COUNT}
MANY = 20

# Appends as a client of NFS does: at the size that it knows of, which another client may have changed.
CLIENT = """
import os, socket, sys, time
from pathlib import Path

def write(fd, data):
    at = os.fstat(fd).st_size
    time.sleep(0.005)
    other = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY)
    count = os.pwrite(other, data, at)
    os.close(other)
    return count

path, host, number, many = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
os.write, socket.gethostname = write, lambda: host
from jobs.store import journal
for n in range(many):
    journal.append(path, {"host": number, "n": n})
"""

# A machine whose clock is wrong; the file system's is right.
WRONG = """
import sys, time
off, real = float(sys.argv[1]), time.time
time.time = lambda: real() + off
"""


def run(script: str, *words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")


def finish(process: subprocess.Popen[str]) -> str:
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    return out


@pytest.mark.parametrize("hosts", [("a", "b"), ("one", "one")])
def test_two_clients_of_a_network_file_system_lose_nothing(tmp_path: Path, hosts: tuple[str, str]) -> None:
    """They do where both write one file: the second case shows that the clients made here are such ones."""
    path = tmp_path / "attempts.jsonl"
    for process in [run(CLIENT, path, host, number, MANY) for number, host in enumerate(hosts)]:
        finish(process)
    found, bad = journal.survey(path, SHAPE)
    told = sorted((record["host"], record["n"]) for record in found)
    if len(set(hosts)) == 2:
        assert (told, list(bad)) == ([(host, n) for host in range(2) for n in range(MANY)], [])
        assert [r["time"] for r in found] == sorted(r["time"] for r in found)
    else:
        assert len(told) < 2 * MANY


def test_files_of_other_names_are_none_of_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "attempts.jsonl"
    journal.append(path, {"host": 0, "n": 0})
    for name in ("._attempts.x.jsonl", "attempts.x.jsonl~", ".nfs00001", "attempts2.jsonl"):
        (tmp_path / name).write_bytes(b"\x00\x05\x16\x07")
    assert [file.name for file in journal.files(path)] == [own(path).name]
    assert [record["n"] for record in journal.read(path, SHAPE)] == [0]


def test_hosts_are_read_in_the_order_of_time_and_a_file_in_its_own(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    lines = {
        "": [1.0],  # of an older version
        ".b": [5.0, 4.0],  # its clock was put back
        ".a": [2.0, 6.0],
    }
    for host, times in lines.items():
        text = "".join(f'{{"time": {t}, "host": 0, "n": {int(t)}}}\n' for t in times)
        (tmp_path / f"ledger{host}.jsonl").write_text(text, encoding="utf-8")
    assert [record["n"] for record in journal.read(path, SHAPE)] == [1, 2, 5, 4, 6]


def test_what_has_the_name_of_the_own_file_is_not_written_through(tmp_path: Path) -> None:
    path, outside = tmp_path / "x" / "attempts.jsonl", tmp_path / "outside"
    path.parent.mkdir()
    own(path).symlink_to(outside)
    with pytest.raises(Damaged, match="a link, not a file"):
        journal.append(path, {"host": 0, "n": 0})
    assert not outside.exists()


@pytest.mark.parametrize("off", [-900, 900])
def test_a_node_whose_clock_is_wrong(tmp_path: Path, off: float) -> None:
    """What it says is a moment old, whatever its clock says, and it is the attempt that is known here."""
    root, unit = StudyDir(tmp_path), Unit("prepare", "p", {})
    folder = root.unit(unit)
    folder.path.mkdir(parents=True)
    Ledger(root.ledger).intent("p-1", [Started(unit.id, 1)])
    finish(run(WRONG + """
from pathlib import Path
from jobs.store.progress import Progress
from jobs.store import journal
folder = Path(sys.argv[2])
Progress(folder / "progress.json", 1, 0).update(1, 9, "steps", force=True)
journal.append(folder / "attempts.jsonl", {"host": 0, "n": 1})
""", off, folder.path))  # fmt: skip
    progress = read_progress(folder.progress)
    assert progress is not None
    assert abs(time.time() - progress["updated"]) < 300
    assert abs(time.time() - progress["started"]) < 300
    [record] = journal.read(folder.attempts, SHAPE)
    assert abs(time.time() - record["time"]) < 300


@pytest.mark.parametrize("off", [-900, 900])
def test_a_login_node_whose_clock_is_wrong(tmp_path: Path, off: float) -> None:
    root, unit = StudyDir(tmp_path), Unit("prepare", "p", {})
    folder = root.unit(unit)
    folder.path.mkdir(parents=True)
    context(tmp_path, unit, attempt=1).progress.update(1, 9, "steps", force=True)
    Ledger(root.ledger).intent("p-1", [Started(unit.id, 1)])
    root.lock.write_text('{"host": "elsewhere", "pid": 1}', encoding="utf-8")
    said = finish(run(WRONG + """
from pathlib import Path
from jobs.store.rundir import StudyDir, UnitDir
from launch.state.ledger import Ledger
from launch.state.lock import holder
from launch.state.attempt_files import current_progress
root, folder = StudyDir(Path(sys.argv[2])), UnitDir(Path(sys.argv[3]))
attempt = Ledger(root.ledger).attempts()[folder.id]
progress = current_progress(folder, attempt)
print(time.time() - progress["updated"], time.time() - attempt.started, holder(root.lock) is not None)
""", off, tmp_path, folder.path))  # fmt: skip
    silence, age, held = said.split()
    assert abs(float(silence)) < 300
    assert abs(float(age)) < 300
    assert held == "True"
    assert holder(root.lock) is not None


def test_a_folder_that_cannot_be_written_has_this_machines_clock(tmp_path: Path) -> None:
    assert clock.ahead(tmp_path / "nowhere") == 0.0
    assert clock.ahead(Path("/proc")) == 0.0
    assert clock.ahead(tmp_path) == 0.0
    assert list(tmp_path.iterdir()) == []


def test_the_rank_that_failed_first_is_it_whoever_writes_first(tmp_path: Path) -> None:
    unit = Unit("train", "t", {}, execution={"micro_batch": 1})
    folder = StudyDir(tmp_path).unit(unit)
    folder.path.mkdir(parents=True)
    full, other = (Ending(Context(unit, folder, 1, 0, rank, rank, 2), None, 1) for rank in (1, 0))
    with pytest.raises(OSError, match="full"), full.dated():
        raise OSError(errno.ENOSPC, "the disk is full")
    with pytest.raises(FileNotFoundError), other.dated():
        raise FileNotFoundError("what the other one had removed")
    journal.append(folder.attempts, other._line(Cause.CODE, "a file is missing"))
    journal.append(folder.attempts, full._line(Cause.DISK, "the disk is full"))
    first = first_error(journal.read(folder.attempts, ATTEMPT))
    assert first is not None
    assert (first["rank"], first["cause"]) == (1, "disk full")
