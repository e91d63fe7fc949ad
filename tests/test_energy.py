"""Energy by stage: what a real Slurm tells of nodes with a meter, and what becomes of it in a report."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster, meter
from made_results import benchmark
from small_slurm import by_hand, write_cluster
from small_study import TESTS, publish, sor, unit, wait_for

from jobs.core.unit import Unit
from jobs.store.rundir import StudyDir
from launch.commands.energy import energy
from launch.commands.submit import cancel, submit
from launch.local.backend import Local
from launch.slurm.backend import Slurm
from launch.slurm.client import SlurmClient
from launch.slurm.parse import Consumed, NoAccounting, parse_energy
from launch.slurm.text import SEPARATOR, Table
from launch.state.ledger import Ledger
from launch.state.states import State
from launch.study.plan import plan
from launch.study.schema import load_study

WATTS, KWH = 1000, 3.6e6
HELD = 8.0  # seconds that each job takes at least


@pytest.fixture
def metered(slurm: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster whose nodes have a meter, in use."""
    if why := meter.unavailable():
        pytest.skip(why)
    with Cluster(nodes=1, gpus=0, watts=WATTS) as cluster:
        monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
        monkeypatch.setenv("PYTHONPATH", str(TESTS))
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        yield cluster


def test_slurm_tells_what_all_runs_of_a_stage_used(metered: Cluster, tmp_path: Path) -> None:
    project = by_hand(
        [unit(tmp_path, "a")], write_cluster(tmp_path / "lab.yaml"), StudyDir(tmp_path / "runs" / "small")
    )
    assert energy(project) == {}  # nothing was submitted
    hold = tmp_path / "a.hold"
    for last in (False, True):
        hold.touch()
        assert submit(project, yes=True, only=None) == 0
        wait_for(lambda: project.poll().of(State.RUNNING), "the job to run")
        time.sleep(HELD)
        if last:
            hold.unlink()
        else:
            cancel(project, project.poll(), None)
        wait_for(lambda: not metered.run("squeue", "--noheader"), "the job to end")
    assert project.poll().of(State.DONE)
    other = metered.run("sbatch", "--parsable", "--output=/dev/null", "--wrap=sleep 3")  # of no study
    told = ("sacct", "--noheader", "--parsable2")
    ended = (*told, "--allocations", f"--jobs={other}", "--format=State")
    wait_for(lambda: metered.run(*ended) == "COMPLETED", "the accounts")
    joules = defaultdict[str, list[int]](list)
    for line in metered.run(*told, "--format=JobID,ConsumedEnergyRaw").split():
        job, step, used = re.split(r"[.|]", line) if "." in line else (line, "", "")
        if step and used and job != other:
            joules[job].append(int(used))
    assert len(joules) == 2
    assert all(WATTS * HELD / 2 < max(steps) < WATTS * 60 for steps in joules.values())
    used = sum(map(max, joules.values()))
    assert energy(project) == {"prepare": used}

    study = tmp_path / "runs" / "study" / "small.yaml"
    for made in plan(load_study(str(study)), project.cluster):
        if made.stage != "report":
            publish(project.root, made, made_up(made))
    shown = sor("report", study, "--runs", tmp_path / "runs")
    assert f", {used / KWH:.2g} kWh of its nodes; " in " ".join(shown.stdout.split()), shown


def made_up(unit: Unit) -> dict[str, Any]:
    """What a report reads of a result."""
    if unit.stage == "evaluate":
        scores = [benchmark(task["task"], 0.5) for task in unit.config["group"]["tasks"]]
        return {"student": unit.config["student"], "training": {"flops": 10**18}, "benchmarks": scores}
    return {"prompts": 4, "lengths_in": "characters", "flops": 10**18}


SACCT = """\
7_1¦300¦train-a-1
7_1.batch¦900¦batch
7_1.0¦1000¦bash
7_1.1¦300¦bash
7_1.extern¦1200¦extern
7_1¦¦train-a-1
7_1.batch¦50¦batch
8¦0¦evaluate-a-2
8.batch¦0¦batch
9¦10¦train-b-1
9.batch¦10¦batch
10¦20¦keeper-a-1
10.batch¦20¦batch
"""


class Sent(SlurmClient):
    """A Slurm that tells of runs with several steps, of which one was put back into the queue."""

    def energy(self, since: int) -> Table[Consumed]:
        return parse_energy(SACCT.replace("¦", SEPARATOR))


def test_steps_that_are_measured_at_the_same_time_count_once(tmp_path: Path) -> None:
    root = StudyDir(tmp_path)
    for name in ("train-a-1", "evaluate-a-2", "keeper-a-1"):  # train-b-1 is another study's
        Ledger(root.ledger).intent(name, [])
    project = by_hand([], write_cluster(tmp_path / "lab.yaml"), root)
    assert energy(replace(project, backend=Slurm(Sent()))) == {"train": 1000 + 300}


def test_nobody_knows_without_accounts_or_without_slurm(tmp_path: Path) -> None:
    root = StudyDir(tmp_path)
    Ledger(root.ledger).intent("train-a-1", [])

    class Silent(SlurmClient):
        def energy(self, since: int) -> Table[Consumed]:
            raise NoAccounting("none are kept")

    project = by_hand([], write_cluster(tmp_path / "lab.yaml"), root)
    assert energy(replace(project, backend=Slurm(Silent()))) == {}
    assert energy(replace(project, backend=Local(root))) == {}
