"""The habits of the test cluster: what each set claims is what plain sbatch meets there."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml
from cluster import Cluster, centers, config
from golden_scripts import golden_study
from small_study import sor, wait_for

from jobs.core.unit import STAGES
from launch.slurm.answers import would
from launch.study.presets import CONFIGS
from launch.submit.throttles import LATER

UNSPECIFIED = "sbatch: error: Batch job submission failed: Unspecified error"


@pytest.fixture(scope="module")
def started(slurm: Cluster) -> Iterator[dict[str, Cluster]]:
    """All centers, with their accounts in one database. They start at once: most of a start is waiting."""
    assert slurm  # there is one to be had
    with Cluster(like="lumi") as first, ThreadPoolExecutor(4) as pool:
        others = {n: Cluster(like=n, beside=first) for n in centers.CENTERS if n != first.shape.like}
        try:
            starts = [pool.submit(cluster.start) for cluster in others.values()]
            wait(starts)
            for start in starts:
                start.result()
            yield {first.shape.like: first, **others}
        finally:
            list(pool.map(Cluster.stop, others.values()))


@pytest.fixture
def center(started: dict[str, Cluster], request: pytest.FixtureRequest) -> Cluster:
    """The center that the test names."""
    return started[request.param]


def at(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("center", [name], indirect=True)


def written(center: Cluster, profile: str | Path, folder: Path, **shell: str) -> CompletedProcess[str]:
    """What `sor` says of a study with all stages; its scripts are in the folder `out`."""
    study = golden_study(folder / "study", {"one": (1, 1), "two": (1, 2)})
    environment: dict[str, Any] = {**center.environment, "SBATCH_ACCOUNT": center.habits.account, **shell}
    options = ("--cluster", profile, "--runs", folder / "runs", "--dry-run", "--out", folder / "out")
    return sor("submit", study, *options, **environment)


def changed(name: str, folder: Path, **slurm: Any) -> Path:
    """A profile with other settings of `slurm`, and no others by what jobs request."""
    data = yaml.safe_load((CONFIGS / "clusters" / f"{name}.yaml").read_text(encoding="utf-8"))
    data["slurm"] |= {"when": [], **slurm}
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    return file


@pytest.mark.parametrize("center", list(centers.CENTERS), indirect=True)
def test_a_center_accepts_what_its_profile_submits(center: Cluster, tmp_path: Path) -> None:
    done = written(center, center.shape.like, tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert LATER not in done.stdout
    scripts = sorted((tmp_path / "out").glob("*/submit.sh"))
    assert {script.parent.name.partition("-")[2] for script in scripts} == set(STAGES)
    for script in scripts:
        asked = subprocess.run(
            ["sbatch", "--test-only", script], env=center.environment, capture_output=True, encoding="utf-8",
            check=False,
        )  # fmt: skip
        assert would(asked.stderr + asked.stdout).partition, script.read_text(encoding="utf-8")


@at("jean-zay")
def test_a_constraint_alone_leads_to_the_partition(center: Cluster, tmp_path: Path) -> None:
    """Jobs were held against the default partition, which has no GPUs."""
    options = {"account": "abc@h100", "constraint": "h100", "qos": "qos_gpu_h100-t3"}
    cpu = {"partition": "prepost", "constraint": False}
    stages = dict.fromkeys(("prepare", "collate", "tokenize", "report"), cpu)
    done = written(center, changed("jean-zay", tmp_path, sbatch=options, stages=stages), tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    script = next((tmp_path / "out").glob("*-train/submit.sh")).read_text(encoding="utf-8")
    assert "--partition" not in script


@at("alliance")
def test_an_account_that_the_site_renames_is_taken_without_a_warning(center: Cluster, tmp_path: Path) -> None:
    plain = changed("alliance", tmp_path, sbatch={"account": "{account}"})
    done = written(center, plain, tmp_path, SBATCH_ACCOUNT="def-prof")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    script = next((tmp_path / "out").glob("*-train/submit.sh")).read_text(encoding="utf-8")
    assert "#SBATCH --account=def-prof\n" in script


@at("vista")
def test_a_partitions_own_qos_limits_what_is_submitted(center: Cluster, tmp_path: Path) -> None:
    done = written(center, "vista", tmp_path, SBATCH_PARTITION="gh-dev")
    assert done.returncode == 0, done.stderr
    assert f"QOS vista_gh-dev has room for 3 more of your jobs: {LATER}" in " ".join(done.stdout.split())


def sbatch(cluster: Cluster, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What comes of a job that does nothing."""
    return subprocess.run(
        ["sbatch", "--output=/dev/null", "--time=60", *options, "--wrap=true"],
        env={**cluster.environment, **environment}, capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip


def refusal(cluster: Cluster, *options: str, **environment: str) -> str:
    done = sbatch(cluster, *options, **environment)
    assert done.returncode == 1, done.stdout
    return done.stderr


def accepted(cluster: Cluster, *options: str, **environment: str) -> str:
    """The id of a job that is accepted."""
    done = sbatch(cluster, "--parsable", *options, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


def job(cluster: Cluster, *options: str, show: str = "%P %a %q", **environment: str) -> str:
    """What squeue says of a job that is accepted: partition, account and QOS. The job is canceled again."""
    id = accepted(cluster, "--hold", *options, **environment)
    seen = cluster.run("squeue", "--noheader", f"--jobs={id}", f"--format={show}")
    cluster.run("scancel", id)
    return seen


def runs(cluster: Cluster, *options: str, **environment: str) -> None:
    """Have a job run to its end."""
    id = accepted(cluster, *options, **environment)
    wait_for(lambda: "JobState=COMPLETED" in cluster.run("scontrol", "show", "job", id), "the job to end")


def rows(cluster: Cluster) -> list[str]:
    """Account, partition, running and submitted jobs that the user may have."""
    who = (f"Cluster={cluster.shape.name}", f"User={config.user()}")
    format = "format=Account,Partition,MaxJobs,MaxSubmit"
    said = cluster.run("sacctmgr", "--noheader", "--parsable2", "show", "assoc", *who, format)
    return [row for row in said.splitlines() if not row.startswith("root|")]


@at("lumi")
def test_lumi(center: Cluster) -> None:
    account = f"--account={center.habits.account}"
    assert "Project not specified" in refusal(center, "--partition=small")
    assert "Partition not specified" in refusal(center, account)
    assert "project_465000001|standard-g|200|210" in rows(center)
    assert "project_465000001|dev-g|1|2" in rows(center)
    assert not any("||" in row for row in rows(center))
    assert job(center, account, "--partition=standard-g") == "standard-g project_465000001 normal"
    two = [sbatch(center, account, "--hold", "--partition=debug", "--time=5").returncode for _ in range(2)]
    assert two == [0, 0]
    assert "AssocMaxSubmitJobLimit" in refusal(center, account, "--partition=debug", "--time=5")
    assert job(center, account, "--partition=small", show="%P %m") == "small 1000M"
    assert job(center, account, "--partition=small-g", "--gpus-per-node=8", show="%m") == "64G"
    runs(center, account, "--partition=small-g", "--gpus-per-node=2")


@at("jean-zay")
def test_jean_zay(center: Cluster) -> None:
    h100 = {"SBATCH_ACCOUNT": center.habits.account}
    assert "use --account" in refusal(center)
    said = refusal(center, **h100)
    assert "account abc@h100 has no hours in partition cpu_p1" in said
    assert said.endswith(UNSPECIFIED + "\n")
    assert job(center, "--constraint=h100", "--gres=gpu:4", **h100) == "gpu_p6 abc@h100 qos_gpu_h100-t3"
    assert job(center, "--partition=gpu_p6", "--gres=gpu:4", **h100).startswith("gpu_p6 ")
    assert job(center, "--partition=prepost", **h100).startswith("prepost ")
    assert job(center, "--account=abc@cpu") == "cpu_p1 abc@cpu qos_cpu-t3"
    assert "has no hours" in refusal(center, "--gres=gpu:1", **h100)
    assert "QOSMaxWallDurationPerJobLimit" in refusal(center, "--constraint=h100", "--time=30:00:00", **h100)
    assert job(center, "--constraint=h100", "--time=30:00:00", "--qos=qos_gpu_h100-t4", **h100)
    runs(center, "--constraint=h100", "--gres=gpu:4", "--hint=nomultithread", **h100)


@at("leonardo")
def test_leonardo(center: Cluster) -> None:
    account = "--account=EUHPC_D12_345"
    assert rows(center) == ["euhpc_d12_345|||1000"]
    assert job(center, account) == "lrd_all_serial euhpc_d12_345 normal"
    assert "node configuration is not available" in refusal(center, account, "--gres=gpu:1")
    assert "Memory required" in refusal(center, account, "--mem=40G")
    long = (account, "--partition=boost_usr_prod", "--time=48:00:00")
    assert "time limit" in refusal(center, *long)
    assert job(center, *long, "--qos=boost_qos_lprod").endswith("boost_qos_lprod")
    runs(center, account, "--partition=boost_usr_prod", "--gres=gpu:4")


@at("perlmutter")
def test_perlmutter(center: Cluster) -> None:
    gpu = ("--account=m1234", "--constraint=gpu")
    assert "No architecture specified" in refusal(center, "--account=m1234")
    assert "Explicit partitions" in refusal(center, *gpu, "--partition=gpu_ss11")
    assert "does not match any supported policy" in refusal(center, *gpu, "--qos=gpu_regular")
    assert job(center, *gpu, "--qos=regular", "--gpus-per-node=4") == "gpu_ss11 m1234_g gpu_regular"
    assert job(center, *gpu, "--qos=shared", "--gpus-per-node=2") == "shared_gpu_ss11 m1234_g gpu_shared"
    assert "1 or 2 GPUs" in refusal(center, *gpu, "--qos=shared", "--gpus-per-node=3")
    assert "remove --mem" in refusal(center, *gpu, "--qos=shared", "--gpus-per-node=1", "--mem=9G")
    assert job(center, "--constraint=cpu", "--account=m1234", "--qos=regular") == "cpu_ss11 m1234 cpu_regular"
    assert "without _g" in refusal(center, "--constraint=cpu", "--account=m1234_g")
    assert "in partition shared_gpu_ss11" in sbatch(
        center, "--test-only", *gpu, "--qos=shared", "--gpus-per-node=1"
    ).stderr  # fmt: skip
    runs(center, *gpu, "--qos=regular", "--gpus-per-node=4")


@at("roihu")
def test_roihu(center: Cluster) -> None:
    account = f"--account={center.habits.account}"
    assert "project_2001234|gputest|1|2" in rows(center)
    medium = (account, "--partition=gpumedium")
    assert "for jobs with GPUs" in refusal(center, *medium)
    assert "remove --mem" in refusal(center, *medium, "--gres=gpu:gh200:1", "--mem=9G")
    assert "remove --mem" in refusal(center, *medium, "--gres=gpu:gh200:1", "--mem-per-gpu=9G")
    assert "Invalid account" in refusal(center, account, "--partition=gpularge", "--gres=gpu:gh200:4")
    assert job(center, account, "--partition=small", "--mem=9G").startswith("small ")
    runs(center, *medium, "--gres=gpu:gh200:1")


@at("marenostrum5")
def test_marenostrum5(center: Cluster) -> None:
    account = f"--account={center.habits.account}"
    assert "No QoS specified" in refusal(center, account)
    assert "No account specified" in refusal(center, "--qos=acc_ehpc")
    assert "remove --mem" in refusal(center, account, "--qos=acc_ehpc", "--mem=9G")
    assert job(center, account, "--qos=acc_ehpc", "--gres=gpu:4") == "acc ehpc123 acc_ehpc"
    assert job(center, account, "--qos=gp_ehpc") == "gpp ehpc123 gp_ehpc"
    runs(center, account, "--qos=acc_ehpc", "--gres=gpu:1")


@at("vista")
def test_vista(center: Cluster, tmp_path: Path) -> None:
    def said(*options: str) -> str:
        """What sbatch prints about a job that it refuses, all of it on stdout."""
        done = sbatch(center, *options)
        assert (done.returncode, done.stderr) == (1, "")
        return done.stdout

    whole = ("--account=ASC24001", "--partition=gh", "--nodes=1")
    done = sbatch(center, *whole, "--parsable", "--hold")
    assert "Welcome to the Vista Supercomputer" in done.stdout
    assert done.stdout.splitlines()[-1].isdigit()
    assert len(done.stdout.splitlines()) > 10
    assert "Invalid generic resource (gres) specification" in said(*whole, "--gres=gpu:1")
    assert "Invalid generic resource (gres) specification" in said(*whole, "--gpus-per-task=1")
    assert "--mem is not supported" in said(*whole, "--mem=9G")
    assert 'total node count with the "-N" option' in said("--account=ASC24001", "--partition=gh")
    assert center.run("sinfo", "--noheader", "--partition=gh", "--format=%G") == "(null)"
    dev = ("--account=ASC24001", "--partition=gh-dev", "--nodes=1")
    assert [sbatch(center, "--hold", *dev).returncode for _ in range(3)] == [0, 0, 0]
    assert "QOSMaxSubmitJobPerUserLimit" in said(*dev)
    inner = f"#!/bin/bash\nsbatch --output=/dev/null --time=5 {' '.join(whole)} --wrap=true > {tmp_path}/said"
    (tmp_path / "job").write_text(inner, encoding="utf-8")
    center.run("sbatch", "--output=/dev/null", "--time=5", *whole, str(tmp_path / "job"))
    refused = "[TACC]: Job submission is not allowed from this host"
    wait_for(
        lambda: (tmp_path / "said").exists() and refused in (tmp_path / "said").read_text(encoding="utf-8"),
        "a refusal",
    )


@at("snellius")
def test_snellius(center: Cluster) -> None:
    gpu = ("--partition=gpu_h100", "--gpus-per-node=1")
    done = sbatch(center, "--parsable", *gpu)
    assert done.stdout.strip().isdigit()
    assert "You will be charged for 16 CPU cores and 1 GPUs." in done.stderr
    assert "CPUs/Task=16" in center.run("scontrol", "show", "job", done.stdout.strip())
    assert "for jobs with GPUs" in refusal(center, "--partition=gpu_h100")
    assert rows(center) == ["tes12345|||30"]


@at("mila")
def test_mila(center: Cluster) -> None:
    unkillable = ("--partition=unkillable", "--gres=gpu:1")
    assert job(center).startswith("long ")
    assert [sbatch(center, "--hold", *unkillable).returncode for _ in range(2)] == [0, 0]
    assert "QOSMaxSubmitJobPerUserLimit" in refusal(center, *unkillable)
    assert "Invalid job array specification" in refusal(center, "--array=1-1001")


@at("alliance")
def test_alliance(center: Cluster) -> None:
    account = "--account=def-prof"
    assert job(center, account, "--gpus-per-node=h100:1") == "gpubase_bygpu_b1 def-prof_gpu normal"
    assert job(center, account, "--gres=gpu:1", "--time=20:00:00").startswith("gpubase_bygpu_b3 ")
    assert job(center, account) == "cpubase_bycore_b1 def-prof_cpu normal"
    assert job(center, account, show="%m") == "256M"
    assert job(center, "--account=def-prof_gpu", "--gres=gpu:1").startswith("gpubase_bygpu_b1 ")
    assert "Do not specify a partition" in refusal(center, account, "--partition=gpubase_bygpu_b1")
    assert "not permitted" in refusal(center, account, "--chdir=/home")
    runs(center, account, "--gres=gpu:1")


@at("isambard-ai")
def test_isambard_ai(center: Cluster) -> None:
    assert job(center) == "workq brics.u5x normal"
    assert "time limit" in refusal(center, "--time=25:00:00")
    runs(center, "--gpus-per-node=4")


@at("alps-clariden")
def test_alps_clariden(center: Cluster) -> None:
    account = f"--account={center.habits.account}"
    assert "use --account" in refusal(center)
    assert "--mem=0 is not allowed" in refusal(center, account, "--mem=0")
    assert "time limit" in refusal(center, account, "--time=13:00:00")
    runs(center, account, "--gpus-per-node=4")


def test_a_center_that_has_no_habits_is_refused() -> None:
    with pytest.raises(ValueError, match="no habits of 'nowhere': there are jean-zay, leonardo, "):
        Cluster(like="nowhere")
