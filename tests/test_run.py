"""What a job's process finds out about itself, and what it leaves when it ends."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from small_study import TESTS, lives, publish, runs, unit, wait_for

from jobs.core.place import Place, first_node, port
from jobs.core.unit import Unit
from jobs.runtime.array_task import ELEMENTS, element, line
from jobs.runtime.exit import WORDLESS
from jobs.runtime.run import STAGE_MODULES
from jobs.store import journal
from jobs.store.rundir import StudyDir, UnitDir
from jobs.store.schema import ATTEMPT
from launch.local.backend import Local


def job(root: StudyDir, unit: Unit, attempt: int = 1) -> UnitDir:
    """Run one job of a unit to its end."""
    folder = root.unit(unit)
    id = Local(root).submit(unit, "prepare-a-1234", attempt, 0, ())
    wait_for(lambda: not lives(int(id)), "the job to end")
    return folder


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def test_ranks_are_told_how_to_find_each_other(tmp_path: Path) -> None:
    a = unit(tmp_path, "a", tasks_per_node=2, cpus_per_task=3)
    folder = job(StudyDir(tmp_path / "s"), a)
    found = sorted(runs(tmp_path, "a"), key=lambda p: str(p["RANK"]))
    assert [(p["RANK"], p["WORLD_SIZE"], p["OMP_NUM_THREADS"]) for p in found] == [
        ("0", "2", "3"), ("1", "2", "3"),
    ]  # fmt: skip
    assert {p["MASTER_PORT"] for p in found} == {str(port(str(found[0]["parent"])))}
    ends = journal.read(folder.attempts, ATTEMPT)
    assert sorted(e["rank"] for e in ends) == [0, 1]


LEFT = {  # by a shell from which somebody else's training was started
    "RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "3", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1",
    "TORCHELASTIC_USE_AGENT_STORE": "True", "OMPI_COMM_WORLD_SIZE": "8", "ACCELERATE_MIXED_PRECISION": "fp16",
    "SLURM_NTASKS": "8",
}  # fmt: skip


@pytest.mark.parametrize("ranks", [1, 2])
def test_what_the_shell_says_of_ranks_never_reaches_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranks: int
) -> None:
    for name, value in LEFT.items():
        monkeypatch.setenv(name, value)
    job(StudyDir(tmp_path / "s"), unit(tmp_path, "a", tasks_per_node=ranks))
    found = runs(tmp_path, "a")
    assert not [(name, process[name]) for process in found for name in LEFT if process[name] == LEFT[name]]
    told = sorted((str(p["RANK"]), p["WORLD_SIZE"], p["LOCAL_RANK"], p["MASTER_ADDR"]) for p in found)
    expected: list[tuple[str | None, ...]] = [("None", None, None, None)] if ranks == 1 else [
        ("0", "2", "0", "127.0.0.1"), ("1", "2", "1", "127.0.0.1"),
    ]  # fmt: skip
    assert told == expected


def test_the_place_of_a_process_in_slurm() -> None:
    one = {"SLURM_JOB_ID": "40", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}
    assert Place.in_slurm({**one, **LEFT, "SLURM_NTASKS": "1"}).variables == {}
    four = {
        "SLURM_JOB_ID": "40", "SLURM_NTASKS": "4", "SLURM_JOB_NUM_NODES": "2", "SLURM_PROCID": "3",
        "SLURM_LOCALID": "1", "SLURM_JOB_NODELIST": "gpu[07-09],n1",
    }  # fmt: skip
    assert Place.in_slurm({**LEFT, **four}).variables == {
        "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "LOCAL_SIZE": "2",
        "MASTER_ADDR": "gpu07", "MASTER_PORT": "20040",
    }  # fmt: skip
    assert Place.in_slurm({**four, "SLURM_LAUNCH_NODE_IPADDR": "10.1.1.7"}).first == "10.1.1.7"
    assert Place.in_slurm({**four, "SOR_MASTER_ADDR": "gpu07-ib"}).first == "gpu07-ib"
    assert first_node("n7") == "n7"


def test_a_process_alone_is_not_told_of_others_and_keeps_what_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    a = unit(tmp_path, "a", cpus_per_task=3)
    folder = job(StudyDir(tmp_path / "s"), a, attempt=4)
    (process,) = runs(tmp_path, "a")
    assert (process["RANK"], process["MASTER_PORT"], process["OMP_NUM_THREADS"]) == (None, None, "2")
    (end,) = journal.read(folder.attempts, ATTEMPT)
    assert (end["attempt"], end["worker"], end["rank"], end["error"]) == (4, 0, 0, None)
    assert end["host"] == os.uname().nodename
    assert folder.done


def test_what_is_done_already_is_left_alone(tmp_path: Path) -> None:
    root, a = StudyDir(tmp_path / "s"), unit(tmp_path, "a")
    publish(root, a)
    folder = job(root, a)
    assert runs(tmp_path, "a") == []
    assert not journal.files(folder.attempts)
    assert "is already done: nothing to do" in next(
        root.submission("prepare-a-1234").glob("*_0_log.out")
    ).read_text(encoding="utf-8")


def test_an_error_is_written_down(tmp_path: Path) -> None:
    (tmp_path / "a.fail").touch()
    folder = job(StudyDir(tmp_path / "s"), unit(tmp_path, "a"))
    (end,) = journal.read(folder.attempts, ATTEMPT)
    assert (end["error"], end["cause"], end["kept"]) == ("RuntimeError: a was told to fail", "code error", 1)
    assert not folder.done


@pytest.fixture
def submission(tmp_path: Path) -> Path:
    """A submission's folder with the units a and b as elements 3 and 33, as it is handed over to Slurm."""
    root = StudyDir(tmp_path / "s")
    found = root.submission("prepare-s-1234")
    found.mkdir(parents=True)
    elements = ((index, unit(tmp_path, name)) for index, name in ((3, "a"), (33, "b")))
    (found / ELEMENTS).write_text(
        "".join(line(index, u, root.path, 2, 0) for index, u in elements), encoding="utf-8"
    )
    return found


