"""Progress records: what is outside of the work, and that versions can read each other's."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from jobs.store import progress as module
from jobs.store.progress import Progress, read_progress
from jobs.store.records import Damaged
from jobs.store.rundir import read_json, write_json


def test_loading_is_outside_of_the_work(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    progress = Progress(path)
    progress.outside("loading the model", 500, 1000, "rows")
    found = read_json(path)
    assert (found["phase"], found["outside"], found["done"], found["kept"]) == (
        "loading the model",
        True,
        500,
        0,
    )
    assert "working_since" not in found
    assert not progress.within, "the watchdog would soon take a long load for a hang"
    assert str(progress) == "500 of 1000 rows (loading the model)"
    assert progress.beats == 1
    before = time.time()
    progress.update(500, 1000, "rows", phase="answering", force=True)
    found = read_json(path)
    assert "outside" not in found
    assert before <= found["working_since"] <= found["updated"]
    assert progress.within
    progress.outside("waiting for other workers", 600, 1000, "rows")
    again = read_json(path)
    assert (again["outside"], again["working_since"]) == (True, found["working_since"])


def test_a_new_phase_is_written_at_once_and_the_same_one_not_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = list[str]()
    monkeypatch.setattr(module, "write_json", lambda path, record: written.append(record["phase"]))
    progress = Progress(tmp_path / "progress.json")
    for phase in ("importing", "importing", "loading", "waiting", "waiting"):
        progress.outside(phase)
    assert written == ["importing", "loading", "waiting"]
    monkeypatch.setattr(module, "INTERVAL", 0.0)
    progress.outside("waiting")
    assert len(written) == 4
    Progress(None).outside("importing")
    assert len(written) == 4


OLD = {"done": 1, "total": 9, "unit": "steps", "started": 10.0, "updated": 20.0}
GPU = {"busy": 93, "used": 1024, "total": 2048}


def test_records_of_other_versions_are_read(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    for record in (
        OLD,
        {**OLD, "outside": True, "working_since": 11.0, "gpus": None},
        {**OLD, "gpus": [{**GPU, "power": 700.5, "busy": None}], "nodes": {"a": 1}},
    ):
        write_json(path, record)
        assert read_progress(path) == record


@pytest.mark.parametrize(
    "bad", [{"outside": 1}, {"working_since": "now"}, {"gpus": 3}, {"gpus": [3]}, {"gpus": [{"busy": -1}]}]
)
def test_what_the_monitor_could_not_show_is_damaged(bad: dict[str, Any], tmp_path: Path) -> None:
    write_json(tmp_path / "progress.json", {**OLD, **bad})
    with pytest.raises(Damaged):
        read_progress(tmp_path / "progress.json")
