"""Units run as real jobs of this machine: in order, within its cores, and through failures of all kinds."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_study import TESTS, Run, lives, logs, publish, runs, unit, wait_for

from jobs.core.causes import Cause
from jobs.core.unit import Resources, Unit
from jobs.store import journal
from jobs.store.progress import read_progress
from jobs.store.rundir import StudyDir, read_json
from jobs.store.schema import ATTEMPT
from launch.local import backend as local_jobs
from launch.local import scheduler
from launch.local.backend import Local
from launch.local.machine import fits, visible_gpus
from launch.state.backend import LiveJobs
from launch.state.ledger import Attempt, Job, Ledger, Started
from launch.state.states import State
from launch.state.status import UnitStatus, poll


@pytest.fixture(autouse=True)
def _jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))


@pytest.fixture
def root(tmp_path: Path) -> Iterator[StudyDir]:
    """A study's folder; no job of it may be left when the test is over."""
    found = StudyDir(tmp_path / "a study")
    yield found
    left = [p for file in tmp_path.glob("*.runs") for p in runs(tmp_path, file.stem)]
    for pid in [p[which] for which in ("parent", "pid") for p in left if lives(p[which])]:
        os.kill(pid, signal.SIGKILL)
        pytest.fail(f"process {pid} of a job was left")


def state(unit: Unit, root: StudyDir, units: list[Unit]) -> UnitStatus:
    return next(s for s in poll(units, root, Local(root)).units if s.unit == unit)


def test_units_run_after_what_they_read_and_only_once(root: StudyDir, tmp_path: Path) -> None:
    a = unit(tmp_path, "a")
    b, c = unit(tmp_path, "b", a), unit(tmp_path, "c", a)
    d = unit(tmp_path, "d", b, c)
    run = Run([a, b, c, d], root)
    done = run.names("done")
    assert (done[0], set(done[1:3]), done[3]) == ("a", {"b", "c"}, "d")
    assert run.failures == {}
    assert {"b", "c"} in run.at_work, "two that fit were not run at once"
    for each in (a, b, c, d):
        assert read_json(root.unit(each).result) == {"pairs": 4}
        assert len(runs(tmp_path, each.name)) == 1
    again = Run([a, b, c, d], root)
    assert again.events == []
    assert [len(runs(tmp_path, each.name)) for each in (a, b, c, d)] == [1, 1, 1, 1]


def test_a_failure_is_named_and_the_others_go_on(root: StudyDir, tmp_path: Path) -> None:
    a, c = unit(tmp_path, "a"), unit(tmp_path, "c")
    b = unit(tmp_path, "b", a)
    units = [a, c, b]
    (tmp_path / "a.fail").touch()
    run = Run(units, root)
    assert run.failures == {"a": "RuntimeError: a was told to fail"}
    assert run.blocked == ["b"]
    assert run.names("done") == ["c"]
    (log,) = logs(root, a)
    assert "a was told to fail" in log.read_text(encoding="utf-8")
    assert "Traceback" in log.read_text(encoding="utf-8")
    seen = state(a, root, units)
    assert (seen.state, seen.reason) == (State.FAILED, "RuntimeError: a was told to fail")
    assert state(b, root, units).state == State.BLOCKED

    (tmp_path / "a.fail").unlink()
    run = Run(units, root)
    assert run.names("done") == ["a", "b"]
    assert len(runs(tmp_path, "c")) == 1
    seen = state(a, root, units)
    assert (seen.state, seen.attempt and seen.attempt.number) == (State.DONE, 2)


def test_a_job_that_is_killed_again_and_again_is_reported(root: StudyDir, tmp_path: Path) -> None:
    a = unit(tmp_path, "a")
    (tmp_path / "a.hold").touch()

    def kill() -> None:
        """Kill the last run, once it has reported its progress, so that all runs are alike."""
        began = runs(tmp_path, "a")
        reported = read_progress(root.unit(a).progress) or {}
        if began and reported.get("attempt") == len(began) and lives(began[-1]["pid"]):
            os.kill(began[-1]["pid"], signal.SIGKILL)

    run = Run([a], root, at_look=kill)
    assert run.failures == {"a": "ended without an error message: killed?"}
    assert run.names("again") == ["a"] * (len(runs(tmp_path, "a")) - 1)
    assert len(runs(tmp_path, "a")) == 5  # the first, three more, and the last one allowed
    seen = state(a, root, [a])
    assert (seen.state, seen.reason) == (State.FAILED, "ended without an error message: killed?")


