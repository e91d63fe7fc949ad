"""What a power cut must not undo: data are on disk before the name that readers look for appears.

The calls that write, sync and rename are recorded as they are really made. A crash of the machine cannot be
forced here; the order of these calls is what protects against one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.store.checkpoints import MARKER, Checkpoints, Meta
from jobs.store.rundir import StudyDir, UnitDir, append_jsonl, write_json
from launch.submit.code_snapshot import snapshot

Calls = list[tuple[str, Path]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Every fsync, rename and link that is made from now on: what, and on which path."""
    made: Calls = []

    def record(name: str, path_of: Callable[..., Any]) -> None:
        real = getattr(os, name)

        def call(*args: Any, **more: Any) -> Any:
            done = real(*args, **more)
            made.append((name, Path(path_of(*args))))
            return done

        monkeypatch.setattr(os, name, call)

    record("fsync", lambda fd: os.readlink(f"/proc/self/fd/{fd}"))
    for name in ("rename", "replace", "link"):
        record(name, lambda source, target, *_: target)
    return made


def synced_before(calls: Calls, published: Path, aside: Path) -> set[str]:
    """The names below `aside`, "." for itself, that were on disk before something was published."""
    index = next(i for i, (what, path) in enumerate(calls) if what != "fsync" and path == published)
    before = {path for what, path in calls[:index] if what == "fsync"}
    return {str(path.relative_to(aside)) for path in before if path.is_relative_to(aside)}


def test_a_record_is_on_disk_before_anybody_relies_on_it(tmp_path: Path, calls: Calls) -> None:
    append_jsonl(tmp_path / "ledger.jsonl", {"event": "intent"})
    assert calls[-1] == ("fsync", tmp_path / "ledger.jsonl")


def test_a_result_is_on_disk_before_it_is_published(tmp_path: Path, calls: Calls) -> None:
    folder = UnitDir(tmp_path / "pack" / "x-1")
    staged = folder.staging("1.0")
    (staged / "deep").mkdir(parents=True)
    for name in ("result.json", "deep/blocks.bin"):
        write_json(staged / name, {})
    assert folder.publish(staged)
    assert synced_before(calls, folder.out, staged) >= {".", "result.json", "deep", "deep/blocks.bin"}
    assert calls[-1] == ("fsync", folder.path)


def test_a_checkpoint_is_on_disk_before_it_is_the_newest(tmp_path: Path, calls: Calls) -> None:
    checkpoints = Checkpoints(tmp_path, "1.0")
    aside = checkpoints.aside("step-00000007")
    aside.mkdir()
    checkpoints.commit(aside, Meta({"step": 7}, 1, None, 1, "1.0"))
    assert synced_before(calls, checkpoints.at(7).path, aside) >= {".", MARKER}
    assert calls[-1] == ("fsync", tmp_path)


def test_a_copy_of_the_code_is_on_disk_before_jobs_can_find_it(tmp_path: Path, calls: Calls) -> None:
    root = StudyDir(tmp_path / "runs" / "x")
    folder = snapshot(root)
    [(_, aside)] = [
        call for call in calls if call[0] == "fsync" and call[1].name == folder.name and call[1] != folder
    ]
    synced = synced_before(calls, folder, aside)
    assert synced >= {str(path.relative_to(folder)) for path in folder.rglob("*")}
    assert calls[-1] == ("fsync", root.code)
