"""What a look makes of disk, ledger and machine, each told by the test."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from small_study import publish, unit

from jobs.core.causes import Cause, Run
from jobs.core.unit import Unit
from jobs.store import journal
from jobs.store.rundir import StudyDir, write_json
from launch.state import status as looking
from launch.state.attempt_files import current_progress, end_of
from launch.state.backend import LiveJobs
from launch.state.cache import StatusCache
from launch.state.ledger import KEEPER, Attempt, Job, Ledger, Started
from launch.state.lock import Lock
from launch.state.states import State
from launch.state.status import NEVER, REMOVED, UnitStatus, _appeared, poll


class Machine:
    """A machine that says what it was told to say.

    Args:
        lives: what lives, and `words`: why others ended, by the ids of units.
        at_look: is called at every look.

    Attributes:
        explained: ids of the units whose ends it was asked for.
    """

    settle = 0.0

    def __init__(
        self,
        lives: Mapping[str, LiveJobs] | None = None,
        words: Mapping[str, str] | None = None,
        at_look: Callable[[], object] = bool,
    ) -> None:
        self._lives, self._words, self._at_look = lives or {}, words or {}, at_look
        self.asked: set[str] = set()
        self.explained: set[str] = set()

    def live(self, attempts: Mapping[str, Attempt]) -> dict[str, LiveJobs]:
        self.asked |= attempts.keys()
        self._at_look()
        return {id: live for id, live in self._lives.items() if id in attempts}

    def exit_reasons(self, attempts: Mapping[str, Attempt]) -> dict[str, str]:
        self.explained |= attempts.keys()
        return {id: words for id, words in self._words.items() if id in attempts}

    def cancel(self, jobs: Iterable[Job]) -> None:
        raise AssertionError("a look ends nothing")


@pytest.fixture
def root(tmp_path: Path) -> StudyDir:
    return StudyDir(tmp_path / "s")


def begin(root: StudyDir, unit: Unit | str, number: int = 1, job: str | None = "7") -> None:
    """Write an attempt of one job down."""
    id = unit if isinstance(unit, str) else unit.id
    name, ledger = f"{id}-{number}", Ledger(root.ledger, "generic")
    ledger.intent(name, [Started(id, number)])
    if job:
        ledger.submitted(name, job)


def line(root: StudyDir, unit: Unit, error: str | None, cause: Cause | None, **more: Any) -> dict[str, Any]:
    """Have a process of a unit write down how it ended."""
    root.unit(unit).path.mkdir(parents=True, exist_ok=True)
    told = {"attempt": 1, "restart": 0, "worker": 0, "rank": 0, "host": "n1", "seconds": 2.0, "kept": 5}
    told |= {"micro_batch": None, "error": error, "cause": cause, "time": 100.0, **more}
    journal.append(root.unit(unit).attempts, told)
    return told


def say(root: StudyDir, unit: Unit, **more: Any) -> None:
    """Have a unit say how far it is."""
    root.unit(unit).path.mkdir(parents=True, exist_ok=True)
    told = {"done": 3, "total": 9, "unit": "steps", "started": 50.0, "updated": 60.0, **more}
    write_json(root.unit(unit).progress, told)


NOTHING = "no trace of it: its job ended before it started working, or its folder was removed"
NODE, SIGNAL = "its node failed", "was preempted"
CODE, PREEMPTED = ("ValueError: no", Cause.CODE), (SIGNAL, Cause.PREEMPTED)
KILLED = "ended without a result and without an error: killed?"
# How an attempt without a job was ended in the ledger, the lines of its processes, what the machine says (a
# folder without lines: ()), and what follows.
ENDS: dict[str, tuple[str | None, tuple[Any, ...] | None, str | None, State, str, Cause | None]] = {
    "canceled": ("cancelled", (CODE,), None, State.WAITING, "why", None),
    "withdrawn": ("withdrawn", None, None, State.WAITING, "why", None),
    "refused": ("refused", None, None, State.WAITING, "why", None),
    "lost": ("lost", None, None, State.WAITING, "why", None),
    "outdated": ("outdated", (), None, State.WAITING, REMOVED, None),
    "its result removed": (None, ((None, None), (None, None)), None, State.WAITING, REMOVED, None),
    "nothing": (None, None, None, State.WAITING, NOTHING, None),
    "nothing where a node failed": (None, None, NODE, State.FAILED, NODE, Cause.NODE),
    "a folder alone": (None, (), None, State.FAILED, KILLED, Cause.KILLED),
    "failed": ("failed", None, None, State.FAILED, "why", Cause.CODE),
    "an error": (None, (CODE,), "was cancelled in Slurm", State.FAILED, "ValueError: no", Cause.CODE),
    "one of two ranks": (None, ((None, None), CODE), None, State.FAILED, "ValueError: no", Cause.CODE),
    "a signal": (None, (PREEMPTED,), None, State.FAILED, SIGNAL, Cause.PREEMPTED),
    "a signal where a node failed": (None, (PREEMPTED,), NODE, State.FAILED, NODE, Cause.NODE),
    "a kill as well": (None, (PREEMPTED,), "was killed by signal 9", State.FAILED, SIGNAL, Cause.PREEMPTED),
}  # fmt: skip


@pytest.mark.parametrize("case", ENDS)
def test_why_an_attempt_has_no_result(case: str, root: StudyDir, tmp_path: Path) -> None:
    ended, lines, words, state, reason, cause = ENDS[case]
    a = unit(tmp_path, "a")
    begin(root, a)
    if ended:
        Ledger(root.ledger).ended(ended, [(a.id, 1, "why")])
    if lines is not None:
        root.unit(a).path.mkdir(parents=True)
    for rank, (error, why) in enumerate(lines or ()):
        line(root, a, error, why, rank=rank)
    machine = Machine(words={a.id: words} if words else {})
    [seen] = poll([a], root, machine).units
    assert (seen.state, seen.reason, seen.cause) == (state, reason, cause)
    assert (seen.written is not None) == any(error for error, _ in lines or ())
    sure = CODE in (lines or ())
    assert machine.explained == (set() if ended or sure else {a.id})


def test_an_attempt_that_was_never_handed_over_is_no_failure(root: StudyDir, tmp_path: Path) -> None:
    a = unit(tmp_path, "a")
    begin(root, a, job=None)
    [seen] = poll([a], root, Machine()).units
    assert (seen.state, seen.reason, seen.unconfirmed) == (State.WAITING, NEVER, True)
    line(root, a, *CODE)
    [seen] = poll([a], root, Machine()).units
    assert (seen.state, seen.reason, seen.unconfirmed) == (State.FAILED, "ValueError: no", False)


def test_of_several_attempts_the_last_one_counts(root: StudyDir, tmp_path: Path) -> None:
    a = unit(tmp_path, "a")
    begin(root, a)
    line(root, a, *CODE)
    begin(root, a, 2)
    [seen] = poll([a], root, Machine(words={a.id: "its node failed"})).units
    assert (seen.reason, seen.cause, seen.written) == ("its node failed", Cause.NODE, None)


def test_progress_counts_for_the_attempt_that_told_it(root: StudyDir, tmp_path: Path) -> None:
    a = unit(tmp_path, "a")
    folder = root.unit(a)
    second = Attempt(2, 60.0, "generic")
    assert current_progress(folder, second) is None
    for told, counts in (
        ({"attempt": 1, "updated": 90.0}, False), ({"attempt": 2, "updated": 30.0}, True),
        ({"updated": 59.0}, False), ({"updated": 60.0}, True),  # of an older version
    ):  # fmt: skip
        say(root, a, **told)
        found = current_progress(folder, second)
        assert (found is not None) == counts, told
        assert found is None or found["done"] == 3


def test_what_a_unit_says_is_looked_at_while_its_job_runs_and_once_it_is_over(
    root: StudyDir, tmp_path: Path
) -> None:
    a, job = unit(tmp_path, "a"), Job("s", "7", "here")
    begin(root, a)
    say(root, a, attempt=1, updated=0.0)

    def seen(live: LiveJobs | None) -> UnitStatus:
        [found] = poll([a], root, Machine({a.id: live} if live else {})).units
        return found

    assert seen(LiveJobs(State.QUEUED, (job,), "Priority")).progress is None
    assert seen(LiveJobs(State.QUEUED, (job,), "Priority")).reason == "Priority"
    running = seen(LiveJobs(State.RUNNING, (job,)))
    assert (running.state, running.progress and running.progress["done"]) == (State.STALLED, 3)
    assert str(running.reason).startswith("no heartbeat for ")
    assert seen(None).progress
    say(root, a, attempt=1, updated=1e10, stalled="stands still")
    assert seen(LiveJobs(State.RUNNING, (job,))).reason == "stands still"
    root.unit(a).progress.write_text("{", encoding="utf-8")
    running = seen(LiveJobs(State.RUNNING, (job,)))
    assert (running.state, "not JSON" in str(running.reason)) == (State.RUNNING, True)
    over = seen(None)
    assert (over.state, "not JSON" in str(over.reason)) == (State.DAMAGED, True)
    assert (running.progress, over.progress) == (None, None)
    publish(root, a)
    assert seen(LiveJobs(State.RUNNING, (job,))).state == State.DONE
    assert seen(None).state == State.DONE


def test_what_a_person_is_told_of_a_unit(root: StudyDir, tmp_path: Path) -> None:
    failed, running, new = (
        unit(tmp_path, "failed"),
        unit(tmp_path, "running"),
        unit(tmp_path, "new", memory=0),
    )
    begin(root, failed, 3)
    written = line(root, failed, *CODE, attempt=3, memory=700)
    Ledger(root.ledger, "generic").intent(f"{running.id}-1", [Started(running.id, 1)], memory=2048)
    gpus = [{"busy": 93, "used": 1, "total": 2}]
    say(root, running, attempt=1, updated=1e10, memory=600, phase="loading the model", gpus=gpus)
    job = Job(f"{running.id}-1", "8", "here")
    now = poll([failed, running, new], root, Machine({running.id: LiveJobs(State.RUNNING, (job,))}))
    begun = Ledger(root.ledger).attempts()[failed.id].started
    first, second, third = (
        seen.to_json(log) for seen, log in zip(now.units, (["a"], None, None), strict=True)
    )
    assert first == {
        "id": failed.id, "stage": "prepare", "name": "failed", "state": "failed", "job": "7", "attempts": 3,
        "reason": "ValueError: no", "cause": "code error", "log": ["a"], "progress": None, "updated": begun,
        "memory": {"asked": 1024, "used": 700}, "phase": None, "gpus": None,
    }  # fmt: skip
    assert second == {
        "id": running.id, "stage": "prepare", "name": "running", "state": "running", "job": "8",
        "attempts": 1, "reason": None, "cause": None, "log": None, "updated": 1e10,
        "progress": {"done": 3, "total": 9, "unit": "steps"}, "memory": {"asked": 2048, "used": 600},
        "phase": "loading the model", "gpus": gpus,
    }  # fmt: skip
    assert third == {
        "id": new.id, "stage": "prepare", "name": "new", "state": "waiting", "job": None, "attempts": 0,
        "reason": None, "cause": None, "log": None, "progress": None, "updated": None,
        "memory": {"asked": None, "used": None}, "phase": None, "gpus": None,
    }  # fmt: skip
    assert now.units[0].written == written
    assert now.of(State.WAITING, State.FAILED) == [now.units[0], now.units[2]]
    [stage] = now.stages()
    counts = {state.value: 0 for state in State} | {"failed": 1, "running": 1, "waiting": 1}
    assert stage == {"stage": "prepare", "total": 3, **counts}


def test_what_the_machine_is_asked_for(root: StudyDir, tmp_path: Path) -> None:
    done, failed, lives, new = (unit(tmp_path, name) for name in ("done", "failed", "lives", "new"))
    for each in (done, failed, lives, "former", "over", KEEPER):
        begin(root, each)
    publish(root, done)
    Ledger(root.ledger).ended("cancelled", [("over", 1, "why")])
    former = Job("former-1", "7", "here")
    machine = Machine({
        id: LiveJobs(State.QUEUED, (Job(f"{id}-1", "7", "here"),)) for id in (lives.id, "former", KEEPER)
    })  # fmt: skip
    now = poll([done, failed, lives, new], root, machine)
    assert machine.asked == {failed.id, lives.id, "former", KEEPER}
    assert machine.explained == {failed.id}
    assert now.former == (former,)
    assert now.kept is not None
    assert now.keeper is not None
    assert now.keeper.attempt.number == 1
    assert now.submitting is None
    Ledger(root.ledger).ended("over", [(KEEPER, 1, "why")])
    with Lock(root.lock):
        now = poll([done, failed, lives, new], root, machine)
        assert now.submitting is not None
    assert (now.keeper is not None, now.kept) == (True, None)
    quiet = Machine()
    now = poll([new], StudyDir(tmp_path / "other"), quiet)
    assert (now.root.path, now.former, now.keeper, now.kept) == (tmp_path / "other", (), None, None)
    assert quiet.asked == set()


class HandsOn:
    """A machine on which the keeper hands on, and ends, before the first answer."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def live(self, attempts: dict[str, Attempt]) -> dict[str, LiveJobs]:
        last = attempts[KEEPER]
        if last.number == 1:
            self._ledger.intent("k2", [Started(KEEPER, 2)])
            self._ledger.submitted("k2", "12")
            return {}
        return {KEEPER: LiveJobs(State.QUEUED, last.jobs)}


