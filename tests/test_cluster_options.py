"""Options of sbatch by stage, by what a job requests and from the shell; and what jobs export."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_clusters import GENERIC, mistakes, options, write
from test_templates import header, script

from jobs.core.unit import Resources
from launch.study.cluster import load_cluster, restored
from launch.study.presets import StudyError
from launch.study.sbatch_options import within

VARIABLES = [f"SBATCH_{name}" for name in ("ACCOUNT", "PARTITION", "QOS", "CONSTRAINT", "RESERVATION")]


@pytest.fixture(autouse=True)
def bare_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("bound", "inside", "outside"),
    [
        ("4", [4], [3.9, 5, 0]), ("=0", [0], [1]), ("<= 2", [0, 2], [2.1]), (">4", [4.5], [4, 0]),
        ("<1", [0.5], [1]), (">=20", [20], [19.9]), ("1-4", [1, 2.5, 4], [0, 5]), ("0.5-1.5", [1], [0.4]),
    ],
)  # fmt: skip
def test_a_bound(bound: str, inside: list[float], outside: list[float]) -> None:
    assert all(within(number, bound) for number in inside)
    assert not any(within(number, bound) for number in outside)


def test_options_by_what_a_job_requests(tmp_path: Path) -> None:
    """As at centers that have a partition or a QOS by size: Roihu, Perlmutter, Jean Zay."""
    when = [
        {"gpus": "0", "set": {"constraint": "cpu", "account": "mine"}},
        {"gpus": "1-2", "set": {"qos": "shared"}},
        {"nodes": ">4", "set": {"partition": "large"}},
        {"hours": ">20", "gpus": ">0", "set": {"qos": "long"}},
        {"stage": ["evaluate"], "hours": "<=1", "set": {"qos": "short", "account": False}},
    ]
    base = {"constraint": "gpu", "account": "mine_g", "qos": "regular"}
    cluster = load_cluster(write(tmp_path, sbatch=base, when=when, stages={"tokenize": {"qos": False}}))
    gpus = {"gpus-per-node": "4"}
    assert options(cluster, "train", 4) == {**base, **gpus}
    assert options(cluster, "train", 2)["qos"] == "shared"
    assert options(cluster, "train", 2, nodes=2)["qos"] == "regular"  # four GPUs in all
    assert options(cluster, "train", 4, nodes=5) == {**base, **gpus, "partition": "large"}
    assert options(cluster, "train", 1, hours=21)["qos"] == "long"  # later entries win
    assert options(cluster, "tokenize", hours=21) == {"constraint": "cpu", "account": "mine"}
    assert options(cluster, "evaluate", 4, hours=0.5) == {"constraint": "gpu", "qos": "short", **gpus}
    wide = Resources(gpus_per_node=1, memory=5000)
    own = load_cluster(write(tmp_path, when=[{"gpus": "1", "set": {"mem-per-gpu": "60G"}}]))
    assert (own.memory_option("train", wide), own.memory_option("tokenize", Resources(memory=50))) == (
        {}, {"mem": "50M"},
    )  # fmt: skip


def test_mistakes_in_conditions(tmp_path: Path) -> None:
    found = mistakes(tmp_path, when=[{"gpus": "few", "set": {}}, {"set": {"qos": "a"}}])
    assert "found 'few'; a number, a range or a bound is needed" in found["when.0.gpus"]
    assert "a condition is needed: stage, gpus, nodes or hours" in found["when.1"]
    found = mistakes(tmp_path, when=[{"stage": "packing", "set": {"time": "1:00", "clusters": "b"}}])
    assert found["when.0.stage"].startswith("no stage 'packing'; there are prepare, generate")
    assert "max_hours" in found["when.0.set.time"]
    assert "a study runs on one cluster" in found["when.0.set.clusters"]


def test_options_that_request_gpus(tmp_path: Path) -> None:
    several = load_cluster(write(tmp_path, gpu_option=["gres=gpu:{gpus}", "constraint=a100"]))
    assert options(several, "train", 4) == {"gres": "gpu:4", "constraint": "a100"}
    assert options(several, "tokenize") == {}
    assert "gpus_per_node" in mistakes(tmp_path, gpu_option=False)[""]
    for wrong in (["constraint=a100"], "gres=gpu:4", "gres", [], True, ["{gpus}"]):
        assert "gpu_option" in mistakes(tmp_path, gpu_option=wrong) or wrong == []
    file = tmp_path / "none.yaml"
    none = {**GENERIC, "gpus_per_node": 1, "slurm": {"gpu_option": False, "memory": False}}
    file.write_text(yaml.safe_dump(none), encoding="utf-8")
    cluster = load_cluster(str(file))
    assert options(cluster, "train", 1) == {}
    assert restored(cluster.to_json(), str(file)) == cluster


ACCOUNTS: dict[str, Any] = {
    "sbatch": {"account": "{account}@h100", "qos": "t3"},
    "stages": {"tokenize": {"account": "{account}@cpu", "qos": False}},
    "when": [{"nodes": ">4", "set": {"reservation": "for_{account}"}}],
}


@pytest.mark.parametrize("exported", ["abc", "abc@h100", "abc@CPU"])
def test_one_account_for_stages_that_need_different_ones(
    exported: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = write(tmp_path, **ACCOUNTS)
    with pytest.raises(
        StudyError, match=r"slurm.stages.tokenize.account: is needed here: export SBATCH_ACCOUNT=…"
    ):
        options(load_cluster(mine), "tokenize")
    monkeypatch.setenv("SBATCH_ACCOUNT", exported)
    cluster = load_cluster(mine)
    assert options(cluster, "train") == {"account": "abc@h100", "qos": "t3"}
    assert options(cluster, "train", nodes=5)["reservation"] == "for_abc"
    assert options(cluster, "tokenize") == {"account": "abc@cpu"}
    monkeypatch.delenv("SBATCH_ACCOUNT")
    again = restored(cluster.to_json(), mine)  # as a keeper has it, whose environment lacks the variable
    assert options(again, "tokenize") == {"account": "abc@cpu"}


def test_the_shell_stands_over_what_all_stages_have_and_under_what_one_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "shell")
    monkeypatch.setenv("SBATCH_TIMELIMIT", "1")
    everywhere = {"account": "file", "partition": "file", "nice": "1"}
    cluster = load_cluster(write(
        tmp_path, sbatch=everywhere, stages={"tokenize": {"account": "cpu", "qos": False}},
        when=[{"gpus": ">0", "set": {"partition": "gpu"}}],
    ))  # fmt: skip
    shell = dict.fromkeys(("account", "partition", "qos", "constraint", "reservation"), "shell")
    assert options(cluster, "train") == {**shell, "nice": "1"}
    assert options(cluster, "train", 1)["partition"] == "gpu"
    assert options(cluster, "tokenize")["account"] == "cpu"
    assert "qos" not in options(cluster, "tokenize")
    assert load_cluster("local").with_shell({}) == load_cluster("local")


def test_what_jobs_export(tmp_path: Path) -> None:
    environment = {"NCCL_DEBUG": "WARN", "GLOO_SOCKET_IFNAME": "ib1", "OMP_PROC_BIND": "it's $HOME"}
    given: dict[str, Any] = {
        "environment": environment, "offline": True, "network": "ib0", "host_suffix": "i",
    }  # fmt: skip
    for template, variables in (
        ("plain", {}), ("modules", {"modules": "x"}), ("uenv", {"uenv": "pytorch"}), ("edf", {"edf": "a"}),
    ):  # fmt: skip
        text = script(
            load_cluster(write(tmp_path, template=template, variables=variables, **given)), tmp_path
        )
        exports = [line for line in text.splitlines() if line.startswith("export ")]
        shown = subprocess.run(
            ["bash", "-c", "\n".join([*exports, "env -0"])], capture_output=True, encoding="utf-8",
            env={"SLURMD_NODENAME": "jwb01", "PATH": "/usr/bin:/bin"}, check=True,
        ).stdout  # fmt: skip
        found = dict(line.split("=", 1) for line in shown.split("\0") if line)
        assert found.items() >= {
            **environment, "NCCL_SOCKET_IFNAME": "ib0", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1", "SOR_MASTER_ADDR": "jwb01i", "PYTHONUTF8": "1",
        }.items()  # fmt: skip
    assert "NCCL" not in script(load_cluster("generic"), tmp_path)


@pytest.mark.parametrize(
    ("slurm", "key"),
    [
        ({"environment": {"A-B": "1"}}, "environment"),
        ({"environment": {"A": "x\ny"}}, "environment"),
        ({"environment": {"A": True}}, "environment"),
        ({"environment": ["A=1"]}, "environment"),
        ({"network": "ib0; rm"}, "network"),
        ({"host_suffix": "$(id)"}, "host_suffix"),
    ],
)
def test_what_cannot_be_exported(slurm: dict[str, Any], key: str, tmp_path: Path) -> None:
    assert list(mistakes(tmp_path, **slurm)) == [key]


def test_modules_before_a_container_and_packages_on_top_of_it(tmp_path: Path) -> None:
    variables = {"program": "singularity", "gpu": "--rocm", "image": "a.sif", "binds": "/x"}
    text = script(load_cluster(write(tmp_path, template="apptainer", variables=variables)), tmp_path)
    assert re.search(r"^modules=\(\) use=\(\)$", text, re.M)
    assert " python3 -u -m " in text
    more = {"modules": ["a", "b c"], "use": ["/m"], "interpreter": "/v/bin/python3"}
    text = script(
        load_cluster(write(tmp_path, template="apptainer", variables={**variables, **more})), tmp_path
    )
    assert re.search(r"^modules=\(a 'b c'\) use=\(/m\)$", text, re.M)
    assert " /v/bin/python3 -u -m " in text
    before = text[: text.index("srun ")]
    body = before[before.index("modules=(") :]
    loads = subprocess.run(
        ["bash", "-c", f"module() {{ printf '%s|' \"$@\"; }}\n{body}"], capture_output=True, encoding="utf-8",
        check=True,
    ).stdout  # fmt: skip
    assert loads == "use|/m|load|a|b c|"
    assert header(text)["job-name"]
