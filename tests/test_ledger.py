"""The ledger replays to the last attempt at every unit, whatever came before and wherever its writer died."""

from __future__ import annotations

import socket
import tempfile
import time
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.store import journal
from launch.state.ledger import Attempt, Job, Ledger, Started, new_name

A, B = "a" * 12, "b" * 12
HERE = socket.gethostname()


def test_no_ledger_is_no_attempt(tmp_path: Path) -> None:
    assert Ledger(tmp_path / "study" / "ledger.jsonl").attempts() == {}
    assert not (tmp_path / "study").exists()


def test_an_attempt_from_intent_to_end(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "study" / "ledger.jsonl", "generic")
    before = time.time()
    ledger.intent("s1", [Started(A, 1)])
    first = ledger.attempts()[A]
    assert (first.number, first.jobs, first.ended) == (1, (Job("s1", None, HERE),), None)
    assert before <= first.started <= time.time()
    ledger.submitted("s1", "100")
    ledger.intent("s2", [Started(A, 1), Started(B, 1)])  # a second worker of A
    ledger.submitted("s2", "101")
    ledger.ended("failed", [(A, 1, "ValueError: no")])
    jobs = (Job("s1", "100", HERE), Job("s2", "101", HERE))
    assert ledger.attempts() == {
        A: Attempt(1, first.started, "generic", jobs, "failed", "ValueError: no"),
        B: Attempt(1, ledger.attempts()[B].started, "generic", jobs[1:]),
    }


def test_elements_of_an_array_get_their_ids_from_its(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.intent("s", [Started(A, 1, 0), Started(A, 1, 1), Started(B, 3, 12)])
    assert {job.id for a in ledger.attempts().values() for job in a.jobs} == {None}
    ledger.submitted("s", "77")
    found = ledger.attempts()
    assert found[A].jobs == (Job("s", "77", HERE, 0), Job("s", "77", HERE, 1))
    assert (found[B].number, found[B].jobs) == (3, (Job("s", "77", HERE, 12),))


def test_a_new_attempt_begins_with_nothing_of_the_old_and_is_not_ended_by_it(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.intent("s1", [Started(A, 1)])
    ledger.submitted("s1", "100")
    ledger.ended("cancelled", [(A, 1, "cancelled")])
    assert ledger.attempts()[A].ended == "cancelled"
    ledger.intent("s2", [Started(A, 2)])
    ledger.submitted("s2", "200")
    ledger.ended("failed", [(A, 1, "late news of the first attempt")])
    now = ledger.attempts()[A]
    assert (now.number, now.jobs, now.ended, now.reason) == (2, (Job("s2", "200", HERE),), None, None)
    ledger.submitted("s1", "100")  # written again by one that did not know: late, too
    ledger.intent("late", [Started(A, 1), Started(B, 1)])
    assert (ledger.attempts()[A], ledger.attempts()[B].number) == (now, 1)
    ledger.ended("outdated", [(A, 2, "why")])
    assert ledger.attempts()[A] == now._replace(ended="outdated", reason="why")


def test_names_of_submissions_differ() -> None:
    assert len({new_name("train-demo") for _ in range(1000)}) == 1000


@settings(max_examples=40, deadline=None)  # it waits for the disk
@given(st.floats(0, 1))
def test_cut_anywhere_it_holds_what_was_written_before(part: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = journal.own(Path(folder, "ledger.jsonl"))
        ledger, states = Ledger(Path(folder, "ledger.jsonl")), []
        for number in range(1, 4):
            for unit in (A, B):
                for write in (
                    lambda u, n: ledger.intent(f"s{u}{n}", [Started(u, n, 3)]),
                    lambda u, n: ledger.submitted(f"s{u}{n}", f"{n}"),
                    lambda u, n: ledger.ended("failed", [(u, n, "why")]),
                ):
                    states.append((path.stat().st_size if path.exists() else 0, ledger.attempts()))
                    write(unit, number)
        whole = path.read_bytes()
        cut = round(part * (len(whole) - 2))
        path.write_bytes(whole[:cut])
        # A record whose line end alone is missing counts already.
        expected = [attempts for size, attempts in states if size <= cut + 1][-1]
        assert ledger.attempts() == expected


def test_a_line_that_is_no_record_is_told_and_the_others_count(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.intent("s", [Started(A, 1)])
    assert list(ledger.damage()) == []
    with journal.own(tmp_path / "ledger.jsonl").open("ab") as file:
        file.write(f'{{"event": "intent", "elements": [["{B}", 1]]}}\n'.encode())
    [bad] = ledger.damage()
    assert B.encode() in bad.text
    assert ledger.attempts().keys() == ledger.attempts_since(0).keys() == {A}
    assert ledger.submissions() == {"s": ledger.attempts()[A].started}
    ledger.ended("failed", [(B, 1, "why"), (A, 1, "why")])
    assert ledger.attempts()[A].ended == "failed"
    assert Ledger(tmp_path / "ledger.jsonl").attempts() is ledger.attempts()  # not read again


def test_the_cluster_and_the_memory_of_a_submission_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "study" / "ledger.jsonl"
    ledger = Ledger(path, "mine.yaml", "east")
    ledger.intent("s", [Started(A, 1, 0), Started(A, 1, 1)], memory=2048)
    started = ledger.attempts()[A].started
    jobs = tuple(Job("s", None, HERE, index, "east") for index in (0, 1))
    assert ledger.attempts()[A] == Attempt(1, started, "mine.yaml", jobs, memory=2048)
    ledger.submitted("s", "7;west")  # which sbatch chose
    jobs = tuple(Job("s", "7", HERE, index, "west") for index in (0, 1))
    assert ledger.attempts()[A] == Attempt(1, started, "mine.yaml", jobs, memory=2048)
    assert ledger.attempts_since(started) == {A: 1}
    Ledger(path).intent("t", [Started(B, 1)])
    assert (ledger.attempts()[B].jobs, ledger.attempts()[B].cluster) == ((Job("t", None, HERE),), "local")
    last = journal.read(path, {})[-1]
    assert last.keys() == {"event", "time", "submission", "cluster", "host", "elements"}
