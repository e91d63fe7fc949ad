"""`sor init`: study files and cluster files to start from."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster import Cluster
from small_study import sor

from launch.commands.init import _may_use, cluster_text
from launch.commands.init_study import Choice, starts, study_text, write_study
from launch.slurm.limits import Access, Partition
from launch.slurm.parse import NodeGroup
from launch.study.cluster import load_cluster
from launch.study.presets import CONFIGS, StudyError
from launch.study.schema import load_study

GPU = Partition("gpu", False, "UP", 10, None, 86_400)
CPU = Partition("on", True, "UP", 300, None, None)
NODES = (
    NodeGroup("gpu", 8, 64, (("a100", 4),), 500_000), NodeGroup("gpu", 2, 128, (("h100", 8),), 1_000_000),
    NodeGroup("on", 300, 64, (), 257_000),
)  # fmt: skip


def written(tmp_path: Path, text: str) -> dict[str, Any]:
    """The file, after it was loaded as a cluster."""
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    load_cluster(str(file))
    return dict(yaml.safe_load(text))


def test_gpus_decide_the_partition_and_stages_without_get_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MODULESHOME", "LMOD_CMD"):
        monkeypatch.delenv(name, raising=False)
    text = cluster_text("lab", (CPU, GPU), NODES, ["mine"])
    found = written(tmp_path, text)
    assert (found["gpu"], found["cpus_per_gpu"], found["max_hours"]) == ("a100", 16, 24)
    assert found["gpus_per_node"] == 4
    assert "# gpu_memory: 40   # of each GPU, in GiB: the smallest of its kind" in text
    assert found["slurm"] == {
        "template": "plain", "sbatch": {"partition": "gpu", "account": "mine"},
        "gpu_option": "gres=gpu:a100:{gpus}",
        "stages": {stage: {"partition": "on"} for stage in ("prepare", "collate", "tokenize", "report")},
    }  # fmt: skip
    several = cluster_text("lab", (CPU, GPU), NODES, ["mine", "other"])
    assert "your accounts: mine, other; without" in several
    assert written(tmp_path, several)["slurm"] == {**found["slurm"], "sbatch": {"partition": "gpu"}}
    assert "partition gpu: 10 nodes, 32 a100 GPUs, 16 h100 GPUs, at most 24 h per job" in text
    assert len(text.splitlines()) <= 40


def test_a_cluster_without_gpus_or_with_unknown_ones_or_with_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMOD_CMD", "/usr/share/lmod")
    found = written(tmp_path, cluster_text("lab", (CPU,), (NodeGroup("on", 300, 4, (), 1),), []))
    assert found["slurm"] == {
        "template": "modules", "sbatch": {"partition": "on"}, "variables": {"modules": []},
    }  # fmt: skip
    assert (found["cpus_per_gpu"], found["max_hours"]) == (4, 24)
    assert "gpus_per_node" not in found
    odd = cluster_text("lab", (GPU,), (NodeGroup("gpu", 1, 8, (("xpu9", 2),), 1),), [])
    assert "gpu: h100   # Slurm calls its GPUs xpu9: set a name" in odd
    sliced = NodeGroup("gpu", 4, 64, (("a100", 2), ("a100_1g.5gb", 14)), 500_000)  # more slices than GPUs
    mig = written(tmp_path, cluster_text("lab", (GPU,), (sliced,), []))
    assert (mig["gpu"], mig["slurm"]["gpu_option"]) == ("a100", "gres=gpu:a100:{gpus}")
    assert mig["gpus_per_node"] == 2
    detected = NodeGroup(
        "gpu", 4, 64, (("nvidia_a100-sxm4-80gb", 4),), 500_000
    )  # as Slurm's AutoDetect names it
    named = written(tmp_path, cluster_text("lab", (GPU,), (detected,), []))
    assert (named["gpu"], named["gpu_memory"]) == ("a100", 80)
    hidden = cluster_text("lab", (GPU,), (NodeGroup("gpu", 1, 72, (), 1),), [])  # GPUs without a GRES
    assert "gpu: h100   # Slurm lists no GPUs here: set a name" in hidden
    down = Partition("gpu", False, "DRAIN", 10, None, None)
    with pytest.raises(StudyError, match="no partition of this cluster accepts jobs"):
        cluster_text("lab", (down,), NODES, [])


def test_partitions_that_are_closed_to_all_of_the_accounts_are_left_out() -> None:
    theirs = replace(GPU, accounts=Access(allowed=("theirs",)))
    assert [_may_use(theirs, accounts) for accounts in (["ours"], ["ours", "theirs"], [])] == [
        False,
        True,
        True,
    ]
    denied = replace(GPU, accounts=Access(denied=("ours",)))
    assert [_may_use(denied, accounts) for accounts in (["ours"], ["ours", "theirs"], [])] == [
        False,
        True,
        True,
    ]


def test_a_shipped_study_is_copied_and_never_over_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    assert write_study(file, Choice("smollm")) == f"wrote {file}. To see its units: sor plan {file}"
    assert load_study(str(file)).name == "mine"
    with pytest.raises(StudyError, match="exists already"):
        write_study(file, Choice())
    with pytest.raises(
        StudyError, match="--from: no such study as 'moon'; there are demo, pairs, paper, scale"
    ):
        write_study(tmp_path / "other.yaml", Choice("moon"))
    done = sor("init")
    assert done.returncode == 2
    assert "give FILE, for a study; FILE and --model, for a preset; or --cluster FILE" in done.stderr


ROW = '{"prompt": "1+1", "reasoning": "<think>\\nones\\n</think>\\n\\n2", "ift": "2"}\n'


def options(**chosen: str) -> list[str]:
    return [word for name, value in chosen.items() for word in (f"--{name}", value)]


def test_options_choose_students_rows_and_benchmarks(tmp_path: Path) -> None:
    (tmp_path / "my rows.jsonl").write_text(ROW, encoding="utf-8")
    chosen = options(sizes="0.5B,qwen2.5-7b", data="my rows.jsonl", benchmarks="math-open-ended")
    assert sor("init", "mine.yaml", "--from", "pairs", *chosen, cwd=tmp_path).returncode == 0
    text = (tmp_path / "mine.yaml").read_text(encoding="utf-8")
    found = yaml.safe_load(text)
    shipped = yaml.safe_load((CONFIGS / "studies/pairs.yaml").read_text(encoding="utf-8"))
    assert found == shipped | {
        "students": ["qwen2.5-0.5b", "qwen2.5-7b"], "benchmarks": ["math-open-ended"],
        "pairs": {"path": "my rows.jsonl"},
    }  # fmt: skip
    assert "# A copy of the shipped study pairs, to edit; changed: students, benchmarks, pairs.\n" in text
    assert re.search(r"^train +10 ", sor("plan", "mine.yaml", cwd=tmp_path).stdout, re.MULTILINE)
    from_hub = options(data="me/mine@v1", gpus="16")
    assert sor("init", "hub.yaml", "--from", "paper", *from_hub, cwd=tmp_path).returncode == 0
    found = yaml.safe_load((tmp_path / "hub.yaml").read_text(encoding="utf-8"))
    assert found["prompts"] == {"dataset": "me/mine", "revision": "v1"}
    assert found["students"] == ["qwen2.5-0.5b", "qwen2.5-1.5b", "qwen2.5-3b"]


@pytest.mark.parametrize("start", starts())
def test_a_file_to_start_from_is_short(start: str) -> None:
    assert len(study_text(Choice(start)).splitlines()) < 40  # below the line that names the schema


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        (options(sizes="toy-x"), "--sizes: 'toy-x' has no preset; did you mean"),
        (options(sizes="toy-s,0.01m"), "--sizes: named more than once: toy-s"),
        (options(sizes="toy-teacher"), "--sizes: toy-teacher cannot be trained"),
        (options(sizes="a: [", benchmarks="toys"), "--benchmarks: 'toys' has no preset; did you mean toy?"),
        (options(data="rows.jsonl"), "--data: demo makes its own rows; choose --from pairs or paper"),
        (["--from", "pairs", *options(data="rows.jsonl")], "--data: no such file: "),
        (["--from", "pairs", *options(data="me/mine")], "--data: 'dataset: me/mine' needs a 'revision'"),
        (["--from", "pairs", *options(gpus="4")], "--gpus: 4 are too few: qwen2.5-0.5b uses 8."),
        (
            ["--from", "pairs", *options(gpus="8", sizes="qwen2.5-7b")],
            "--gpus: qwen2.5-7b uses 32 GPUs: more than 8",
        ),
        (["--from", "m" * 999], f"--from: no such study as '{'m' * 79}…; there are demo"),
    ],
)
def test_a_choice_that_cannot_be_is_refused_by_its_option(
    chosen: list[str], words: str, tmp_path: Path
) -> None:
    done = sor("init", "mine.yaml", *chosen, cwd=tmp_path)
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert words in done.stderr


def test_where_no_file_can_be_written_is_said(tmp_path: Path) -> None:
    done = sor("init", tmp_path / "none/mine.yaml")
    assert done.stderr.strip().endswith("no such folder. Name a file in a folder that exists")
    done = sor("init", tmp_path / "my study.yaml")
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert "name: found 'my study'; up to 60 of A-Z" in done.stderr


def test_a_file_of_a_cluster_with_many_partitions_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMOD_CMD", "/usr/share/lmod")
    monkeypatch.setattr("shutil.which", str)  # all programs are installed
    many = [replace(GPU, name=f"gpu{n}", default=n == 30) for n in range(60)]
    nodes = [NodeGroup(p.name, 8, 64, (("a100", 4), ("h100", 4)), 500_000) for p in many]
    text = cluster_text("lab", [*many, CPU], [*nodes, *NODES], ["mine", "other"])
    assert len(text.splitlines()) < 40  # below the line that names the schema
    assert "  # and 49 more, as sinfo lists them\n" in text
    assert written(tmp_path, text)["slurm"]["sbatch"] == {"partition": "gpu30"}
    assert "# partition gpu30 (the default): " in text


def test_doctor_passes_the_cluster_file_of_a_real_slurm(
    slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", str(slurm.conf))
    file = tmp_path / "mine.yaml"
    made: subprocess.CompletedProcess[str] = sor("init", "--cluster", file)
    assert (
        made.stdout == f"wrote {file}. To check it, with a short job on a node: sor doctor --cluster {file}\n"
    )
    assert re.search(r"^  sbatch: \{partition: main", file.read_text(encoding="utf-8"), re.MULTILINE)
    checked = sor("doctor", "--cluster", file, "--runs", tmp_path / "runs")
    problems = re.findall(r"^problem +(.*)", checked.stdout, re.MULTILINE)
    assert [re.match(r"torch .* is a CPU build", words) is not None for words in problems] in ([], [True])
    assert "partitions and accounts accept jobs of every stage" in checked.stdout