def test_a_keeper_that_hands_on_meanwhile_is_not_gone(tmp_path: Path) -> None:
    root = StudyDir(tmp_path / "s")
    ledger = Ledger(root.ledger, "generic")
    ledger.intent("k1", [Started(KEEPER, 1)])
    ledger.submitted("k1", "11")
    now = poll([unit(tmp_path, "a")], root, HandsOn(ledger))  # type: ignore[arg-type]
    assert now.kept is not None
    assert now.kept.jobs[0].id == "12"


def test_a_job_that_ends_during_the_look_has_published_before(root: StudyDir, tmp_path: Path) -> None:
    a = unit(tmp_path, "a")
    begin(root, a)
    machine = Machine(at_look=lambda: publish(root, a))
    [seen] = poll([a], root, machine).units
    assert (seen.state, machine.explained) == (State.DONE, set())


def test_what_waits_for_a_unit_that_no_job_has_in_hand_waits_in_vain(root: StudyDir, tmp_path: Path) -> None:
    a = unit(tmp_path, "a")
    b = unit(tmp_path, "b", a)
    begin(root, b)
    live = {b.id: LiveJobs(State.QUEUED, (Job("s", "7", "here"),), "Dependency")}
    for begun in (False, True):
        if begun:
            begin(root, a)
            live |= {a.id: LiveJobs(State.QUEUED, (Job("s", "6", "here"),))}
        reader = poll([a, b], root, Machine(live)).units[1]
        assert (reader.state, reader.in_vain) == ((State.QUEUED, False) if begun else (State.WAITING, True))
        assert reader.reason == ("Dependency" if begun else "needs prepare a")


