"""Each family of models against its model in transformers, and torch's count of its FLOPs."""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import Any

import pytest
from real_models import REAL

from jobs.core import flops
from jobs.core.architectures import FAMILIES, Architecture, measured

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from jobs.engines.measure import build, measure  # noqa: E402

BASE: dict[str, Any] = {
    "vocab_size": 101, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
LOCAL = {"num_local_experts": 6, "num_experts_per_tok": 2}
QWEN = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 20}
SHARED = {**QWEN, "shared_expert_intermediate_size": 36}
LATENT = {
    "num_key_value_heads": 4, "kv_lora_rank": 16, "q_lora_rank": 24, "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8, "v_head_dim": 14, "n_routed_experts": 8, "num_experts_per_tok": 2,
    "moe_intermediate_size": 20, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1,
}  # fmt: skip
WINDOW = {"use_sliding_window": True, "sliding_window": 9}
MIXED = {"layer_types": ["full_attention", "sliding_attention", "full_attention", "full_attention"]}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"mlp_bias": True, "attention_bias": True, "head_dim": 20}),
    "qwen2": ("qwen2", {}),
    "qwen2-windows": ("qwen2", {**WINDOW, "max_window_layers": 1}),
    "qwen2-layers": ("qwen2", {**WINDOW, **MIXED}),
    "qwen2-off": ("qwen2", {"sliding_window": 9, "max_window_layers": 1}),
    "qwen3-windows": ("qwen3", {**WINDOW, "max_window_layers": 3, "head_dim": 24}),
    "qwen3_moe-windows": ("qwen3_moe", {**QWEN, **WINDOW, "head_dim": 16}),
    "mistral": ("mistral", {}),
    "mistral-full": ("mistral", {"sliding_window": None, "head_dim": 20}),
    "mistral-layers": ("mistral", {"sliding_window": 9, **MIXED}),
    "mixtral": ("mixtral", LOCAL),
    "mixtral-windows": ("mixtral", {**LOCAL, "sliding_window": 9, "tie_word_embeddings": True}),
    "gemma2": ("gemma2", {"head_dim": 20, "num_hidden_layers": 5}),
    "gemma2-untied": ("gemma2", {"attention_bias": True, "tie_word_embeddings": False}),
    "gemma2-layers": ("gemma2", {"sliding_window": 9, **MIXED}),
    "gemma3": ("gemma3_text", {"head_dim": 20, "num_hidden_layers": 11}),
    "gemma3-layers": ("gemma3_text", {"attention_bias": True, **MIXED}),
    "phi3": ("phi3", {"partial_rotary_factor": 0.5}),
    "phi3-windows": ("phi3", {"sliding_window": 9, "tie_word_embeddings": True}),
    "olmo2": ("olmo2", {}),
    "olmo2-biases": ("olmo2", {"attention_bias": True, "tie_word_embeddings": True}),
    "granite": ("granite", {}),
    "granite-biases": ("granite", {"mlp_bias": True, "attention_bias": True, "tie_word_embeddings": True}),
    "smollm3": ("smollm3", {"tie_word_embeddings": False, "mlp_bias": True, "attention_bias": True}),
    "smollm3-windows": ("smollm3", WINDOW),
    "smollm3-interval": ("smollm3", {**WINDOW, "no_rope_layer_interval": 3, "num_hidden_layers": 5}),
    "smollm3-off": ("smollm3", {"sliding_window": 9}),
    "smollm3-ropes": ("smollm3", {**WINDOW, "no_rope_layers": [0, 1, 1, 0]}),
    "gpt_oss": ("gpt_oss", {**LOCAL, "num_hidden_layers": 5}),
    "gpt_oss-layers": ("gpt_oss", {**LOCAL, **MIXED, "attention_bias": False, "head_dim": 16}),
    "qwen2_moe": ("qwen2_moe", SHARED),
    "qwen2_moe-mixed": (
        "qwen2_moe",
        {**SHARED, **WINDOW, "max_window_layers": 3, "qkv_bias": False, "mlp_only_layers": [1]},
    ),
    "qwen2_moe-step": ("qwen2_moe", {**SHARED, "decoder_sparse_step": 3, "num_hidden_layers": 5}),
    "deepseek_v3": ("deepseek_v3", {**LATENT, "n_shared_experts": 2}),
    "deepseek_v3-biases": ("deepseek_v3", {**LATENT, "q_lora_rank": None, "attention_bias": True}),
    "deepseek_v3-dense": ("deepseek_v3", {**LATENT, "first_k_dense_replace": 4, "attention_bias": True}),
    "starcoder2": ("starcoder2", {}),
    "starcoder2-plain": ("starcoder2", {"use_bias": False, "tie_word_embeddings": False}),
    "gpt_neox": ("gpt_neox", {}),
    "gpt_neox-tied": ("gpt_neox", {"attention_bias": False, "tie_word_embeddings": True}),
}  # fmt: skip
WINDOWED = [name for name, (kind, _) in VARIANTS.items() if FAMILIES[kind].sliding]
SPARSE = [name for name, (kind, _) in VARIANTS.items() if FAMILIES[kind].sparse and "dense" not in name]


