"""FLOPs and parameters against torch's own counter and transformers' own models; GPU names."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.core import flops
from jobs.core.gpus import PEAKS, gpu, peak_flops

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

BASE = {
    "vocab_size": 101, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip
EXPERTS: dict[str, Any] = {
    "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 20, "head_dim": 16,
}  # fmt: skip
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2-tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2-untied": ("qwen2", {"tie_word_embeddings": False, "num_key_value_heads": 4}),
    "qwen3": ("qwen3", {"head_dim": 24, "tie_word_embeddings": True}),
    "qwen3-bias": ("qwen3", {"head_dim": 8, "attention_bias": True}),
    "moe": ("qwen3_moe", EXPERTS),
    "moe-some-dense": ("qwen3_moe", EXPERTS | {"mlp_only_layers": [3], "decoder_sparse_step": 2}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "llama-biases": ("llama", {"mlp_bias": True, "attention_bias": True, "head_dim": 20}),
}


@pytest.fixture(scope="module", params=VARIANTS)
def model(request: pytest.FixtureRequest) -> Any:
    kind, extra = VARIANTS[request.param]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **(BASE | extra))
    config._experts_implementation = "eager"  # products that the counter sees
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")


def counted(work: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def tokens(*shape: int) -> Any:
    return torch.randint(0, BASE["vocab_size"], shape)


def test_parameters_are_the_models_own(model: Any) -> None:
    assert flops.architecture(model.config).parameters == sum(p.numel() for p in model.parameters())
    experts = [p for name, p in model.named_parameters() if "experts" in name]
    idle = sum(p.numel() for p in experts) * 4 // 6  # 2 of 6 experts are active
    assert (
        flops.architecture(model.config).active_parameters
        == flops.architecture(model.config).parameters - idle
    )


@pytest.mark.parametrize("length", [1, 37, 150])
def test_forward_and_training_match_the_counter(model: Any, length: int) -> None:
    ids = tokens(2, length)
    assert counted(lambda: model(ids)) == pytest.approx(
        flops.forward_flops(model.config, [length] * 2), rel=1e-3
    )
    trained = counted(lambda: model(ids, labels=ids).loss.backward())
    assert trained == pytest.approx(flops.train_flops(model.config, {length: 2}), rel=1e-3)


def test_packed_sequences_match_the_counter_and_the_sequences_alone(model: Any) -> None:
    """One row of three sequences, whose attention is computed for each alone, as packed kernels do."""
    lengths = [5, 60, 31]

    def each_alone(module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: float, **_: Any) -> Any:
        groups = query.shape[1] // key.shape[1]
        key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
        parts = zip(*(t.split(lengths, dim=2) for t in (query, key, value)), strict=True)
        made = []
        for q, k, v in parts:
            future = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).triu(1)
            made.append(((q @ k.mT) * scaling).masked_fill(future, -torch.inf).softmax(-1) @ v)
        return torch.cat(made, dim=2).transpose(1, 2).contiguous(), None

    transformers.AttentionInterface.register("each_alone", each_alone)
    transformers.AttentionMaskInterface.register("each_alone", lambda *_, **__: None)
    row = tokens(1, sum(lengths))
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    alone = torch.cat([model(part).logits for part in row.split(lengths, dim=1)], dim=1)
    model.set_attn_implementation("each_alone")
    try:
        packed = model(row, position_ids=positions)
        work = counted(lambda: model(row, position_ids=positions, labels=row).loss.backward())
    finally:
        model.set_attn_implementation("eager")
    torch.testing.assert_close(packed.logits, alone, rtol=1e-3, atol=1e-4)
    assert work == pytest.approx(flops.train_flops(model.config, lengths), rel=1e-3)
    assert flops.train_flops(model.config, lengths) < flops.train_flops(model.config, sum(lengths))


def test_recomputation_matches_the_counter(model: Any) -> None:
    ids = tokens(2, 37)
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    try:
        work = counted(lambda: model(ids, labels=ids, use_cache=False).loss.backward())
    finally:
        model.gradient_checkpointing_disable()
        model.eval()
    expected = flops.train_flops(model.config, [37] * 2) + flops.recompute_flops(model.config, [37] * 2)
    assert work == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("prompt", "new"), [(37, 9), (1, 30), (12, 1)])
def test_generation_matches_the_counter(model: Any, prompt: int, new: int) -> None:
    ids = tokens(1, prompt)
    work = counted(lambda: model.generate(ids, max_new_tokens=new, min_new_tokens=new, do_sample=False))
    assert work == pytest.approx(flops.generate_flops(model.config, prompt, new), rel=1e-3)


@pytest.mark.parametrize("cached", [1, 20, 36])
def test_a_cached_prefix_matches_the_counter(model: Any, cached: int) -> None:
    prefix, rest = tokens(1, 37).split([cached, 37 - cached], dim=1)
    past = model(prefix, use_cache=True).past_key_values
    work = counted(lambda: model(rest, past_key_values=past, logits_to_keep=1))
    assert work == pytest.approx(flops.generate_flops(model.config, 37, 1, cached), rel=1e-3)


def test_generation_sums_requests_and_an_empty_answer_costs_its_prompt(model: Any) -> None:
    one_by_one = sum(flops.generate_flops(model.config, p, n) for p, n in ((5, 7), (11, 1), (3, 0)))
    assert flops.generate_flops(model.config, [5, 11, 3], [7, 1, 0]) == one_by_one
    assert flops.generate_flops(model.config, 3, 0) == flops.generate_flops(model.config, 3, 1) > 0


# Parameters as the models' own weight files hold them (their bytes in bf16, divided by 2).
PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "Qwen2.5-0.5B": ({
        "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864,
        "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    }, 494_032_768),
    "Qwen2.5-7B": ({
        "model_type": "qwen2", "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944,
        "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    }, 7_615_616_512),
    "SmolLM2-135M": ({
        "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
        "tie_word_embeddings": True,
    }, 134_515_008),
    "Qwen3-235B-A22B": ({
        "model_type": "qwen3_moe", "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 12288,
        "num_hidden_layers": 94, "num_attention_heads": 64, "num_key_value_heads": 4, "head_dim": 128,
        "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 1536,
        "tie_word_embeddings": False,
    }, 235_093_634_560),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models(name: str) -> None:
    config, parameters = PUBLISHED[name]
    assert flops.architecture(config).parameters == parameters
    counted_once = flops.train_flops(config, 1)  # no attention to speak of: 6 x what is multiplied
    assert 0.7 < counted_once / (6 * flops.architecture(config).active_parameters) < 1.1
    if "A22B" in name:
        assert flops.architecture(config).active_parameters == pytest.approx(22.2e9, rel=0.01)


def test_operations_of_a_tiny_model_are_those_worked_out_by_hand() -> None:
    tiny = {
        "model_type": "llama", "vocab_size": 10, "hidden_size": 4, "intermediate_size": 6,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
    }  # fmt: skip
    layer = 16 + 8 + 8 + 16 + 3 * 24  # query, key, value, output; gated MLP
    scores, output = 2 * 4, 40  # of a pair of query and key, with the weighted values; of a row
    assert flops.forward_flops(tiny, [3, 2]) == 2 * (5 * layer + (9 + 4) * scores + 5 * output)
    assert flops.train_flops(tiny, {3: 1, 2: 4}) == 6 * (11 * layer + (9 + 4 * 4) * scores + 11 * output)
    assert flops.recompute_flops(tiny, [3, 2]) == 2 * (5 * layer + (9 + 4) * scores)
    one = 2 * (4 * layer + (2 * 3 + 4 + 5) * scores + 3 * output)  # 2 of 3 tokens are read, then 2 are passed
    other = 2 * (layer + scores + output)
    assert flops.generate_flops(tiny, 3, 3, 1) == one
    assert flops.generate_flops(tiny, [3, 1], [3, 0], [1, 0]) == one + other
    assert flops.generate_flops(tiny, [3, 3], [3, 3], 1) == 2 * one
    assert flops.generate_flops(tiny, [1, 1], 2 * [1]) == 2 * other
    assert flops.generate_flops(tiny, [], []) == 0


@pytest.mark.parametrize(
    ("kind", "lacking", "meant"),
    [
        ("llama", "num_key_value_heads", BASE["num_attention_heads"]),
        ("llama", "head_dim", BASE["hidden_size"] // BASE["num_attention_heads"]),
        ("qwen3", "head_dim", 128),
        ("qwen3_moe", "decoder_sparse_step", 1),
    ],
)
def test_what_a_config_lacks_is_as_its_architecture_has_it(kind: str, lacking: str, meant: int) -> None:
    whole = BASE | EXPERTS | {"model_type": kind, lacking: meant}
    part = {key: value for key, value in whole.items() if key != lacking}
    assert flops.architecture(part) == flops.architecture(whole)
    assert flops.architecture(part) != flops.architecture(whole | {lacking: meant + 1})


def test_qwen2_has_the_same_biases_whatever_its_config_says() -> None:
    config, _ = PUBLISHED["Qwen2.5-0.5B"]
    assert flops.architecture(config | {"attention_bias": True}) == flops.architecture(config)


@pytest.mark.parametrize(
    ("step", "dense", "sparse"), [(1, [], 5), (3, [], 1), (1, [0, 4], 3), (3, [2], 0), (1, None, 5)]
)
def test_experts_stand_in_each_layer_of_a_step_but_the_dense_ones(
    step: int, dense: list[int] | None, sparse: int
) -> None:
    config = BASE | EXPERTS | {"model_type": "qwen3_moe", "num_hidden_layers": 5}
    made = flops.architecture(config | {"decoder_sparse_step": step, "mlp_only_layers": dense})
    more = 48 * 6 + 6 * 3 * 48 * 20 - 3 * 48 * 80  # a router and six experts in place of one MLP
    assert made.parameters - flops.architecture(config | {"num_experts": 0}).parameters == sparse * more


def test_a_mixture_of_no_experts_is_a_dense_model() -> None:
    config = BASE | EXPERTS | {"model_type": "qwen3_moe", "num_experts": 0}
    assert flops.architecture(config) == flops.architecture(config | {"model_type": "qwen3"})


def test_every_form_of_config_and_lengths_gives_the_same_exact_int(model: Any, tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    model.config.save_pretrained(tmp_path)
    expected = flops.forward_flops(model.config, [7, 7, 300])
    forms = (
        model.config.to_dict(),
        tmp_path,
        str(tmp_path / "config.json"),
        flops.architecture(model.config),
    )
    assert {flops.forward_flops(form, {7: 2, 300: 1}) for form in forms} == {expected}
    assert flops.forward_flops(model.config, np.array([7, 7, 300], dtype=np.int16)) == expected
    assert type(flops.generate_flops(model.config, np.array([7]), np.array([300]))) is int


def test_a_million_rows_do_not_overflow() -> None:
    np = pytest.importorskip("numpy")
    config, _ = PUBLISHED["Qwen3-235B-A22B"]
    lengths = np.full(1_000_000, 30_000)
    total = flops.train_flops(config, lengths)
    assert total == 1_000_000 * flops.train_flops(config, 30_000) > 2**63
    assert flops.train_flops(config, np.array(30_000)) * 1_000_000 == total


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "mamba"}, "^config: .*'mamba'; 'sor init FILE --model MODEL' measures others.*llama"),
        ({"model_type": "mamba", "flops": {"per_token": 2}}, "'per_output' of a mamba config is missing"),
        ({"model_type": "llama", "hidden_size": 4, "num_hidden_layers": 1}, "'vocab_size'.*missing"),
        ("/no/such/folder", "no such file"),
        ([1], "list"),
    ],
)
def test_bad_configs_are_named(config: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        flops.forward_flops(config, 10)


def test_a_bad_file_is_named_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "mamba"}', encoding="utf-8")
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: .*'mamba'"):
        flops.architecture(tmp_path)


def test_bad_token_counts_are_named() -> None:
    config, _ = PUBLISHED["Qwen2.5-0.5B"]
    with pytest.raises(ValueError, match="not -1"):
        flops.forward_flops(config, [3, -1])
    halves: Any = [3.5]
    with pytest.raises(ValueError, match="whole numbers"):
        flops.forward_flops(config, halves)
    with pytest.raises(ValueError, match="2 prompt lengths but 1"):
        flops.generate_flops(config, [1, 2], [3])
    with pytest.raises(ValueError, match="prompt of 0 tokens"):
        flops.generate_flops(config, 0, 3)
    with pytest.raises(ValueError, match="fewer cached tokens"):
        flops.generate_flops(config, [5, 9], [3, 3], [0, 9])


def test_counting_needs_nothing_heavy() -> None:
    program = (
        "import sys, json, analysis, jobs.core.flops, jobs.core.gpus;"
        "print(json.dumps([m for m in ('torch', 'numpy', 'pandas', 'matplotlib') if m in sys.modules]))"
    )
    made = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=True)
    assert json.loads(made.stdout) == []


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("h100", "h100"), ("gpu:h100:4", "h100"), ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"), ("NVIDIA A100 80 GB", "a100"),
        ("NVIDIA A100-SXM4-80GB", "a100"), ("a100", "a100"), ("nvidia_a100-sxm4-40gb", "a100"),
        ("NVIDIA GH200 480GB", "gh200"), ("Tesla V100-SXM2-32GB", "v100"), ("NVIDIA RTX A6000", "a6000"),
        ("AMD Instinct MI250X", "mi250x"), ("NVIDIA L40S", "l40s"), ("B200", "b200"),
    ],
)  # fmt: skip
def test_gpus_are_found_by_the_names_in_use(name: str, row: str) -> None:
    assert gpu(name) == row


def test_gpu_rates_are_dense_and_mistakes_are_named() -> None:
    assert peak_flops("h100", "bf16") == pytest.approx(989.4e12)
    assert peak_flops("A100", "bfloat16") == 312e12
    assert all(p["fp16"] >= 2 * p["fp32"] or row in ("3090", "4090") for row, p in PEAKS.items())
    with pytest.raises(ValueError, match=r"rtx9999.*h100, .*mi300x"):
        gpu("rtx9999")
    with pytest.raises(ValueError, match="slice"):
        gpu("nvidia_a100_3g.20gb")
    with pytest.raises(ValueError, match="v100 has no peak rate for 'bf16'; it has fp16, fp32"):
        peak_flops("v100")