def start(submission: Path, restart: int = 0) -> subprocess.Popen[bytes]:
    """Start element 33 as Slurm does."""
    slurm = {"SLURM_JOB_ID": "40", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "33"}
    more = {"SLURM_RESTART_COUNT": str(restart)} if restart else {}
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.runtime.array_task", str(submission)],
        env={**os.environ, **LEFT, "SLURM_NTASKS": "1", **slurm, **more},
    )


def test_an_element_of_an_array_runs_its_unit_and_goes_on_when_its_time_limit_is_near(
    tmp_path: Path, submission: Path
) -> None:
    (tmp_path / "b.hold").touch()
    process = start(submission)
    wait_for(lambda: runs(tmp_path, "b"), "it to run")
    process.send_signal(signal.SIGUSR2)
    (tmp_path / "b.hold").unlink()
    assert process.wait(60) == 0
    (ran,) = runs(tmp_path, "b")
    assert (ran["WORLD_SIZE"], ran["OMPI_COMM_WORLD_SIZE"], ran["SLURM_NTASKS"]) == (None, None, "1")
    root = StudyDir(tmp_path / "s")
    folder = root.unit(unit(tmp_path, "b"))
    (end,) = journal.read(folder.attempts, ATTEMPT)
    assert (end["attempt"], end["error"], folder.done) == (2, None, True)
    assert not root.unit(unit(tmp_path, "a")).path.exists()
    assert not list(submission.glob("*.verdict"))
    with pytest.raises(LookupError, match="has no element 4: was it edited"):
        element(submission, 4)


@pytest.mark.parametrize(
    ("limit", "words", "cause", "word"),
    [
        (True, "its time limit is near", "time limit", "stop"),  # the same time would not do again
        (False, "it was preempted or cancelled", "preempted", "again"),
    ],
)
def test_what_keeps_nothing_uses_its_time_and_says_why_it_ended(
    tmp_path: Path, submission: Path, limit: bool, words: str, cause: str, word: str
) -> None:
    (tmp_path / "b.hold").touch()
    short = unit(tmp_path, "b", hours=0.01 if limit else 1)
    element = line(33, short, tmp_path / "s", 2, 0)
    (submission / ELEMENTS).write_text(element, encoding="utf-8")
    process = start(submission)
    wait_for(lambda: runs(tmp_path, "b"), "it to run")
    wait_for(lambda: _reads(process.pid, signal.SIGTERM), "it to listen")
    if limit:
        process.send_signal(signal.SIGUSR2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    (end,) = journal.read(StudyDir(tmp_path / "s").unit(unit(tmp_path, "b")).attempts, ATTEMPT)
    assert end["error"] == f"{words}; the study's function starts over"
    assert (end["cause"], end["kept"]) == (cause, 0)
    assert (submission / "7_33.0.verdict").read_text(encoding="utf-8") == word


def _reads(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (number - 1) & 1)


def test_a_rank_that_is_told_to_stop_leaves_a_word_and_lets_the_others_save(
    tmp_path: Path, submission: Path
) -> None:
    for what in ("hold", "steps"):
        (tmp_path / f"b.{what}").touch()
    process = start(submission)
    wait_for(lambda: (tmp_path / "b.steps").stat().st_size > 2, "steps")
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert (submission / "7_33.0.verdict").read_text(encoding="utf-8") == "again"
    (end,) = journal.read(StudyDir(tmp_path / "s").unit(unit(tmp_path, "b")).attempts, ATTEMPT)
    assert (end["cause"], end["error"]) == ("preempted", "it was preempted or cancelled")
    assert end["kept"] == (tmp_path / "b.steps").stat().st_size


def test_a_word_that_is_there_is_left_as_it_is(tmp_path: Path, submission: Path) -> None:
    """The first rank that failed knows why; the others fail because it did."""
    (tmp_path / "b.fail").touch()
    (submission / "7_33.0.verdict").write_text("again", encoding="utf-8")
    assert start(submission).wait(60) == 1
    assert (submission / "7_33.0.verdict").read_text(encoding="utf-8") == "again"


def test_a_run_after_too_many_that_got_nowhere_ends_at_once(tmp_path: Path, submission: Path) -> None:
    folder = StudyDir(tmp_path / "s").unit(unit(tmp_path, "b"))
    folder.path.mkdir(parents=True)
    ended = {
        "attempt": 2, "worker": 0, "rank": 0, "host": "h", "time": 1.0, "seconds": 1.0, "kept": 0,
        "micro_batch": None,
    }  # fmt: skip
    for restart in range(3):
        journal.append(folder.attempts, {**ended, "restart": restart, "cause": "network", "error": "NCCL"})
    assert start(submission, restart=4).wait(60) == 1  # of 3 there is no word
    assert runs(tmp_path, "b") == []
    *_, third, last = journal.read(folder.attempts, ATTEMPT)
    assert (third["restart"], third["cause"], third["error"]) == (3, "killed", WORDLESS)
    assert (last["restart"], last["error"]) == (4, f"not restarted: {WORDLESS}")
    assert (submission / "7_33.4.verdict").read_text(encoding="utf-8") == "stop"


def test_every_stage_has_a_module() -> None:
    assert all(importlib.util.find_spec(module) for module in STAGE_MODULES.values())


def test_ports_are_free_for_users_and_differ_between_jobs() -> None:
    ports = {port(str(job)) for job in range(5000, 6000)}
    assert len(ports) == 1000
    assert all(1024 < p < 65536 for p in ports)
