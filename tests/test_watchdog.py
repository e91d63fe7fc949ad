"""How long a rank may be silent, and that it is noticed: here in threads; test_again_slurm has a real job."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from jobs.runtime import watchdog
from jobs.runtime.watchdog import ENOUGH, FACTOR, PATIENCE, Watchdog, limit
from jobs.store.progress import Progress
from jobs.store.rundir import read_json


def test_the_limit_is_learned_and_never_short() -> None:
    assert limit(ENOUGH, True, 1.0, 600.0) == 600.0
    assert limit(ENOUGH, True, 100.0, 600.0) == 100.0 * FACTOR
    for beats, within in ((ENOUGH - 1, True), (10**6, False)):
        assert limit(beats, within, 1.0, 600.0) == PATIENCE
    assert limit(0, False, 0.0, 2 * PATIENCE) == 2 * PATIENCE


@pytest.fixture
def progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Progress:
    """Of a rank that has started and is not at its end."""
    for name in ("POLL", "PEERS"):
        monkeypatch.setattr(watchdog, name, 0.02)
    found = Progress(tmp_path / "progress.json")
    for done in range(1, ENOUGH + 1):
        found.update(done, 100, "steps", loss=1.5)
    return found


def watched(progress: Progress) -> tuple[threading.Event, list[str]]:
    said: list[str] = []
    event = threading.Event()

    def hung(words: str) -> None:
        said.append(words)
        event.set()
        threading.Event().wait()  # it would have ended the process

    Watchdog(progress, hung, floor=0.5).start()
    return event, said


def test_a_rank_that_stands_still_is_shown_and_ended(
    progress: Progress, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    event, said = watched(progress)
    assert event.wait(30)
    assert said[0].endswith("s at 20 of 100 steps; its stacks are in the log")
    shown = read_json(tmp_path / "progress.json")
    assert shown["stalled"].startswith("no progress at 20 of 100 steps for ")
    assert (shown["done"], shown["loss"]) == (20, 1.5)
    printed = capfd.readouterr().err
    assert "all stacks:" in printed
    assert "test_a_rank_that_stands_still_is_shown_and_ended" in printed
    progress.update(21, 100, "steps", force=True)
    assert "stalled" not in read_json(tmp_path / "progress.json")


def test_a_rank_that_beats_is_left_alone(progress: Progress) -> None:
    event, _ = watched(progress)
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        progress.beat()
        assert not event.wait(0.05)


def test_a_rank_that_loads_is_left_alone_however_much_was_done_before(progress: Progress) -> None:
    """It has sent enough heartbeats: it waited for other workers before."""
    progress.outside("loading the model", 50, 100, "rows")
    event, _ = watched(progress)
    assert not event.wait(1.5)


def test_a_rank_at_its_end_is_left_alone(progress: Progress) -> None:
    progress.update(100, 100, "steps")
    event, _ = watched(progress)
    assert not event.wait(1.5)