def test_one_damaged_file_harms_its_unit_alone(root: StudyDir, tmp_path: Path) -> None:
    units = [unit(tmp_path, name) for name in ("empty", "cut", "lines", "ledger", "sound")]
    empty, cut, lines, in_ledger, sound = units
    for each in (empty, cut, sound):
        publish(root, each)
    root.unit(empty).result.write_text("", encoding="utf-8")
    root.unit(cut).result.write_text("{", encoding="utf-8")
    for each in (lines, in_ledger):
        begin(root, each)
    line(root, lines, *CODE)
    files = journal.own(root.unit(lines).attempts), journal.own(root.ledger)
    for path, text in zip(files, ("null", f'["{in_ledger.id}", "{"0" * 12}"]\nnull'), strict=True):
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")
    now = poll(units, root, Machine(words={lines.id: "its node failed"}))
    assert [seen.state for seen in now.units] == [State.DAMAGED] * 4 + [State.DONE]
    reasons = [str(seen.reason) for seen in now.units]
    assert f"{root.unit(empty).result}: empty" in reasons[0]
    assert reasons[1].endswith(f"Move {root.unit(cut).out} away, then submit again to remake it")
    assert f"{files[0]}, line 2: " in reasons[2]
    assert f"{files[1]}, line 5: " in reasons[3]
    assert "check with squeue whether the job" in reasons[3]
    assert [f"{files[1]}, line 6: " in harm for harm in now.harm] == [True]


