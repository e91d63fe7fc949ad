"""Processes that share the tokens of blocks give the loss and the gradient of one that has them all."""

from __future__ import annotations

import faulthandler
import os
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_study import free_port
from small_training import LONGEST, server, wait
from test_attention import LENGTHS, answer_loss, blocks, make, packed

from jobs.training.schedule import micro_steps
from jobs.training.sequence import Group, group_of

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

# With groups of heads; learned positions; windows; capped scores; sinks; latent heads of two widths; experts.
KINDS = ("qwen3", "gpt2", "mistral", "gemma2", "gpt_oss", "deepseek_v3", "qwen2_moe")
CHECKPOINTED = "layers computed again in the backward pass"
FEW = "fewer tokens than processes"
CASES: dict[int, dict[str, tuple[str, dict[str, Any]]]] = {  # by the number of processes
    2: {
        **{kind: (kind, {}) for kind in KINDS},
        CHECKPOINTED: ("qwen3", {}),
        "one head of keys": ("qwen2", {"num_key_value_heads": 1}),
        # Boogu-Image's, from vllm-project/vllm-omni, pull request 5716
        "28 and 7 heads": ("qwen2", {"num_attention_heads": 28, "num_key_value_heads": 7, "head_dim": 8}),
    },
    4: {
        "as many as heads": ("gpt_oss", {}),
        "12 and 6 heads": ("qwen3", {"num_attention_heads": 12, "num_key_value_heads": 6}),
        CHECKPOINTED: ("gemma2", {}),
        FEW: ("qwen3", {}),
    },
}


def loss_and_gradient(case: str, size: int, group: Group | None = None) -> tuple[Any, Any]:
    """Those of this process's tokens; without a group, of all tokens."""
    kind, changes = CASES[size][case]
    model, made = packed(make(kind, **changes)), blocks(((3,),) if case == FEW else LENGTHS)
    if case == CHECKPOINTED:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()
    loss = answer_loss(model, made, np.arange(len(made)), "cpu", group)
    loss.backward()
    made_of = [w.grad if w.grad is not None else torch.zeros_like(w) for w in model.parameters()]
    return loss.detach(), torch.cat([grad.flatten() for grad in made_of])


def sum_shared(rank: int, size: int, port: int, file: Path) -> None:
    """One process of a group: the first one writes the sums over all of them."""
    faulthandler.dump_traceback_later(LONGEST, exit=True)
    torch.set_num_threads(1)
    address, code = f"tcp://127.0.0.1:{port}", 1
    try:
        torch.distributed.init_process_group("gloo", address, rank=rank, world_size=size)
        group, found = group_of(size), {}
        for case in CASES[size]:
            found[case] = loss_and_gradient(case, size, group)
            for part in found[case]:
                torch.distributed.all_reduce(part)
        if rank == 0:
            torch.save(found, file)
        torch.distributed.barrier()
        code = 0
    except BaseException:
        traceback.print_exc()
    os._exit(code)  # gloo's threads would wait for processes that have failed


@pytest.mark.slow
@pytest.mark.parametrize("size", CASES)
def test_the_parts_add_up_to_the_loss_and_the_gradient_of_the_whole(size: int, tmp_path: Path) -> None:
    port, file = free_port(), tmp_path / "sums"
    processes = [server().Process(target=sum_shared, args=(rank, size, port, file)) for rank in range(size)]
    for process in processes:
        process.start()
    assert wait(processes) == "done"
    torch.set_num_threads(1)
    for case, (loss, gradient) in torch.load(file).items():
        expected = loss_and_gradient(case, size)
        torch.testing.assert_close(loss, expected[0], rtol=2e-6, atol=0.0, msg=case)
        assert (gradient - expected[1]).norm() < 1e-5 * expected[1].norm(), case


@given(st.integers(1, 9), st.lists(st.integers(1, 20), min_size=1, max_size=6))
def test_every_token_and_every_target_is_in_one_part(size: int, rows: list[int]) -> None:
    flat = blocks((tuple(rows),), size=sum(rows) + 1).flat(np.arange(1)).at_least(size)
    shards = [Group(size, rank, None).shards(len(flat.tokens)) for rank in range(size)]
    lengths = shards[0].lengths
    assert 1 <= min(lengths) <= max(lengths) <= min(lengths) + 1
    assert len(flat.tokens) == len(flat.positions) == flat.bounds[-1] == max(size, sum(rows))
    parts = [flat.part(*of_process.held) for of_process in shards]
    assert [len(part.tokens) for part in parts] == lengths
    for name in ("tokens", "positions", "targets"):
        assert np.concatenate([getattr(p, name) for p in parts]).tolist() == getattr(flat, name).tolist()
    starts = [of_process.held[0] for of_process in shards]
    predicting = [part.predicting + start for part, start in zip(parts, starts, strict=True)]
    assert np.concatenate(predicting).tolist() == flat.predicting.tolist()
    assert all(part.bounds.tolist() == flat.bounds.tolist() for part in parts), "attention sees whole rows"


def test_heads_that_cannot_be_shared_are_refused() -> None:
    words = "3 processes cannot share the model's 4 attention heads evenly: set 'sequence_parallel'"
    with pytest.raises(ValueError, match=words):
        answer_loss(packed(make("qwen3")), blocks(), np.arange(1), "cpu", Group(3, 0, None))


def test_groups_share_a_batch_as_single_processes_would() -> None:
    assert micro_steps(batch=12, micro_batch=2, world=6, group=2) == 2
    with pytest.raises(ValueError, match=r"4 groups of 2 processes with a micro_batch of 2 .* multiple of 8"):
        micro_steps(batch=12, micro_batch=2, world=8, group=2)
    with pytest.raises(ValueError, match=r"6 processes do not make groups of 4: .* a divisor of 6"):
        micro_steps(batch=12, micro_batch=1, world=6, group=4)
