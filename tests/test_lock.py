"""One submitter a study: a living owner is respected and named, a dead one's lock is taken over, once."""

from __future__ import annotations

import getpass
import json
import multiprocessing
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from small_study import environment

from jobs.store import journal
from jobs.store.records import Damaged
from launch.state import lock as locks
from launch.state.ledger import Ledger, Started
from launch.state.lock import STALE, Lock, Locked, Lost
from launch.state.lock import holder as who_holds

FORK = multiprocessing.get_context("fork")
HOLDER = """
import sys
from pathlib import Path
from launch.state.lock import Lock
with Lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(path: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock until its standard input is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], env=environment(), encoding="utf-8",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def write(path: Path, age: float = 0.0, **owner: Any) -> None:
    """A lock that somebody else left."""
    made = {"user": "ann", "host": "other-host", "pid": 1, "token": "t", "since": "2026-01-01 00:00:00"}
    path.write_text(json.dumps(made | owner), encoding="utf-8")
    os.utime(path, (time.time() - age,) * 2)


def dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_held_then_free(tmp_path: Path) -> None:
    path, before = tmp_path / "runs" / "study" / "lock", set(threading.enumerate())
    with Lock(path) as lock:
        assert all(thread.daemon for thread in set(threading.enumerate()) - before)
        owner = json.loads(path.read_text(encoding="utf-8"))
        assert (owner["pid"], owner["host"]) == (os.getpid(), socket.gethostname())
        assert lock.took_over is None
    assert list(path.parent.iterdir()) == []


def test_freed_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), Lock(tmp_path / "lock"):
        raise KeyError
    with Lock(tmp_path / "lock"):
        pass


def test_a_living_owner_is_named_and_stays_the_owner(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    process = holder(path)
    said = rf"submitted by {getpass.getuser()} on {socket.gethostname()} \(process {process.pid}\) since 20"
    with pytest.raises(Locked, match=said) as error, Lock(path):
        pass
    assert str(path) in str(error.value)
    os.utime(path, (0, 0))  # on this host its process is proof enough, however long it was silent
    with pytest.raises(Locked), Lock(path):
        pass
    process.communicate("")
    assert process.returncode == 0
    with Lock(path) as lock:
        assert lock.took_over is None
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    process = holder(path)
    process.kill()
    process.communicate()
    with Lock(path) as lock:
        assert f"process {process.pid})" in str(lock.took_over)
        with pytest.raises(Locked, match=f"process {os.getpid()}"), Lock(path):
            pass
    assert list(tmp_path.iterdir()) == []


def test_another_hosts_lock_counts_while_it_is_fresh(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    write(path, age=STALE - 30)
    with (
        pytest.raises(Locked, match=r"ann on other-host \(process 1\) since 2026.*150 s old.*: rm /"),
        Lock(path),
    ):
        pass
    write(path, age=STALE + 30)
    with Lock(path) as lock:
        assert "ann on other-host" in str(lock.took_over)


@pytest.mark.parametrize("text", ["", json.dumps({"host": socket.gethostname(), "pid": "1"})])
def test_a_lock_that_is_just_being_written_is_respected(tmp_path: Path, text: str) -> None:
    path = tmp_path / "lock"
    path.write_text(text, encoding="utf-8")
    nobody = r"by somebody on an unknown host \(process unknown\) since a moment ago; "
    with pytest.raises(Locked, match=nobody), Lock(path):
        pass
    os.utime(path, (time.time() - STALE - 1,) * 2)  # its writer died in it
    with Lock(path):
        pass


def test_what_is_no_file_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(Damaged, match="lock: a folder"), Lock(tmp_path / "lock"):
        pass


def test_the_process_of_another_user_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(pid: int, number: int) -> None:
        assert (pid, number) == (1, 0)
        raise PermissionError

    monkeypatch.setattr(os, "kill", kill)
    write(tmp_path / "lock", host=socket.gethostname(), pid=1)
    with pytest.raises(Locked), Lock(tmp_path / "lock"):
        pass


def test_held_locks_are_kept_fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "REFRESH", 0.05)
    path, touch, troubles = tmp_path / "lock", os.utime, iter([OSError("the file server is away")])

    def utime(path: Path) -> None:
        if trouble := next(troubles, None):
            raise trouble
        touch(path)

    with Lock(path):
        os.utime(path, (0, 0))
        monkeypatch.setattr(os, "utime", utime)
        time.sleep(0.5)
        assert time.time() - path.stat().st_mtime < 5


def test_a_lock_that_was_lost_is_not_removed_from_its_new_owner(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with Lock(path):
        write(path)
    assert json.loads(path.read_text(encoding="utf-8"))["host"] == "other-host"


def test_a_fresh_lock_is_not_mistaken_for_the_dead_one_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two see the dead owner; one takes over; the other, slower, must not take it over from that one."""
    path = tmp_path / "lock"
    write(path, host=socket.gethostname(), pid=dead_pid())
    fast, slow = Lock(path), Lock(path)
    silence = slow._silence

    def overtaken() -> float | None:
        found = silence()
        if fast.took_over is None:
            fast.__enter__()
        return found

    monkeypatch.setattr(slow, "_silence", overtaken)
    with pytest.raises(Locked, match=re.escape(f"process {os.getpid()}")):
        slow.__enter__()
    assert json.loads(path.read_text(encoding="utf-8"))["token"] == fast._token
    fast.__exit__(None, None, None)
    assert list(tmp_path.iterdir()) == []


