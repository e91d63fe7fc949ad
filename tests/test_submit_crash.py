"""`sor submit` killed anywhere, started twice, facing a controller that hangs: no job twice, none missing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
from cluster import Cluster
from forked_sor import ForkedSor
from small_slurm import Submitter, before, before_sbatch
from small_study import SOR, environment, sor, start, wait_for

from jobs.store import journal
from jobs.store.rundir import StudyDir
from launch.state.ledger import Ledger
from launch.state.lock import STALE
from launch.state.states import State
from launch.submit.code_snapshot import snapshot

T = TypeVar("T")
IN_SBATCH = {  # what sbatch does instead
    "before Slurm is asked": "kill -9 $PPID; exit 1",
    "before Slurm's answer is told": 'answer=$({real} "$@"); kill -9 $PPID; sleep 9; exit 1',
    "while Slurm takes its time": '(sleep 4; exec {real} "$@") > /dev/null 2>&1 & kill -9 $PPID; exit 1',
}


@pytest.fixture(scope="module")
def held(slurm: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Submitter]:
    """Its jobs neither run nor end."""
    with Cluster(nodes=1, gpus=0, accounting=False) as cluster:
        yield Submitter.make(cluster, tmp_path_factory.mktemp("held"), sbatch={"hold": True})


@pytest.fixture(autouse=True)
def _on_the_cluster(held: Submitter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", str(held.cluster.conf))


def at_once(do: Callable[[Submitter, T], object], held: Submitter, points: Sequence[T]) -> None:
    """Do something for each of these, some at a time: many only wait for Slurm."""
    sors = [ForkedSor(**environment()) for _ in points[:8]]
    free = deque(replace(held, run=each) for each in sors)

    def one(point: T) -> None:
        mine = free.pop()
        do(mine, point)
        free.append(mine)

    try:
        with ThreadPoolExecutor(len(sors)) as pool:
            list(pool.map(one, points))
    finally:
        for each in sors:
            each.end()


def kill(held: Submitter, runs: Path, at: int) -> None:
    """Have `sor submit` killed just before its `at`-th change or question."""
    done = held.run(*held.command("submit", runs, "--yes"), at=at)
    assert done.returncode == -signal.SIGKILL, done.stderr


def trace(held: Submitter, runs: Path) -> list[str]:
    """What a `sor submit` that comes to its end changes and asks."""
    one = ForkedSor(**environment())
    done = one(*held.command("submit", runs, "--yes"))
    one.end()
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stderr.splitlines()[-1])
    return found


def with_code(runs: Path) -> Path:
    """A folder for runs that holds the copy of the code already, each file of which would be a point."""
    snapshot(StudyDir(runs / "small"))
    return runs


def test_killed_at_any_point(held: Submitter, tmp_path: Path) -> None:
    whole = trace(held, with_code(tmp_path / "whole"))
    assert sum(line.startswith("sbatch") for line in whole) > 3
    assert len(whole) > 40

    def point(held: Submitter, at: int) -> None:
        runs = with_code(tmp_path / str(at))
        kill(held, runs, at)
        held.check(runs, f"killed before: {whole[at]}")

    # Those first of which the next submit waits to see whether Slurm took something.
    at_once(point, held, sorted(range(len(whole)), key=lambda at: not whole[at].startswith("sbatch")))


def test_killed_while_it_copies_the_code(held: Submitter, tmp_path: Path) -> None:
    whole = trace(held, tmp_path / "whole")
    inside = [at for at, line in enumerate(whole) if "/code/" in line]
    assert len(inside) > 30

    def point(held: Submitter, at: int) -> None:
        kill(held, tmp_path / str(at), at)
        held.check(tmp_path / str(at), f"killed before: {whole[at]}")

    at_once(point, held, (inside[0], inside[len(inside) // 2], inside[-1]))


def test_killed_while_it_mends(held: Submitter, tmp_path: Path) -> None:
    """It finds a dead one's lock, a unit whose job ended badly, and jobs that wait for that in vain."""
    last = len(trace(held, with_code(tmp_path / "first"))) - 1
    [first] = (unit for unit, inputs in held.inputs.items() if not inputs)

    def broken(held: Submitter, runs: Path) -> Path:
        kill(held, with_code(runs), last)
        held.cluster.run("scancel", dict(held.jobs(runs))[first])
        return runs

    at_once(broken, held, [tmp_path / "whole"])
    whole = trace(held, tmp_path / "whole")
    new = next(at for at, line in enumerate(whole) if "/submissions/" in line)
    assert any(line.startswith("scancel") for line in whole[:new])

    def point(held: Submitter, at: int) -> None:
        runs = broken(held, tmp_path / str(at))
        kill(held, runs, at)
        held.check(runs, f"killed before: {whole[at]}")

    at_once(point, held, range(new))