def test_a_job_that_is_told_to_stop_is_begun_again_and_goes_on(root: StudyDir, tmp_path: Path) -> None:
    a = unit(tmp_path, "a", tasks_per_node=2)
    for what in ("hold", "steps"):
        (tmp_path / f"a.{what}").touch()

    def tell() -> None:
        begun = runs(tmp_path, "a")
        if len(begun) == 2 and (tmp_path / "a.steps").stat().st_size > 10:
            for process in begun:
                if lives(process["pid"]):
                    os.kill(process["pid"], signal.SIGTERM)
        if len(begun) == 4:
            (tmp_path / "a.hold").unlink(missing_ok=True)

    run = Run([a], root, at_look=tell)
    assert [(e.kind, e.text) for e in run.events if e.kind == "again"] == [
        ("again", "preempted: it was preempted or cancelled")
    ]
    assert (run.names("done"), run.failures) == (["a"], {})
    seen = state(a, root, [a])
    assert (seen.state, seen.attempt and seen.attempt.number) == (State.DONE, 2)


@pytest.mark.slow
def test_a_micro_batch_without_room_on_the_gpu_is_halved_once(
    root: StudyDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "PEERS_GRACE", 1.0)
    a = replace(unit(tmp_path, "a", tasks_per_node=2), execution={"micro_batch": 8})
    (tmp_path / "a.oom").write_text("1", encoding="utf-8")
    (tmp_path / "a.hold").touch()
    run = Run([a], root)
    reason = "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.32 GiB."
    assert (run.names("again"), run.failures) == (["a"], {"a": reason})

    def tried() -> list[tuple[int, int]]:
        lines = journal.read(root.unit(a).attempts, ATTEMPT)
        return [(e["attempt"], e["micro_batch"]) for e in lines if e["rank"] == 1]

    assert tried() == [(1, 8), (2, 4)]
    assert state(a, root, [a]).cause == Cause.GPU_MEMORY
    for what in ("oom", "hold"):
        (tmp_path / f"a.{what}").unlink()
    assert Run([a], root).names("done") == ["a"]
    assert tried()[2:] == [(3, 4)]


def test_no_more_at_once_than_there_are_cores(root: StudyDir, tmp_path: Path) -> None:
    small = [unit(tmp_path, name) for name in ("a", "b")]
    large = unit(tmp_path, "large", cpus_per_task=2)
    run = Run([*small, large], root, cores=2)
    assert sorted(run.names("done")) == ["a", "b", "large"]
    assert {"a", "b"} in run.at_work
    assert all(at_work in ({"large"}, set()) for at_work in run.at_work if "large" in at_work)


def test_largest_first(root: StudyDir, tmp_path: Path) -> None:
    units = [replace(unit(tmp_path, str(n)), flops=n) for n in (2, 3, 1)]
    assert Run(units, root, cores=1).names("started") == ["3", "2", "1"]


def test_a_large_one_is_not_passed_by_small_ones_for_ever(root: StudyDir, tmp_path: Path) -> None:
    first, small = (unit(tmp_path, name) for name in ("first", "small"))
    large = unit(tmp_path, "large", cpus_per_task=2)
    (tmp_path / "first.hold").touch()

    def release() -> None:
        if runs(tmp_path, "first"):
            (tmp_path / "first.hold").unlink(missing_ok=True)

    units = [replace(u, flops=n) for u, n in ((small, 1), (large, 2), (first, 3))]
    assert Run(units, root, cores=2, at_look=release).names("started") == ["first", "large", "small"]


def test_workers_share_a_unit_as_far_as_there_is_room(root: StudyDir, tmp_path: Path) -> None:
    a, b = unit(tmp_path, "a", workers=2), unit(tmp_path, "b", workers=2)
    (tmp_path / "a.hold").touch()

    def release() -> None:
        if len(runs(tmp_path, "a")) == 2:
            (tmp_path / "a.hold").unlink(missing_ok=True)

    run = Run([a], root, cores=2, at_look=release)
    assert run.names("done") == ["a"]
    assert len({p["pid"] for p in runs(tmp_path, "a")}) == 2
    assert Run([b], root, cores=1).names("done") == ["b"]
    assert len(runs(tmp_path, "b")) == 1