def test_a_dead_lock_that_is_removed_meanwhile_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"
    write(path, host=socket.gethostname(), pid=dead_pid())
    lock = Lock(path)
    owner = lock._dead_owner

    def removed() -> str | None:
        found = owner()
        if path.with_name("lock.takeover").exists():
            path.unlink()
        return found

    monkeypatch.setattr(lock, "_dead_owner", removed)
    with lock:
        lock.check()


def contend(path: Path, go: Any, done: Any, answers: Any) -> None:
    go.wait()
    try:
        with Lock(path) as lock:
            answers.put("took over" if lock.took_over else "held")
            done.wait()
    except Locked:
        answers.put("refused")
        done.wait()


def test_of_many_one_takes_over(tmp_path: Path) -> None:
    for again in range(10):
        path = tmp_path / str(again) / "lock"
        path.parent.mkdir()
        write(path, host=socket.gethostname(), pid=dead_pid())
        go, done, answers = FORK.Barrier(4), FORK.Barrier(4), FORK.SimpleQueue()
        processes = [FORK.Process(target=contend, args=(path, go, done, answers)) for _ in range(4)]
        for process in processes:
            process.start()
        told = [answers.get() for _ in processes]
        for process in processes:
            process.join(10)
        assert told.count("refused") == 3
        assert list(path.parent.iterdir()) == []


def test_an_owner_finds_out_that_it_was_overtaken(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with Lock(path) as lock:
        lock.check()
        write(path)
        with pytest.raises(Lost, match=r"was suspended, and ann on other-host \(process 1\) took over"):
            lock.check()
    assert json.loads(path.read_text(encoding="utf-8"))["host"] == "other-host"
    path.unlink()
    with Lock(path) as lock:
        path.unlink()
        with pytest.raises(Lost, match="lock was removed, by a cancellation or by a person"):
            lock.check()


def test_a_sleeper_does_not_keep_the_lock_of_another_fresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "REFRESH", 0.05)
    path = tmp_path / "lock"
    with Lock(path):
        write(path, age=1000)
        time.sleep(0.3)
        assert time.time() - path.stat().st_mtime > 900


