"""Rows that share a block are trained as if each were alone, whatever the architecture."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from made_blocks import made_blocks

from jobs.data.blocks import Blocks
from jobs.stages.train import answer_losses
from jobs.text.encoding import Row
from jobs.training import attention
from jobs.training.attention import check_positions, separate_rows
from jobs.training.loss import teach
from jobs.training.rows import Rows

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
dispatch = pytest.importorskip("torch.utils._python_dispatch")

VOCABULARY, BLOCK = 61, 48
LENGTHS = ((17, 9, 3, 12), (1, 20, 20), (48,))  # of the rows of each block; padding follows
SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 16, "intermediate_size": 64, "vocab_size": VOCABULARY, "max_position_embeddings": 128,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
MIXED = {"layer_types": ["sliding_attention", "full_attention"]}
LATENT = {
    "head_dim": None, "num_key_value_heads": 4, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8, "v_head_dim": 12,
}  # fmt: skip
ROTATIONS = {
    "full_attention": {"rope_type": "default", "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
# What makes each architecture special, as the published config.json of a model has it where one is named.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "qwen3": {"tie_word_embeddings": True},
    "llama": {"num_key_value_heads": 4, "tie_word_embeddings": False},
    "gemma2": {"sliding_window": 5, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 1.0},
    "gemma3_text": {"sliding_window": 5, "rope_parameters": ROTATIONS, **MIXED},
    "mistral": {"sliding_window": 4},
    "gpt2": {},
    "gpt_neox": {"rotary_pct": 0.25, "hidden_act": "gelu"},
    # microsoft/Phi-3-mini-4k-instruct: 2047 of 4096
    "phi3": {"sliding_window": 7, "original_max_position_embeddings": 64, "tie_word_embeddings": False},
    # ibm-granite/granite-3.1-2b-base
    "granite": {
        "attention_multiplier": 0.015625, "embedding_multiplier": 12.0, "logits_scaling": 8.0,
        "residual_multiplier": 0.22, "attention_dropout": 0.1, "tie_word_embeddings": True,
    },
    # openai/gpt-oss-20b
    "gpt_oss": {
        "attention_bias": True, "sliding_window": 6, "num_local_experts": 4, **EXPERTS, **MIXED,
        "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 150000, "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
            "original_max_position_embeddings": 16, "truncate": False,
        },
    },
    # HuggingFaceTB/SmolLM3-3B: every fourth layer without rotation
    "smollm3": {"no_rope_layers": [1, 0], "tie_word_embeddings": True},
    "cohere2": {"sliding_window": 4, "logit_scale": 0.0625, **MIXED},
    "deepseek_v3": {**LATENT, "n_routed_experts": 4, "n_group": 2, "topk_group": 1, **EXPERTS},
    "minicpm3": LATENT,
    "olmo2": {},
    "qwen3_moe": {"num_experts": 4, **EXPERTS},
    "qwen2_moe": {"num_experts": 4, "sliding_window": 4, "use_sliding_window": True, "max_window_layers": 1,
                  "shared_expert_intermediate_size": 16, **EXPERTS},
    "phimoe": {"num_local_experts": 4, "sliding_window": 4, **EXPERTS},
    "starcoder2": {"sliding_window": 4},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def make(kind: str, **changes: Any) -> Any:
    """A small model with loud weights: what leaks would show."""
    sizes = {**SIZES, **ARCHITECTURES.get(kind, {}), **changes}
    config = transformers.AutoConfig.for_model(
        kind, **{k: v for k, v in sizes.items() if k != "head_dim" or v}
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1)
    return model


def packed(model: Any) -> Any:
    separate_rows(model)
    teach(model)
    return model


def blocks(lengths: tuple[tuple[int, ...], ...] = LENGTHS, size: int = BLOCK) -> Blocks:
    """Blocks of rows of these lengths, each with an answer."""
    rng = np.random.default_rng(0)

    def drawn(length: int) -> Row:
        tokens = rng.integers(3, VOCABULARY, length).tolist()
        return Row(tokens[: 1 + length // 3], tokens[1 + length // 3 :])

    return made_blocks([[drawn(length) for length in block] for block in lengths], size)


def alone(model: Any, made: Blocks) -> Any:
    """The summed loss of all rows, each in a batch of its own."""
    total = 0.0
    store = made.store
    for start, (asked, told, _) in zip(store.starts.tolist(), store.lengths.tolist(), strict=True):
        if told:
            ids = torch.from_numpy(store.tokens[start : start + asked + told].astype(np.int64))
            logits = model(input_ids=ids[None], use_cache=False).logits[0, asked - 1 : -1]
            total += torch.nn.functional.cross_entropy(logits, ids[asked:], reduction="sum")
    return total


def answer_loss(*args: Any) -> Any:
    """The loss as `answer_losses` takes its arguments, without its parts."""
    return answer_losses(*args)[0]


def gradients(model: Any) -> Any:
    return torch.cat([w.grad.flatten() for w in model.parameters() if w.grad is not None])


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_packed_rows_have_the_loss_and_the_gradients_of_rows_alone(kind: str) -> None:
    plain = make(kind)
    plain.set_attn_implementation("eager")
    model, made = packed(copy.deepcopy(plain)), blocks()
    expected, found = alone(plain, made), answer_loss(model, made, np.arange(len(LENGTHS)), "cpu")
    torch.testing.assert_close(found, expected, rtol=2e-6, atol=0.0)
    expected.backward()
    found.backward()
    off = gradients(model) - gradients(plain)
    assert off.norm() < 1e-5 * gradients(plain).norm()


@pytest.mark.parametrize("kind", ["gemma2", "mistral", "gpt_oss"])
@pytest.mark.parametrize("step", [1, 4, 7])
def test_rows_are_the_same_in_pieces(kind: str, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, made, found = packed(make(kind)), blocks(), []
    for size in (512, step):
        monkeypatch.setattr(attention, "STEP", size)
        model.zero_grad()
        loss = answer_loss(model, made, np.arange(len(LENGTHS)), "cpu")
        loss.backward()
        found.append((float(loss.detach()), gradients(model)))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-6)
    assert (found[1][1] - found[0][1]).norm() < 1e-5 * found[0][1].norm()


@pytest.mark.parametrize("kind", ["qwen3", "gemma2", "gemma3_text", "gpt_oss"])
def test_checkpointed_layers_give_the_same_gradients(kind: str) -> None:
    model, made = packed(make(kind)), blocks()
    found = []
    for checkpointed in (False, True):
        if checkpointed:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.train()
        model.zero_grad()
        answer_loss(model, made, np.arange(len(LENGTHS)), "cpu").backward()
        found.append(gradients(model))
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["qwen2", "gemma2", "mistral", "gpt_oss", "qwen2_moe"])
def test_a_changed_token_changes_no_other_rows_loss(kind: str) -> None:
    model, made = packed(make(kind)), blocks((LENGTHS[0],))

    def losses() -> list[float]:
        """Of each row, with only that row's answer learnt."""
        found, lengths = [], made.store.lengths.copy()
        for row in range(len(lengths)):
            made.store.lengths[:] = np.stack([lengths.sum(1), 0 * lengths[:, 1], 0 * lengths[:, 2]], 1)
            made.store.lengths[row] = lengths[row]
            with torch.no_grad():
                found.append(float(answer_loss(model, made, np.arange(1), "cpu")))
        made.store.lengths[:] = lengths
        return found

    before = losses()
    made.store.tokens[17] = (made.store.tokens[17] + 1) % VOCABULARY  # the first of the second row
    after = losses()
    same = [was == pytest.approx(now, rel=1e-6) for was, now in zip(before, after, strict=True)]
    assert same == [True, False, True, True]


