"""Templates and the scripts made from them: complete, quoted, without secrets, and what a real Slurm runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster as SlurmCluster
from small_study import wait_for
from test_clusters import SHIPPED, write

from jobs.core.unit import Resources
from launch.study import templates
from launch.study.cluster import Cluster, load_cluster
from launch.study.plan import plan
from launch.study.presets import StudyError
from launch.study.schema import load_study
from launch.study.shell_options import ACCOUNT
from launch.study.templates import FOLDER, placeholders, render
from launch.submit.script import sbatch_script

TEMPLATES = sorted(p.stem for p in FOLDER.glob("*.sh"))
SRUN = re.compile(
    r"^srun --unbuffered --output=\{\{log\}\} (?:.*\\\n)*.* -u -m \{\{module\}\} \{\{submission\}\}\n\Z", re.M
)
NASTY = ["a b", "it's", 'a "b"', "$HOME `id` $(id)", "a\\b", "*", "ä #x", "", "--x", "a;b&c|d>e", "{{code}}"]


def script(cluster: Cluster, run: Path, needs: Resources | None = None, **changes: Any) -> str:
    """A script for a submission in the run directory `run`."""
    given = {
        "folder": run / "submissions" / "study-train-1", "study": run,
        "code": run / "code" / "0123456789ab", "array": "0-3%2", "dependency": None,
    }  # fmt: skip
    return sbatch_script(cluster, changes.pop("stage", "train"), needs or Resources(), **{**given, **changes})


def header(text: str) -> dict[str, str]:
    lines = re.findall(r"^#SBATCH --(.*?)(?:=(.*))?$", text, re.MULTILINE)
    assert len(lines) == len(dict(lines))
    return dict(lines)


# Templates


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_shipped_template_is_good_shell_and_ends_with_srun(name: str, tmp_path: Path) -> None:
    text = (FOLDER / f"{name}.sh").read_text(encoding="utf-8")
    assert SRUN.search(text), text
    assert {"code", "log", "module", "submission"} <= placeholders(name).keys()
    assert '--cpus-per-task="$SLURM_CPUS_PER_TASK"' in text  # srun does not take the job's over since 22.05
    rendered = render(name, dict.fromkeys(placeholders(name), "it's a `value`"))
    assert "{{" not in rendered
    assert subprocess.run(["bash", "-n"], input=rendered, encoding="utf-8").returncode == 0


@pytest.fixture
def template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Write a template of one's own; returns its name."""

    def write_template(text: str) -> str:
        (tmp_path / "own.sh").write_text(text, encoding="utf-8")
        return "own"

    monkeypatch.setattr(templates, "FOLDER", tmp_path)
    return write_template


def test_every_value_reaches_the_program_as_it_is(template: Callable[[str], str]) -> None:
    name = template("printf '%s\\0' {{one}} --x={{ one }} {{list}} {{none}} end\n")
    for value in NASTY:
        text = render(name, {"one": value, "list": [value, *NASTY], "none": []})
        said = subprocess.run(["bash", "-c", text], capture_output=True, encoding="utf-8", check=True).stdout
        assert said.split("\0")[:-1] == [value, f"--x={value}", value, *NASTY, "end"]


def test_a_placeholder_without_a_value_is_named_with_its_place(template: Callable[[str], str]) -> None:
    name = template("true\necho {{image}} {{code}}\n# {{a-b}} {{image}}\n")
    with pytest.raises(StudyError) as error:
        render(name, {"code": "x", "imag": "y"})
    first, second = str(error.value).splitlines()
    assert re.search(
        r"own\.sh:2:6: \{\{image\}\} has no value: .*'slurm.variables'; known are code, imag$", first
    )
    assert "own.sh:3:3: {{a-b}} has no value" in second
    with pytest.raises(StudyError, match=r"other\.sh: no such template; there are own$"):
        render("other", {})


# Scripts


