"""Jobs of this machine that are copies of a process which has imported what they need."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from small_study import TESTS, lives, runs, unit, wait_for

from jobs.core.unit import Unit
from jobs.runtime import warm_start
from jobs.runtime.run import STAGE_MODULES
from jobs.store import journal
from jobs.store.progress import Progress
from jobs.store.rundir import StudyDir, append_jsonl, read_jsonl
from jobs.store.schema import ATTEMPT
from launch.local import warm_start as client
from launch.local.backend import Local
from launch.state.ledger import Attempt, Job


def prepare(staged: Path, args: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Note what has been imported before a job does anything, and its variables."""
    found = {"modules": [m for m in WATCHED if m in sys.modules], "variables": dict(os.environ)}
    append_jsonl(Path(args["noted"]), found)
    (staged / "pairs.parquet").touch()
    return {}


WATCHED = ("pyarrow", "transformers")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyDir:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    return StudyDir(tmp_path / "a study")


@pytest.fixture
def local(root: StudyDir) -> Iterator[Local]:
    found = Local(root)
    yield found
    found.close()


def server(local: Local) -> Any:
    """The process that jobs are copies of."""
    assert local._warm
    return local._warm._process


def ready(local: Local, unit: Unit) -> None:
    wait_for(lambda: local.ready(unit), "what a job needs to be imported")


def submitted(local: Local, unit: Unit, name: str) -> Callable[[], bool]:
    """Submit a job; the function returned says whether it is alive."""
    job = Job(name, local.submit(unit, name, 1, 0, ()), os.uname().nodename)
    attempt = {unit.id: Attempt(1, 0, "local", (job,))}
    return lambda: bool(local.live(attempt))


def test_a_job_begins_with_what_another_stage_has_imported(
    root: StudyDir, local: Local, tmp_path: Path
) -> None:
    noted = tmp_path / "noted.jsonl"
    a = Unit("prepare", "a", {"function": "test_warm_start:prepare", "args": {"noted": str(noted)}})
    ready(local, Unit("collate", "c", {}))
    ready(local, a)
    alive = submitted(local, a, "prepare-a-1234")
    wait_for(lambda: not alive(), "the job to end")
    (found,) = read_jsonl(noted)
    assert found["modules"] == ["pyarrow"]
    assert found["variables"]["OMP_NUM_THREADS"] == str(a.resources.cpus_per_task)
    assert [e["error"] for e in journal.read(root.unit(a).attempts, ATTEMPT)] == [None]


def test_imports_leave_no_variables_to_other_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    (fake := type(sys)("fake")).imports = lambda: os.environ.update(SOR_FAKE="1")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake", fake)
    monkeypatch.setitem(STAGE_MODULES, "tokenize", "fake")
    monkeypatch.delenv("SOR_FAKE", raising=False)
    before = dict(os.environ)
    warm_start._imported.__wrapped__("tokenize")
    assert dict(os.environ) == before


def test_an_import_that_fails_is_told_by_the_job(
    root: StudyDir, local: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "transformers.py").write_text("raise RuntimeError('broken on purpose')", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{TESTS}")
    tokens = Unit("tokenize", "a", {"tokenizer": "t", "revision": None, "thinking": None})
    ready(local, tokens)
    alive = submitted(local, tokens, "tokenize-a-1234")
    wait_for(lambda: not alive(), "the job to end")
    (end,) = journal.read(root.unit(tokens).attempts, ATTEMPT)
    assert end["error"] == "RuntimeError: broken on purpose"


def test_jobs_outlive_the_process_that_they_are_copies_of(
    root: StudyDir, local: Local, tmp_path: Path
) -> None:
    held, b = unit(tmp_path, "a"), unit(tmp_path, "b")
    (tmp_path / "a.hold").touch()
    ready(local, held)
    alive = submitted(local, held, "prepare-a-1234")
    wait_for(lambda: runs(tmp_path, "a"), "the job to run")
    os.kill(server(local).pid, signal.SIGKILL)
    server(local).wait()
    other = submitted(local, b, "prepare-b-1234")  # as a program of its own
    wait_for(lambda: not other(), "the other job to end")
    assert root.unit(b).done
    assert alive()
    (tmp_path / "a.hold").unlink()
    wait_for(lambda: not alive(), "the job to end")
    assert root.unit(held).done


def test_a_process_that_does_not_answer_starts_no_job_beside_another(
    root: StudyDir, local: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "LONGEST", 0.5)
    a = unit(tmp_path, "a")
    ready(local, a)
    process = server(local)
    os.kill(process.pid, signal.SIGSTOP)
    alive = submitted(local, a, "prepare-a-1234")
    assert process.wait(10) == -signal.SIGKILL
    wait_for(lambda: not alive(), "the job to end")
    assert root.unit(a).done
    assert len(runs(tmp_path, "a")) == 1


def test_a_job_that_was_started_without_an_answer_is_found_and_no_other_started(
    root: StudyDir, local: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = unit(tmp_path, "a")
    (tmp_path / "a.hold").touch()
    ready(local, a)
    monkeypatch.setattr(client.WarmStart, "_answer", lambda *_: time.sleep(2))  # it is lost
    alive = submitted(local, a, "prepare-a-1234")
    wait_for(lambda: runs(tmp_path, "a"), "the job to run")
    assert alive()
    (tmp_path / "a.hold").unlink()
    wait_for(lambda: not alive(), "the job to end")
    assert root.unit(a).done
    assert len(runs(tmp_path, "a")) == 1


def test_a_killed_job_takes_no_other_with_it(root: StudyDir, local: Local, tmp_path: Path) -> None:
    held, killed, b = unit(tmp_path, "a"), unit(tmp_path, "k"), unit(tmp_path, "b")
    for name in ("a", "k"):
        (tmp_path / f"{name}.hold").touch()
    ready(local, held)
    alive = submitted(local, held, "prepare-a-1234")
    wait_for(lambda: runs(tmp_path, "a"), "the job to run")
    killed_lives = submitted(local, killed, "prepare-k-1234")
    wait_for(lambda: runs(tmp_path, "k"), "the other to run")
    (run,) = runs(tmp_path, "k")
    local.kill([Job("prepare-k-1234", str(run["parent"]), os.uname().nodename)])
    wait_for(lambda: not killed_lives() and not lives(run["pid"]), "the job and its rank to be gone")
    last = submitted(local, b, "prepare-b-1234")
    wait_for(lambda: not last(), "the last one to end")
    assert root.unit(b).done
    assert alive()
    (tmp_path / "a.hold").unlink()
    wait_for(lambda: not alive(), "the first one to end")


def test_it_ends_with_sor(local: Local, tmp_path: Path) -> None:
    ready(local, unit(tmp_path, "a"))
    process = server(local)
    began = time.monotonic()
    local.close()
    assert process.wait(10) == 0
    assert time.monotonic() - began < 10