def test_what_can_never_run_is_said_and_not_tried(root: StudyDir, tmp_path: Path) -> None:
    two_nodes = unit(tmp_path, "a", nodes=2)
    reader, large, gpu = (
        unit(tmp_path, "b", two_nodes),
        unit(tmp_path, "c", cpus_per_task=9),
        unit(tmp_path, "d"),
    )
    gpu = unit(tmp_path, "d", gpus_per_node=1)
    run = Run([two_nodes, reader, large, gpu], root, cores=2)
    assert run.failures == {
        "a": "needs 2 nodes, and this is a single machine",
        "c": "needs 9 cores, and this machine has 2",
        "d": "needs 1 GPUs, and this machine has 0",
    }
    assert run.blocked == ["b"]
    assert run.names("started") == []
    assert not journal.files(root.ledger)


def test_what_fits() -> None:
    assert fits(Resources(tasks_per_node=2, cpus_per_task=2), cores=4, gpus=0) is None
    assert fits(Resources(tasks_per_node=2, cpus_per_task=3), cores=4, gpus=0) is not None
    # Where there are GPUs, the cores that a preset wants per GPU are a wish.
    assert fits(Resources(tasks_per_node=2, gpus_per_node=2, cpus_per_task=8), cores=4, gpus=2) is None
    assert fits(Resources(workers=99), cores=1, gpus=0) is None


def test_jobs_get_the_very_gpus_of_the_pool(root: StudyDir, tmp_path: Path) -> None:
    one, two, none = (unit(tmp_path, n, gpus_per_node=g) for n, g in (("one", 1), ("two", 2), ("none", 0)))
    run = Run([one, two, none], root, gpus=("2", "GPU-5a"))
    assert sorted(run.names("done")) == ["none", "one", "two"]
    given = {name: runs(tmp_path, name)[0]["CUDA_VISIBLE_DEVICES"] for name in ("one", "two", "none")}
    assert given == {"one": "2", "two": "2,GPU-5a", "none": ""}
    assert not any({"one", "two"} <= at_work for at_work in run.at_work)


def test_a_job_that_outlived_its_submit_keeps_its_gpus_and_cores(root: StudyDir, tmp_path: Path) -> None:
    a, b, c = (unit(tmp_path, name, gpus_per_node=1) for name in "abc")
    (tmp_path / "a.hold").touch()
    Ledger(root.ledger).intent("prepare-a-5678", [Started(a.id, 1)])
    Local(root).submit(a, "prepare-a-5678", 1, 0, ("2",))  # and its submit was killed

    def release() -> None:
        if len(runs(tmp_path, "b")) + len(runs(tmp_path, "c")) == 2:
            (tmp_path / "a.hold").unlink(missing_ok=True)

    run = Run([a, b, c], root, at_look=release, gpus=("2", "3"))
    assert sorted(run.names("done")) == ["a", "b", "c"]
    given = [runs(tmp_path, name)[0]["CUDA_VISIBLE_DEVICES"] for name in "abc"]
    assert given == ["2", "3", "3"]


@pytest.mark.parametrize(("limited", "expected"), [
    (None, ("0", "1", "2", "3")),
    ("", ()),
    ("-1", ()),
    ("NoDevFiles", ()),
    ("2,3", ("2", "3")),
    (" 3 , 1 ", ("3", "1")),
    ("1,-1,2", ("1",)),
    ("1,9,2", ("1",)),
    ("2,2", ()),
    ("1gpu,2", ("1", "2")),
    ("1,GPU-8932f937", ("1",)),
    ("GPU-8932f937,GPU-5d5b", ("GPU-8932f937", "GPU-5d5b")),
    ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6,1", ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6",)),
    ("MIG-GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a/1/0", ("MIG-GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a/1/0",)),
    ("MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f", ("MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f",)),
])  # fmt: skip
def test_which_gpus_may_be_used(
    limited: str | None, expected: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    for number in range(4):
        (tmp_path / f"0000:{number:02}:00.0").mkdir()
    environ = {} if limited is None else {"CUDA_VISIBLE_DEVICES": limited}
    assert visible_gpus(environ, tmp_path) == expected
    if limited and "9" not in limited.split(",") and not limited.startswith("MIG-GPU"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", limited)
        assert tuple(map(str, torch.cuda._parse_visible_devices())) == expected  # which follows the driver
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "7"}, tmp_path / "no driver to ask") == ("7",)