def test_the_script_of_a_submission(tmp_path: Path) -> None:
    needs = Resources(nodes=2, tasks_per_node=4, gpus_per_node=4, cpus_per_task=8, hours=1.501)
    text = script(load_cluster("generic"), tmp_path, needs, dependency="afterok:12:13")
    folder = tmp_path / "submissions" / "study-train-1"
    assert text.startswith("#!/bin/bash\n")
    assert header(text) == {
        "array": "0-3%2", "job-name": "study-train-1", "time": "91", "nodes": "2", "ntasks-per-node": "4",
        "cpus-per-task": "8", "gpus-per-node": "4", "dependency": "afterok:12:13", "open-mode": "append",
        "output": f"{folder}/%A_%a_0_log.out", "signal": "USR2@90", "requeue": "",
    }  # fmt: skip
    run = f"{sys.executable} -u -m jobs.runtime.array_task {folder}\n"
    for part in (f"--output={folder}/%A_%a_%t_log.out", run,
                 f"PYTHONPATH={tmp_path}/code/0123456789ab:", "export SUBMITIT_EXECUTOR=slurm"):  # fmt: skip
        assert part in text
    assert "{{" not in text
    assert "submitit" not in text.replace("SUBMITIT", "")


def test_a_unit_without_gpus_asks_for_none(tmp_path: Path) -> None:
    text = script(load_cluster("generic"), tmp_path)
    assert not {"gpus-per-node", "gres", "dependency", "error"} & header(text).keys()


def test_options_and_variables_of_the_cluster(tmp_path: Path) -> None:
    cluster = load_cluster(
        write(
            tmp_path, sbatch={"partition": "gpu", "exclusive": True, "comment": "it's mine"},
            stages={"evaluate": {"partition": "small", "exclusive": False}},
            gpu_option="gres=gpu:a100:{gpus}", template="modules",
            variables={"modules": ["cuda/12.4", "odd name"]},
        )
    )  # fmt: skip
    text = script(cluster, tmp_path, Resources(gpus_per_node=2))
    found = header(text)
    assert (found["partition"], found["exclusive"], found["gres"]) == ("gpu", "", "gpu:a100:2")
    assert found["comment"] == "'it'\"'\"'s mine'"
    assert "module load cuda/12.4 'odd name'" in text
    found = header(script(cluster, tmp_path, stage="evaluate"))
    assert (found["partition"], "exclusive" in found) == ("small", False)


