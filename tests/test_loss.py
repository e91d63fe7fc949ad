"""The loss of answer tokens, in chunks: as if all logits were made, in a fraction of their memory."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from test_attention import (
    LENGTHS,
    VOCABULARY,
    Largest,
    alone,
    answer_loss,
    blocks,
    gradients,
    make,
    packed,
)

from jobs.training import loss
from jobs.training.loss import Around

torch = pytest.importorskip("torch")
TOKENS, WIDTH, WORDS = 100, 24, 333


def head(bias: bool, dtype: Any = torch.float32) -> list[Any]:
    """Hidden states, a head's weights and bias, and targets."""
    torch.manual_seed(0)
    shapes: list[tuple[int, ...]] = [(TOKENS, WIDTH), (WORDS, WIDTH), (WORDS,)]
    hidden, weight, offset = (torch.randn(shape).to(dtype).requires_grad_() for shape in shapes)
    return [hidden, weight, offset if bias else None, torch.randint(0, WORDS, (TOKENS,))]


def chunked(*args: Any, **kwargs: Any) -> Any:
    return loss.chunked(*args, **kwargs)[0]


def capped(logits: Any) -> Any:
    return 5.0 * torch.tanh(logits / 5.0)


@pytest.mark.parametrize("after", [None, capped])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chunk", [7, 100, 1000])
def test_loss_and_gradients_are_those_of_all_logits_at_once(chunk: int, bias: bool, after: Any) -> None:
    hidden, weight, offset, targets = head(bias)
    given = [hidden, weight, offset] if bias else [hidden, weight]
    logits = torch.nn.functional.linear(hidden, weight, offset)
    expected = torch.nn.functional.cross_entropy(after(logits) if after else logits, targets, reduction="sum")
    found = chunked(hidden, weight, offset, targets, after, chunk)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0.0)
    pairs = zip(torch.autograd.grad(3 * found, given), torch.autograd.grad(3 * expected, given), strict=True)
    for of_found, of_expected in pairs:
        torch.testing.assert_close(of_found, of_expected, rtol=1e-4, atol=1e-5)


def test_each_target_has_its_own_loss() -> None:
    hidden, weight, offset, targets = head(True)
    logits = capped(torch.nn.functional.linear(hidden, weight, offset))
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    total, each = loss.chunked(hidden, weight, offset, targets, capped, 7)
    torch.testing.assert_close(each, expected, rtol=1e-5, atol=1e-6)
    assert not each.requires_grad
    assert float(total.detach()) == pytest.approx(float(each.sum()), rel=1e-6)


def test_bf16_is_added_up_in_fp32() -> None:
    hidden, weight, _, targets = head(False, torch.bfloat16)

    def graded(loss: Any) -> list[Any]:
        return [loss.detach(), *torch.autograd.grad(loss, (hidden, weight))]

    def plain(logits: Any) -> Any:
        return torch.nn.functional.cross_entropy(logits, targets, reduction="sum")

    exact = graded(plain(hidden.double() @ weight.double().T))
    found = graded(chunked(hidden, weight, None, targets, chunk=1))  # as many additions as there can be
    at_once = graded(plain((hidden @ weight.T).float()))
    assert [x.dtype for x in found] == [torch.float32, torch.bfloat16, torch.bfloat16]
    for mine, theirs, right in zip(found, at_once, exact, strict=True):
        assert (mine - right.double()).norm() < 1.2 * (theirs - right.double()).norm() + 1e-4


def test_under_autocast_weights_stay_in_fp32_and_so_do_their_gradients() -> None:
    hidden, weight, bias, targets = head(True)
    with torch.autocast("cpu", torch.bfloat16):
        found = chunked(hidden, weight, bias, targets)
    exact = chunked(hidden, weight, bias, targets)
    assert float(found) != float(exact)
    assert float(found) == pytest.approx(float(exact), rel=1e-2)
    assert {x.dtype for x in torch.autograd.grad(found, (hidden, weight, bias))} == {torch.float32}


def test_no_targets_are_no_loss_but_gradients_of_zero() -> None:
    hidden, weight, bias, targets = head(True)
    found = chunked(hidden[:0], weight, bias, targets[:0])
    assert float(found) == 0.0
    assert all((x == 0).all() for x in torch.autograd.grad(found, (weight, bias)))


def test_without_gradients_none_are_made() -> None:
    hidden, weight, bias, targets = head(True)
    with torch.no_grad(), Largest() as largest:
        found = chunked(hidden, weight, bias, targets, chunk=1)
    assert not found.requires_grad
    assert largest.elements == weight.numel()  # itself


def test_a_second_backward_pass_is_an_error() -> None:
    hidden, weight, bias, targets = head(False)
    found = chunked(hidden, weight, bias, targets)
    found.backward(retain_graph=True)
    with pytest.raises(TypeError):
        found.backward()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["llama", "gemma2", "granite", "cohere2", "minicpm3", "gpt2", "phi"])
def test_every_head_gives_the_plain_paths_loss_and_gradients(kind: str, tied: bool) -> None:
    """Scaled before (minicpm3) or after (granite, cohere2), capped (gemma2), with a bias (phi)."""
    plain = make(kind, tie_word_embeddings=tied)
    assert (plain.get_output_embeddings().weight is plain.get_input_embeddings().weight) == tied
    plain.set_attn_implementation("eager")
    model = packed(copy.deepcopy(plain))
    expected, found = (
        alone(plain, blocks()), answer_loss(model, blocks(), np.arange(len(LENGTHS)), "cpu")
    )  # fmt: skip
    torch.testing.assert_close(found, expected, rtol=2e-6, atol=0.0)
    expected.backward()
    found.backward()
    assert (gradients(model) - gradients(plain)).norm() < 1e-5 * gradients(plain).norm()


def test_what_is_around_a_head_is_found() -> None:
    torch.manual_seed(0)
    logits = 100 * torch.randn(4, VOCABULARY)
    assert Around(make("qwen3")).after is None
    assert Around(make("gemma2", final_logit_softcapping=None)).after is None
    expected = {"gemma2": torch.tanh(logits), "granite": logits / 8.0, "cohere2": logits * 0.0625}
    for kind, finished in expected.items():
        after = Around(make(kind)).after
        assert after
        torch.testing.assert_close(after(logits), finished)


def test_the_models_other_calls_are_as_before() -> None:
    plain = make("qwen3")
    model, ids = packed(copy.deepcopy(plain)), torch.arange(3, 20)[None]
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, plain(input_ids=ids).logits)


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_memory_does_not_grow_with_tokens_times_vocabulary(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "ELEMENTS", 2**20)
    monkeypatch.setattr(loss, "FEWEST", 4)
    tokens, made = 1024, blocks(((128,) * 8,), 1024)
    for words in (2_000, 20_000):
        model = packed(make(kind, vocab_size=words, num_hidden_layers=1, hidden_size=8, head_dim=8))
        with Largest() as largest:
            answer_loss(model, made, np.arange(1), "cpu").backward()
        assert largest.elements < 2**20 + 9 * words < tokens * words
