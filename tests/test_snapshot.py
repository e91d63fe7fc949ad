"""A snapshot holds the code as it was, once for each content, whoever makes it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from jobs.core.paths import CODE
from jobs.store.provenance import provenance
from jobs.store.rundir import Damaged, StudyDir
from launch.submit import code_snapshot as module
from launch.submit.code_snapshot import snapshot, untracked

PRINT = "import json, jobs.store.provenance as p; print(json.dumps([p.__file__, p.provenance()['code']]))"

SHIPPED = (
    "jobs/a.py", "jobs/sub/b.py", "analysis/c.html", "analysis/c.css", "analysis/c.js", "configs/evals/_g",
)  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> StudyDir:
    return StudyDir(tmp_path / "runs" / "study")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small checkout that may be changed."""
    folder = tmp_path / "checkout"
    for name in (*SHIPPED, "jobs/.hidden.py", "jobs/a.pyc", "launch/d.py", "tests/e.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name, encoding="utf-8")
    monkeypatch.setattr(module, "CODE", folder)
    monkeypatch.setattr(module, "DATA", folder)
    return folder


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(("keeper", "folders"), [(False, module.FOR_JOBS), (True, module.FOR_KEEPER)])
def test_it_holds_what_git_tracks(root: StudyDir, keeper: bool, folders: tuple[str, ...]) -> None:
    folder = snapshot(root, keeper=keeper)
    assert folder.parent == root.code
    listed = subprocess.run(
        ["git", "ls-files", *folders],
        cwd=CODE, capture_output=True, encoding="utf-8", check=True,
    )  # fmt: skip
    assert files(folder) == {*listed.stdout.split(), "snapshot.json"}


def test_jobs_that_run_from_it_say_so(root: StudyDir) -> None:
    folder = snapshot(root)
    done = subprocess.run(
        [sys.executable, "-c", PRINT], env={**os.environ, "PYTHONPATH": str(folder)}, cwd="/",
        capture_output=True, encoding="utf-8", check=True,
    )  # fmt: skip
    file, code = json.loads(done.stdout)
    assert Path(file).is_relative_to(folder)
    ours = provenance()["code"]
    assert ours["snapshot"] is None
    assert code == {**ours, "snapshot": folder.name}


def test_a_copy_of_a_copy_is_the_same(root: StudyDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a keeper makes it, which runs from the first one."""
    first = snapshot(root, keeper=True)
    for name in ("CODE", "DATA"):
        monkeypatch.setattr(module, name, first)
    assert snapshot(root, keeper=True) == first
    jobs = snapshot(root)
    assert files(jobs) < files(first)
    assert (jobs / "jobs/runtime/run.py").is_file()


def test_once_for_each_content(root: StudyDir, checkout: Path) -> None:
    first = snapshot(root)
    assert files(first) == {*SHIPPED, "snapshot.json"}
    made = first.stat().st_mtime_ns
    (checkout / "tests/e.py").write_text("other", encoding="utf-8")
    assert snapshot(root) == first
    (checkout / "jobs/a.py").write_text("other", encoding="utf-8")
    second = snapshot(root)
    (checkout / "jobs/a.py").rename(checkout / "jobs/f.py")
    third = snapshot(root)
    assert {first, second, third} == set(root.code.iterdir())  # three, and nothing beside them
    assert (first / "jobs/a.py").read_text(encoding="utf-8") == "jobs/a.py"
    assert first.stat().st_mtime_ns == made


def test_submitters_at_the_same_time_make_one(root: StudyDir, checkout: Path) -> None:
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(snapshot(root))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert set(found) == set(root.code.iterdir())


def test_a_crash_before_the_rename_does_no_harm(
    root: StudyDir, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(module, "fsync_tree", full)
        with pytest.raises(OSError, match="disk full"):
            snapshot(root)
    assert list(root.code.iterdir()) == []
    (root.code / ".left-by-a-crash").mkdir()
    assert files(snapshot(root)) == {*SHIPPED, "snapshot.json"}


def test_only_what_git_tracks_is_copied(root: StudyDir, checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hf_elsewhere", encoding="utf-8")
    (checkout / "jobs/link.py").symlink_to(tmp_path / "token")
    (checkout / "jobs/run.sh").write_text("true", encoding="utf-8")
    (checkout / "jobs/run.sh").chmod(0o775)

    def git(*args: str) -> None:
        subprocess.run(["git", "-C", checkout, *args], check=True, capture_output=True)

    git("init")
    git("add", "jobs", "analysis", "configs")
    for name in ("jobs/mine.py", "configs/evals/token", ".env"):
        (checkout / name).write_text("hf_untracked", encoding="utf-8")
    os.mkfifo(checkout / "jobs/pipe.py")
    folder = snapshot(root)
    assert files(folder) == {*SHIPPED, "jobs/.hidden.py", "jobs/a.pyc", "jobs/run.sh", "snapshot.json"}
    assert not any(b"hf_" in path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert (folder / "jobs/run.sh").stat().st_mode & 0o777 == 0o755
    assert (folder / "jobs/a.py").stat().st_mode & 0o022 == 0
    assert untracked() == ["jobs/mine.py", "launch/d.py"]


@pytest.mark.parametrize("change", ["edit", "add", "remove"])
def test_a_copy_that_was_changed_is_refused(root: StudyDir, checkout: Path, change: str) -> None:
    folder = snapshot(root)
    (folder / "jobs/__pycache__").mkdir()
    (folder / "jobs/__pycache__/a.pyc").touch()  # as Python leaves it
    assert snapshot(root) == folder
    file = folder / ("jobs/new.py" if change == "add" else "jobs/a.py")
    if change == "remove":
        file.unlink()
    else:
        file.write_text("import os", encoding="utf-8")
    with pytest.raises(Damaged, match=f"{folder} is not the code .* jobs/{file.name} changed"):
        snapshot(root)