def test_ranks_that_wait_for_a_failed_one_are_ended(
    root: StudyDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "PEERS_GRACE", 8.0)  # the other one begins within that
    a = unit(tmp_path, "a", tasks_per_node=2)
    (tmp_path / "a.hold").touch()
    (tmp_path / "a.fail").write_text("1", encoding="utf-8")
    run = Run([a], root)
    assert run.failures == {"a": "RuntimeError: a was told to fail"}
    assert len(runs(tmp_path, "a")) == 2
    assert len(logs(root, a)) == 2


def test_cancelled_meanwhile(root: StudyDir, tmp_path: Path) -> None:
    a = unit(tmp_path, "a")
    b = unit(tmp_path, "b", a)
    (tmp_path / "a.hold").touch()
    ended: list[str] = []

    def cancel() -> None:
        if runs(tmp_path, "a") and not ended:
            seen = state(a, root, [a, b])
            assert seen.live
            Ledger(root.ledger).ended("cancelled", [(a.id, 1, "cancelled")])
            Local(root).cancel(seen.live.jobs)
            ended.append(seen.unit.name)

    run = Run([a, b], root, at_look=cancel)
    assert ended == ["a"]
    assert run.names("done") == []
    assert run.failures == {"a": "cancelled"}
    assert run.blocked == ["b"]
    seen = state(a, root, [a, b])
    assert (seen.state, seen.reason) == (State.WAITING, "cancelled")
    (tmp_path / "a.hold").unlink()
    assert Run([a, b], root).names("done") == ["a", "b"]


