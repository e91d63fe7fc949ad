"""What a student reads: a mixture of the pairs of a token store, packed into blocks.

Every student of one tokenizer and block size learns from the same prompts, whatever its mixture.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.data.blocks import Blocks, Index, indexed
from jobs.data.token_store import FAULTS, PLAIN, PROMPT, REASONED, TokenStore
from jobs.store.rundir import fsync_dir, link_once

TOO_LONG = "too_long"  # a prompt whose row is longer than a block, in either mode
Phase = list[tuple[str, NDArray[np.int64]]]  # modes, each with its prompts


def packed(store: TokenStore, config: Mapping[str, Any], file: Path) -> tuple[Blocks, dict[str, Any]]:
    """Pack a mixture, or read the index of an earlier packing.

    Every process of a training, in every attempt, reads the file of the process that was the first.

    Args:
        config: "share", "order", "seed" (see `mixture`) and "block_size" of a training.
        file: Where the index is, or will be.

    Returns:
        The blocks, and counts of prompts, rows, blocks and tokens, for the training's result.

    Raises:
        ValueError: No prompt is left.
    """
    size = config["block_size"]
    kept, dropped = usable(store, size)
    if not len(kept):
        raise ValueError(
            f"none of {len(store.faults)} prompts can be used in both modes with blocks of {size} tokens; "
            f"dropped: {dropped}. Those that are too long need a larger training.block"
        )
    if not file.exists():
        wanted = mixture(len(kept), config["share"], config["order"], config["seed"])
        made = indexed(store.lengths, [_of_phase(kept, phase) for phase in wanted], size)
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_name(f".{file.name}.{os.uname().nodename}.{os.getpid()}")
        made.save(aside)
        fsync_dir(aside)
        link_once(aside, file)
    blocks = Blocks(store, Index.open(file), size)
    return blocks, {"prompts": len(kept), "dropped": dropped, **counts(blocks)}


def usable(store: TokenStore, size: int) -> tuple[NDArray[np.int64], dict[str, int]]:
    """Select the prompts whose rows a student can learn from in every mode, whatever the mixture.

    A row dropped in one mode is dropped in the other: students differ only in their supervision.

    Returns:
        The kept prompts, and the number of dropped ones by reason.
    """
    longest = store.lengths[:, PROMPT] + np.maximum(store.lengths[:, PLAIN], store.lengths[:, REASONED])
    fine = store.faults == 0
    dropped = {name: int(np.count_nonzero(store.faults == code)) for code, name in enumerate(FAULTS) if code}
    dropped[TOO_LONG] = int(np.count_nonzero(fine & (longest > size)))
    return np.flatnonzero(fine & (longest <= size)), dropped


def mixture(prompts: int, share: float, order: str, seed: int) -> list[Phase]:
    """Assign a mode to each prompt, by training phases.

    Every mixture contains each prompt once: a share with reasoning, the rest with plain answers. For one
    seed, the reasoning prompts of a smaller share are a subset of those of a larger share.

    Args:
        prompts: Number of prompts.
        share: Fraction with reasoning, 0 to 1.
        order: "sequential" is two phases, plain answers and then reasoning; "shuffled" is one.
    """
    shuffled = np.random.default_rng(seed).permutation(prompts)
    plain = prompts - round(prompts * share)
    parts = [("ift", shuffled[:plain]), ("reasoning", shuffled[plain:])]
    parts = [(mode, index) for mode, index in parts if len(index)]
    return [[part] for part in parts] if order == "sequential" else [parts]


def _of_phase(kept: NDArray[np.int64], phase: Phase) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return a phase's pairs, and which of them have their reasoning; modes are interleaved evenly."""
    chosen = np.concatenate([kept[index] for _, index in phase])
    reasoned = np.repeat([mode == "reasoning" for mode, _ in phase], [len(index) for _, index in phase])
    place = np.concatenate([(np.arange(len(index)) + 0.5) / len(index) for _, index in phase])
    order = np.argsort(place, kind="stable")
    return chosen[order], reasoned[order]


def counts(blocks: Blocks) -> dict[str, Any]:
    """Return counts of blocks, rows and tokens, and how full the blocks are."""
    lengths, index = blocks.store.lengths[blocks.index.pairs], blocks.index
    answers = np.where(index.reasoned, lengths[:, REASONED], lengths[:, PLAIN])
    tokens = int(lengths[:, PROMPT].sum(dtype=np.int64) + answers.sum(dtype=np.int64))
    return {
        "blocks": list(blocks.phases),
        "rows": len(index.pairs),
        "reasoning_rows": int(np.count_nonzero(index.reasoned)),
        "tokens": tokens,
        "answer_tokens": int(answers.sum(dtype=np.int64)),
        "filled": tokens / (len(blocks) * blocks.size),
    }