class Largest(dispatch.TorchDispatchMode):  # type: ignore[name-defined]
    """Notes the elements of the largest tensor that is made."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return made


@pytest.mark.parametrize(
    ("kind", "lengths"),
    [("qwen3", (9000, 5000, 2000)), ("qwen3", (16384,)), ("mistral", (16384,)), ("gemma2", (2000,) * 8)],
)
def test_no_tensor_of_a_blocks_square_is_made(kind: str, lengths: tuple[int, ...]) -> None:
    block = 16384
    model = packed(make(kind, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1))
    made = blocks((lengths,), block)
    with Largest() as largest:
        answer_loss(model, made, np.arange(1), "cpu").backward()
    assert largest.elements < block * block / 16


@pytest.mark.parametrize(("window", "told"), [(None, [-1, 0]), (5, [4, 0])])
def test_a_gpu_gets_one_call_of_torchs_kernel_for_all_rows(
    window: int | None, told: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On tensors without data: arguments and shapes are checked, nothing is computed."""
    monkeypatch.setattr(attention, "_flashes", lambda *_: True)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    calls = []

    class Calls(dispatch.TorchDispatchMode):  # type: ignore[name-defined]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.name() == "torch_attn::_varlen_attn":
                calls.append(args)
            return func(*args, **(kwargs or {}))

    with Calls():
        query, key, value = (
            torch.empty(1, heads, 12, 64, dtype=torch.bfloat16, device="meta", requires_grad=True)
            for heads in (4, 2, 2)
        )
        rows = Rows((0, 5, 12), torch.empty(3, dtype=torch.int32, device="meta"))
        layer = torch.nn.Module()
        found, _ = attention.attend(layer, query, key, value, None, rows, scaling=0.5, sliding_window=window)
        slopes = torch.autograd.grad(found.sum(), (query, key, value))
    assert found.shape == (1, 12, 4, 64)
    assert [slope.shape for slope in slopes] == [query.shape, key.shape, value.shape]
    ((_, _, _, starts, _, longest, _, causal, scale, seen, *_),) = calls
    assert (starts is rows.cumulative, longest, causal, scale, seen) == (True, 7, window is None, 0.5, told)


