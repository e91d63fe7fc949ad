"""Cluster files: the shipped ones load, and all that is wrong in one's own is named with file and key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.core.unit import STAGES, Resources
from launch.study.cluster import Cluster, load_cluster
from launch.study.presets import CONFIGS, StudyError
from launch.study.shell_options import ACCOUNT

SHIPPED = sorted(p.stem for p in (CONFIGS / "clusters").glob("*.yaml"))
GENERIC = yaml.safe_load((CONFIGS / "clusters" / "generic.yaml").read_text(encoding="utf-8"))


def write(folder: Path, name: str = "mine", **slurm: Any) -> str:
    """A cluster file of one's own: the generic one with another `slurm` section; returns its path."""
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump({**GENERIC, "slurm": slurm}), encoding="utf-8")
    return str(file)


def mistakes(folder: Path, **slurm: Any) -> dict[str, str]:
    """What is wrong in such a file, by key."""
    with pytest.raises(StudyError) as error:
        load_cluster(write(folder, **slurm))
    assert all(m.file == folder / "mine.yaml" or m.file.suffix == ".sh" for m in error.value.mistakes)
    return {m.key.removeprefix("slurm."): m.message for m in error.value.mistakes}


def options(cluster: Cluster, stage: str, gpus: int = 0, **needs: Any) -> dict[str, str | bool]:
    return cluster.sbatch_options(stage, Resources(gpus_per_node=gpus, **needs))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_cluster_loads(name: str) -> None:
    cluster = load_cluster(name)
    assert cluster.name == name
    assert cluster.backend == ("local" if name == "local" else "slurm")


def test_those_that_are_promised_are_shipped() -> None:
    assert {"local", "generic"} < set(SHIPPED)
    generic = load_cluster("generic").slurm
    assert (generic.sbatch, generic.required, generic.secrets) == ({}, (), ())
    assert {load_cluster(n).slurm.template for n in SHIPPED} >= {"plain", "modules", "apptainer", "edf"}


def test_the_table_of_profiles_says_what_they_say() -> None:
    lines = (CONFIGS / "clusters" / "README.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| [")]
    assert [row[0] for row in rows] == [f"[{name}]({name}.yaml)" for name in SHIPPED]
    for name, row in zip(SHIPPED, rows, strict=True):
        _, _, gpus, _, account, _, internet, template, hours, read = row
        cluster, text = load_cluster(name), (CONFIGS / "clusters" / f"{name}.yaml").read_text("utf-8")
        assert hours == f"{cluster.max_hours:g}"
        if read:
            size, _ = cluster.memory_of_gpu
            assert gpus == f"{cluster.gpus_per_node} {cluster.gpu.upper()}, {size:g} GB"
            assert (internet == "no") == cluster.slurm.offline
            assert (account not in ("none", "of the login", "with several projects")) == (ACCOUNT in text)
            assert template == cluster.slurm.template
            assert f"\n# {read}, " in text
        else:
            assert name in ("generic", "local")


def test_a_file_of_ones_own_by_its_path(tmp_path: Path) -> None:
    cluster = load_cluster(write(tmp_path, "my-cluster", sbatch={"mem-per-cpu": "4G"}))
    assert (cluster.name, cluster.slurm.sbatch) == ("my-cluster", {"mem-per-cpu": "4G"})


def test_no_such_cluster() -> None:
    with pytest.raises(StudyError, match=r"no such cluster; known are alliance, .*local.* of a YAML file"):
        load_cluster("moon")
    with pytest.raises(StudyError, match=r"^moon\.yaml: no such cluster"):
        load_cluster("moon.yaml")


def test_options_of_all_stages_and_of_one(tmp_path: Path) -> None:
    cluster = load_cluster(
        write(
            tmp_path,
            sbatch={"partition": "gpu", "constraint": "h100", "nice": 10, "exclusive": True, "qos": "long"},
            stages={
                "tokenize": {"partition": "cpu", "constraint": None, "exclusive": False, "gres": "disk:1"}
            },
            gpu_option="gres=gpu:h100:{gpus}",
        )
    )
    everywhere: dict[str, str | bool] = {"nice": "10", "qos": "long"}
    gpu = {**everywhere, "partition": "gpu", "constraint": "h100", "exclusive": True}
    assert options(cluster, "train", 4) == {**gpu, "gres": "gpu:h100:4"}
    assert options(cluster, "report") == gpu
    assert options(cluster, "tokenize") == {**everywhere, "partition": "cpu", "gres": "disk:1"}
    assert options(cluster, "tokenize", 1)["gres"] == "gpu:h100:1"


def test_a_required_option_from_the_file_or_from_slurms_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SBATCH_ACCOUNT", raising=False)
    mine = write(tmp_path, required=["account"])
    with pytest.raises(StudyError) as error:
        options(load_cluster(mine), "tokenize")
    assert str(error.value) == (
        f"{tmp_path}/mine.yaml: slurm.sbatch.account: is needed here: export SBATCH_ACCOUNT=…, or copy this "
        "file, add 'account: …', and give --cluster the copy"
    )
    monkeypatch.setenv("SBATCH_ACCOUNT", "abc@h100")
    assert options(load_cluster(mine), "tokenize") == {"account": "abc@h100"}
    other = load_cluster(write(tmp_path, required=["account"], stages={"tokenize": {"account": "mine"}}))
    assert options(other, "tokenize") == {"account": "mine"}


