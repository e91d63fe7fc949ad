"""Which trainings fit on which GPUs: what `auto` takes, what is warned of or refused, what is advised."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_study import sor, student, write_study

from jobs.core.gpus import MEMORY, PEAKS, gpu_memory
from launch.study.cluster import Cluster, load_cluster
from launch.study.gpu_fit import MARGIN, Fit, fits, uneven, unfit
from launch.study.plan import plan
from launch.study.presets import CONFIGS, StudyError, known_names
from launch.study.schema import load_study

QWEN = yaml.safe_load((CONFIGS / "models" / "qwen2.5-0.5b.yaml").read_text(encoding="utf-8"))["architecture"]
AUTO: dict[str, Any] = dict.fromkeys(("micro_batch", "zero", "gradient_checkpointing"), "auto")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a100", (40, False)), ("a100-80gb", (80, True)), ("NVIDIA A100-SXM4-40GB", (40, True)),
        ("NVIDIA A100-SXM-64GB", (64, True)), ("gpu:a100_80:4", (80, True)), ("v100", (16, False)),
        ("Tesla V100-SXM2-32GB", (32, True)), ("v100_32g", (32, True)), ("gh200", (96, False)),
        ("NVIDIA GH200 480GB", (96, False)), ("NVIDIA GH200 144G HBM3e", (144, True)), ("h100", (80, True)),
        ("NVIDIA L40S-48GB", (45, True)), ("mi250x", (64, True)), ("NVIDIA H200", (140, True)),
    ],
)  # fmt: skip
def test_memory_of_gpus_by_name(name: str, expected: tuple[float, bool]) -> None:
    assert gpu_memory(name) == expected


def test_every_gpu_has_its_memory() -> None:
    assert MEMORY.keys() == PEAKS.keys()
    assert all(list(sizes) == sorted(set(sizes)) for sizes in MEMORY.values())


def test_the_cluster_file_decides() -> None:
    cluster = load_cluster("generic").model_copy(update={"gpu": "a100"})
    assert cluster.memory_of_gpu == (40, "a100 has 40 or more (if so, set 'gpu_memory' in the cluster file)")
    own = cluster.model_copy(update={"gpu_memory": 64.0})
    assert own.memory_of_gpu == (64, "a GPU of cluster generic has 64")


def small(folder: Path, cluster: Cluster | None = None, **how: Any) -> list[Fit]:
    """Fits of a study with one Qwen2.5-0.5B."""
    cluster = cluster or load_cluster("generic")
    return fits(plan(load_study(str(study(folder, **how))), cluster), cluster)


def study(folder: Path, batch: int = 32, block: int = 8192, **training: Any) -> Path:
    preset = {**student(**training), "architecture": QWEN, "size": "0.5B"}
    recipe = {"batch": batch, "block": block}
    return write_study(folder, {"s": preset}, mixtures={"shares": [0, 1]}, training=recipe)


def gpus(memory: float) -> Cluster:
    return load_cluster("generic").model_copy(update={"gpu_memory": memory})


def test_auto_takes_the_fastest_that_fits(tmp_path: Path) -> None:
    """No recomputing before recomputing, low ZeRO stages before high ones, then large micro-batches."""
    taken = [
        small(tmp_path, gpus(memory), gpus_per_node=8, **AUTO)[0] for memory in (10, 16, 24, 40, 80, 400)
    ]
    assert all(fit.needed <= (1 - MARGIN) * fit.gpu for fit in taken[1:])
    order = [(fit.choice.checkpointing, fit.choice.zero or 0, -fit.choice.micro_batch) for fit in taken]
    assert order == sorted(order, reverse=True)
    assert len(set(order)) > 3
    assert taken[-1].choice == (False, None, 4)


def test_auto_respects_what_is_said(tmp_path: Path) -> None:
    [fit] = small(tmp_path, gpus(400), gpus_per_node=8, **{**AUTO, "zero": 2})
    assert fit.choice == (False, 2, 4)
    [fit] = small(
        tmp_path, gpus(16), gpus_per_node=8, **{**AUTO, "gradient_checkpointing": True, "micro_batch": 2}
    )
    assert (fit.choice.checkpointing, fit.choice.micro_batch) == (True, 2)


def test_auto_needs_gpus(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"'zero: auto' needs GPUs \('gpus_per_node'\); without them"):
        small(tmp_path, zero="auto")


def test_alike_trainings_are_one_and_those_on_cores_none(tmp_path: Path) -> None:
    [fit] = small(tmp_path, gpus_per_node=8)
    assert [unit.name for unit in fit.units] == ["s-r0", "s-r100"]
    assert small(tmp_path, tasks_per_node=2) == []


def test_estimates_near_the_limit_are_warned_of_and_those_above_refused(tmp_path: Path) -> None:
    [fit] = small(tmp_path, gpus_per_node=1, micro_batch=4)
    for share, verdict in (
        (0.89, (False, False)),
        (0.91, (True, False)),
        (1.09, (True, False)),
        (1.11, (False, True)),
    ):
        [found] = small(tmp_path, gpus(fit.needed / share), gpus_per_node=1, micro_batch=4)
        assert (found.tight, found.refused) == verdict
        words = unfit(found)
        assert (words is None) == (verdict == (False, False))
    assert words is not None
    assert words.startswith("train s-r0 and 1 more: needs about ")
    assert "GiB too much. What fits (" in words


def test_what_is_advised_fits(tmp_path: Path) -> None:
    [tooth] = small(tmp_path, gpus(12), gpus_per_node=8, micro_batch=4)
    words = unfit(tooth)
    assert words is not None
    assert "in the model's preset" in words
    settings = yaml.safe_load("{" + words.split("'")[1] + "}")
    [better] = small(tmp_path, gpus(12), gpus_per_node=8, **settings)
    assert unfit(better) is None


def test_more_gpus_or_a_smaller_block_are_advised_where_settings_do_not_help(tmp_path: Path) -> None:
    [fit] = small(tmp_path, gpus(14), block=32_768, gpus_per_node=1, **AUTO)
    words = unfit(fit)
    assert words is not None
    assert "GPUs (micro_batch" in words
    assert "training.block of" in words
    [hopeless] = small(tmp_path, gpus(2), gpus_per_node=1, **AUTO)
    assert (unfit(hopeless) or "").endswith("Train a smaller model, or on larger GPUs")


def test_processes_that_share_blocks_need_less(tmp_path: Path) -> None:
    """Advice to share them is right, and groups share the batch, not processes."""
    cluster = load_cluster("generic").model_copy(update={"gpu_memory": 20.0})
    long = {"batch": 8, "block": 131072, "gpus_per_node": 8, **AUTO}
    [alone] = small(tmp_path, cluster, **long)
    advice = unfit(alone)
    assert advice
    [found] = re.findall(r"sequence_parallel: (\d)", advice)
    [shared] = small(tmp_path, cluster, sequence_parallel=int(found), **long)
    assert unfit(shared) is None
    assert shared.need.activations < alone.need.activations
    [half] = small(tmp_path, batch=4, gpus_per_node=8, sequence_parallel=2, **AUTO)
    assert not uneven(half.units)
    [whole] = small(tmp_path, batch=4, gpus_per_node=8)
    assert uneven(whole.units)


def test_of_unknown_families_only_what_is_certain_is_refused(tmp_path: Path) -> None:
    measured = {"per_token": 715_000_000, "per_output": 272_000_000, "per_pair": 86_016,
                "parameters": 494_032_768, "active_parameters": 494_032_768}  # fmt: skip
    preset = {**student(gpus_per_node=1, micro_batch=4), "size": "0.5B", "flops": measured,
              "architecture": {**QWEN, "model_type": "olmo3"}}  # fmt: skip
    file = write_study(tmp_path, {"s": preset}, training={"block": 8192})
    units = plan(load_study(str(file)), gpus(16))
    [fit] = fits(units, gpus(16))
    assert fit.needed > 17.6
    assert not fit.refused
    assert "only weights, gradients and optimizer are certain" in (unfit(fit) or "")
    [fit] = fits(units, gpus(4))
    assert fit.refused


@pytest.mark.parametrize(
    ("batch", "training", "words"),
    [
        (32, {"micro_batch": 3}, "of 3 cannot share evenly. In the model's preset, set micro_batch: 4"),
        (32, {"micro_batch": 3}, "or set training.batch to 24 or 48, which changes results"),
        (30, {}, "which 8 processes .* set nodes and GPUs for 6 processes and micro_batch: 1; or set"),
        (4, {}, "nodes and GPUs for 4 processes .* set training.batch to 8, which"),
    ],
)  # fmt: skip
def test_batches_that_processes_cannot_share(
    tmp_path: Path, batch: int, training: dict[str, Any], words: str
) -> None:
    units = plan(
        load_study(str(study(tmp_path, batch, gpus_per_node=8, **training))), load_cluster("generic")
    )
    [found] = uneven(units)
    assert re.search(words, found), found


def test_submit_refuses_and_plan_shows(tmp_path: Path) -> None:
    file = study(tmp_path, gpus_per_node=8, micro_batch=4, block=32_768)
    text = (CONFIGS / "clusters" / "generic.yaml").read_text(encoding="utf-8").replace("gpu: h100", "gpu: l4")
    (tmp_path / "l4.yaml").write_text(text, encoding="utf-8")
    where = ("--cluster", tmp_path / "l4.yaml", "--runs", tmp_path / "runs")
    done = sor("submit", file, "--dry-run", *where)
    assert done.returncode == 2
    assert "train s-r0 and 1 more: needs about" in done.stderr
    assert "l4 has 22.5" in done.stderr
    assert not (tmp_path / "runs").exists()
    shown = sor("plan", file, *where)
    assert shown.returncode == 0
    assert "GiB per GPU" in shown.stdout
    assert "GiB too much" in shown.stdout
    units = json.loads(sor("plan", file, "--json", *where).stdout)["units"]
    [gpu] = {json.dumps(unit["gpu_memory"]) for unit in units if unit["stage"] == "train"}
    assert json.loads(gpu)["of"] == 22.5
    assert all(unit["gpu_memory"] is None for unit in units if unit["stage"] != "train")


TABLE = """
40 0.5B 1 1 False 30
40 1.5B 4 1 True 31
40 3B 1 1 True 33
40 7B 1 2 True 34
40 14B 1 3 True 29
64 0.5B 1 None False 39
64 1.5B 4 None True 54
64 3B 4 1 True 49
64 7B 2 2 True 43
64 14B 1 2 True 55
80 0.5B 2 None False 65
80 1.5B 1 1 False 64
80 3B 4 1 True 49
80 7B 1 1 True 70
80 14B 1 2 True 55
94 0.5B 2 None False 65
94 1.5B 1 1 False 64
94 3B 4 None True 83
94 7B 2 1 True 78
94 14B 1 2 True 55
96 0.5B 2 None False 65
96 1.5B 1 1 False 64
96 3B 4 None True 83
96 7B 2 1 True 78
96 14B 1 2 True 55
"""


def test_the_shipped_students_fit_every_shipped_cluster() -> None:
    """GiB of a GPU, size, micro-batch, ZeRO stage, recomputation, GiB needed: the same presets everywhere."""
    shipped, found = load_study("scale-or-reason"), set[str]()
    for name in known_names("clusters"):
        for fit in fits(plan(shipped, load_cluster(name)), load_cluster(name)):
            size, (recompute, zero, micro_batch) = fit.units[0].config["model"]["size"], fit.choice
            found.add(f"{fit.gpu:g} {size} {micro_batch} {zero} {recompute} {fit.needed:.0f}")
            assert unfit(fit) is None
    assert found == set(TABLE.strip().splitlines())