def test_a_job_that_ignores_being_asked_is_ended(
    root: StudyDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process is started by hand: nothing here may wait for it as its parent."""
    monkeypatch.setattr(local_jobs, "GRACE", 1.0)
    a = unit(tmp_path, "a")
    (tmp_path / "a.hold").touch()
    local = Local(root)
    job = Job("prepare-a-1234", local.submit(a, "prepare-a-1234", 1, 0, ()), os.uname().nodename)
    attempt = Attempt(1, 0, "local", (job,))
    wait_for(lambda: runs(tmp_path, "a"), "the job to run")
    (process,) = runs(tmp_path, "a")
    assert str(process["parent"]) == job.id
    assert local.live({a.id: attempt}) == {a.id: LiveJobs(State.RUNNING, (job,), nodes=job.host, start=0)}
    os.kill(process["parent"], signal.SIGSTOP)  # deaf to everything but SIGKILL
    local.cancel([job])
    assert local.live({a.id: attempt}) == {}
    wait_for(lambda: not lives(process["pid"]), "its rank to end", 5)
    local.cancel([job])  # no error


def test_a_job_is_told_from_another_process_with_its_number(root: StudyDir, tmp_path: Path) -> None:
    for job in (Job("s", str(os.getpid()), os.uname().nodename), Job("s", "1", "another-host")):
        assert Local(root).live({"a": Attempt(1, 0, "local", (job,))}) == {}


def test_a_job_whose_id_nobody_wrote_down_is_found_and_waited_for(root: StudyDir, tmp_path: Path) -> None:
    """The submit that started it was killed before it could write."""
    a = unit(tmp_path, "a")
    (tmp_path / "a.hold").touch()
    Ledger(root.ledger).intent("prepare-a-5678", [Started(a.id, 1)])
    seen = state(a, root, [a])
    assert (seen.state, seen.reason) == (
        State.WAITING, "not submitted: the submission was interrupted",
    )  # fmt: skip
    id = Local(root).submit(a, "prepare-a-5678", 1, 0, ())
    wait_for(lambda: runs(tmp_path, "a"), "the job to run")
    rank = Job("prepare-a-5678", str(runs(tmp_path, "a")[0]["pid"]), os.uname().nodename)
    assert Local(root).live({a.id: Attempt(1, 0, "local", (rank,))}) == {}  # a rank is not taken for the job
    seen = state(a, root, [a])
    assert seen.live
    assert (seen.state, [job.id for job in seen.live.jobs]) == (State.RUNNING, [id])
    run = Run([a], root, at_look=lambda: (tmp_path / "a.hold").unlink(missing_ok=True))
    assert run.names("done") == ["a"]
    assert len(runs(tmp_path, "a")) == 1


def test_a_running_job_is_seen_with_its_progress_from_everywhere(
    root: StudyDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = unit(tmp_path, "a")
    (tmp_path / "a.hold").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    seen: list[UnitStatus] = []

    def look() -> None:
        if runs(tmp_path, "a") and not seen:
            wait_for(root.unit(a).progress.exists, "progress")
            seen.append(state(a, root, [a]))
            monkeypatch.chdir(tmp_path / "elsewhere")
            seen.append(state(a, StudyDir(Path("..", root.path.name)), [a]))
            seen.append(state(a, StudyDir(tmp_path / "link" / root.path.name), [a]))
            (tmp_path / "a.hold").unlink()

    Run([a], root, at_look=look)
    assert [s.state for s in seen] == [State.RUNNING] * 3
    for shown in seen:
        data = shown.to_json(None)
        assert data["progress"] == {"done": 1, "total": 2, "unit": "parts"}
        assert data["attempts"] == 1
        assert data["job"] == str(runs(tmp_path, "a")[0]["parent"])


def test_a_job_that_publishes_during_the_look_is_not_called_removed(root: StudyDir, tmp_path: Path) -> None:
    a = unit(tmp_path, "a")
    ledger = Ledger(root.ledger)
    ledger.intent("s", [Started(a.id, 1)])
    ledger.submitted("s", "1")

    class Ending(Local):
        """A machine on which the job ends just before it is asked for."""

        def live(self, attempts: Mapping[str, Attempt]) -> dict[str, LiveJobs]:
            publish(root, a)
            return {}

    (seen,) = poll([a], root, Ending(root)).units
    assert (seen.state, seen.reason) == (State.DONE, None)


@pytest.mark.parametrize("removed", ["a", "b", "c"])
def test_what_was_made_from_a_removed_result_is_made_again(
    root: StudyDir, tmp_path: Path, removed: str
) -> None:
    a, other = unit(tmp_path, "a"), unit(tmp_path, "other")
    b = unit(tmp_path, "b", a)
    c = unit(tmp_path, "c", b, other)
    units = [a, other, b, c]
    for each in units:
        publish(root, each, {"first": each.name})
    gone = next(u for u in units if u.name == removed)
    root.unit(gone).out.rename(tmp_path / "gone")
    expected = ["a", "b", "c"]["abc".index(removed) :]
    assert Run(units, root).names("done") == expected
    for each in units:
        folder = root.unit(each)
        again = each.name in expected
        its: dict[str, Any] = {"pairs": 4} if again else {"first": each.name}
        assert read_json(folder.result) == its
        kept = [read_json(p / "out" / "result.json") for p in folder.path.glob("superseded.*")]
        assert kept == ([{"first": each.name}] if again and each != gone else [])


def test_results_are_set_aside_again_and_again(root: StudyDir, tmp_path: Path) -> None:
    a = unit(tmp_path, "a")
    b = unit(tmp_path, "b", a)
    for time in range(3):
        Run([a, b], root)
        root.unit(a).out.rename(tmp_path / f"gone{time}")
    Run([a, b], root)
    assert len(list(root.unit(b).path.glob("superseded.*/out/result.json"))) == 3
    assert state(b, root, [a, b]).state == State.DONE


def test_a_job_of_a_unit_that_the_study_no_longer_has_is_named(root: StudyDir, tmp_path: Path) -> None:
    a, b = unit(tmp_path, "a"), unit(tmp_path, "b")
    (tmp_path / "a.hold").touch()
    former: list[tuple[Job, ...]] = []

    def look() -> None:
        if runs(tmp_path, "a") and not former:
            former.append(poll([b], root, Local(root)).former)
            (tmp_path / "a.hold").unlink()

    Run([a], root, at_look=look)
    assert [job.id for job in former[0]] == [str(runs(tmp_path, "a")[0]["parent"])]
    assert poll([b], root, Local(root)).former == ()