def test_all_mistakes_are_named_with_what_is_allowed(tmp_path: Path) -> None:
    found = mistakes(
        tmp_path,
        sbatch={"time": "1:00:00", "kill-on-invalid-dep": "yes", "outp": "x", "-p": "gpu", "mem_per_cpu": 1},
        stages={"packing": {"array": "0-3"}, "pack": {"qos": "x"}, "train": {"gpus-per-node": 8}},
        required="dependency",
        template="modules",
        variables={"moduls": "cuda", "python": "python3"},
    )
    assert "max_hours" in found["sbatch.time"]
    assert "vanish" in found["sbatch.kill-on-invalid-dep"]
    assert found["sbatch.outp"].startswith("'--output' cannot be set here")
    assert "mem-per-cpu" in found["sbatch.mem_per_cpu"]
    assert "without dashes" in found["sbatch.-p"]
    assert "prepare, generate" in found["stages.packing"]
    assert "write 'tokenize'" in found["stages.pack"]
    assert "find its jobs again" in found["stages.packing.array"]
    assert "gpu_option" in found["stages.train.gpus-per-node"]
    assert "--dependency" in found["required.dependency"]
    assert found["variables.moduls"] == "no variable of the template 'modules'; it has modules"
    assert "variables.python" in found
    assert found[""].startswith("{{modules}} has no value")
    assert len(found) == 13


@pytest.mark.parametrize(
    ("slurm", "key", "words"),
    [
        (
            {"template": "moduls"},
            "",
            "no such template; there are apptainer, edf, modules, plain, pyxis, uenv",
        ),
        ({"sbatch": {"account": ["a", "b"]}}, "sbatch.account", "a text or a number is needed, not list"),
        ({"sbatch": {"account": "a\n#SBATCH --x"}}, "sbatch.account", "line breaks and control characters"),
        ({"variables": {"x": {"y": 1}}}, "variables.x", "a text or a number is needed, not dict"),
        ({"gpu_option": "gres=gpu:4"}, "gpu_option", "gres=gpu:4"),
        ({"max_jobs": 0}, "max_jobs", "greater than 0"),
        ({"partition": "gpu"}, "partition", "unknown key; .*allowed are sbatch"),
    ],
)
def test_a_mistake(slurm: dict[str, Any], key: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=words) as error:
        load_cluster(write(tmp_path, **slurm))
    [mistake] = error.value.mistakes
    assert mistake.key.removeprefix("slurm.") == key


@pytest.mark.parametrize("secrets", [["HF_TOKEN=hf_secret"], "hf-secret", {"HF_TOKEN": "hf_secret"}])
def test_a_secret_in_a_cluster_file_is_refused_and_not_shown(secrets: Any, tmp_path: Path) -> None:
    [(key, words)] = mistakes(tmp_path, secrets=secrets).items()
    assert key == ("secrets.0" if isinstance(secrets, list) else "secrets")
    assert "never a value" in words
    assert "secret" not in words


def test_what_only_slurm_has(tmp_path: Path) -> None:
    local = {**GENERIC, "backend": "local", "slurm": {"template": "plain"}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(local), encoding="utf-8")
    with pytest.raises(StudyError, match="'slurm' is for 'backend: slurm'"):
        load_cluster(str(tmp_path / "mine.yaml"))
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**GENERIC, "gpu": "h1000"}), encoding="utf-8")
    with pytest.raises(StudyError, match="gpu: the GPU 'h1000' is not in the table; known are t4"):
        load_cluster(str(tmp_path / "mine.yaml"))


def test_a_cluster_without_a_section_for_slurm_has_defaults(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        yaml.safe_dump({k: v for k, v in GENERIC.items() if k != "slurm"}), encoding="utf-8"
    )
    cluster: Cluster = load_cluster(str(tmp_path / "mine.yaml"))
    assert options(cluster, "train", 8) == {"gpus-per-node": "8"}
    assert all(options(cluster, stage) == {} for stage in STAGES)


def test_one_of_several_clusters_of_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_CLUSTERS", "SBATCH_CLUSTERS"):
        monkeypatch.delenv(name, raising=False)
    assert load_cluster(write(tmp_path)).slurm_cluster is None
    there = load_cluster(write(tmp_path, sbatch={"clusters": "other", "qos": "long"}))
    assert there.slurm_cluster == "other"
    for wrong in (
        {"sbatch": {"clusters": "a,b"}},
        {"sbatch": {"clusters": "all"}},
        {"required": ["clusters"]},
    ):
        [(_, words)] = mistakes(tmp_path, **wrong).items()
        assert "a study runs on one cluster" in words
    assert "slurm" not in mistakes(tmp_path, stages={"train": {"clusters": "other"}})
    monkeypatch.setenv("SLURM_CLUSTERS", "other")
    assert load_cluster(write(tmp_path, sbatch={"clusters": "other"})).slurm_cluster == "other"
    told = load_cluster(write(tmp_path, sbatch={"qos": "long"}))
    assert options(told, "train") == {"qos": "long", "clusters": "other"}
    assert told.to_json()["slurm"]["sbatch"] == {"qos": "long", "clusters": "other"}
    assert load_cluster("local").slurm_cluster is None
    with pytest.raises(StudyError, match=r"SLURM_CLUSTERS: is 'other', and .* says 'clusters: mine'"):
        load_cluster(write(tmp_path, sbatch={"clusters": "mine"}))
    monkeypatch.setenv("SBATCH_CLUSTERS", "$(id)")  # which sbatch takes first
    with pytest.raises(StudyError, match=r"SBATCH_CLUSTERS: found '\$\(id\)'; a study runs on one cluster"):
        load_cluster(write(tmp_path))
