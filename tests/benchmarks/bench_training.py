"""One forward and backward pass on packed rows, against the dense mask that transformers makes for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from measure import Ratio
from transformers import AutoConfig, AutoModelForCausalLM

from jobs.data.blocks import LEARN, START, Blocks
from jobs.stages.train import answer_losses
from jobs.training.attention import separate_rows
from jobs.training.loss import teach

TOKENS, ROWS, VOCABULARY, TIMES = 4096, 16, 1024, 3
ARCHITECTURE = {
    "model_type": "qwen3", "hidden_size": 128, "num_hidden_layers": 8, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 448, "vocab_size": VOCABULARY,
    "tie_word_embeddings": True, "max_position_embeddings": TOKENS,
}  # fmt: skip


def ratios() -> Iterator[Ratio]:
    """All measurements of this file."""
    torch.set_num_threads(1)
    blocks = _blocks()
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_config(AutoConfig.for_model(**ARCHITECTURE), attn_implementation="sdpa")
    packed = AutoModelForCausalLM.from_config(AutoConfig.for_model(**ARCHITECTURE))
    packed.load_state_dict(plain.state_dict())
    separate_rows(packed)
    teach(packed)
    chosen = np.arange(1)
    with torch.no_grad():
        losses = float(answer_losses(packed, blocks, chosen, "cpu")[0]), float(_dense(plain, blocks))
    assert abs(losses[0] - losses[1]) < 1e-4 * losses[1], losses
    ours = _spent(lambda: answer_losses(packed, blocks, chosen, "cpu")[0].backward())
    theirs = _spent(lambda: _dense(plain, blocks).backward())
    measured = f"training: a forward and backward pass of {TOKENS} tokens in {ROWS} packed rows"
    yield Ratio(measured, "with transformers' mask of a whole block", ours, theirs, "processor s")


def _blocks() -> Blocks:
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, VOCABULARY, (1, TOKENS)).astype(np.uint32)
    flags = np.full((1, TOKENS), LEARN, np.uint8)
    flags[0, np.arange(0, TOKENS, TOKENS // ROWS)] = START
    return Blocks(tokens, flags, (1,))


def _dense(model: Any, blocks: Blocks) -> Any:
    tokens = torch.from_numpy(blocks.tokens.astype(np.int64))
    positions = torch.from_numpy(blocks.flat(np.arange(1)).positions[None])
    learn = torch.from_numpy((blocks.flags & LEARN) != 0)[:, 1:]
    logits = model(input_ids=tokens, position_ids=positions, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits[:, :-1][learn], tokens[:, 1:][learn], reduction="sum")


def _spent(work: Callable[[], object]) -> float:
    """Return the least processor seconds of some work, of several times."""
    spent = []
    for _ in range(TIMES):
        started = time.process_time()
        work()
        spent.append(time.process_time() - started)
    return min(spent)


if __name__ == "__main__":
    for ratio in ratios():
        print(ratio)
