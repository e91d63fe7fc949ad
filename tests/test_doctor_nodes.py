"""What `sor doctor` finds in Slurm's tables and file systems before any job: architecture, memory, files."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
from cluster import Cluster, config
from small_slurm import before, write_cluster

from jobs.core.unit import STAGES, Resources, Unit
from jobs.runtime import node_check
from jobs.runtime.node_check import few_files
from launch.commands import doctor
from launch.commands.doctor_cluster import of_cluster
from launch.commands.doctor_nodes import memory_refused, of_nodes, other_architectures, small_memory
from launch.slurm.client import SlurmClient
from launch.slurm.hardware import DefaultMemory, Node, parse_default_memory, parse_each_node
from launch.study.cluster import load_cluster


def test_a_file_system_or_quota_with_room_for_few_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert few_files(Path("/proc")) is None  # which has no number of files
    free = os.statvfs(tmp_path).f_favail
    monkeypatch.setattr(node_check, "MINIMUM_FILES", free // 2)
    assert few_files(tmp_path) is None
    assert [found.verdict for found in doctor._folder(tmp_path)] == ["ok", "ok"]
    monkeypatch.setattr(node_check, "MINIMUM_FILES", 2 * free)
    said = few_files(tmp_path)
    number = re.fullmatch(r"there is room for only ([\d,]+) more files", str(said))
    assert number
    assert abs(int(number[1].replace(",", "")) - free) < free / 2  # others make files meanwhile
    _, _, few = doctor._folder(tmp_path)
    assert few.verdict == "warning"
    assert few.text.startswith(f"{tmp_path}: there is room for only ")
    cache = node_check._room(tmp_path / "hub", offline=False)
    assert cache.verdict == "warning"
    assert cache.text.endswith("more files: set HF_HOME to a folder elsewhere, or remove files")


# On a real Slurm


JOBS = [Unit(stage, "jobs", {}, resources=Resources(hours=0.1, memory=1024)) for stage in STAGES]


def found(file: Path) -> list[tuple[str, str]]:
    cluster = load_cluster(str(file))
    return [(each.verdict, each.text) for each in of_nodes(cluster, JOBS, SlurmClient(), file.parent)]


def test_jobs_that_request_no_memory_where_they_get_little(
    slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", str(slurm.conf))
    assert found(write_cluster(tmp_path / "asks.yaml")) == []
    assert found(write_cluster(tmp_path / "cores.yaml", memory="cores", core_memory=1)) == []
    [(verdict, text)] = found(write_cluster(tmp_path / "off.yaml", memory="off"))
    assert verdict == "warning"
    assert text == (
        f"partition main: a job that requests no memory gets only {config.DEFAULT} MiB for each core, of "
        f"{config.MEMORY}, and the cluster file has these stages request none: {', '.join(STAGES)}. Set "
        "'memory: mem' (or mem-per-cpu, mem-per-gpu) under 'slurm'"
    )
    some = write_cluster(
        tmp_path / "some.yaml", memory="off", sbatch={"partition": "low,high"},
        stages={stage: {"mem": "2G"} for stage in STAGES if stage != "tokenize"},
    )  # fmt: skip
    assert [text.split(":")[0] for _, text in found(some)] == ["partition low", "partition high"]
    assert all("request none: tokenize. Set" in text for _, text in found(some))


def test_nodes_of_another_architecture(
    slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", str(slurm.conf))
    nodes = SlurmClient().each_node().rows
    here = os.uname().machine
    assert [(node.name, node.architecture) for node in nodes] == [("n1", here), ("n2", here)]
    assert {"main", "low"} <= set(nodes[0].partitions)
    assert list(other_architectures({"main": nodes}, "plain", here)) == []
    [other] = other_architectures({"main": nodes}, "plain", "aarch65")
    assert other.verdict == "problem"
    assert other.text.startswith(f"partition main: its nodes are {here}, this machine is aarch65. The templ")
    assert "submit from there (srun --partition=main --pty bash)" in other.text
    mixed = [*nodes, nodes[0]._replace(architecture="aarch65"), nodes[0]._replace(architecture=None)]
    [some] = other_architectures({"main": mixed}, "plain", here)
    assert some.verdict == "warning"
    assert f"its nodes are aarch65 and {here}, and jobs need {here}" in some.text
    assert list(other_architectures({"main": mixed}, "plain", here, {"main"})) == []


FORBIDDEN = """
for word; do [ -f "$word" ] && grep -q '^#SBATCH --mem' "$word" && refuse=yes; done
if [ -z "$refuse" ] && [ ! -t 0 ]; then
  script=$(cat)
  grep -q '^#SBATCH --mem' <<< "$script" && refuse=yes
