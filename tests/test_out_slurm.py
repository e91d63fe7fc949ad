"""Scripts written by --out and submitted by hand, and the logs of jobs, on a real Slurm."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster import Cluster
from small_study import TESTS, runs, sor, unit, wait_for, write_study

from jobs.core.unit import Unit
from jobs.store import journal
from jobs.store.rundir import StudyDir, read_json
from jobs.store.schema import ATTEMPT
from launch.commands import logs
from launch.commands.submit import preview, submit
from launch.slurm.backend import Slurm
from launch.slurm.client import SlurmClient
from launch.state.states import State
from launch.study.cluster import load_cluster
from launch.study.presets import CONFIGS
from launch.study.schema import load_study
from launch.study_run import Project

CODE = f"{TESTS.parent}:{TESTS}"
TOKEN = "hf_a-value-that-nobody-may-see"


@pytest.fixture(autouse=True)
def _on_the_cluster(slurm: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All Slurm's programs talk to the cluster, which a test that fails leaves without jobs, too."""
    monkeypatch.setenv("SLURM_CONF", str(slurm.conf))
    monkeypatch.setenv("PYTHONPATH", CODE)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    slurm.run("scancel", "--me")
    wait_until_empty(slurm)


def project(folder: Path, runs: Path, units: list[Unit]) -> Project:
    """The study `small` with light units instead of its own."""
    study, root = load_study(str(write_study(folder / "study"))), StudyDir(runs / "small")
    return Project(study, load_cluster("generic"), root, units, Slurm(SlurmClient()))


