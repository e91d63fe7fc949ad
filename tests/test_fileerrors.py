"""Folders that cannot be read, written or even be there: one line each, with the option that gets one out."""

from __future__ import annotations

import errno
import json
import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from small_study import environment, write_study

from launch.fileerrors import explained

# Root may do everything; without these capabilities it is a user like others who owns its files.
DROPPED = "-dac_override,-dac_read_search"
AS_A_USER = ["setpriv", f"--bounding-set={DROPPED}", f"--inh-caps={DROPPED}"] if os.geteuid() == 0 else []
COMMANDS = [
    ["plan"],
    ["plan", "--json"],
    ["submit", "--yes"],
    ["submit", "--dry-run"],
    ["status"],
    ["status", "--json"],
    ["monitor", "--once"],
    ["logs", "--failed"],
    ["cancel"],
    ["report"],
]
IMPOSSIBLE = {  # kinds of --runs: what is said
    "file": "part of this path is a file, not a folder",
    "loop": "circular symbolic links",
    "long": "the name is too long for this file system",
    "closed": "permission denied",
    "closed study": "permission denied",
}


# Runs commands one after the other in one process, which saves starting Python for each.
DRIVER = """
import contextlib, io, json, sys
from launch.cli import answer
for words in json.load(sys.stdin):
    out, err, code = io.StringIO(), io.StringIO(), None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            answer(words)
        except SystemExit as end:
            code = end.code
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""


class Answer(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def sor(*calls: list[str | Path]) -> list[Answer]:
    """What the program answers to each of several calls."""
    done = subprocess.run(
        [*AS_A_USER, sys.executable, "-c", DRIVER], env=environment(), stdout=subprocess.PIPE, timeout=120,
        input=json.dumps([list(map(str, words)) for words in calls]), encoding="utf-8", check=True,
    )  # fmt: skip
    return [Answer(*json.loads(line)) for line in done.stdout.splitlines()]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_study(tmp_path / "study")


def make(kind: str, folder: Path) -> Path:
    """Something of a kind that cannot be a folder for runs."""
    runs = folder / "runs"
    if kind == "file":
        runs.write_text("", encoding="utf-8")
    elif kind == "loop":
        runs.symlink_to("runs")
    elif kind == "long":
        runs = folder / ("x" * 300)
    elif kind == "closed":
        runs.mkdir()
        runs.chmod(0)
    else:
        (runs / "small").mkdir(parents=True)
        (runs / "small").chmod(0)
    return runs


def test_runs_where_none_can_be(study: Path, tmp_path: Path) -> None:
    made = {}
    for kind in IMPOSSIBLE:
        (tmp_path / kind).mkdir()
        made[kind] = make(kind, tmp_path / kind)
    asked: list[tuple[str, list[str | Path]]] = [
        (kind, [verb, study, *options, "--runs", made[kind]])
        for kind in IMPOSSIBLE
        for verb, *options in COMMANDS
    ]
    for (kind, call), done in zip(asked, sor(*[call for _, call in asked]), strict=True):
        assert (done.returncode, done.stdout) == (2, ""), (call, done.stderr)
        [line] = done.stderr.splitlines()
        assert line.startswith(f"sor: {made[kind]}")
        assert IMPOSSIBLE[kind] in line
        assert "--runs DIR" in line
        assert ("--out DIR" in line) == (call[0] == "report")


def test_all_studies_of_a_closed_folder(tmp_path: Path) -> None:
    runs = make("closed", tmp_path)
    [done] = sor(["monitor", "--once", "--runs", runs])
    assert done.returncode == 2
    assert done.stderr.startswith(f"sor: {runs}: permission denied")


def test_a_folder_that_can_only_be_read(study: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir(mode=0o555)
    calls: list[list[str | Path]] = [
        [verb, study, *options, "--runs", runs] for verb, *options in (["plan"], ["status"], ["submit", "-y"])
    ]
    plan, status, submit = sor(*calls)
    assert (plan.returncode, plan.stderr) == (0, "")
    assert (status.returncode, status.stderr) == (4, "")
    assert submit.returncode == 2
    assert submit.stderr.splitlines()[-1] == (
        f"sor: {runs}/small: permission denied. Choose another folder for run directories with --runs DIR or "
        "SOR_RUNS"
    )
    assert list(runs.iterdir()) == []


@pytest.mark.optional
def test_a_folder_of_somebody_else(study: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving a folder to somebody else needs root")
    other = pwd.getpwnam("nobody")
    runs = tmp_path / "runs"
    runs.mkdir(mode=0o700)
    os.chown(runs, other.pw_uid, other.pw_gid)
    [done] = sor(["status", study, "--runs", runs])
    assert done.returncode == 2
    assert f"permission denied ({runs} belongs to nobody)" in done.stderr


def test_a_report_of_a_folder_that_can_only_be_read(tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    rows = "student,benchmark,accuracy\na,x,0.5\nb,x,0.6\n"
    (results / "results.csv").write_text(rows, encoding="utf-8")
    results.chmod(0o555)
    within, beside, on_a_file = sor(
        ["report", results],
        ["report", results, "--out", tmp_path / "elsewhere"],
        ["report", results, "--out", results / "results.csv"],
    )
    assert within.returncode == 2
    [line] = [line for line in within.stderr.splitlines() if "permission denied" in line.lower()]
    assert line.startswith(f"sor: {results}/report")
    assert "with --out DIR" in line
    assert beside.returncode == 0, beside.stderr
    assert (tmp_path / "elsewhere" / "report.html").is_file()
    assert on_a_file.returncode == 2
    assert "--out DIR" in on_a_file.stderr


def test_every_error_is_one_line() -> None:
    for number in errno.errorcode:
        for more in ((), ("/no/such",), ("/no/such", None, b"/no/other")):
            words, code = explained(OSError(number, os.strerror(number), *more), ["plan", "demo"])
            assert len(words.splitlines()) == 1
            assert code in (1, 2)
            assert ("/no/such" in words) == bool(more)
    assert explained(OSError(errno.EROFS, "", "x"), ["report", "x"])[0] == (
        "x: the file system is read-only. Write the report elsewhere with --out DIR, or choose another "
        "folder for run directories with --runs DIR or SOR_RUNS"
    )
    assert explained(OSError("something"), []) == ("something", 1)