fi
[ "$refuse" ] && echo "--> ERROR: nodes are exclusive; do not request memory" && exit 1
[ "$script" ] && exec {real} "$@" <<< "$script"
"""


def test_a_site_that_forbids_to_request_memory(
    slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", str(slurm.conf))
    monkeypatch.setenv("PATH", before("sbatch", tmp_path / "bin", FORBIDDEN))
    cluster = load_cluster(str(write_cluster(tmp_path / "asks.yaml")))
    said = [each for each in of_cluster(cluster, tmp_path, print) if each.verdict == "problem"]
    assert said[0].text.endswith("do not request memory")
    assert re.fullmatch(
        r"the same job without --mem=\d+M is accepted: set 'memory: off' under 'slurm' in the cluster "
        "file, or 'memory: cores' if jobs get memory with their cores",
        said[1].text,
    )
    off = load_cluster(str(write_cluster(tmp_path / "off.yaml", memory="off")))
    assert found(tmp_path / "off.yaml") == []  # which gets little, but must not request more
    assert list(memory_refused(off, "evaluate", [JOBS[0].resources], SlurmClient(), tmp_path)) == []
    nowhere = load_cluster(str(write_cluster(tmp_path / "no.yaml", sbatch={"partition": "none"})))
    assert list(memory_refused(nowhere, "evaluate", [JOBS[0].resources], SlurmClient(), tmp_path)) == []


def test_a_job_that_met_another_architecture(
    slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", str(slurm.conf))
    python = tmp_path / "python"
    python.write_bytes(b"\x7fELF" + bytes(60))  # a program for no machine
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    *_, last = of_cluster(load_cluster("generic"), tmp_path, print)
    assert last.verdict == "problem"
    assert last.text.startswith("the node has another architecture than this machine. The template 'plain'")
    assert "(srun --pty bash)" in last.text


def test_a_site_that_keeps_its_nodes_private(
    slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", str(slurm.conf))
    refuse = 'case "$*" in *"show node"*) echo "slurm_load_node error: Access denied" >&2; exit 1;; esac'
    monkeypatch.setenv("PATH", before("scontrol", tmp_path / "bin", refuse))
    assert found(write_cluster(tmp_path / "off.yaml", memory="off")) == []


# What Slurm prints elsewhere


def test_a_default_for_a_node_or_a_gpu() -> None:
    config = "DefMemPerNode           = UNLIMITED\nJobDefaults             = (null)\n"
    text = (
        "PartitionName=small Default=NO JobDefaults=(null) DefMemPerNode=64000 MaxMemPerNode=480000\n"
        "PartitionName=gpu Default=NO JobDefaults=DefMemPerGPU=120000 DefMemPerNode=UNLIMITED\n"
        "PartitionName=cpu Default=YES JobDefaults=(null) DefMemPerCPU=1900\n"
        "PartitionName=all Default=NO JobDefaults=(null) DefMemPerNode=UNLIMITED MaxMemPerNode=UNLIMITED\n"
    )
    defaults = parse_default_memory(text, config)
    assert defaults == {
        "small": DefaultMemory(per_node=64000), "gpu": DefaultMemory(per_gpu=120000),
        "cpu": DefaultMemory(per_cpu=1900), "all": DefaultMemory(),
    }  # fmt: skip
    assert parse_default_memory(text, "DefMemPerCPU = 1000\n")["all"] == DefaultMemory(per_cpu=1000)
    there = dict.fromkeys(defaults, (Node("n1", "x86_64", 128, 512_000, ()),))
    with_gpu = Unit("train", "jobs", {}, resources=Resources(gpus_per_node=1))
    bare = dict.fromkeys(defaults, (with_gpu, Unit("tokenize", "jobs", {}, resources=Resources())))
    said = [each.text for each in small_memory(bare, there, defaults)]
    assert ["gets only 1900 MiB for each core, of 4000," in text for text in said] == [False, True]
    assert "requests no memory gets only 64000 MiB of each node's 512000" in said[0]
    alone = small_memory({"gpu": [with_gpu]}, there, {"gpu": DefaultMemory(per_cpu=1, per_gpu=120_000)})
    assert list(alone) == []


def test_a_node_that_has_never_booted() -> None:
    line = "NodeName=cloud-1 CPUTot=8 RealMemory=32000 State=IDLE+CLOUD+POWERED_DOWN Partitions=spot,all"
    [node] = parse_each_node(line).rows
    assert node == Node("cloud-1", None, 8, 32_000, ("spot", "all"))
    assert list(other_architectures({"spot": [node]}, "plain", "x86_64")) == []