def test_killed_in_sbatch(held: Submitter, tmp_path: Path) -> None:
    def point(held: Submitter, case: tuple[str, str]) -> None:
        when, stage = case
        folder = tmp_path / stage / str(list(IN_SBATCH).index(when))
        path = before_sbatch(folder, stage, IN_SBATCH[when])
        done = sor(*held.command("submit", folder, "--yes"), PATH=path)
        assert done.returncode == -signal.SIGKILL
        held.check(folder, case)
        held.check_again(folder)
        lost = '"lost"' in journal.own(StudyDir(folder / "small").ledger).read_text(encoding="utf-8")
        assert lost == (when == "before Slurm is asked")

    at_once(point, held, [(when, stage) for when in IN_SBATCH for stage in ("prepare", "train")])


def test_two_at_once(held: Submitter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def point(held: Submitter, name: str) -> None:
        two = [start(*held.command("submit", tmp_path / name, "--yes")) for _ in range(2)]
        said = [process.communicate(timeout=120)[0] for process in two]
        codes = [process.returncode for process in two]
        assert 0 in codes
        for code, text, other in zip(codes, said, reversed(two), strict=True):
            if code:
                assert re.search(rf"being submitted by \S+ on \S+ \(process {other.pid}\)", text)
        assert name != "slow" or sorted(codes) == [0, 1]
        held.check(tmp_path / name, name)
        held.check_again(tmp_path / name)

    at_once(point, held, ("1", "2", "3", "4"))
    monkeypatch.setenv("PATH", before_sbatch(tmp_path, "prepare", "sleep 3"))
    point(held, "slow")


def make_old(runs: Path) -> None:
    """Have all that the ledger says be of an hour ago."""
    ledger = journal.own(StudyDir(runs / "small").ledger)
    ledger.write_text(
        re.sub(
            r'"time": (\d+)',
            lambda found: f'"time": {int(found[1]) - 3600}',
            ledger.read_text(encoding="utf-8"),
        ),
        encoding="utf-8",
    )


def test_what_slurm_never_took_can_be_cancelled(held: Submitter, tmp_path: Path) -> None:
    """Else the study could not go on elsewhere."""
    path = before_sbatch(tmp_path, "collate", IN_SBATCH["before Slurm is asked"])
    sor(*held.command("submit", tmp_path, "--yes"), PATH=path)
    first, second, *_ = json.loads(held.sor("status", tmp_path, "--json").stdout)["units"]
    assert (first["state"], first["reason"]) == ("queued", "JobHeldUser")
    assert (second["state"], second["reason"]) == ("queued", "is being submitted")
    make_old(tmp_path)
    assert held.poll(tmp_path).units[1].state == State.WAITING
    done = held.sor("cancel", tmp_path, "--yes")
    assert done.stdout == "canceled: prepare small, collate small\n"
    ended = [seen.attempt.ended for seen in held.poll(tmp_path).units if seen.attempt]
    assert ended == ["cancelled", "cancelled"]


def unread(cluster: Cluster) -> bool:
    """Whether a program waits for the controller to read what it asks."""
    port = int(re.search(r"SlurmctldPort=(\d+)", cluster.conf.read_text(encoding="utf-8"))[1])  # type: ignore[index]
    sockets = (line.split() for line in Path("/proc/net/tcp").read_text(encoding="utf-8").splitlines()[1:])
    established = "01"
    return any(
        s[1].endswith(f":{port:04X}") and s[3] == established and not s[4].endswith(":00000000")
        for s in sockets
    )


def test_a_controller_that_hangs_takes_a_job_whose_sbatch_has_given_up(
    held: Submitter, tmp_path: Path
) -> None:
    """It takes it when it goes on, often after it has answered a question that came later."""
    processes, runs = held.cluster.processes, tmp_path / "runs"
    hang = f"kill -STOP {(held.cluster.scratch / 'pids' / 'slurmctld').read_text(encoding='utf-8')}"
    done = held.sor("submit", runs, "--yes", PATH=before_sbatch(tmp_path, "train", hang))
    try:
        assert (done.returncode, "Traceback" in done.stderr) == (1, False)
        assert re.search(r"sor: 'sbatch' .*slurmctld.*Try again", done.stderr)
        make_old(runs)  # it hung for an hour
        again = start(*held.command("submit", runs, "--yes"))
        wait_for(lambda: unread(held.cluster), "squeue to ask")
    finally:
        processes.send("slurmctld", signal.SIGCONT)
    said = again.communicate(timeout=120)[0]
    assert again.returncode == 0, said
    held.check(runs)


BANNER = "printf '\\n-----\\n  Welcome to cluster 3\\n--> Verifying valid submit host (login1)...OK\\n'"
WRAPPED = {  # what a site's sbatch does
    "a banner before": BANNER,
    "no --parsable": '[ "$1" = --parsable ] && shift',
}


@pytest.mark.parametrize("name", WRAPPED)
def test_whatever_sbatch_says_besides_each_job_is_submitted_once(
    held: Submitter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("PATH", before("sbatch", tmp_path / "bin", WRAPPED[name]))
    held.check(tmp_path)
    held.check_again(tmp_path)
    done = held.sor("cancel", tmp_path, "--yes")
    assert (done.returncode, held.jobs(tmp_path)) == (0, [])


def test_jobs_whose_ids_a_banner_took_the_place_of_are_found_and_cancelled(
    held: Submitter, tmp_path: Path
) -> None:
    held.check(tmp_path)
    ledger = journal.own(StudyDir(tmp_path / "small").ledger)
    text = ledger.read_text(encoding="utf-8")
    ledger.write_text(re.sub(r'"job": "\d+"', '"job": "\\\\n-----\\\\n  Welcome"', text), encoding="utf-8")
    held.check(tmp_path)
    held.check_again(tmp_path)
    assert len(held.sor("cancel", tmp_path, "--yes").stdout.split(",")) == len(held.inputs)
    assert held.jobs(tmp_path) == []


def test_all_lines_of_a_refusal_are_shown_and_kept(held: Submitter, tmp_path: Path) -> None:
    explained = "--> no project given: use --account=PROJECT, yours are p_alpha and p_beta"
    lines = (f"error: {explained}", "error: Batch job submission failed: Unspecified error")
    says = "".join(f'echo "sbatch: {line}" >&2; ' for line in lines)
    says = f"echo '--> Verifying access to queue (normal)...FAILED'; {says} exit 1"
    done = held.sor("submit", tmp_path, "--yes", PATH=before_sbatch(tmp_path / "bin", "collate", says))
    assert done.returncode == 1
    shown = [line for line in done.stderr.splitlines() if line.startswith("sor: ")]
    assert shown[:-1] == [
        "sor: Slurm refused a submission:",
        f"sor:   {explained}",
        "sor:   --> Verifying access to queue (normal)...FAILED",
    ]
    collate = held.poll(tmp_path).units[1]
    assert collate.attempt
    assert (collate.state, collate.attempt.ended) == (State.WAITING, "refused")
    assert explained in str(collate.attempt.reason)
    held.check(tmp_path)


def submitting(held: Submitter, runs: Path, path: str) -> subprocess.Popen[str]:
    """A `sor submit` that goes on meanwhile."""
    return subprocess.Popen(
        [SOR, *held.command("submit", runs, "--yes")], env=environment(PATH=path), encoding="utf-8",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def stopped(process: subprocess.Popen[str]) -> bool:
    """Whether a process was stopped; not so, it runs or has ended."""
    stat = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8")
    return stat.rpartition(")")[2].split()[0] == "T"


def test_a_submit_that_slept_is_overtaken_and_submits_nothing_more(held: Submitter, tmp_path: Path) -> None:
    """It sleeps while sbatch hands its second array over, for longer than its lock counts."""
    runs = tmp_path / "runs"
    slept = submitting(held, runs, before_sbatch(tmp_path, "collate", "kill -STOP $PPID"))
    lock = StudyDir(runs / "small").lock
    try:
        wait_for(lambda: stopped(slept), "it to sleep")
        owner = json.loads(lock.read_text(encoding="utf-8"))
        lock.write_text(json.dumps({**owner, "host": "a host of its own"}), encoding="utf-8")
        os.utime(lock, (time.time() - STALE - 1,) * 2)
        held.check(runs, "overtaken")
        jobs, ledger = held.jobs(runs), journal.own(StudyDir(runs / "small").ledger).read_bytes()
    finally:
        slept.send_signal(signal.SIGCONT)
    said, _ = slept.communicate(timeout=60)
    assert slept.returncode == 1, said
    assert "this process submits nothing more" in said
    assert (held.jobs(runs), journal.own(StudyDir(runs / "small").ledger).read_bytes()) == (jobs, ledger)
    held.check_again(runs)


def test_cancel_stops_a_submit_under_way(held: Submitter, tmp_path: Path) -> None:
    """Also of what Slurm takes after the other one has looked."""
    runs, go = tmp_path / "runs", tmp_path / "go"
    wait = f"touch {tmp_path}/asked; until [ -e {go} ]; do sleep 0.1; done"
    process = submitting(held, runs, before_sbatch(tmp_path / "wait", "prepare", wait))
    wait_for((tmp_path / "asked").exists, "sbatch to be asked")
    done = held.sor("cancel", runs, "--yes")
    assert (done.returncode, done.stdout) == (0, "canceled: prepare small\n"), done.stderr
    go.touch()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1, said
    assert "this process submits nothing more" in said
    assert held.jobs(runs) == []
    (attempt,) = Ledger(StudyDir(runs / "small").ledger).attempts().values()
    assert attempt.ended == "cancelled"
    held.check(runs, "after cancel")