# Keys of other families, which a family's model ignores, with the value that would count.
MLP_BIAS = {"llama", "granite", "smollm3"}
QWENS = {"qwen2", "qwen3", "qwen3_moe"}  # whose parameters grow with it here, although no model has it
FOREIGN: dict[str, dict[str, Any]] = {
    "mlp_bias": dict.fromkeys(set(FAMILIES) - MLP_BIAS - QWENS, True),
    "attention_bias": dict.fromkeys(
        ("qwen2", "mistral", "mixtral", "phi3", "qwen2_moe", "starcoder2"), True
    ),
    "qkv_bias": dict.fromkeys(set(FAMILIES) - {"qwen2_moe"}, True) | {"qwen2": False},
    "use_bias": dict.fromkeys(set(FAMILIES) - {"starcoder2"}, True),
    "use_sliding_window": dict.fromkeys(
        ("mistral", "mixtral", "gemma2", "gemma3_text", "phi3", "gpt_oss", "starcoder2"), False
    ),
    "sliding_window": dict.fromkeys(("llama", "olmo2", "granite", "gpt_neox", "deepseek_v3"), 9),
    "head_dim": {"gpt_neox": 20},
    "num_key_value_heads": {"gpt_neox": 2},
    "shared_expert_intermediate_size": dict.fromkeys(("mixtral", "gpt_oss", "deepseek_v3", "qwen3_moe"), 30),
    "n_shared_experts": dict.fromkeys(("mixtral", "gpt_oss", "qwen2_moe", "qwen3_moe"), 3),
    "kv_lora_rank": dict.fromkeys(set(FAMILIES) - {"deepseek_v3"}, 16),
}  # fmt: skip


def config_of(name: str) -> Any:
    return transformers.AutoConfig.for_model(**raw(name))


def raw(name: str) -> dict[str, Any]:
    """The config as a user may write it, without what transformers makes of it."""
    kind, extra = VARIANTS[name]
    return {"model_type": kind, **BASE, **extra}