def by_hand(out: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Submit what --out wrote, from somewhere else."""
    others = {"SBATCH_TIMELIMIT": "1", "SLURM_JOB_ID": "1"}  # the shell's own, which are not for these jobs
    return subprocess.run(
        ["bash", out / "submit_all.sh"], cwd="/", env={**os.environ, **others, **more}, capture_output=True,
        encoding="utf-8",
    )  # fmt: skip


def wait_until_empty(slurm: Cluster) -> None:
    wait_for(lambda: slurm.run("squeue", "--noheader") == "", "the queue to be empty", 120)


def tree(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def in_queue(slurm: Cluster, ids: list[str]) -> list[str]:
    """What jobs ask for and wait for, each array by its place in the list."""
    said = slurm.run(
        "squeue", "--noheader", "--array", f"--jobs={','.join(ids)}", "--format=%F %K %P %l %C %D %b %E"
    )
    for place, id in enumerate(ids):
        said = re.sub(rf"(^|:){id}(?=[ _(])", rf"\1<{place}>", said, flags=re.MULTILINE)
    return sorted(said.splitlines())


def handed_over(folder: Path, root: Path) -> tuple[list[str], str]:
    """A submission's script and elements, with nothing in them that tells two submissions apart."""
    script = (folder / "submit.sh").read_text(encoding="utf-8")
    for own, common in ((str(folder), "FOLDER"), (folder.name, "NAME"), (str(root), "ROOT")):
        script = script.replace(own, common)
    apart = ("#SBATCH --dependency", "#SBATCH --job-name")
    lines = [line for line in script.splitlines() if not line.startswith(apart)]
    elements = (folder / "elements.jsonl").read_text(encoding="utf-8").replace(str(root), "ROOT")
    return lines, elements.replace('"attempt": 0', '"attempt": 1')  # by hand it takes a number when it starts


def test_submitted_by_hand_it_is_what_sor_submit_does(
    slurm: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a1, a2, a3 = first = [unit(tmp_path, f"a{i}") for i in (1, 2, 3)]
    b1, b2 = unit(tmp_path, "b1", a1), unit(tmp_path, "b2", a2)
    units = [*first, b1, b2, unit(tmp_path, "c", a1, a3), unit(tmp_path, "d", b1, b2, tasks_per_node=2)]
    for name in ("a1", "a2", "a3"):
        (tmp_path / f"{name}.hold").touch()
    told, written = (project(tmp_path, tmp_path / name, units) for name in ("my runs", "by hand"))
    before, out = tree(tmp_path), tmp_path / "my scripts" / "new"
    assert preview(written, None, out) == 0
    assert str(out / "submit_all.sh") in capsys.readouterr().out
    assert all(f.is_relative_to(out) or f.is_relative_to(written.root.code) for f in tree(tmp_path) - before)

    assert submit(told, yes=True, only=None) == 0
    jobs = {
        j.id.partition("_")[0]: j.submission for a in told.ledger.attempts().values() for j in a.jobs if j.id
    }
    folders = [told.root.submission(name) for _, name in sorted(jobs.items(), key=lambda job: int(job[0]))]
    by_number = sorted(folder for folder in out.iterdir() if folder.is_dir())
    roots = told.root.path, written.root.path
    assert [handed_over(f, roots[0]) for f in folders] == [handed_over(f, roots[1]) for f in by_number]

    done = by_hand(out)
    assert done.returncode == 0, done.stderr
    ids = re.findall(r"^prepare, \d jobs: (\d+)$", done.stdout, re.MULTILINE)
    assert len(ids) == len(folders) == len(by_number)
    waiting = in_queue(slurm, ids)
    assert waiting == in_queue(slurm, sorted(jobs, key=int))
    for what in ("aftercorr:<0>", "afterok:<0>_0(unfulfilled),afterok:<0>_2(", "afterok:<1>"):
        assert any(what in line for line in waiting), what
    for name in ("a1", "a2", "a3"):
        (tmp_path / f"{name}.hold").unlink()
    wait_until_empty(slurm)

    for study in (told, written):
        assert [(s.unit.name, s.state) for s in study.poll().units] == [(u.name, State.DONE) for u in units]
    assert not journal.files(written.root.ledger)
    for u in units:
        one, two = told.root.unit(u), written.root.unit(u)
        assert read_json(one.result) == read_json(two.result)
        ends = [
            sorted((e["attempt"], e["rank"], e["error"]) for e in journal.read(d.attempts, ATTEMPT))
            for d in (one, two)
        ]
        assert ends[0] == ends[1] == [(1, rank, None) for rank in range(u.resources.world_size)]
        assert len(runs(tmp_path, u.name)) == 2 * u.resources.world_size


def test_scripts_that_were_written_where_no_slurm_is_run_where_one_is(
    slurm: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    a = unit(tmp_path, "a")
    written, out = project(tmp_path, tmp_path / "runs", [a, unit(tmp_path, "b", a)]), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setenv("SLURM_CONF", str(tmp_path / "none"))
        assert preview(written, None, out) == 0
        said = capsys.readouterr().out
        assert said.startswith("no Slurm on this machine: the scripts assume arrays of up to 1000 elements")
        patch.setenv("PATH", str(tmp_path))
        assert preview(written, None, tmp_path / "not even installed") == 0
        assert "no Slurm on this machine" in capsys.readouterr().out
    assert preview(written, None, tmp_path / "with") == 0
    assert "no Slurm on this machine" not in capsys.readouterr().out
    with_and_without = [
        [handed_over(f, written.root.path) for f in sorted(tmp_path.glob(f"{name}/0*"))]
        for name in ("out", "with")
    ]
    assert with_and_without[0] == with_and_without[1]
    done = by_hand(out)
    assert done.returncode == 0, done.stderr
    wait_until_empty(slurm)
    assert [s.state for s in written.poll().units] == [State.DONE] * 2


def test_from_the_command_line_to_the_disk_without_a_secret(slurm: Cluster, tmp_path: Path) -> None:
    study = write_study(tmp_path / "study")
    cluster = yaml.safe_load((CONFIGS / "clusters" / "generic.yaml").read_text(encoding="utf-8"))
    (tmp_path / "mine.yaml").write_text(
        yaml.safe_dump(cluster | {"slurm": {"secrets": ["MY_TOKEN"]}}), encoding="utf-8"
    )
    where = ("--cluster", tmp_path / "mine.yaml", "--runs", tmp_path / "runs")
    write = ("submit", study, *where, "--only", "prepare", "--dry-run", "--out", tmp_path / "out")
    more: dict[str, Any] = {"PYTHONPATH": CODE, "MY_TOKEN": TOKEN}
    done = sor(*write, **more)
    assert done.returncode == 0, done.stderr
    assert "1 scripts; run this one to submit all in order:" in done.stdout
    files = [*tree(tmp_path / "out"), *tree(tmp_path / "runs")]
    assert {"submit.sh", "elements.jsonl", "submit_all.sh", "snapshot.json"} <= {file.name for file in files}
    assert not [file for file in files if TOKEN.encode() in file.read_bytes()]
    assert TOKEN not in done.stdout

    again = sor(*write, **more)
    assert again.returncode == 2
    assert "not empty: name an empty" in again.stderr
    [script] = (tmp_path / "out").glob("*/submit.sh")
    text = script.read_text(encoding="utf-8")
    script.write_text(text.replace("#SBATCH", "#SBATCH --partition=none\n#SBATCH", 1), encoding="utf-8")
    refused = by_hand(tmp_path / "out", **more)
    assert refused.returncode != 0
    assert "invalid partition" in refused.stderr
    assert refused.stdout == ""  # it stopped there
    script.write_text(text, encoding="utf-8")
    ignored = {"SBATCH_PARTITION": "none"}  # what the script says, it says for good
    assert by_hand(tmp_path / "out", **more, **ignored).returncode == 0
    wait_until_empty(slurm)
    assert not [file for file in tree(tmp_path) if TOKEN.encode() in file.read_bytes()]
    status = json.loads(sor("status", study, "--json", *where, **more).stdout)
    assert [(u["stage"], u["attempts"]) for u in status["units"] if u["state"] == "done"] == [("prepare", 1)]


def again(slurm: Cluster, script: Path) -> str:
    """Submit a script as a person does; returns the array's id."""
    return slurm.run("sbatch", "--parsable", str(script))


def test_what_is_submitted_by_hand_is_seen_fixed_and_made_again(
    slurm: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = unit(tmp_path, "a")
    b, other = unit(tmp_path, "b", a), unit(tmp_path, "o", tasks_per_node=2)
    ours = project(tmp_path, tmp_path / "runs", [a, other, b])

    def seen() -> dict[str, tuple[State, int]]:
        return {s.unit.name: (s.state, s.attempt.number if s.attempt else 0) for s in ours.poll().units}

    def attempts(name: str) -> list[int]:
        [its] = [u for u in ours.units if u.name == name]
        return [line["attempt"] for line in journal.read(ours.root.unit(its).attempts, ATTEMPT)]

    for name in ("a.fail", "o.hold"):
        (tmp_path / name).touch()
    assert preview(ours, None, tmp_path / "out") == 0
    assert by_hand(tmp_path / "out").returncode == 0
    wait_for(lambda: seen()["o"] == (State.RUNNING, 1) and seen()["a"] == (State.FAILED, 1), "what happens")
    assert ours.poll().units[0].reason == "RuntimeError: a was told to fail"
    [waits] = slurm.run("squeue", "--noheader", "--states=PENDING", "--format=%F").splitlines()
    slurm.run("scancel", waits)

    # Fixed, and the same script once more: a new attempt, though the first had ended for good.
    first, _, second = sorted(tmp_path.glob("out/*/submit.sh"))
    (tmp_path / "a.fail").unlink()
    (tmp_path / "o.hold").unlink()
    wait_until_empty(slurm)
    again(slurm, first)
    wait_for(lambda: seen()["a"] == (State.DONE, 2), "it to be fixed")
    wait_for(lambda: attempts("a") == [1, 2], "its end to be recorded, after its result")
    assert seen()["o"] == (State.DONE, 1)
    assert attempts("o") == [1, 1]  # both ranks; the second time there was nothing to do
    capsys.readouterr()
    assert logs.print_logs(ours.poll().units[0], ours, follow=False) == 0
    assert "a says goodbye" in capsys.readouterr().out

    # Of a result that is made again the readers are made again, too.
    wait_until_empty(slurm)
    again(slurm, second)
    wait_for(lambda: seen()["b"] == (State.DONE, 1), "the reader")
    wait_until_empty(slurm)
    shutil.rmtree(ours.root.unit(a).out)
    (tmp_path / "a.hold").touch()
    again(slurm, first)
    wait_for(lambda: seen()["a"] == (State.RUNNING, 3), "the third attempt")
    assert seen()["b"] == (State.WAITING, 1)
    assert (ours.root.unit(b).superseded(1) / "out" / "result.json").is_file()
    assert submit(ours, yes=True, only=None) == 0  # it leaves what runs to its job
    assert seen()["a"] == (State.RUNNING, 3)
    (tmp_path / "a.hold").unlink()
    wait_for(lambda: seen() == {"a": (State.DONE, 3), "b": (State.DONE, 2), "o": (State.DONE, 1)}, "all")
    wait_for(lambda: attempts("b") == [1, 2], "the reader's end to be recorded")


def test_out_where_it_makes_no_sense(tmp_path: Path) -> None:
    study, runs = write_study(tmp_path / "study"), ("--runs", tmp_path / "runs")
    here = sor("submit", study, *runs, "--dry-run", "--out", tmp_path / "out", PYTHONPATH=CODE)
    assert here.returncode == 2
    assert (
        here.stderr == "sor: --out writes scripts for Slurm: name a cluster, for example --cluster generic\n"
    )
    really = sor("submit", study, *runs, "--yes", "--out", tmp_path / "out", PYTHONPATH=CODE)
    assert really.returncode == 2
    assert "needs --dry-run" in really.stderr
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "runs").exists()


def test_waited_for_until_it_failed_and_its_log(slurm: Cluster, tmp_path: Path) -> None:
    def waited() -> str:
        done = sor("submit", *where, "--yes", "--only", "prepare", PYTHONPATH=CODE)
        assert done.returncode == 0, done.stderr
        done = sor("status", *where, "--wait", "--interval", "1", PYTHONPATH=CODE)
        assert done.returncode == 4, done.stderr  # as what comes after it waits to be submitted, too
        return done.stdout

    study = write_study(tmp_path / "study")
    where = (study, "--cluster", "generic", "--runs", tmp_path / "runs")
    fail = tmp_path / "study" / "study.fail"
    fail.touch()
    assert "failed: prepare small: RuntimeError: study was told to fail" in waited()
    assert slurm.run("squeue", "--noheader") == ""

    failed = sor("logs", *where, "--failed", PYTHONPATH=CODE)
    assert failed.returncode == 0
    assert re.search(
        r"\A==> prepare small: RuntimeError: study was told to fail\n"
        r"--> \S+/submissions/prepare-small-\w+/\d+_0_0_log\.out\n(.*\n)*study says hello\n"
        r"(.*\n)*Traceback .*\n(.*\n)*RuntimeError: study was told to fail\n",
        failed.stdout,
    )
    fail.unlink()
    assert "failed:" not in waited()
    assert sor("logs", *where, "--failed", PYTHONPATH=CODE).stdout == "no unit has failed\n"
    printed = sor("logs", *where, "prepare/small", PYTHONPATH=CODE).stdout
    assert "study says goodbye" in printed
    assert "Traceback" not in printed  # of the last attempt alone
    none = sor("logs", *where, "collate/small", "--follow", PYTHONPATH=CODE)
    assert none.returncode == 1
    assert none.stderr == "no log yet: collate small is waiting\n"


def test_the_logs_of_two_ranks_are_followed_to_their_end(
    slurm: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "SLURM_PAUSE", 1.0)
    both = project(tmp_path, tmp_path / "runs", [unit(tmp_path, "pair", tasks_per_node=2)])
    (tmp_path / "pair.hold").touch()
    assert submit(both, yes=True, only=None) == 0
    wait_for(lambda: len(runs(tmp_path, "pair")) == 2, "both ranks")
    capsys.readouterr()
    code, [seen] = list[int](), both.poll().units
    follower = threading.Thread(target=lambda: code.append(logs.print_logs(seen, both, follow=True)))
    follower.start()
    shown = ""

    def hellos() -> bool:
        nonlocal shown
        shown += capsys.readouterr().out
        return shown.count("pair says hello") == 2

    wait_for(hellos, "what both ranks said first")
    assert "goodbye" not in shown
    assert follower.is_alive()
    (tmp_path / "pair.hold").unlink()
    follower.join(60)
    assert code == [0]
    shown += capsys.readouterr().out
    assert shown.count("pair says goodbye") == 2
    assert {name[-9:] for name in re.findall(r"^==> (.*) <==$", shown, re.MULTILINE)} == {
        "0_log.out",
        "1_log.out",
    }
    wait_until_empty(slurm)
