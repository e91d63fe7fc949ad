"""The line, the requeue verdict and the exit code that one process leaves when it ends."""

from __future__ import annotations

import errno
import io
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.core import memory, secrets
from jobs.core.causes import Cause
from jobs.core.unit import Resources, Unit
from jobs.runtime.context import Context
from jobs.runtime.exit import AGAIN, WORDLESS, Ending
from jobs.runtime.fence import Superseded
from jobs.runtime.signals import Interrupted, Preemption
from jobs.store import journal
from jobs.store.records import Damaged
from jobs.store.rundir import StudyDir, UnitDir, write_json
from jobs.store.schema import ATTEMPT

ATTEMPT_NUMBER = 2


@pytest.fixture(autouse=True)
def _exits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of the process is an exception here."""

    def end(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(memory, "asked", lambda: 4096)


def listen(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Returns what tells the lines that were printed since and flushed: others would go with the process."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="utf-8"))
    return lambda: written.getvalue().decode().splitlines()


def ending(
    folder: Path, script: bool = True, configured: int | None = None, hours: float = 1.0, **place: int
) -> Ending:
    """That of a process of the unit t in its second attempt."""
    unit = Unit("train", "t", {}, execution={"micro_batch": configured}, resources=Resources(hours=hours))
    found = StudyDir(folder).unit(unit)
    found.path.mkdir(parents=True, exist_ok=True)
    ctx = Context(unit, found, ATTEMPT_NUMBER, preemption=Preemption(), **place)
    return Ending(ctx, folder / f"7_33.{ctx.restart}.verdict" if script else None, configured)


def left(ended: Ending, restart: int, cause: Cause | None = Cause.NETWORK, **more: Any) -> dict[str, Any]:
    """Write down how a rank of a run before ended; returns the line."""
    line = {
        "attempt": ATTEMPT_NUMBER, "restart": restart, "worker": 0, "rank": 1, "host": "h", "time": 1000.0,
        "seconds": 1.0, "cause": cause, "error": cause and f"{cause}!", "kept": 0, "micro_batch": None,
        **more,
    }  # fmt: skip
    journal.append(ended.ctx.folder.attempts, line)
    return line


def lines(folder: UnitDir) -> list[dict[str, Any]]:
    return journal.read(folder.attempts, ATTEMPT)


def tell(ended: Ending, **more: Any) -> None:
    """Write the progress of a run before, which wrote last 12.34 s after its beginning."""
    told = {"done": 5, "total": 9, "unit": "steps", "kept": 4, "started": 5000.0, "updated": 5012.34}
    write_json(ended.ctx.folder.progress, {**told, **more})


def test_a_run_that_went_well_says_where_and_how_long_and_what_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = ending(tmp_path, configured=8, restart=3, rank=1, worker=5)
    ended.ctx.progress.update(6, 9, "steps")
    monkeypatch.setattr(time, "monotonic", lambda: ended.began + 12.34)
    before = time.time()
    ended.succeed()
    [line] = lines(ended.ctx.folder)
    assert before - 1 < line.pop("time") < time.time() + 1
    assert 0 < line.pop("memory") < 100_000
    assert line == {
        "attempt": 2, "restart": 3, "worker": 5, "rank": 1, "host": socket.gethostname(), "seconds": 12.3,
        "cause": None, "error": None, "kept": 6, "micro_batch": 8, "asked": 4096,
    }  # fmt: skip


def test_without_a_script_nobody_has_asked_for_memory_and_nobody_reads_a_verdict(tmp_path: Path) -> None:
    ended = ending(tmp_path, script=False)
    assert ended._line(None, None)["asked"] is None
    with pytest.raises(SystemExit) as end:
        ended.fail_with(Interrupted("it was preempted or cancelled"))
    assert end.value.code == AGAIN
    assert list(tmp_path.glob("*verdict*")) == []


def test_a_failure_has_the_time_of_the_first_one_and_a_success_its_own(tmp_path: Path) -> None:
    ended = ending(tmp_path)
    ended._failed.extend([1000.0, 2000.0])
    assert ended._line(Cause.CODE, "e")["time"] == 1000.0
    assert abs(ended._line(None, None)["time"] - time.time()) < 60


def test_what_is_lost_is_not_kept_and_a_secret_is_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", "sesame-sesame")
    secrets._hidden.cache_clear()
    ended = ending(tmp_path)
    ended.ctx.progress.update(6, 9, "steps")
    ended.ctx.preemption.lost = True
    line, well = ended._line(Cause.CODE, "no entry with sesame-sesame"), ended._line(None, None)
    monkeypatch.undo()
    secrets._hidden.cache_clear()
    assert (line["kept"], line["error"]) == (0, "no entry with [MY_TOKEN]")
    assert well["error"] is None


LACKS = f"{sys.executable} lacks it; sor doctor checks the packages that sor needs)"
NEAR_LIMIT, TOLD = "its time limit is near", "it was preempted or cancelled"


@pytest.mark.parametrize(
    ("error", "cause", "words", "verdict", "code"),
    [
        (KeyError("prompt"), Cause.CODE, "KeyError: 'prompt'", "stop", 1),
        (ModuleNotFoundError("no x"), Cause.CODE, f"ModuleNotFoundError: no x ({LACKS}", "stop", 1),
        (OSError("[Errno 113]"), Cause.NETWORK, "OSError: [Errno 113]", "again", 75),
        (MemoryError("all"), Cause.MEMORY, "MemoryError: all", "memory", 75),
        (Interrupted(TOLD), Cause.PREEMPTED, TOLD, "again", 0),
        (KeyboardInterrupt(), Cause.CANCELLED, "KeyboardInterrupt: ", "stop", 1),
    ],
)  # fmt: skip
def test_an_error_leaves_its_cause_a_word_and_a_code(
    tmp_path: Path, error: BaseException, cause: Cause, words: str, verdict: str, code: int
) -> None:
    ended = ending(tmp_path, restart=1)
    with pytest.raises(SystemExit) as end:
        ended.fail_with(error)
    [line] = lines(ended.ctx.folder)
    assert (line["cause"], line["error"], end.value.code) == (cause, words, code)
    assert (tmp_path / "7_33.1.verdict").read_text(encoding="utf-8") == verdict


def test_after_a_signal_any_error_is_what_it_led_to(tmp_path: Path) -> None:
    ended = ending(tmp_path)
    ended.ctx.preemption._note(signal.SIGTERM, None)
    with pytest.raises(SystemExit) as end:
        ended.fail_with(RuntimeError("a library was interrupted"))
    [line] = lines(ended.ctx.folder)
    assert (line["cause"], line["error"], end.value.code) == (Cause.PREEMPTED, TOLD, 0)


@pytest.mark.parametrize(
    ("hours", "ran", "cause"),
    [
        (1.0, 3301.0, Cause.TIME_LIMIT),  # 300 s ahead of it
        (1.0, 3299.0, Cause.PREEMPTED),  # which the same signal may announce
        (2.0, 3301.0, Cause.PREEMPTED),
    ],
)
def test_the_signal_ahead_of_a_time_limit_is_believed_near_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: float, ran: float, cause: Cause
) -> None:
    ended = ending(tmp_path, hours=hours)
    ended.ctx.progress.update(1, 9, "steps")
    monkeypatch.setattr(time, "monotonic", lambda: ended.began + ran)
    with pytest.raises(SystemExit) as end:
        ended.fail_with(Interrupted(NEAR_LIMIT))
    [line] = lines(ended.ctx.folder)
    assert (line["cause"], line["error"], end.value.code) == (cause, NEAR_LIMIT, 0)


def test_a_run_whose_place_another_one_took_says_nothing(tmp_path: Path) -> None:
    ended = ending(tmp_path)
    with pytest.raises(SystemExit) as end:
        ended.fail_with(Superseded("a newer run has started"))
    publish(ended)
    with pytest.raises(SystemExit) as after:
        ended.fail_with(Superseded("the unit is done"))
    assert (end.value.code, after.value.code) == (1, 0)
    assert (lines(ended.ctx.folder), list(tmp_path.glob("*verdict*"))) == ([], [])


def publish(ended: Ending) -> None:
    ended.ctx.folder.out.mkdir()
    write_json(ended.ctx.folder.result, {"made": "up"})


def test_what_fails_once_the_unit_is_done_does_not_count(tmp_path: Path) -> None:
    ended = ending(tmp_path)
    publish(ended)
    with pytest.raises(SystemExit) as end:
        ended.fail_with(KeyError("at exit"))
    assert end.value.code == 0
    assert (lines(ended.ctx.folder), list(tmp_path.glob("*verdict*"))) == ([], [])


OF_OTHERS_TOO = pytest.mark.parametrize(
    ("worker", "lines_of", "mine"),
    [(0, {}, True), (1, {"worker": 1}, True), (1, {}, False), (0, {"attempt": 1}, False)],
)
ADVICE = "find the first rank that ended; NCCL_DEBUG=INFO in the template logs more"


@OF_OTHERS_TOO
def test_whether_it_goes_on_follows_from_the_runs_of_this_worker_and_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worker: int, lines_of: dict[str, Any], mine: bool
) -> None:
    ended, said = ending(tmp_path, restart=3, worker=worker), listen(monkeypatch)
    for restart in range(3):  # and now a fourth that gets nowhere
        left(ended, restart, **lines_of)
    with pytest.raises(SystemExit) as end:
        ended.fail_with(ConnectionResetError("again"))
    assert end.value.code == (1 if mine else AGAIN)
    assert said() == [f"network: {ADVICE if mine else 'continues in another run'}"]


@OF_OTHERS_TOO
def test_a_run_after_too_many_of_this_worker_and_attempt_ends_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worker: int, lines_of: dict[str, Any], mine: bool
) -> None:
    ended, said = ending(tmp_path, restart=4, worker=worker), listen(monkeypatch)
    for restart in range(4):
        left(ended, restart, **lines_of)
    if not mine:
        ended.check_budget()
        return
    with pytest.raises(SystemExit) as end:
        ended.check_budget()
    words = "not restarted: network!"
    assert (end.value.code, said()) == (1, [words, f"network: {ADVICE}"])
    last = lines(ended.ctx.folder)[-1]
    assert (last["restart"], last["cause"], last["error"]) == (4, Cause.NETWORK, words)


def test_a_micro_batch_that_does_not_fit_goes_on_with_its_half(tmp_path: Path) -> None:
    codes = []
    for configured in (8, 1):
        ended = ending(tmp_path / str(configured), configured=configured)
        with pytest.raises(SystemExit) as end:
            ended.fail_with(RuntimeError("CUDA out of memory"))
        codes.append(end.value.code)
        again = ending(tmp_path / str(configured), configured=configured, restart=1)
        if configured == 8:
            again.check_budget()  # it does not end it
        else:
            with pytest.raises(SystemExit):
                again.check_budget()
    assert codes == [AGAIN, 1]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "the disk is full"), Damaged("a link, not a file")])
def test_a_word_is_left_where_the_line_cannot_be_written_or_others_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    ended, said = ending(tmp_path, restart=1), listen(monkeypatch)
    file = journal.own(ended.ctx.folder.attempts)
    file.write_text('{"time": 1.0, "attempt": "the first"}\n', encoding="utf-8")
    with pytest.raises(Damaged, match="line 1"):
        ended.check_budget()

    def fails(*_: Any) -> None:
        raise error

    monkeypatch.setattr(journal, "append", fails)
    with pytest.raises(SystemExit) as end:
        ended.fail_with(ConnectionResetError("reset"))
    assert end.value.code == AGAIN
    assert (tmp_path / "7_33.1.verdict").read_text(encoding="utf-8") == "again"
    unread, last = said()
    assert unread.startswith(f"{file}, line 1: ")
    assert last == "network: continues in another run"


def test_an_interrupted_run_that_cannot_leave_a_word_says_again_by_its_code(tmp_path: Path) -> None:
    ended = ending(tmp_path)
    (tmp_path / "7_33.0.verdict").symlink_to(tmp_path / "nowhere" / "w")
    with pytest.raises(SystemExit) as end:
        ended.fail_with(Interrupted(TOLD))
    assert end.value.code == AGAIN


def silent(ended: Ending) -> dict[str, Any] | None:
    """The line that the next run writes for one that left none; None where it sees no need."""
    before = lines(ended.ctx.folder)
    ended.check_budget()
    now = lines(ended.ctx.folder)
    added = [line for line in now if line not in before]
    assert len(now) == len(before) + len(added)
    return next(iter(added), None)


def test_a_first_run_and_one_after_a_run_that_left_a_line_write_none(tmp_path: Path) -> None:
    assert silent(ending(tmp_path)) is None
    later = ending(tmp_path, restart=2)
    left(later, 1)
    assert silent(later) is None


def test_the_next_run_writes_down_what_is_known_of_one_that_left_no_line(tmp_path: Path) -> None:
    ended = ending(tmp_path, restart=2, configured=8)
    others: list[tuple[int, dict[str, Any]]] = [(0, {}), (1, {"attempt": 1}), (1, {"worker": 1}), (3, {})]
    for restart, more in others:
        left(ended, restart, **more)
    tell(ended, attempt=2, restart=1, memory=30)
    line = silent(ended)
    assert line is not None
    assert abs(line.pop("time") - time.time()) < 60
    assert line == {
        "attempt": 2, "restart": 1, "worker": 0, "rank": 0, "host": None, "seconds": 12.3,
        "cause": Cause.KILLED, "error": WORDLESS, "kept": 4, "micro_batch": 8, "memory": 30, "asked": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("told", "worker", "seconds"),
    [
        ({"attempt": 2, "restart": 1}, 0, 12.3),
        ({"attempt": 2, "restart": 1}, 1, None),  # it is the first worker's
        ({"attempt": 2, "restart": 0}, 0, None),
        ({"attempt": 1, "restart": 1}, 0, None),
        ({}, 0, 12.3),  # an older version's, which began after the run that left the last line
        ({}, 1, None),
        ({"started": 900.0}, 0, None),
        ({"started": 1000.0}, 0, None),
        (None, 0, None),
    ],
)
def test_progress_tells_how_long_a_silent_run_took_where_it_is_that_runs(
    tmp_path: Path, told: dict[str, Any] | None, worker: int, seconds: float | None
) -> None:
    ended = ending(tmp_path, restart=2, worker=worker)
    left(ended, 0, worker=worker)
    if told is not None:
        tell(ended, memory=30, **told)
    line = silent(ended)
    assert line is not None
    assert (line["restart"], line["worker"]) == (1, worker)
    assert (line["seconds"], line["memory"]) == ((seconds, 30) if seconds else (None, None))
    assert line["kept"] == (0 if told is None else 4)


def test_progress_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    ended = ending(tmp_path, restart=1)
    ended.ctx.folder.progress.write_text("{", encoding="utf-8")
    line = silent(ended)
    assert line is not None
    assert (line["seconds"], line["kept"]) == (None, 0)


def noted(folder: Path, limit: object) -> Path:
    """What the script leaves where a run was killed for its memory limit."""
    note = folder / "7_33.memory"
    note.write_text(f"{limit}\n", encoding="utf-8")
    return note


@pytest.mark.parametrize("others", [None, Cause.NETWORK, Cause.MEMORY])
def test_a_kill_for_memory_comes_before_what_other_ranks_saw_of_it(
    tmp_path: Path, others: Cause | None
) -> None:
    ended = ending(tmp_path, restart=1)
    for at in (1001.0, 1000.0) if others else ():
        left(ended, 0, others, time=at)
    note = noted(tmp_path, 2048)
    line = silent(ended)
    assert not note.exists()
    if others == Cause.MEMORY:
        assert line is None
        return
    assert line is not None
    words = "ran out of memory: killed at its limit of 2048 MiB per node"
    assert (line["cause"], line["error"], line["asked"]) == (Cause.MEMORY, words, 2048)
    if others:
        assert line["time"] == pytest.approx(999.999, abs=1e-6)
    else:
        assert abs(line["time"] - time.time()) < 60


def test_where_one_rank_of_several_says_it_was_memory_no_line_is_added(tmp_path: Path) -> None:
    ended = ending(tmp_path, restart=1)
    for rank, cause in enumerate((Cause.NETWORK, Cause.MEMORY)):
        left(ended, 0, cause, rank=rank)
    noted(tmp_path, 2048)
    assert silent(ended) is None


def test_a_note_of_no_limit_is_none(tmp_path: Path) -> None:
    ended = ending(tmp_path, restart=1)
    left(ended, 0)
    note = noted(tmp_path, 0)
    assert silent(ended) is None
    assert not note.exists()