def counted(work: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def test_every_family_has_a_variant() -> None:
    assert {kind for kind, _ in VARIANTS.values()} == set(FAMILIES)


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_and_flops_are_those_of_the_model(name: str) -> None:
    """To the operation. Attention here computes the full square, as a window that is only a mask does."""
    values = config_of(name).to_dict()
    _, count = build(values)
    found = flops.architecture(values)
    assert found == flops.architecture(raw(name))
    assert found.parameters == sum(p.numel() for p in count.model.parameters())
    squares = Architecture(
        found.layer_weights, found.output_weights, ((None, sum(n for _, n in found.pair_products)),), 0, 0
    )
    for length in (1, 37):
        assert count(length) == flops.forward_flops(squares, length)


@pytest.mark.parametrize("kind", FAMILIES)
def test_keys_of_other_families_count_for_nothing(kind: str) -> None:
    foreign = {key: by_kind[kind] for key, by_kind in FOREIGN.items() if kind in by_kind}
    values = raw(next(name for name, (its, _) in VARIANTS.items() if its == kind)) | foreign
    _, count = build(transformers.AutoConfig.for_model(**values).to_dict())
    found = flops.architecture(values)
    assert found.parameters == sum(p.numel() for p in count.model.parameters())
    assert count(9) == flops.forward_flops(found, 9)  # no window is shorter
    seen = {window for window, _ in count.seen}
    assert seen == {window for window, _ in found.pair_products}


@pytest.mark.parametrize("name", WINDOWED)
def test_queries_attend_to_the_keys_of_their_windows(name: str) -> None:
    """A layer has a window if that many of its attention weights are not zero."""
    kind, extra = VARIANTS[name]
    window = {"sliding_window": 9} if extra.get("sliding_window", 9) else {}
    config = transformers.AutoConfig.for_model(kind, **(BASE | extra | window))
    config._experts_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    ids = torch.arange(20)[None] + 3
    weights = model(ids, output_attentions=True, use_cache=False).attentions
    seen = {20 * 21 // 2: None, 9 * 10 // 2 + 11 * 9: 9}
    layers = Counter(seen[int(layer[0, 0].count_nonzero())] for layer in weights)
    heads, each = config.num_attention_heads, 2 * (getattr(config, "head_dim", None) or 12)
    assert dict(flops.architecture(config).pair_products) == {w: n * heads * each for w, n in layers.items()}


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "qwen2_moe-mixed"])
def test_measured_coefficients_are_those_of_the_config(name: str) -> None:
    values = config_of(name).to_dict()
    found, known = measured(measure(values)["flops"]), flops.architecture(values)
    nothing = ((None, 0),) if None not in dict(known.pair_products) else ()
    assert dict(found.pair_products) == dict((*nothing, *known.pair_products))
    assert found.active_parameters == known.active_parameters
    assert (found.layer_weights, found.output_weights) == (known.layer_weights, known.output_weights)


def test_windows_that_cannot_be_told_are_refused() -> None:
    """This family's attention is not called with its window, only with a mask."""
    with pytest.raises(ValueError, match="qwen2_moe: not all of its 4 layers attend to all tokens"):
        measure(config_of("qwen2_moe-mixed").to_dict())


@pytest.mark.parametrize("name", SPARSE)
def test_the_experts_a_real_router_chooses_are_as_many(name: str) -> None:
    """Real tokens through real routers: one expert after the other, each with the tokens that chose it."""
    torch.manual_seed(0)
    config = config_of(name)
    config._experts_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    for weights in (p for n, p in model.named_parameters() if n.endswith(("router.weight", "gate.weight"))):
        torch.nn.init.normal_(weights)  # some families start with zeros, where every token chooses the same
    used = set()
    for module in model.modules():
        if any(p.dim() == 3 for p in module.parameters(recurse=False)):
            module.register_forward_hook(lambda _, given, __: used.add(tuple(given[1].unique().tolist())))
    ids = torch.arange(9)[None]
    square = flops.forward_flops(config, 9)  # windows are not shorter
    assert counted(lambda: model(ids, use_cache=False)) == pytest.approx(square, rel=1e-3)
    assert max(map(len, used)) > 2
    trained = counted(lambda: model(ids, labels=ids, use_cache=False).loss.backward())
    assert trained == pytest.approx(flops.train_flops(config, 9), rel=1e-3)


def test_experts_that_a_token_does_not_pass_are_parameters_only() -> None:
    config = config_of("gpt_oss")
    all_of_them = flops.architecture(config.to_dict() | {"num_experts_per_tok": 6})
    two = flops.architecture(config)
    assert all_of_them.layer_weights - two.layer_weights == 5 * 4 * 3 * 48 * 80  # layers, experts, matrices
    assert all_of_them.parameters == two.parameters == all_of_them.active_parameters


@pytest.mark.parametrize("name", REAL)
def test_published_models(name: str) -> None:
    values, parameters = REAL[name]
    found = flops.architecture(values)
    _, count = build(values)
    assert found.parameters == parameters == sum(p.numel() for p in count.model.parameters())
    length = 64
    assert count(length) == flops.forward_flops(found, length)


@pytest.mark.parametrize(
    ("name", "billions"),
    [("Mixtral-8x7B-v0.1", 12.9), ("DeepSeek-V3", 37.6), ("Qwen1.5-MoE-A2.7B", 2.69), ("gpt-oss-20b", 4.19)],
)
def test_active_parameters_of_published_mixtures(name: str, billions: float) -> None:
    """As their makers give them: 12.9, 37 and 2.7; OpenAI's 3.6 leave out the embedding, of 0.58."""
    assert flops.architecture(REAL[name][0]).active_parameters == pytest.approx(billions * 1e9, rel=3e-3)


