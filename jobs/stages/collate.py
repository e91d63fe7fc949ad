"""Collate one dataset per mode: the prompts with a good answer in both modes, in the same order.

Reads the output of a generate unit or a published dataset of pairs (columns prompt, reasoning, ift). Every
dropped prompt is counted under one reason. Rows are streamed; only their lengths are kept in memory.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.core.unit import MODES
from jobs.data.prompts import open_source, prompt_id, sample
from jobs.runtime.context import Context
from jobs.store.rundir import read_jsonl
from jobs.text.rowcheck import PAIR_COLUMNS
from jobs.text.thinking import Parts, Thinking

REASONS = ("truncated", "unclosed", "stray_tags", "empty", "duplicate", "unpaired")
ROW_GROUP = 2000  # rows
SCHEMA = pa.schema(
    [("id", pa.string()), ("prompt", pa.string()), ("reasoning", pa.string()), ("answer", pa.string())]
    + [(f"tokens_{part}", pa.int64()) for part in ("prompt", "reasoning", "answer")]
)


class Answer(NamedTuple):
    """A row's answer in one mode; token counts are None if unknown."""

    reasoning: str
    answer: str
    closed: bool
    truncated: bool
    stray: bool  # a tag is left in the parts, or a plain answer closes a thinking it never opened
    tokens: dict[str, int | None]


@dataclass(frozen=True)
class Pair:
    """A prompt with its answers by mode; a missing answer has no entry."""

    id: str
    prompt: str
    answers: dict[str, Answer]


def run(ctx: Context) -> None:
    """Collate the unit's input."""
    config = ctx.unit.config
    thinking = Thinking.of(config.get("thinking"))
    sources = config["pairs"]
    pairs: Iterator[Pair]
    if sources:
        pairs = chain.from_iterable(published_pairs(ctx, spec, thinking) for spec in sources)
    else:
        pairs = generated_pairs(ctx.input("generate"), thinking)
    staged = ctx.staging()
    dropped = Counter(dict.fromkeys(REASONS, 0))
    lengths = {mode: array("q") for mode in MODES}
    kept = write(staged, good(pairs, thinking, dropped), lengths)
    if not kept:
        raise ValueError(
            f"no prompt has a good answer in both modes; left out: {dict(dropped)}. Truncated answers need a "
            "higher max_tokens; unclosed ones mean that the model's thinking does not end with "
            f"{thinking.close!r}, which its preset can change ('thinking')."
        )
    result = {
        "prompts": kept,
        "dropped": dict(dropped),
        "lengths": {mode: summary(lengths[mode]) for mode in MODES},
        "lengths_in": "characters" if sources else "tokens",
    }
    ctx.publish(staged, result)


def good(pairs: Iterator[Pair], thinking: Thinking, dropped: Counter[str]) -> Iterator[Pair]:
    """Yield the pairs to keep; count the others by reason in `dropped`."""
    seen: set[str] = set()
    for pair in pairs:
        reason = fault(pair, thinking) if pair.id not in seen else "duplicate"
        seen.add(pair.id)
        if reason:
            dropped[reason] += 1
        else:
            yield pair


def fault(pair: Pair, thinking: Thinking) -> str | None:
    """Return the first reason that rules a pair out: unpaired, truncated, unclosed, stray_tags, empty."""
    if len(pair.answers) < len(MODES) or not pair.prompt.strip():
        return "unpaired"
    plain, thought = (pair.answers[mode] for mode in MODES)
    if plain.truncated or thought.truncated:
        return "truncated"
    if not thought.closed or (plain.reasoning and not plain.closed):
        return "unclosed"
    if plain.stray or thought.stray:
        return "stray_tags"
    if not plain.answer.strip() or not thought.answer.strip():
        return "empty"
    return "empty" if thinking.close and not thought.reasoning.strip() else None


