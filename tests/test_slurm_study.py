"""A demo study, submitted once, runs to its report through Slurm alone, students trained on two nodes.

The shipped demo with fewer prompts and students, the shipped file for any Slurm, a cluster without accounts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from cluster import Cluster
from small_study import sor, wait_for

from jobs.store import journal
from jobs.store.rundir import StudyDir, read_json
from jobs.store.schema import ATTEMPT
from launch.study.presets import CONFIGS

pytestmark = [pytest.mark.slow, pytest.mark.slurm]
LONGEST = 900.0  # seconds that the study may take on a busy machine


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(nodes=2, cpus=2, gpus=0, accounting=False) as cluster:
        yield cluster


def write_demo(folder: Path) -> Path:
    """The demo with one size of student, which trains on 2 nodes with 2 tasks each."""
    demo = yaml.safe_load((CONFIGS / "studies" / "demo.yaml").read_text(encoding="utf-8"))
    student = yaml.safe_load((CONFIGS / "models" / "toy-s.yaml").read_text(encoding="utf-8"))
    student["training"] |= {"nodes": 2, "tasks_per_node": 2, "zero": 2, "micro_batch": 1}
    (folder / "toy-s.yaml").write_text(yaml.safe_dump(student), encoding="utf-8")
    demo["prepare"]["args"] |= {"items": 20, "prompts": {1: 100, 2: 300, 5: 300}}
    demo["prompts"]["count"] = 400
    demo |= {"students": ["toy-s.yaml"], "mixtures": {"shares": [0, 1]}}
    demo["training"] |= {"batch": 4, "epochs": 1}
    file = folder / "demo.yaml"
    file.write_text(yaml.safe_dump(demo), encoding="utf-8")
    return file


def test_submitted_once_it_runs_to_the_report(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
    study, root = write_demo(tmp_path), StudyDir(tmp_path / "runs" / "demo")
    runs = ("--runs", tmp_path / "runs")
    done = sor("submit", study, "--cluster", "generic", "--yes", *runs)
    assert done.returncode == 0, done.stderr
    assert len(list(root.submission("").iterdir())) == 7  # an array a stage
    again = sor("submit", study, "--yes", *runs)
    assert "0 done, 9 queued or running" in again.stdout
    assert len(list(root.submission("").iterdir())) == 7

    wait_for(lambda: cluster.run("squeue", "--noheader") == "", "the queue to be empty", LONGEST)
    status = json.loads(sor("status", study, "--json", *runs).stdout)
    problems = [(u["name"], u["reason"]) for u in status["units"] if u["state"] != "done"]
    assert not problems, sor("logs", study, "--failed", *runs).stdout
    for folder in root.published("train"):
        ends = journal.read(folder.attempts, ATTEMPT)
        assert sorted((e["rank"], e["error"]) for e in ends) == [(rank, None) for rank in range(4)]
        assert read_json(folder.out / "provenance.json")["code"]["snapshot"] in {
            p.name for p in root.code.iterdir()
        }
    shown = sor("report", study, *runs)
    assert shown.returncode == 0
    assert re.search(r"^report: .+html$", shown.stdout, re.MULTILINE)
    last = sor("submit", study, "--yes", *runs)
    assert last.stdout.splitlines()[-1] == "nothing to do"
