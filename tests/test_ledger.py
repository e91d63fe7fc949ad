"""The ledger replays to the last attempt at every unit, whatever came before and wherever its writer died."""

from __future__ import annotations

import socket
import tempfile
import time
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.unit import Unit
from launch.ledger import Attempt, Job, Ledger

A, B = Unit("prepare", "a", {}), Unit("train", "b", {"lr": 1})
HERE = socket.gethostname()


def test_no_ledger_is_no_attempt(tmp_path: Path) -> None:
    assert Ledger(tmp_path / "study" / "ledger.jsonl").attempts() == {}
    assert not (tmp_path / "study").exists()


def test_an_attempt_from_intent_to_end(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "study" / "ledger.jsonl")
    before = time.time()
    ledger.intent(A, 1)
    first = ledger.attempts()[A.id]
    assert (first.number, first.jobs, first.ended) == (1, (), None)
    assert before <= first.begun <= time.time()
    ledger.submitted(A, 1, "100")
    ledger.intent(B, 1)
    ledger.submitted(A, 1, "101")
    ledger.failed(A, 1, "ValueError: no")
    ledger.submitted(B, 1, "102")
    assert ledger.attempts() == {
        A.id: Attempt(1, first.begun, (Job("100", HERE), Job("101", HERE)), "failed", "ValueError: no"),
        B.id: Attempt(1, ledger.attempts()[B.id].begun, (Job("102", HERE),)),
    }


def test_a_new_attempt_begins_with_nothing_of_the_old_and_is_not_ended_by_it(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.intent(A, 1)
    ledger.submitted(A, 1, "100")
    ledger.cancelled(A, 1)
    assert ledger.attempts()[A.id].ended == "cancelled"
    ledger.intent(A, 2)
    ledger.submitted(A, 2, "200")
    ledger.failed(A, 1, "late news of the first attempt")
    now = ledger.attempts()[A.id]
    assert (now.number, now.jobs, now.ended, now.reason) == (2, (Job("200", HERE),), None, None)
    ledger.outdated(A, 2)
    assert ledger.attempts()[A.id].ended == "outdated"


@settings(max_examples=40)
@given(st.floats(0, 1))
def test_cut_anywhere_it_holds_what_was_written_before(part: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "ledger.jsonl")
        ledger, states = Ledger(path), []
        for number in range(1, 4):
            for unit in (A, B):
                for write in (
                    lambda u, n: ledger.intent(u, n),
                    lambda u, n: ledger.submitted(u, n, f"job{n}"),
                    lambda u, n: ledger.failed(u, n, "why"),
                ):
                    states.append((path.stat().st_size if path.exists() else 0, ledger.attempts()))
                    write(unit, number)
        whole = path.read_bytes()
        cut = round(part * (len(whole) - 2))
        path.write_bytes(whole[:cut])
        # A record whose line end alone is missing counts already.
        expected = [attempts for size, attempts in states if size <= cut + 1][-1]
        assert ledger.attempts() == expected