def test_a_result_is_read_once_and_only_so_many_in_one_look(
    root: StudyDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "READ", 2)
    units, known = [unit(tmp_path, name) for name in "abc"], StatusCache()
    for each in units:
        publish(root, each)
    for each, last in ((units[2], State.DONE), (units[2], State.DAMAGED), (units[0], State.DONE)):
        root.unit(each).result.write_text("{", encoding="utf-8")
        found = {seen.unit.id: seen.state for seen in poll(units, root, Machine(), known).units}
        assert found[each.id] == last
    root.unit(units[2]).result.write_text('{"made": "up"}', encoding="utf-8")
    assert {seen.state for seen in poll(units, root, Machine(), known).units} == {State.DONE}


def test_results_that_cannot_be_read_keep_no_others_from_being_read(
    root: StudyDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "READ", 1)
    units, cache = [unit(tmp_path, name) for name in "ab"], StatusCache()
    for each in units:
        publish(root, each)
        root.unit(each).result.write_text("{", encoding="utf-8")

    def states() -> list[State]:
        return [seen.state for seen in poll(units, root, Machine(), cache).units]

    assert states() == [State.DAMAGED, State.DONE]
    assert states() == states() == [State.DAMAGED, State.DAMAGED]
    for each in units:
        root.unit(each).result.write_text('{"made": "up"}', encoding="utf-8")
    assert states().count(State.DONE) == 1
    assert states() == [State.DONE, State.DONE]


