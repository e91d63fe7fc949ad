"""Presets of served models: keys, plans, refusals before anything is submitted."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.core.unit import Unit
from launch.monitor.data.summary import outlined
from launch.study.cluster import load_cluster
from launch.study.hub_needs import needs
from launch.study.plan import plan
from launch.study.presets import StudyError
from launch.study.schema import load_study
from launch.study_run import open_project
from launch.submit.endpoint_check import unreachable

URL = "https://inference.example.org/v1"
QWEN = {"model_type": "qwen3", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 192, "vocab_size": 41}  # fmt: skip


def study(tmp_path: Path, serving: dict[str, Any], students: str = "qwen2.5-0.5b", **teacher: Any) -> Path:
    preset = {"size": "32B", "model": "Qwen/Qwen3-32B", "architecture": QWEN, "serving": serving, **teacher}
    (tmp_path / "teacher.yaml").write_text(yaml.safe_dump(preset), encoding="utf-8")
    mode = {"max_tokens": 100}
    file = tmp_path / "s.yaml"
    file.write_text(
        yaml.safe_dump({
            "teacher": "teacher.yaml",
            "prompts": {"dataset": "a/prompts", "revision": "r", "count": 36_000},
            "modes": {
                "ift": {**mode, "chat_template_kwargs": {"enable_thinking": False}},
                "reasoning": {**mode, "chat_template_kwargs": {"enable_thinking": True}},
            },
            "students": [students], "mixtures": {"shares": [0, 1]}, "benchmarks": ["math-open-ended"],
            "expect": {"prompt": 10, "ift": 100, "reasoning": 900},
        }),
        encoding="utf-8",
    )  # fmt: skip
    return file


def generation(file: Path, cluster: str = "local") -> Unit:
    units = plan(load_study(str(file)), load_cluster(cluster))
    return next(unit for unit in units if unit.stage == "generate")


def test_a_served_teacher_needs_cores_and_hours_of_the_endpoint(tmp_path: Path) -> None:
    local = generation(study(tmp_path, {"gpus": 2}))
    serving = {"engine": "openai", "url": f"{URL}/", "requests": 100, "workers": 3, "key": "INFERENCE_KEY"}
    served = generation(study(tmp_path, {**serving, "tokens_per_second": 5000}), "generic")
    assert served.id == local.id, "it is the same model, wherever it is"
    assert served.flops == local.flops
    assert (served.resources.gpus, served.resources.workers) == (0, 3)
    assert served.resources.memory < 2000
    assert served.resources.hours == pytest.approx(2 * (0.1 + 36_000 * 1000 / 5000 / 3600), abs=0.01)
    endpoint = served.execution["endpoint"]
    assert endpoint["model"] == endpoint["tokenizer"] == "Qwen/Qwen3-32B"
    assert (endpoint["url"], endpoint["requests"], endpoint["per_minute"]) == (URL, 33, None)
    slow = generation(study(tmp_path, {**serving, "per_minute": 300, "model": "qwen"}), "generic")
    assert slow.execution["endpoint"]["per_minute"] == 100
    assert slow.execution["endpoint"]["model"] == "qwen"
    assert slow.resources.hours == pytest.approx(2 * (0.1 + 72_000 / 300 / 60), abs=0.01)
    usual = generation(study(tmp_path, serving), "generic")
    assert usual.resources.hours == pytest.approx(2 * (0.1 + 36_000 * 1000 / 3000 / 3600), abs=0.01)


def test_the_monitor_expects_the_hours_of_the_plan(tmp_path: Path) -> None:
    file = study(tmp_path, {"engine": "openai", "url": URL, "tokens_per_second": 5000})
    project = open_project(str(file), "local", tmp_path / "runs")
    (hours,) = outlined(project).parts["generate"].hours
    assert hours == pytest.approx(0.1 + 36_000 * 1000 / 5000 / 3600, abs=0.01)


def test_only_the_tokenizer_comes_from_the_hub(tmp_path: Path) -> None:
    served = generation(study(tmp_path, {"engine": "openai", "url": URL}, revision="abc"))
    first, rows = needs([served])
    assert (str(first), first.kind, rows.kind) == ("Qwen/Qwen3-32B@abc", "tokenizer", "dataset")


@pytest.mark.parametrize(
    ("serving", "words"),
    [
        ({"engine": "openai"}, "'engine: openai' needs a 'url'"),
        ({"url": URL}, "'url' is for 'engine: openai'"),
        ({"engine": "vllm", "per_minute": 3}, "'per_minute' is for 'engine: openai'"),
        ({"engine": "openai", "url": URL, "gpus": 8}, "'gpus' is for engines here"),
        ({"engine": "openai", "url": URL, "vllm": {"enforce_eager": True}}, "'vllm' is for engines here"),
        ({"engine": "openai", "url": f"{URL}/chat/completions"}, "mostly up to /v1"),
        ({"engine": "openai", "url": "https://me:pw@host/v1"}, "put the key into a secret"),
        ({"engine": "openai", "url": "host:8000/v1"}, "http://HOST or https://HOST is needed"),
        ({"engine": "openai", "url": URL, "key": "sk-0123"}, "serving.key"),
    ],
)
def test_mistakes_are_found_in_the_file(serving: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError) as error:
        load_study(str(study(tmp_path, serving)))
    assert words in str(error.value)


def test_students_are_not_served(tmp_path: Path) -> None:
    file = study(tmp_path, {"engine": "openai", "url": URL}, students="teacher.yaml")
    preset = yaml.safe_load((tmp_path / "teacher.yaml").read_text(encoding="utf-8"))
    preset["training"] = {"learning_rate": 1e-3}
    (tmp_path / "teacher.yaml").write_text(yaml.safe_dump(preset), encoding="utf-8")
    with pytest.raises(StudyError, match="students are evaluated with the weights trained here"):
        load_study(str(file))


def refused(file: Path, runs: Path, cluster: str) -> str:
    project = open_project(str(file), cluster, runs)
    return unreachable(project, project.units)


def test_a_missing_key_and_offline_nodes_are_refused_before_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = study(tmp_path, {"engine": "openai", "url": URL, "key": "INFERENCE_KEY"})
    who = f"generate teacher asks the endpoint {URL}, and "
    words = refused(file, tmp_path / "runs", "local")
    assert words.startswith(f"{who}its key INFERENCE_KEY has no value: export INFERENCE_KEY=")
    command = words[words.index("mkdir") :]
    subprocess.run(["bash", "-c", command], input="sk-typed-01\n", encoding="utf-8", check=True)
    assert refused(file, tmp_path / "runs", "local") == ""
    monkeypatch.setenv("SBATCH_ACCOUNT", "abc")
    words = refused(file, tmp_path / "runs", "jean-zay")
    assert words.startswith(f"{who}compute nodes have no internet ('offline: true')")
    assert "HF_HUB_OFFLINE: '1'" in words
