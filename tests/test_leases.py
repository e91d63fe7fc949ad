from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.data import leases
from jobs.data.leases import Claims


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """See at once what other workers do."""
    monkeypatch.setattr(leases, "VIEW_SECONDS", 0.0)


def age(folder: Path, seconds: float) -> None:
    for path in folder.glob("0*"):
        now = path.stat().st_mtime
        os.utime(path, (now - seconds, now - seconds))


def test_each_piece_goes_to_one_worker(tmp_path: Path) -> None:
    a, b = Claims(tmp_path, "a"), Claims(tmp_path, "b")
    assert [a.take([0, 1, 2]), b.take([0, 1, 2]), a.take([0, 1, 2])] == [0, 1, 2]
    assert a.take([0, 1, 2]) is None
    assert not b.available([0, 1, 2])


def test_where_another_worker_was_faster_the_next_piece_is_taken(tmp_path: Path) -> None:
    slow, fast = Claims(tmp_path, "slow"), Claims(tmp_path, "fast")

    class Pieces(list[int]):
        def __iter__(self) -> Iterator[int]:
            assert fast.take([0]) == 0  # the other one has listed the claims by now
            return super().__iter__()

    assert slow.take(Pieces([0, 1])) == 1


def test_an_expired_claim_is_taken_over_once_and_a_refreshed_one_is_not(tmp_path: Path) -> None:
    dead, alive, third = (Claims(tmp_path, name) for name in ("dead", "alive", "third"))
    assert (dead.take([0, 1]), alive.take([0, 1])) == (0, 1)
    age(tmp_path, leases.LEASE_SECONDS + 1)
    alive.refresh()
    assert third.available([0, 1])
    assert third.take([0, 1]) == 0
    assert third.take([0, 1]) is None
    dead.refresh()  # it was only slow: that does not make its old claim count again
    assert alive.take([0]) is None


def test_of_many_that_see_the_same_expired_claim_one_wins(tmp_path: Path) -> None:
    for piece in range(30):
        Claims(tmp_path, "dead").take([piece])
        age(tmp_path, leases.LEASE_SECONDS + 1)
        barrier, won = threading.Barrier(8), []

        def race(name: str, piece: int = piece, barrier: threading.Barrier = barrier) -> None:
            mine = Claims(tmp_path, name)
            barrier.wait()
            if mine.take([piece]) is not None:
                won.append(name)  # noqa: B023 - the threads end before the next turn

        threads = [threading.Thread(target=race, args=(f"w{i}",)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1


def test_a_worker_that_died_while_taking_over_is_taken_over_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LEASE_SECONDS", 5.0)
    for name in ("first", "second", "third"):
        assert Claims(tmp_path, name).take([4]) == 4
        age(tmp_path, 6)
    assert sorted(p.name for p in tmp_path.glob("0*")) == ["00004.0", "00004.1", "00004.2"]


def test_what_is_given_back_is_taken_over_at_once(tmp_path: Path) -> None:
    leaving, staying = Claims(tmp_path, "leaving"), Claims(tmp_path, "staying")
    assert (leaving.take([0, 1, 2]), leaving.take([0, 1, 2]), staying.take([0, 1, 2])) == (0, 1, 2)
    leaving.give_back()
    leaving.refresh()  # it holds nothing any more
    assert [staying.take([0, 1, 2]) for _ in range(3)] == [0, 1, None]


def test_what_is_released_is_not_given_back(tmp_path: Path) -> None:
    leaving, staying = Claims(tmp_path, "leaving"), Claims(tmp_path, "staying")
    assert (leaving.take([0, 1]), leaving.take([0, 1])) == (0, 1)
    leaving.release(0)
    leaving.give_back()
    assert (staying.available([0]), staying.available([1])) == (False, True)


def test_what_was_seen_a_moment_ago_is_trusted_and_nothing_is_claimed_twice_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "VIEW_SECONDS", 1.0)
    now = [0.0]
    monkeypatch.setattr("jobs.data.leases.time.monotonic", lambda: now[0])
    a, b = Claims(tmp_path, "a"), Claims(tmp_path, "b")
    assert (a.take([0, 1, 2, 3]), b.take([0, 1, 2, 3])) == (0, 1)
    assert a.take([0, 1, 2, 3]) == 2, "it has not seen that the other one has taken 1"
    a.give_back()
    now[0] = 0.9
    assert b.take([0]) is None
    assert b.available([0])
    assert b.take([0]) == 0
    age(tmp_path, leases.LEASE_SECONDS + 1)
    assert a.take([1]) is None, "as it was a moment ago"
    now[0] = 1.0
    assert a.take([1]) == 1