@pytest.mark.parametrize("kind", FAMILIES)
def test_what_a_config_lacks_is_as_transformers_has_it(kind: str) -> None:
    family = FAMILIES[kind]
    least = {"num_hidden_layers": 30, "hidden_size": 128, "num_attention_heads": 128, "vocab_size": 9}
    if kind in ("qwen2", "qwen3", "qwen3_moe"):  # their defaults are older than this test
        least["num_key_value_heads"] = 4
    needed = {key: least.get(key, 12) for key in family.needed}
    windows = {"use_sliding_window": True} if "use_sliding_window" in family.defaults else {}
    given = {"model_type": kind, **needed, **least, **windows}
    whole = transformers.AutoConfig.for_model(**given).to_dict()
    assert flops.architecture(given) == flops.architecture(whole)


def pairs(window: int | None, positions: range, cached: int = 0, decoded: int = 0) -> int:
    """Count the pairs one by one: within the band for a pass over a prompt, then as many keys as are seen."""
    wide = window or 10**9
    prompt = sum(abs(i - j) < wide for i, j in product(positions[cached:], positions))
    return prompt + sum(min(len(positions) + step, wide) for step in range(1, decoded + 1))


@pytest.mark.parametrize("window", [None, 1, 2, 5, 8, 9, 40])
def test_windows_against_pairs_counted_one_by_one(window: int | None) -> None:
    one = Architecture(0, 0, ((window, 1),), 0, 0)  # a product for each pair, and nothing else
    for n in (0, 1, 4, 5, 6, 8, 9, 23):
        assert flops.forward_flops(one, n) == 2 * pairs(window, range(n))
    for prompt, cached, new in product((1, 4, 5, 9, 20), (0, 1, 3, 8, 19), (0, 1, 2, 7, 30)):
        if cached < prompt:
            expected = 2 * pairs(window, range(prompt), cached, max(new, 1) - 1)
            assert flops.generate_flops(one, prompt, new, cached) == expected


def test_a_window_is_the_full_square_up_to_its_width_and_linear_beyond() -> None:
    one = Architecture(0, 0, ((8, 1),), 0, 0)
    assert [flops.forward_flops(one, n) for n in (1, 7, 8)] == [2, 98, 128]
    assert [flops.forward_flops(one, n) - flops.forward_flops(one, n - 1) for n in (9, 10, 1000)] == [30] * 3
    assert flops.train_flops(one, {9: 2, 3: 1}) == 6 * (2 * 79 + 9)
    assert flops.recompute_flops(one, 9) == flops.forward_flops(one, 9)


@pytest.mark.parametrize("name", ["mistral", "gemma2", "gemma3", "gpt_oss", "qwen2-windows"])
@pytest.mark.parametrize(("prompt", "new"), [(5, 1), (5, 4), (9, 14), (1, 20)])
def test_decoding_in_windows_matches_the_counter(name: str, prompt: int, new: int) -> None:
    """The cache of a layer with a window holds no more than the window."""
    torch.manual_seed(0)
    kind, extra = VARIANTS[name]
    config = transformers.AutoConfig.for_model(kind, **(BASE | extra | {"sliding_window": 9}))
    config._experts_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    ids = torch.full((1, prompt), 5)
    mask = torch.ones_like(ids)
    options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "attention_mask": mask}
    work = counted(lambda: model.generate(ids, **options))
    assert work == pytest.approx(flops.generate_flops(config, prompt, new), rel=1e-3)
    if new > 10:
        wide = flops.generate_flops(config.to_dict() | {"sliding_window": 100}, prompt, new)
        assert work < wide * 0.999


def test_decoding_with_latents_counts_keys_and_values_once() -> None:
    """transformers caches the latents, and expands all of them again at each step."""
    torch.manual_seed(0)
    config = config_of("deepseek_v3-biases")
    config._experts_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    work = counted(lambda: model.generate(torch.full((1, 7), 5), **options))
    cached = sum(range(7, 7 + 5))
    again = 2 * 4 * cached * 16 * 4 * (12 + 14)  # layers, tokens, rank, heads, widths of a key and a value
    assert work == pytest.approx(flops.generate_flops(config, 7, 6) + again, rel=1e-3)
