"""Counts over the rows of a generate unit, kept for each chunk so that publishing reads no text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobs.core.flops import generate_flops
from jobs.core.unit import MODES
from jobs.data.chunks import Pool
from jobs.store.rundir import Damaged, read_json, read_jsonl, write_json

Sums = dict[str, Any]


def count(found: Sums, row: Mapping[str, Any], shape: Any) -> None:
    """Add one row to sums.

    Args:
        shape: The teacher's architecture.
    """
    mode, counts = row["mode"], row["tokens"]
    found["rows"] += 1
    found["finish"][mode][row["finish"]] += 1
    for part, tokens in counts.items():
        found["tokens"][mode][part] += tokens
    for key in ("thinking_cut", "retried"):
        if row.get(key):
            add(found, {key: {mode: 1}})
    # Each pass of several reads the tokens of those before it as its prompt.
    for prompt, made in row.get("passes") or [(counts["prompt"], counts["reasoning"] + counts["answer"])]:
        if made:
            found["flops_by_mode"][mode] += generate_flops(shape, prompt, made)


def nothing() -> Sums:
    """Return the sums over no rows."""
    return {
        "rows": 0,
        "tokens": {mode: {"prompt": 0, "reasoning": 0, "answer": 0} for mode in MODES},
        "finish": {mode: {"stop": 0, "length": 0} for mode in MODES},
        "flops_by_mode": dict.fromkeys(MODES, 0),
    }


def keep(pool: Pool, chunk: int, sums: Sums) -> None:
    """Keep the sums of a chunk that this worker has finished."""
    write_json(pool.sums(chunk), sums)


def of_chunk(pool: Pool, chunk: int, shape: Any) -> Sums:
    """Return a chunk's sums; from its rows if none are kept, as by a worker that died in between."""
    try:
        kept: Sums = read_json(pool.sums(chunk))
    except (FileNotFoundError, Damaged):
        kept = nothing()
        for row in read_jsonl(pool.path(chunk)):
            count(kept, row, shape)
    return kept


def add(found: Sums, more: Sums) -> None:
    """Add sums to others."""
    for key, value in more.items():
        if isinstance(value, dict):
            add(found.setdefault(key, {}), value)
        else:
            found[key] = found.get(key, 0) + value