def test_how_a_run_ended_is_told_by_its_worker_by_another_one_or_by_nobody(
    root: StudyDir, tmp_path: Path
) -> None:
    a, attempt = unit(tmp_path, "a"), Attempt(2, 60.0, "generic")
    folder = root.unit(a)
    nobody = "ended without an error message: killed?"
    assert end_of(folder, attempt) == Run(Cause.KILLED, nobody, 0)
    line(root, a, *CODE)  # of the attempt before
    say(root, a, attempt=2, kept=4)
    assert end_of(folder, attempt) == Run(Cause.KILLED, nobody, 4)
    line(root, a, "no room", Cause.DISK, attempt=2, worker=1)
    assert end_of(folder, attempt) == Run(Cause.DISK, "no room", 4)
    for restart in (0, 1, 2):
        line(root, a, f"run {restart}", Cause.NODE, attempt=2, restart=restart)
    found = end_of(folder, attempt)
    assert (found.cause, found.error, found.restart, found.kept) == (Cause.NODE, "run 2", 2, 5)
    journal.own(folder.attempts).write_text('{"attempt": "1"}\n', encoding="utf-8")
    found = end_of(folder, attempt)
    assert (found.cause, found.kept, "line 1: " in str(found.error)) == (Cause.CODE, 0, True)


def test_a_keeper_that_is_gone_is_polled_once(root: StudyDir) -> None:
    begin(root, KEEPER)
    polls = list[None]()
    now = poll([], root, Machine(at_look=lambda: polls.append(None)))
    assert (now.kept, len(polls)) == (None, 1)  # the ledger knows of no newer one


def test_a_result_that_appears_is_one_of_a_folder_that_can_be_listed(root: StudyDir) -> None:
    a = Unit("train", "a", {})
    assert not _appeared(root.unit(a))  # there is no folder
    root.unit(a).path.mkdir(parents=True)
    root.unit(a).out.write_text("not a folder", encoding="utf-8")
    assert not _appeared(root.unit(a))
    root.unit(a).out.unlink()
    root.unit(a).path.rmdir()
    root.unit(a).path.write_text("not a folder either", encoding="utf-8")
    assert not _appeared(root.unit(a))


def test_a_line_about_an_end_that_lacks_a_field_is_damage(root: StudyDir) -> None:
    a = Unit("train", "a", {})
    begin(root, a)
    root.unit(a).path.mkdir(parents=True, exist_ok=True)
    journal.append(root.unit(a).attempts, {"attempt": 1, "error": "no"})
    (found,) = poll([a], root, Machine()).units
    assert found.state is State.DAMAGED
    assert 'there is no "' in str(found.reason)