def test_a_lock_can_be_seized_from_a_living_owner(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with Lock(path) as first:
        with Lock(path, seize="'sor cancel'") as second:
            second.check()
            with pytest.raises(Lost, match=rf"stopped by 'sor cancel' of {getpass.getuser()} on "):
                first.check()
        with Lock(path) as third:
            pass
        third._released.wait()
    assert list(tmp_path.iterdir()) == []


def test_who_is_patient_gets_the_lock_of_an_owner_that_ends(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    process = holder(path)
    with pytest.raises(Locked), Lock(path, patience=0.1):
        pass
    threading.Timer(0.3, lambda: process.communicate("")).start()
    with Lock(path, patience=60) as lock:
        lock.check()


def held_since(path: Path) -> float | None:
    """Since when a lock is held, as it is seen from outside."""
    found = who_holds(path)
    return None if found is None else found.since


def test_who_submits_is_seen_without_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert who_holds(path) is None
    before = time.time()
    with Lock(path):
        os.utime(path, (0, 0))
        found = who_holds(path)
        assert found is not None
        assert before <= found.since <= time.time()
        assert f"(process {os.getpid()})" in found.who
        assert list(tmp_path.iterdir()) == [path]
    for host, pid, age, held in (
        (socket.gethostname(), dead_pid(), 0, False), ("other", 1, 0, True), ("other", 1, 2 * STALE, False)
    ):  # fmt: skip
        write(path, age, host=host, pid=pid, began=5.0)
        assert held_since(path) == (5.0 if held else None)
    write(path, age=50)  # by an earlier version, which did not write when it began
    assert held_since(path) == path.stat().st_mtime
    path.write_text("", encoding="utf-8")
    assert who_holds(path) is None


@pytest.mark.parametrize(("age", "held"), [(STALE - 30, True), (STALE + 30, False)])
@pytest.mark.parametrize("ahead", [-1000.0, 1000.0])
def test_who_submits_is_seen_whatever_the_clock_of_the_file_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: float, age: float, held: bool
) -> None:
    monkeypatch.setattr(locks, "ahead", {tmp_path: ahead}.__getitem__)
    path = tmp_path / "lock"
    write(path, age - ahead, began=5.0)
    assert held_since(path) == (5.0 - ahead if held else None)
    write(path, age - ahead)
    assert held_since(path) == (path.stat().st_mtime - ahead if held else None)


def test_since_when_a_study_is_submitted_is_converted_to_the_clock_of_the_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, before = tmp_path / "lock", time.time()
    monkeypatch.setattr(locks, "ahead", {tmp_path: 1000.0}.__getitem__)  # of the submitter's clock
    with Lock(path):
        os.utime(path, (before + 1000, before + 1000))
        assert before <= (held_since(path) or 0) <= time.time()
        monkeypatch.setattr(locks, "ahead", {tmp_path: 0.0}.__getitem__)  # of another machine's
        assert before + 1000 <= (held_since(path) or 0) <= time.time() + 1000


def test_a_late_line_of_a_sleeper_is_not_taken_for_the_last_attempt(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    for name, number in (("first", 1), ("of the other", 2), ("late", 1)):
        ledger.intent(name, [Started("u", number)])
    assert [job.submission for job in ledger.attempts()["u"].jobs] == ["of the other"]


def test_every_line_of_the_ledger_asks_the_fence_first(tmp_path: Path) -> None:
    with Lock(tmp_path / "lock") as lock:
        ledger = Ledger(tmp_path / "ledger.jsonl", fence=lock.check)
        ledger.intent("a", [Started("u", 1)])
        written = journal.own(tmp_path / "ledger.jsonl").read_bytes()
        write(tmp_path / "lock")
        for line in (
            lambda: ledger.intent("b", [Started("u", 2)]),
            lambda: ledger.submitted("a", "12"),
            lambda: ledger.ended("failed", [("u", 1, "why")]),
        ):
            with pytest.raises(Lost):
                line()
        assert journal.own(tmp_path / "ledger.jsonl").read_bytes() == written
