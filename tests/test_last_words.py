"""What `sor status` shows of units that failed: why, what to do, and the end of their logs."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from small_study import TESTS, Run, logs, unit

from jobs.core.plain import plain
from jobs.store.rundir import StudyDir
from launch.local import scheduler
from launch.local.backend import Local
from launch.state.log_files import TAIL, WIDEST, last_words, tail
from launch.state.status import StudyStatus, poll
from launch.views import status_view


@pytest.fixture(autouse=True)
def _jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))


def shown(now: StudyStatus) -> str:
    console = Console(file=io.StringIO(), width=400, force_terminal=True, color_system=None)
    console.print(status_view(now, last_words(now)))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_first_failed_units_with_their_logs_and_the_others_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "PEERS_GRACE", 1.0)  # rank 0 of a waits, and is ended
    root = StudyDir(tmp_path / "s")
    units = [unit(tmp_path, name, tasks_per_node=1 + (name == "a")) for name in "abcde"]
    for each in units:
        (tmp_path / f"{each.name}.fail").write_text("1" if each.name == "a" else "", encoding="utf-8")
        (tmp_path / f"{each.name}.hold").touch()
    Run(units, root)
    log = logs(root, units[0])[1]
    log.write_text(
        log.read_text(encoding="utf-8") + "\x1b[31m[bold]red[/bold]\x1b[0m\x07\nold\rnew\n", encoding="utf-8"
    )
    now = poll(units, root, Local(root))
    words = last_words(now)
    assert list(words) == [u.id for u in units[:3]]
    assert words[units[0].id][-4:] == [
        "RuntimeError: a was told to fail",
        "code error: fix the error in the log",
        "[bold]red[/bold] ",
        "new",
    ]
    text = shown(now)
    assert (
        "failed: prepare a: RuntimeError: a was told to fail\n  code error: fix the error in the log\n"
        in text
    )
    assert "  | [bold]red[/bold] \n  | new\n" in text
    assert "2 more failed: d, e" in text
    assert text.count(f"sor logs {root.path} ") == 3
    assert "\x07" not in text
    assert "\x1b" not in text


def test_the_end_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("", encoding="utf-8")
    assert tail(log) == []
    log.write_bytes(b"x" * 10**6 + b"\n" + b"".join(b"line %d\n\n" % i for i in range(100)) + b"\xff" * 999)
    *lines, last = tail(log)
    assert lines == [f"line {i}" for i in range(101 - TAIL, 100)]
    assert last == "\ufffd" * WIDEST
    assert plain("a\x1b]0;title\x07b\x1b[2Jc\td\u202ee\nf") == "abc d e f"