def test_a_script_can_be_made_where_there_is_no_slurm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = script(load_cluster("generic"), tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert script(load_cluster("generic"), tmp_path) == here
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [n for n in SHIPPED if n != "local"])
def test_every_shipped_cluster_has_a_script_for_every_unit(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SBATCH_ACCOUNT", raising=False)
    without = load_cluster(name)
    if ACCOUNT in str(without.slurm):
        with pytest.raises(
            StudyError, match=rf"{name}\.yaml: slurm\.sbatch\.account: .*export SBATCH_ACCOUNT=…"
        ):
            script(without, tmp_path, Resources(gpus_per_node=1))
    monkeypatch.setenv("SBATCH_ACCOUNT", "our-project")
    cluster = load_cluster(name)
    for unit in plan(load_study("scale-or-reason"), cluster):
        found = header(script(cluster, tmp_path, unit.resources, stage=unit.stage))
        assert found["account"].startswith("our-project")
        assert int(found["time"]) <= 60 * cluster.max_hours
        if gpus := unit.resources.gpus_per_node:
            assert all(str(gpus) in found[option.partition("=")[0]] for option in cluster.slurm.gpu_option)


@pytest.mark.parametrize("name", ["50%", "a\\b", "a\nb", "a:b", "a,b", "a\tb"])
def test_a_run_directory_that_slurm_cannot_write_to_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(
        StudyError, match=r"cannot work in a folder with .* in its name: give --runs another one"
    ):
        script(load_cluster("generic"), tmp_path / name)


def test_no_secret_gets_into_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOR_SECRETS", str(tmp_path / "secrets"))
    (tmp_path / "secrets").touch(mode=0o600)
    (tmp_path / "secrets").write_text("HF_TOKEN=hf_of_the_file\n", encoding="utf-8")
    monkeypatch.setenv("WANDB_API_KEY", "wandb_of_the_environment")
    names = ["HF_TOKEN", "WANDB_API_KEY"]
    text = script(load_cluster(write(tmp_path, secrets=names)), tmp_path)
    assert not [word for word in ("hf_of", "wandb_of") if word in text]
    assert "export SOR_SECRET_NAMES='HF_TOKEN WANDB_API_KEY'" in text.splitlines()
    assert "SOR_SECRET_NAMES" not in script(load_cluster("generic"), tmp_path)
    shown = {"export": "ALL,HF_TOKEN=hf_of_the_file", "comment": "wandb_of_the_environment"}
    with pytest.raises(
        StudyError, match="the script would contain the value of HF_TOKEN, WANDB_API_KEY"
    ) as error:
        script(load_cluster(write(tmp_path, secrets=names, sbatch=shown)), tmp_path)
    assert "_of_the_" not in str(error.value)


# On a real Slurm

ELEMENT = """\
import os, sys
print("rank", os.environ["SLURM_PROCID"], "of", os.environ["SLURM_NTASKS"], "on", os.environ["SLURM_NODEID"])
print(__file__, *sys.argv[1:], sep="|")
print(len(os.environ["CUDA_VISIBLE_DEVICES"].split(",")), "GPUs")
"""


def test_a_real_slurm_accepts_the_script_of_the_generic_cluster(slurm: SlurmCluster, tmp_path: Path) -> None:
    cluster = load_cluster("generic")
    for study in ("demo", "scale-or-reason"):
        units = plan(load_study(study), cluster)
        fits = {
            u.stage: u
            for u in units
            if (r := u.resources).cpus_per_task * r.tasks_per_node <= 8 and r.memory <= 32_000
        }
        for unit in fits.values():
            (tmp_path / "submit.sh").write_text(
                script(cluster, tmp_path, unit.resources, stage=unit.stage), encoding="utf-8"
            )
            slurm.run("sbatch", "--test-only", str(tmp_path / "submit.sh"))
        assert {"collate", "evaluate"} <= fits.keys()


def test_a_real_slurm_runs_it_on_every_rank_from_the_snapshot(
    slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / """it's a "run"  #1 $HOME""" / "study"
    for place, text in ((run / "code" / "0123456789ab", ELEMENT), (tmp_path, "raise SystemExit('decoy')")):
        runtime = place / "jobs" / "runtime"
        runtime.mkdir(parents=True)
        (place / "jobs" / "__init__.py").touch()
        (runtime / "__init__.py").touch()
        (runtime / "array_task.py").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)  # as people submit from the checkout, which has such a package, too
    needs = Resources(nodes=2, tasks_per_node=2, gpus_per_node=2, cpus_per_task=2)
    jobs = {}
    exports = ["ALL", "NONE"]  # what a cluster may ask for
    ours, usual = shutil.which("srun"), shutil.which("srun", path=os.defpath)
    if not usual or not os.path.samefile(str(ours), usual):
        exports.remove("NONE")  # of another version of Slurm, a job without our PATH would not find srun
    for export in exports:
        folder = run / "submissions" / f"export {export}"
        folder.mkdir(parents=True)
        cluster = load_cluster(write(tmp_path, sbatch={"export": export}))
        (folder / "submit.sh").write_text(
            script(cluster, run, needs, folder=folder, array="7"), encoding="utf-8"
        )
        jobs[slurm.run("sbatch", "--parsable", str(folder / "submit.sh"))] = folder
    states = ("sacct", "--noheader", "--parsable2", "--format=JobID,State")
    for id, folder in jobs.items():
        step = f"{id}_7.0|COMPLETED"
        wait_for(lambda id=id, step=step: step in slurm.run(*states, f"--jobs={id}").split(), step)
        logs = [folder / f"{id}_7_{rank}_log.out" for rank in range(4)]
        for rank, log in enumerate(logs):
            assert log.read_text(encoding="utf-8").splitlines() == [
                f"rank {rank} of 4 on {rank // 2}",
                f"{run}/code/0123456789ab/jobs/runtime/array_task.py|{folder}",
                "2 GPUs",
            ]
        assert sorted(folder.iterdir()) == sorted([*logs, folder / "submit.sh"])