@pytest.mark.parametrize(("lengths", "moved"), [((48,), 0), ((16, 16, 16), 0), ((24, 23), 8), ((40, 8), 8)])
def test_tokens_are_moved_only_where_rows_differ_in_length(lengths: tuple[int, ...], moved: int) -> None:
    plain = make("qwen2")
    plain.set_attn_implementation("eager")
    model, made, calls = packed(copy.deepcopy(plain)), blocks((lengths,)), []

    class Moves(dispatch.TorchDispatchMode):  # type: ignore[name-defined]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            calls.extend(["index_select"] * ("index_select" in func.name()))
            return func(*args, **(kwargs or {}))

    with Moves():
        found = answer_loss(model, made, np.arange(1), "cpu")
    torch.testing.assert_close(found, alone(plain, made), rtol=2e-6, atol=0.0)
    found.backward()
    alone(plain, made).backward()
    assert (gradients(model) - gradients(plain)).norm() < 1e-5 * gradients(plain).norm()
    assert len(calls) - 1 == moved  # and one of the loss


def test_padding_costs_nothing() -> None:
    model = packed(make("qwen3"))
    seen = []
    model.model.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    answer_loss(model, blocks(((5, 4), (7,))), np.arange(2), "cpu")
    assert seen == [16]


@pytest.mark.parametrize(
    ("kind", "changes", "why"),
    [
        ("bloom", {"n_layer": 2, "n_head": 4}, "does not use transformers' attention interface"),
        ("nemotron", {}, "does not pass rows on"),
        (
            "lfm2",
            {"layer_types": ["conv", "full_attention"]},
            "in layers other than full or sliding attention",
        ),
        ("doge", {}, "mask or bias of its own"),
        ("llama4_text", {"attention_chunk_size": 4, "num_local_experts": 2}, "llama4_text"),
    ],
)
def test_an_architecture_whose_rows_would_mix_is_refused(
    kind: str, changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(ValueError, match=rf"the architecture {kind} .*packed rows") as error:
        answer_loss(packed(make(kind, **changes)), blocks(), np.arange(1), "cpu")
    assert why in str(error.value)


def test_rotations_that_depend_on_the_longest_row_are_refused() -> None:
    """As microsoft/Phi-4-mini-instruct has them."""
    rope = {
        "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4,
        "original_max_position_embeddings": 32,
    }  # fmt: skip
    config = make("phi3", rope_parameters=rope, head_dim=None, original_max_position_embeddings=32).config
    check_positions(config, 32)
    with pytest.raises(ValueError, match=r"longrope.*set training\.block to 32 or less"):
        check_positions(config, 48)
