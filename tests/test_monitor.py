"""The monitor in a real terminal: keys are typed, its screen is read, and the shell is left as it was."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster
from made_large import large_study
from small_slurm import preempt, write_cluster
from small_study import TESTS, runs, sor, student, wait_for, write_study
from tmux import PROMPT, Tmux, terminal

from launch.monitor.views.help import KEYS, STATES
from launch.state.states import State

SCREEN_OF_SHELL = "1 0 0"  # the cursor is shown, the other screen is not, and the mouse is the terminal's
SCREEN_OF_MONITOR = "0 1 1"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run directories of two studies on this machine, in each of which the first unit failed."""
    folder = tmp_path_factory.mktemp("ran")
    for name in ("other", "small"):
        study = write_study(folder / name, {"s": student()}, name=name)
        (folder / name / "study.fail").touch()
        assert sor("submit", study, "--yes", "--runs", folder / "runs").returncode == 1
    return folder / "runs"


@pytest.fixture
def person(ran: Path) -> Iterator[Tmux]:
    with terminal(SOR_RUNS=str(ran)) as made:
        yield made


def process(ran: Path) -> int:
    """The monitor's process."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
                where = f"SOR_RUNS={ran}".encode() in (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if where and b"monitor" in words:
                found.append(int(folder.name))
    [pid] = found
    return pid


def test_a_person_looks_around(person: Tmux) -> None:
    before = person.mode()
    person.runs("echo what was there")
    person.runs("sor monitor")
    shown = person.sees("small on local", "code error", "q quit", without=PROMPT)  # problems come first
    assert "other" in shown
    person.presses("j")
    person.sees("other on local")
    person.presses("k", "Enter")
    person.sees("prepare small", "evaluate s-r0", "Esc back")
    person.presses("Down", "c")
    person.sees("neither queued nor running: nothing to cancel")
    person.types("/FAILED")
    person.sees("1 of 10 match 'FAILED'", without="evaluate s-r0")
    person.presses("Enter", "Enter")
    person.sees("RuntimeError: study was told to fail", "f follow")
    person.presses("u")
    person.sees("in another terminal:", "sor submit")
    person.presses("?")
    person.sees(*(what for _, what in KEYS), *STATES.values())
    person.presses("x")
    person.resize(200, 60)
    person.sees("study says hello")
    person.resize(30, 8)
    person.sees("too small")
    person.resize(80, 24)
    person.sees("RuntimeError: study was told to fail", without="too small")
    person.presses("Escape")
    person.sees("match 'FAILED'")
    person.presses("Escape")
    person.sees("evaluate s-r0")
    person.presses("q")
    person.sees("what was there", PROMPT)
    assert person.state() == SCREEN_OF_SHELL
    assert person.mode() == before


def test_a_person_with_a_mouse_and_a_large_terminal(person: Tmux) -> None:
    person.resize(200, 60)
    person.runs("sor monitor")
    person.sees("small on local", "other", "q quit", without=PROMPT)
    person.clicks(5, 1)
    person.sees("> other", "other on local")
    person.clicks(5, 0)
    person.sees("> small", "small on local")
    person.clicks(5, 0)  # a second click opens it
    shown = person.sees(
        "> failed   prepare small", "RuntimeError: study was told to fail", "study says hello"
    )
    log = next(line for line in shown.splitlines() if "study says hello" in line)
    assert "│" in log  # beside the units
    person.scrolls()
    shown = person.sees("no log yet", "> blocked")
    row = next(number for number, line in enumerate(shown.splitlines()) if "prepare small" in line)
    person.clicks(5, row)
    person.sees("> failed   prepare small", "study says hello")
    person.scrolls(down=False)
    person.sees("this is the first unit of the list")
    person.types("q")
    person.sees(PROMPT)
    assert person.state() == SCREEN_OF_SHELL


def test_a_submit_in_another_terminal_is_seen(tmp_path: Path) -> None:
    file = write_study(tmp_path, {"s": student()})
    (tmp_path / "study.hold").touch()
    with terminal(SOR_RUNS=str(tmp_path / "runs")) as submitter, terminal() as person:
        submitter.runs(f"sor submit {file} --yes")
        wait_for(lambda: runs(tmp_path), "the first job to run")
        person.runs(f"sor monitor {file} --interval 1 --runs {tmp_path / 'runs'}")
        shown = person.sees("being submitted by", "running", "q quit")
        assert "nothing is queued or running" not in shown
        person.presses("u")
        person.sees("is being submitted already, by")
        submitter.presses("C-c")
        submitter.sees("To continue: sor submit", PROMPT)
        person.sees("small on local", without="being submitted by")
        person.presses("q")


def test_left_open_it_tells_of_news_once(person: Tmux, tmp_path: Path) -> None:
    told = tmp_path / "told"
    command = f"SOR_NOTIFY='echo $SOR_MESSAGE >> {told}' sor monitor"
    person.runs(command)
    wait_for(
        lambda: told.exists() and told.read_text(encoding="utf-8").count("failed: code error") == 2,
        "both failures",
    )
    person.presses("q")
    person.sees(PROMPT)
    before = told.read_text(encoding="utf-8")
    person.runs(command)
    person.sees("q quit")
    person.presses("q")
    person.sees(PROMPT)
    assert told.read_text(encoding="utf-8") == before


@pytest.mark.parametrize(("how", "code"), [("C-c", 0), ("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_however_it_ends_the_terminal_is_as_before(person: Tmux, ran: Path, how: str, code: int) -> None:
    before = person.mode()
    person.runs("echo what was there; sor monitor; echo code $?")
    person.sees("q quit")
    assert person.state() == SCREEN_OF_MONITOR
    if how == "C-c":
        person.presses("C-c")
    else:
        os.kill(process(ran), signal.Signals[how])
    person.sees("what was there", f"code {code}", PROMPT)
    assert person.state() == SCREEN_OF_SHELL
    assert person.mode() == before


def test_an_error_while_drawing_is_shown_on_the_shells_screen(person: Tmux, tmp_path: Path) -> None:
    before = person.mode()
    script = tmp_path / "broken.py"
    script.write_text(
        "import launch.cli, launch.monitor.app as app\n"
        "frame = app.frame\n"
        "def broken(screen, *more):\n"
        "    return 1 / 0 if screen.help else frame(screen, *more)\n"
        "app.frame = broken\n"
        "launch.cli.main()\n",
        encoding="utf-8",
    )
    person.runs(f"python {script} monitor")
    person.sees("q quit")
    person.presses("?")
    person.sees("in broken", "ZeroDivisionError", PROMPT)
    assert person.state() == SCREEN_OF_SHELL
    assert person.mode() == before


def test_suspended_and_brought_back(person: Tmux) -> None:
    person.runs("echo what was there; sor monitor")
    person.sees("q quit")
    person.presses("Enter")
    person.sees("Esc back")
    person.presses("C-z")
    person.sees("what was there", "Stopped")
    assert person.state() == SCREEN_OF_SHELL
    person.runs("echo echo is on")
    assert person.sees("\necho is on").count("echo is on") == 2
    person.runs("fg")
    person.sees("Esc back", without=PROMPT)
    assert person.state() == SCREEN_OF_MONITOR
    person.presses("q")
    person.sees("echo is on", PROMPT)


def test_a_log_that_is_a_pipe_holds_up_no_key(person: Tmux, ran: Path) -> None:
    person.runs("sor monitor")
    person.sees("small on local", "1 failed")
    [log] = (ran / "small" / "submissions").glob("*/*_0_log.out")
    kept = log.rename(log.with_suffix(".kept"))
    os.mkfifo(log)  # who opens it to read waits forever
    try:
        person.presses("Enter", "Enter")
        person.sees("no log yet")
        person.presses("?")
        person.sees("press any key to go back")
        person.presses("x", "q")
        person.sees(PROMPT)
        assert person.state() == SCREEN_OF_SHELL
    finally:
        log.unlink()
        kept.rename(log)


def test_without_color(ran: Path) -> None:
    with terminal(SOR_RUNS=str(ran), NO_COLOR="1") as person:
        person.runs("sor monitor")
        person.sees("small on local", "q quit")
        assert not re.search(r"\x1b\[(\d+;)*(3[0-7]|38|9[0-7])[;m]", person.colors)
        person.presses("q")


def test_a_terminal_that_moves_no_cursor(ran: Path) -> None:
    with terminal(SOR_RUNS=str(ran)) as person:
        person.runs(f"TERM=dumb sor monitor {ran.parent}/other/small.yaml")
        person.sees("1 failed, code error: prepare other", PROMPT)
        assert person.state() == SCREEN_OF_SHELL


def test_printed_once(ran: Path) -> None:
    done = sor("monitor", "--once", "--runs", ran)
    assert (done.returncode, done.stderr) == (0, "")
    assert "small on local" in done.stdout
    assert "other on local" in done.stdout
    assert "\x1b" not in done.stdout
    assert sor("monitor", "--runs", ran).stdout.count(" on local") == 2  # there is no terminal


def test_studies_that_cannot_be_opened(ran: Path, tmp_path: Path) -> None:
    none = sor("monitor", "--runs", tmp_path)
    assert none.returncode == 2
    assert none.stderr == (f"sor: {tmp_path}: no study was submitted here: name one, or give --runs DIR\n")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "study.json").write_text('{"name": "old", "former": 1}', encoding="utf-8")
    broken = sor("monitor", "--runs", tmp_path)
    assert broken.returncode == 2
    assert f"skipped {tmp_path / 'old'}: " in broken.stderr
    (tmp_path / "small").symlink_to(ran / "small")
    some = sor("monitor", "--once", "--runs", tmp_path)
    assert some.returncode == 0
    assert "small on local" in some.stdout
    assert f"skipped {tmp_path / 'old'}: " in some.stderr


@pytest.mark.slow
def test_ten_thousand_units(tmp_path: Path) -> None:
    made = large_study(tmp_path)
    with terminal(SOR_RUNS=str(made.runs)) as person:
        person.resize(120, 40)
        person.runs(f"sor monitor {made.study}")
        person.sees(
            "large on local", f"{made.failed} failed, code error", "626/3,333", "1,252/6,666", "q quit"
        )
        person.presses("Enter")
        shown = person.sees("Esc back")
        assert shown.count(State.FAILED) > 30  # problems come first
        person.presses("End")
        person.sees("> done")
        person.types(f"/train {State.FAILED}")
        person.sees(f"{made.failed} of {made.total:,} match")
        person.presses("Enter", "End", "Enter")
        person.sees("shape '[64, 16384]' is invalid", "fix the error in the log")
        person.presses("Escape", "Escape", "s", "s")
        person.sees("sorted by name")
        person.types("/report")
        person.sees(f"1 of {made.total:,} match", State.BLOCKED)
        status = Path(f"/proc/{process(made.runs)}/status").read_text(encoding="utf-8")
        assert int(re.findall(r"VmHWM:\s*(\d+) kB", status)[0]) < 250_000
        person.presses("Escape", "q")
        person.sees(PROMPT)


def test_jobs_that_fail_and_are_cancelled_while_it_is_open(
    slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", str(slurm.conf))
    code = f"{TESTS.parent}:{TESTS}"
    file = write_cluster(tmp_path / "cluster.yaml")
    where = ("--cluster", str(file), "--runs", str(tmp_path / "runs"))
    good, bad = (write_study(tmp_path / name, {"s": student()}, name=name) for name in ("good", "bad"))
    (tmp_path / "good" / "study.hold").touch()
    (tmp_path / "bad" / "study.fail").touch()
    assert sor("submit", good, "--yes", *where, PYTHONPATH=code).returncode == 0
    wait_for(lambda: runs(tmp_path / "good"), "the first job to run")
    with terminal(PYTHONPATH=code, SLURM_CONF=str(slurm.conf)) as person:
        person.runs(f"sor monitor {good} {bad} --interval 1 {' '.join(where)}")
        person.sees("good on cluster", "bad")
        assert sor("submit", bad, "--yes", *where, PYTHONPATH=code).returncode == 0
        person.presses("Tab")
        person.sees("bad on cluster", "told to fail")  # it failed while one watched
        person.presses("BTab", "Enter")
        person.types("/prepare")
        person.sees("1 of", State.RUNNING)
        person.presses("Enter", "c")
        person.sees("Cancel 1 job of 1 unit (prepare good) of good?", "y: yes, n: no")
        person.presses("y")
        person.sees("canceled: prepare good")
        person.sees(State.WAITING)
        person.presses("u")
        person.sees("Submit good: ", "y: yes, n: no")
        person.presses("y")
        wait_for(lambda: len(runs(tmp_path / "good")) == 2, "the job to run again")
        person.sees(State.RUNNING)
        person.presses("q")
        person.sees(PROMPT)
    slurm.run("scancel", "--me")
    wait_for(lambda: slurm.run("squeue", "--noheader") == "", "the queue to be empty", 120)


def test_a_job_that_is_preempted_and_begins_again_while_it_is_open(
    slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", str(slurm.conf))
    code = f"{TESTS.parent}:{TESTS}"
    file = write_cluster(tmp_path / "cluster.yaml", sbatch={"partition": "low", "exclusive": True})
    where = ("--cluster", str(file), "--runs", str(tmp_path / "runs"))
    study = write_study(tmp_path, {"s": student()})
    (tmp_path / "study.hold").touch()
    assert sor("submit", study, "--yes", *where, PYTHONPATH=code).returncode == 0
    wait_for(lambda: runs(tmp_path), "the first job to run")
    waits = slurm.run("squeue", "--noheader", "--states=PENDING", "--format=%i").split()
    slurm.run("scontrol", "hold", ",".join(waits))  # nothing comes after it
    with terminal(PYTHONPATH=code, SLURM_CONF=str(slurm.conf)) as person:
        person.runs(f"sor monitor {study} --interval 1 {' '.join(where)}")
        person.presses("Enter")
        person.types("/prepare")
        person.sees(State.RUNNING, "1 of")
        job, node = slurm.run("squeue", "--noheader", "--states=RUNNING", "--format=%i %N").split()
        preempt(slurm, node)
        person.sees(f"> {State.PREEMPTED}", "was requeued")
        wait_for(lambda: slurm.run("squeue", "--noheader", "--states=RUNNING") == "", "the other job to end")
        slurm.run("scontrol", "update", f"job={job}", "StartTime=now")
        person.sees(f"> {State.RUNNING}")
        wait_for(lambda: len(runs(tmp_path)) == 2, "the job to run again")
        (tmp_path / "study.hold").unlink()
        person.sees(f"> {State.DONE}")
        person.presses("Enter", "Enter")
        person.sees("1.0", "preempted", "1.1", "succeeded")  # both runs, with their ends
        person.presses("Escape", "Escape", "Escape")
        arrays = ",".join(sorted({id.partition("_")[0] for id in waits}, key=int))
        person.sees("9 cannot start: ", f"scontrol release {arrays}")
        assert sor("status", study, *where).returncode == 4
        person.presses("q")
        person.sees(PROMPT)
    slurm.run("scancel", "--me")
    wait_for(lambda: slurm.run("squeue", "--noheader") == "", "the queue to be empty", 120)
