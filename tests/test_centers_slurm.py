"""A whole study runs on clusters with the habits of centers, with the profiles that are shipped for them.

The clusters are real Slurms of tests/cluster; no center takes part. Of a profile only what this machine lacks
is replaced: folders, the network's interface, and the programs of containers and modules, which here run
their command at once. Two centers are tried each time, all with `make test-centers` (two minutes each).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster import Cluster, centers
from small_study import sor, wait_for

from jobs.store.rundir import StudyDir
from launch.study.presets import CONFIGS

pytestmark = [pytest.mark.slow, pytest.mark.slurm]
CHOSEN = os.environ.get("CENTERS", "perlmutter vista").split()
LONGEST = 900.0  # seconds that a study may take on a busy machine

# Stands for singularity and apptainer: runs the command without a container.
WITHOUT = """#!/bin/bash
while [ $# -gt 0 ]; do
  case "$1" in *.sif) shift; exec "$@" ;; esac
  shift
done
exit 9
"""
# Stands for an srun with the options that start containers, which it leaves out.
SRUN = """#!/bin/bash
for word in "$@"; do
  case "$word" in --uenv=* | --view=* | --environment=* | --container-*) ;; *) words+=("$word") ;; esac
done
exec %s "${words[@]}"
"""
MODULE = '() { echo "module $*"; }'


# What centers refuse, in their own words: the first has no default partition and allows none to be named, the
# second prints its reasons on standard output, and has no GRES.
REFUSED: dict[str, list[tuple[dict[str, Any], str]]] = {
    "perlmutter": [
        ({"sbatch": {"partition": "gpu_ss11"}}, "Explicit partitions are not supported"),
        ({"sbatch": {"qos": "regular"}}, "No architecture specified, cannot estimate job costs"),
    ],
    "vista": [({"gpu_option": "gres=gpu:{gpus}"}, "Invalid generic resource (gres) specification")],
}


def profile(name: str, folder: Path, **changes: Any) -> Path:
    """A shipped profile with what this machine lacks replaced."""
    data = yaml.safe_load((CONFIGS / "clusters" / f"{name}.yaml").read_text(encoding="utf-8"))
    slurm: dict[str, Any] = data["slurm"] | changes
    data["slurm"] = slurm
    if "sbatch" in changes:
        slurm["when"] = []
    if "network" in slurm:
        slurm["network"] = "lo"
    slurm.get("environment", {}).pop("NCCL_SOCKET_IFNAME", None)
    variables = slurm.get("variables", {})
    if "binds" in variables:
        variables |= {"image": str(folder / "image.sif"), "binds": str(folder)}
    if slurm.get("template") in ("apptainer", "pyxis", "edf"):
        variables["interpreter"] = sys.executable
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    return file


def programs(folder: Path, real_srun: str) -> Path:
    bin = folder / "bin"
    bin.mkdir()
    for name, text in (("singularity", WITHOUT), ("apptainer", WITHOUT), ("srun", SRUN % real_srun)):
        (bin / name).write_text(text, encoding="utf-8")
        (bin / name).chmod(0o755)
    return bin


def write_study(folder: Path) -> Path:
    """The demo in small, with GPUs for its teacher, its student (two) and its evaluations."""
    study = yaml.safe_load((CONFIGS / "studies" / "demo.yaml").read_text(encoding="utf-8"))
    models = {
        name: yaml.safe_load((CONFIGS / "models" / f"{name}.yaml").read_text(encoding="utf-8"))
        for name in ("toy-s", "toy-teacher")
    }
    models["toy-s"]["training"] |= {"gpus_per_node": 2, "micro_batch": 1}
    for name, model in models.items():
        model["serving"] = {"engine": "transformers", "gpus": 1}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(model), encoding="utf-8")
    study["prepare"]["args"] |= {"items": 8, "prompts": {1: 40, 2: 60}}
    study["prompts"]["count"] = 100
    study |= {"teacher": "toy-teacher.yaml", "students": ["toy-s.yaml"], "mixtures": {"shares": [0.5]}}
    study["training"] |= {"batch": 4, "epochs": 1}
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(study), encoding="utf-8")
    return file


def test_the_centers_that_have_profiles_have_habits() -> None:
    shipped = {file.stem for file in (CONFIGS / "clusters").glob("*.yaml")}
    assert shipped - {"local", "generic"} == set(centers.CENTERS)
    assert set(CHOSEN) <= set(centers.CENTERS)


@pytest.mark.parametrize("name", CHOSEN)
def test_a_study_runs_with_the_shipped_profile(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Cluster(like=name) as cluster:
        real = cluster.environment
        srun = shutil.which("srun", path=real["PATH"])
        assert srun
        bin = programs(tmp_path, srun)
        for key, value in {**real, "PATH": f"{bin}:{real['PATH']}", "BASH_FUNC_module%%": MODULE}.items():
            monkeypatch.setenv(key, value)
        if account := centers.of(name).account:
            monkeypatch.setenv("SBATCH_ACCOUNT", account)
        study, root = write_study(tmp_path), StudyDir(tmp_path / "runs" / "tiny")
        runs = ("--runs", tmp_path / "runs")
        for changes, words in REFUSED.get(name, []):
            wrong = profile(name, tmp_path, **changes)
            refused = sor("submit", study, "--cluster", wrong, "--yes", *runs)
            assert refused.returncode == 2, refused.stdout
            assert "this cluster refuses such a job and says: " in refused.stderr
            assert words in refused.stderr
            assert cluster.run("squeue", "--noheader") == ""
        done = sor("submit", study, "--cluster", profile(name, tmp_path), "--yes", *runs)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        assert "!" not in done.stdout, done.stdout

        wait_for(lambda: cluster.run("squeue", "--noheader") == "", "the queue to be empty", LONGEST)
        status = json.loads(sor("status", study, "--json", *runs).stdout)
        problems = [(u["stage"], u["name"], u["reason"]) for u in status["units"] if u["state"] != "done"]
        assert not problems, sor("logs", study, "--failed", *runs).stdout
        assert {u["attempts"] for u in status["units"]} == {1}
        assert len(list(root.published("train"))) == 1
        assert sor("report", study, *runs).returncode == 0
        again = sor("submit", study, "--yes", *runs)
        assert (again.stdout.splitlines()[-1], again.stderr) == ("nothing to do", "")
