"""Engines of every shape: how they are split, placed on a cluster, and what vLLM's arguments change."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_study import ARCHITECTURE, student, write_study

from jobs.core.unit import Unit
from launch.study.cluster import Cluster, load_cluster
from launch.study.model import Model
from launch.study.placement import engine
from launch.study.plan import plan
from launch.study.presets import CONFIGS, StudyError, read_yaml, validate
from launch.study.schema import load_study
from launch.study.serving import serving_faults
from launch.study.serving_fit import engine_fault
from launch.study.vllm_arguments import ELSEWHERE, SPEED, changing, known
from launch.submit.gpu_check import check_engines
from launch.submit.limits import Refusal


def teacher(architecture: dict[str, Any] | None = None, **serving: Any) -> Model:
    shape = {**ARCHITECTURE, "num_attention_heads": 8, "num_hidden_layers": 8, "hidden_size": 64}
    shape = {"num_key_value_heads": 8} | shape | (architecture or {})
    return Model(name="t", size="1B", model="org/t", architecture=shape, serving=serving)  # type: ignore[arg-type]


def cluster(of_node: int | None) -> Cluster:
    return load_cluster("generic").model_copy(update={"gpus_per_node": of_node, "cpus_per_gpu": 3})


@pytest.mark.parametrize(
    ("serving", "of_node", "shape", "parallel"),
    [
        ({"gpus": 8}, None, (1, 8), (8, 1)),
        ({"gpus": 8}, 8, (1, 8), (8, 1)),
        ({"gpus": 8}, 4, (2, 4), (4, 2)),
        ({"gpus": 8}, 6, (2, 4), (4, 2)),
        ({"gpus": 8}, 1, (8, 1), (1, 8)),
        ({"gpus": 2}, 8, (1, 2), (2, 1)),
        ({"nodes": 2, "gpus": 4}, None, (2, 4), (4, 2)),
        ({"nodes": 2, "gpus": 4}, 8, (1, 8), (8, 1)),
        ({"nodes": 2, "gpus": 4, "vllm": {"tensor_parallel_size": 8}}, 4, (2, 4), (8, 1)),
        ({"gpus": 8, "vllm": {"pipeline_parallel_size": 2}}, 4, (2, 4), (4, 2)),
        ({"gpus": 8, "vllm": {"pipeline_parallel_size": 4}}, 8, (1, 8), (2, 4)),
        ({"gpus": 8, "vllm": {"prefill_context_parallel_size": 2}}, 8, (1, 8), (4, 1)),
        ({"nodes": 2}, None, (2, 0), (2, 1)),
        ({"nodes": 2, "vllm": {"pipeline_parallel_size": 2}}, None, (2, 0), (1, 2)),
    ],
)
def test_an_engine_keeps_its_gpus_on_nodes_of_the_clusters_size(
    serving: dict[str, Any], of_node: int | None, shape: tuple[int, int], parallel: tuple[int, int]
) -> None:
    found = engine(teacher(**serving), cluster(of_node), shared=True)
    assert (found.nodes, found.gpus) == shape
    sizes = [found.arguments[f"{kind}_parallel_size"] for kind in ("tensor", "pipeline")]
    assert tuple(sizes) == parallel
    needs = found.resources
    assert (needs.nodes, needs.tasks_per_node, needs.gpus_per_node) == (shape[0], 1, shape[1])
    assert needs.cpus_per_task == (3 * shape[1] or 1)


@pytest.mark.parametrize(
    ("replicas", "of_node", "expected"),
    [(4, None, (4, 3)), (4, 8, (4, 3)), (4, 4, (2, 6)), (4, 2, (1, 12)), (3, 4, (2, 5))],
)
def test_replicas_that_do_not_fit_on_a_node_become_jobs(
    replicas: int, of_node: int | None, expected: tuple[int, int]
) -> None:
    found = engine(teacher(gpus=2, replicas=replicas, workers=3), cluster(of_node), shared=True)
    assert (found.replicas, found.workers) == expected
    assert found.resources.tasks_per_node == expected[0]
    assert found.resources.gpus_per_node == 2 * expected[0]
    assert found.resources.cpus_per_task == 6


def test_on_one_machine_each_engine_is_a_job_of_its_own() -> None:
    found = engine(teacher(gpus=2, replicas=4, workers=3), load_cluster("local"), shared=True)
    assert (found.replicas, found.workers, found.resources.gpus_per_node) == (1, 12, 2)


def test_an_evaluation_is_one_job_with_one_engine() -> None:
    found = engine(teacher(gpus=2, replicas=4, workers=3), cluster(8), shared=False).resources
    assert (found.tasks_per_node, found.gpus_per_node, found.workers) == (1, 2, 1)


@pytest.mark.parametrize(
    ("serving", "of_node", "words"),
    [
        ({"gpus": 8, "engine": "transformers"}, 4, "runs on one node; set 'engine: vllm'"),
        ({"gpus": 8, "vllm": {"tensor_parallel_size": 8}}, 4, "leave 'tensor_parallel_size: 8' out"),
        ({"gpus": 16, "vllm": {"tensor_parallel_size": 1}}, 4, "16 groups of layers, and the model has 8"),
    ],
)
def test_what_cannot_be_spread_over_smaller_nodes_is_refused(
    serving: dict[str, Any], of_node: int, words: str
) -> None:
    with pytest.raises(StudyError) as error:
        engine(teacher(**serving), cluster(of_node), shared=True)
    assert "generic.yaml: gpus_per_node: found 4, and t has " in str(error.value)
    assert words in str(error.value)


MISTAKES = [
    ("{vllm: {max_num_seq: 4}}", "serving.vllm.max_num_seq", "did you mean 'max_num_seqs'?"),
    ("{vllm: {max-num-seqs: 4}}", "serving.vllm.max-num-seqs", "did you mean 'max_num_seqs'?"),
    ("{vllm: {max_num_seqs: many}}", "serving.vllm.max_num_seqs", "a whole number or null is needed"),
    ("{vllm: {max_num_seqs: true}}", "serving.vllm.max_num_seqs", "found True; a whole number"),
    ("{vllm: {enforce_eager: 1}}", "serving.vllm.enforce_eager", "found 1; true or false is needed"),
    ("{vllm: {gpu_memory_utilization: high}}", "serving.vllm.gpu_memory_utilization", "a number is needed"),
    ("{vllm: {dtype: bf16}}", "serving.vllm.dtype", "allowed are auto, half, float16, bfloat16"),
    ("{vllm: {cudagraph_capture_sizes: [1, x]}}", "serving.vllm.cudagraph_capture_sizes", "found 'x'"),
    ("{vllm: {model: other}}", "serving.vllm.model", "is set by sor: leave it out"),
    ("{vllm: {seed: 1}}", "serving.vllm.seed", "'seeds' of the study"),
    ("{vllm: {nnodes: 2}}", "serving.vllm.nnodes", "'serving: {nodes: …}'"),
    ("{max_model_len: 9, vllm: {max_model_len: 9}}", "serving.vllm.max_model_len", "{max_model_len: …}"),
    ("{gpus: 2, vllm: {data_parallel_size: 2}}", "serving.vllm.data_parallel_size", "replicas"),
    ("{gpus: 2, vllm: {tensor_parallel_size: 1, pipeline_parallel_size: 1}}", "serving.vllm",
     "tensor_parallel_size 1 x pipeline_parallel_size 1 are 1 processes, and the engine has 2 GPUs"),
    ("{gpus: 8, vllm: {tensor_parallel_size: 3}}", "serving.vllm", "are 6 processes, and the engine has 8"),
    ("{gpus: 2, vllm: {tensor_parallel_size: 0}}", "serving.vllm", "a whole number from 1 is needed"),
    ("{gpus: 3}", "serving.gpus", "found 3, which does not divide the model's 2 attention heads: 1, 2 do"),
    ("{nodes: 9, gpus: 1}", "serving.nodes", "9 groups of layers, and the model has 2 layers"),
    ("{gpus: 1, nodes: 2, replicas: 2}", "serving.replicas", "engines side by side are on one node"),
    ("{engine: transformers, vllm: {dtype: auto}}", "serving.vllm", "takes no arguments of vLLM"),
    ("{engine: transformers, nodes: 2}", "serving.nodes", "runs on one node"),
]  # fmt: skip


@pytest.mark.parametrize(("serving", "key", "words"), MISTAKES)
def test_mistakes_in_serving_are_found_with_their_place(
    tmp_path: Path, serving: str, key: str, words: str
) -> None:
    file = write_study(tmp_path)
    preset = {**student(), "architecture": {**ARCHITECTURE, "num_attention_heads": 2, "num_hidden_layers": 2}}
    (tmp_path / "s.yaml").write_text(f"# one\nserving: {serving}\n{yaml.safe_dump(preset)}", encoding="utf-8")
    with pytest.raises(StudyError) as error:
        load_study(str(file))
    (found,) = [str(mistake) for mistake in error.value.mistakes]
    assert re.search(rf"/s\.yaml:2:\d+: {re.escape(key)}: ", found)
    assert words in found


def test_blocks_of_quantized_experts_are_kept_whole() -> None:
    moe = {"model_type": "qwen3_moe", "moe_intermediate_size": 1536, "num_experts": 8,
           "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}  # fmt: skip
    assert list(serving_faults(teacher(moe, gpus=4))) == []
    ((key, why),) = serving_faults(teacher(moe, gpus=8))
    assert key == "gpus"
    assert "192 of 1536 columns of an expert, which blocks of 128 do not divide" in why
    assert list(serving_faults(teacher(moe, gpus=8, vllm={"enable_expert_parallel": True}))) == []


def test_arguments_of_speed_make_nothing_new_and_those_of_results_do(tmp_path: Path) -> None:
    def planned(**vllm: Any) -> list[Unit]:
        serving = {"serving": {"vllm": vllm}} if vllm else {}
        students = {"s": {**student(), **serving}}
        return plan(load_study(str(write_study(tmp_path, students))), load_cluster("local"))

    before = planned()
    assert not any("vllm" in unit.config for unit in before)
    fast = planned(gpu_memory_utilization=0.8, max_num_batched_tokens=4096)
    assert [unit.id for unit in fast] == [unit.id for unit in before]
    assert [u.execution["vllm"]["max_num_batched_tokens"] for u in fast if u.stage == "evaluate"] == [
        4096
    ] * 4
    other = planned(kv_cache_dtype="fp8", max_num_seqs=8)
    changed = {new.stage for new, old in zip(other, before, strict=True) if new.id != old.id}
    assert changed == {"evaluate", "report"}
    assert [u.config["vllm"] for u in other if u.stage == "evaluate"] == [{"kv_cache_dtype": "fp8"}] * 4


def test_each_argument_is_known_and_has_one_effect() -> None:
    assert set(known()) >= SPEED
    assert not SPEED & set(ELSEWHERE)
    results = ("quantization", "dtype", "kv_cache_dtype", "speculative_config", "hf_overrides", "load_format")
    assert list(changing(dict.fromkeys((*results, *SPEED)))) == list(results)


def on(gpu_memory: float) -> Cluster:
    return cluster(None).model_copy(update={"gpu_memory": gpu_memory})


@pytest.mark.parametrize(
    ("preset", "serving", "memory", "words"),
    [
        ("qwen3-235b-a22b", {}, 80, None),
        ("qwen3-235b-a22b", {"nodes": 2, "gpus": 4}, 80, None),
        (
            "qwen3-235b-a22b",
            {},
            64,
            "438 GiB, 55 of each of 8 GPUs, which leaves 4 GiB .*{nodes: 2, gpus: 8}",
        ),
        ("qwen3-235b-a22b", {"gpus": 16}, 64, None),
        ("qwen3-235b-a22b", {"gpus": 4}, 80, "leaves no room .* 'serving: {gpus: 8}'"),
        ("qwen3-235b-a22b-fp8", {}, 80, None),
        ("qwen3-235b-a22b-fp8", {"gpus": 2}, 80, "leaves no room .* 'serving: {gpus: 4}'"),
        ("qwen3-235b-a22b", {"gpus": 4, "vllm": {"quantization": "fp8"}}, 80, None),
        ("qwen3-235b-a22b", {"gpus": 1, "vllm": {"quantization": "someones"}}, 80, None),
        ("qwen3-235b-a22b", {"vllm": {"dtype": "float32"}}, 80, "876 GiB, .* leaves no room"),
        ("qwen3-32b", {}, 80, None),
        ("qwen3-32b", {"gpus": 1}, 64, "leaves no room"),
        ("qwen3-14b", {}, 40, None),
        ("qwen3-14b", {"vllm": {"gpu_memory_utilization": 0.75}}, 40, "of the 75% that vLLM takes"),
        ("qwen3-8b", {}, 24, None),
        ("smollm3-3b", {}, 24, None),
    ],
)
def test_weights_leave_room_for_the_cache(
    preset: str, serving: dict[str, Any], memory: float, words: str | None
) -> None:
    model = validate(Model, read_yaml(CONFIGS / f"models/{preset}.yaml"), CONFIGS)
    model = model.model_copy(update={"serving": model.serving.model_copy(update=serving)})
    assert list(serving_faults(model)) == []
    found = engine_fault(model, engine(model, on(memory), shared=True), on(memory))
    assert (found is None) == (words is None), found
    if found and words:
        assert found.refused == ("no room" in words)
        assert re.search(words, found.words)


def test_a_teacher_without_room_is_refused_before_the_queue() -> None:
    study = load_study("scale-or-reason")
    teacher = study.teacher
    assert teacher is not None
    small = teacher.model_copy(update={"serving": teacher.serving.model_copy(update={"gpus": 2})})
    study = study.model_copy(update={"teacher": small})
    units = plan(study, on(80))
    with pytest.raises(Refusal, match="qwen3-235b-a22b: its weights are 438 GiB, 219 of each"):
        check_engines(study, units, {unit.id for unit in units}, on(80))
    assert check_engines(study, units, {u.id for u in units if u.stage != "generate"}, on(80)) == []
