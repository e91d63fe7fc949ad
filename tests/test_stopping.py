"""What ends a `sor submit` in the foreground has its jobs save first, and gives the lock back."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_study import SOR, environment, listen, lives, runs, start, wait_for, watched_study

from jobs.store import journal
from jobs.store.rundir import StudyDir
from jobs.store.schema import ATTEMPT
from launch.state.ledger import Ledger


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Path]:
    """A small study whose first job does steps until it is told to stop."""
    with watched_study(tmp_path) as file:
        for what in ("hold", "steps"):
            (file.parent / f"study.{what}").touch()
        yield file


def stepping(study: Path) -> None:
    wait_for(lambda: (study.parent / "study.steps").stat().st_size > 2, "the job to do steps")


def saved(study: Path, runs_folder: Path) -> None:
    """Check that the job kept all its steps, and that the study is free."""
    steps = (study.parent / "study.steps").stat().st_size
    root = StudyDir(runs_folder / "small")
    (unit,) = (root.path / "prepare").iterdir()
    (end,) = journal.read(unit / "attempts.jsonl", ATTEMPT)
    assert (end["cause"], end["kept"]) == ("preempted", steps)
    (attempt,) = Ledger(root.ledger).attempts().values()
    assert (attempt.ended, attempt.reason) == ("cancelled", "cancelled")
    assert not root.lock.exists()
    assert not any(lives(process["pid"]) for process in runs(study.parent))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_taken_like_ctrl_c(study: Path, tmp_path: Path, number: signal.Signals) -> None:
    process = start("submit", study, "--runs", tmp_path / "runs", "--yes")
    stepping(study)
    process.send_signal(number)
    process.send_signal(signal.SIGHUP)  # a shell and the kernel both send it
    said, _ = process.communicate(timeout=60)
    assert process.returncode in (128 + number, 128 + signal.SIGHUP)  # two that come at once have no order
    assert "Traceback" not in said
    saved(study, tmp_path / "runs")


def test_jobs_save_when_the_terminal_is_closed(study: Path, tmp_path: Path) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        listen()
        os.environ.update(environment(TERM="xterm"))
        os.execv(SOR, [str(SOR), "submit", str(study), "--runs", str(tmp_path / "runs"), "--yes"])
    try:
        stepping(study)
    finally:
        os.close(terminal)  # as when the window is closed, or ssh ends
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGHUP
    saved(study, tmp_path / "runs")


def test_jobs_save_when_nobody_reads_any_more(study: Path, tmp_path: Path) -> None:
    """`sor submit | tee log`, and the tee is gone: the next line that is printed finds nobody."""
    process = start("submit", study, "--runs", tmp_path / "runs", "--yes")
    stepping(study)
    assert process.stdout is not None
    process.stdout.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 128 + signal.SIGINT
    saved(study, tmp_path / "runs")


def test_nohup_is_respected(study: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        ["nohup", SOR, "submit", study, "--runs", tmp_path / "runs", "--yes", "--only", "prepare"],
        env=environment(), start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    stepping(study)
    process.send_signal(signal.SIGHUP)
    (study.parent / "study.hold").unlink()
    assert process.wait(60) == 0


OVERTAKEN = """
import json, os, sys
from pathlib import Path
lock = Path(sys.argv[1])
owner = json.loads(lock.read_text(encoding="utf-8"))
lock.write_text(json.dumps({**owner, "token": "another", "host": "other-host"}), encoding="utf-8")
"""


def test_a_submit_that_slept_leaves_the_study_to_who_took_over(study: Path, tmp_path: Path) -> None:
    """A laptop that was suspended: meanwhile another host has submitted the study."""
    root = StudyDir(tmp_path / "runs" / "small")
    process = start("submit", study, "--runs", root.path.parent, "--yes")
    stepping(study)
    os.killpg(process.pid, signal.SIGSTOP)
    subprocess.run([sys.executable, "-c", OVERTAKEN, root.lock], check=True)
    (unit, attempt) = next(iter(Ledger(root.ledger).attempts().items()))
    ledger = journal.own(root.ledger).read_text(encoding="utf-8")
    lost = {"event": "lost", "time": attempt.started, "attempts": [[unit, attempt.number, "it was gone"]]}
    journal.own(root.ledger).write_text(ledger + json.dumps(lost) + "\n", encoding="utf-8")
    written = journal.own(root.ledger).read_text(encoding="utf-8")
    (study.parent / "study.hold").unlink()
    os.killpg(process.pid, signal.SIGCONT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1, said
    assert re.search(r"this process was suspended, and \S+ on other-host .* took over", said)
    assert "this process submits nothing more" in said
    assert journal.own(root.ledger).read_text(encoding="utf-8") == written
    assert json.loads(root.lock.read_text(encoding="utf-8"))["token"] == "another"