def generated_pairs(folder: Path, thinking: Thinking) -> Iterator[Pair]:
    """Yield the pairs of a generate unit, chunk by chunk."""
    for path in sorted((folder / "chunks").glob("[!.]*.jsonl")):
        chunk: dict[str, Pair] = {}
        for row in read_jsonl(path):
            pair = chunk.setdefault(row["id"], Pair(row["id"], row["prompt"], {}))
            mode, text = row["mode"], row["text"]
            parts = Parts(row["reasoning"], row["answer"], not thinking.close or thinking.close in text)
            stray = _stray(thinking, mode, text, parts)
            pair.answers[mode] = Answer(*parts, row["finish"] == "length", stray, row["tokens"])
        yield from chunk.values()


def published_pairs(ctx: Context, spec: dict[str, Any], thinking: Thinking) -> Iterator[Pair]:
    """Yield the pairs of an existing dataset: `count` of its rows, drawn by `seed`.

    Raises:
        ValueError: A column is missing, or the dataset has too few rows.
    """
    source = open_source(spec, PAIR_COLUMNS, ctx.resolve)
    wanted = None
    if (count := spec.get("count")) is not None:
        total = sum(len(batch) for batch in source.batches())
        if count > total:
            raise ValueError(f"{source.name}: {count} pairs are wanted, and it has {total} rows")
        wanted = set(sample(total, count, spec.get("seed") or 0).to_pylist())
    rows = chain.from_iterable(batch.to_pylist() for batch in source.batches())
    for place, row in enumerate(rows):
        if wanted is None or place in wanted:
            yield _pair(row, thinking)


def _pair(row: dict[str, str | None], thinking: Thinking) -> Pair:
    uncounted = dict.fromkeys(("prompt", "reasoning", "answer"))
    texts = {mode: text for mode in MODES if (text := row[mode]) is not None}
    answers = {}
    for mode, text in texts.items():
        parts = thinking.split(text)
        answers[mode] = Answer(*parts, False, _stray(thinking, mode, text, parts), uncounted)
    prompt = row["prompt"] or ""
    return Pair(prompt_id(prompt), prompt, answers)


def _stray(thinking: Thinking, mode: str, text: str, parts: Parts) -> bool:
    """Whether tags are misplaced; reasoning may lack its opening tag if the prompt contained it."""
    headless = mode == "ift" and parts.reasoning and not text.lstrip().startswith(thinking.open)
    return bool(headless) or thinking.stray(parts.reasoning, parts.answer)


def write(folder: Path, pairs: Iterator[Pair], lengths: dict[str, Any]) -> int:
    """Write both datasets and collect their answers' lengths; return the number of prompts."""
    kept = 0
    with ExitStack() as stack:
        files = {m: stack.enter_context(pq.ParquetWriter(folder / f"{m}.parquet", SCHEMA)) for m in MODES}
        while group := list(islice(pairs, ROW_GROUP)):
            kept += len(group)
            for mode, file in files.items():
                rows = [_row(pair, mode) for pair in group]
                lengths[mode].extend(map(_length, rows))
                file.write_table(pa.Table.from_pylist(rows, SCHEMA))
    return kept


def _row(pair: Pair, mode: str) -> dict[str, Any]:
    found = pair.answers[mode]
    tokens = {f"tokens_{part}": count for part, count in found.tokens.items()}
    if mode == "ift":  # plain answers count no reasoning tokens, even if the teacher produced some
        tokens["tokens_reasoning"] = None if tokens["tokens_reasoning"] is None else 0
    reasoning = found.reasoning if mode == "reasoning" else ""
    return {"id": pair.id, "prompt": pair.prompt, "reasoning": reasoning, "answer": found.answer, **tokens}


def _length(row: dict[str, Any]) -> int:
    if row["tokens_answer"] is None:
        return len(row["reasoning"]) + len(row["answer"])
    return int(row["tokens_reasoning"] + row["tokens_answer"])


def summary(lengths: Any) -> dict[str, Any]:
    """Return mean, median, 90th percentile, maximum and sum."""
    values = np.asarray(lengths)
    p50, p90 = np.percentile(values, [50, 90])
    return {
        "mean": float(values.mean()),
        "p50": float(p50),
        "p90": float(p90),
        "max": int(values.max()),
        "total": int(values.sum()),
    }
