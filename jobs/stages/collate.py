"""Collate the pairs: the prompts with a good answer in both modes, each with both answers.

Reads the output of a generate unit or a published dataset of pairs (columns prompt, reasoning, ift). Every
dropped prompt is counted under one reason. Rows are streamed, and examined by as many processes as the unit
has cores; only 8 bytes of each prompt's identifier are kept in memory.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.core.paths import DATA
from jobs.core.unit import MODES
from jobs.data.filters.apply import Decided, Filters, decide, staying
from jobs.data.filters.references import References
from jobs.data.lengths import Lengths
from jobs.data.pairs import JUDGED, PAIRS, SCHEMA, write
from jobs.data.pool import ordered
from jobs.data.prompts import open_source, prompt_id, sample
from jobs.data.seen import Seen, hashed
from jobs.evaluation.items import write_index
from jobs.runtime.context import Context
from jobs.store.rundir import read_jsonl
from jobs.text.messages import Reading
from jobs.text.thinking import Parts, Thinking

REASONS = ("truncated", "unclosed", "stray_tags", "empty", "duplicate", "unpaired")


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


@dataclass(frozen=True)
class Examined:
    """Prompts of which each was examined alone.

    Attributes:
        ids: Hashes of their identifiers.
        faults: Why each is to be dropped, as a place in REASONS; -1 for a good one.
        good: The good ones, with the columns of jobs.data.pairs.
    """

    ids: NDArray[np.uint64]
    faults: NDArray[np.int8]
    good: pa.RecordBatch


def run(ctx: Context) -> None:
    """Collate the unit's input."""
    config = ctx.unit.config
    thinking = Thinking.of(config.get("thinking"))
    sources, processes = config["pairs"], ctx.unit.resources.cpus_per_task
    examined: Iterator[Examined]
    cut = Counter[str]()
    if sources:
        batches = chain.from_iterable(published(ctx, spec, thinking, cut) for spec in sources)
        examined = ordered(partial(of_batch, thinking), batches, processes)
    else:
        files = sorted((ctx.input("generate") / "chunks").glob("[!.]*.jsonl"))
        examined = ordered(partial(of_chunk, thinking), files, processes)
    staged = ctx.staging()
    filters = Filters.of(config["filters"]) if "filters" in config else None
    first = staged / "unfiltered" if filters else staged
    first.mkdir(exist_ok=True)
    dropped = Counter(dict.fromkeys(REASONS, 0))
    lengths = {mode: Lengths() for mode in MODES}
    kept = write(first, measured(good(examined, dropped), lengths))
    if not kept:
        raise ValueError(
            f"no prompt has a good answer in both modes; left out: {dict(dropped)}. Truncated answers need a "
            "higher max_tokens; unclosed ones mean that the model's thinking does not end with "
            f"{thinking.close!r}, which its preset can change ('thinking')."
        )
    more: dict[str, Any] = {}
    if filters:
        found = filtered(ctx, filters, first / PAIRS, staged)
        dropped.update(found.dropped)
        more["filters"] = found.summary(kept, lengths)
        kept, lengths = found.kept, found.lengths
        shutil.rmtree(first)
    result = {
        "prompts": kept,
        "dropped": dict(dropped),
        "lengths": {mode: found.summary() for mode, found in lengths.items()},
        "lengths_in": "characters" if sources else "tokens",
        **more,
        **({"cut": dict(cut)} if cut else {}),
    }
    ctx.publish(staged, result)


@dataclass(frozen=True)
class Filtered:
    """What the filters left of the pairs."""

    decided: Decided
    kept: int
    lengths: dict[str, Lengths]

    @property
    def dropped(self) -> dict[str, int]:
        return self.decided.dropped()

    def summary(self, before: int, lengths: dict[str, Lengths]) -> dict[str, Any]:
        """Return what the result says of the filters: the pairs before and after.

        Args:
            before: Prompts before the filters.
            lengths: Those of their answers.
        """
        stays = self.decided.reasons < 0
        return {
            "before": _state(before, lengths, self.decided.rates()),
            "after": _state(self.kept, self.lengths, self.decided.rates(stays)),
            "contaminated": self.decided.contaminated,
            "late": self.decided.late,
        }


def _state(prompts: int, lengths: dict[str, Lengths], rates: dict[str, float | int] | None) -> dict[str, Any]:
    means = {mode: found.summary()["mean"] for mode, found in lengths.items()}
    return {"prompts": prompts, "lengths": means, "correct": rates}


def filtered(ctx: Context, filters: Filters, file: Path, folder: Path) -> Filtered:
    """Write the pairs of a file that the study's filters leave to a folder.

    Raises:
        ValueError: Nothing is left, or a benchmark cannot be loaded.
        RuntimeError: As for `decide`.
    """
    config, processes, index = ctx.unit.config, ctx.unit.resources.cpus_per_task, None

    def report(done: int, total: int, phase: str) -> None:
        ctx.progress.outside(phase, done, total, "row groups")

    if filters.decontaminate:
        report(0, 1, "reading the benchmarks")
        index = file.with_name("items.npz")
        groups = [
            (_folder(ctx, group["include"]), [task["task"] for task in group["tasks"]])
            for group in config["benchmarks"]
        ]
        # In a process of its own, with which lm-eval's memory and settings go.
        list(ordered(partial(write_index, filters.decontaminate, index), [groups], 2))
    references = References(_references(ctx)) if filters.correct else None
    decided = decide(file, filters, processes, index, references, report)
    lengths = {mode: Lengths() for mode in MODES}
    kept = write(folder, measured(staying(file, decided), lengths), JUDGED if filters.correct else SCHEMA)
    if not kept:
        raise ValueError(
            f"the study's filters leave no prompt; left out: {decided.dropped()}. Shares of correct answers: "
            f"{decided.rates()}. Benchmarks that prompts share something with: {decided.contaminated}"
        )
    return Filtered(decided, kept, lengths)


def _folder(ctx: Context, include: str | None) -> Path | None:
    return DATA / ctx.resolve(include) if include else None  # relative paths are shipped with the code


def _references(ctx: Context) -> Iterator[pa.RecordBatch]:
    """Yield prompts with their reference answers."""
    config = ctx.unit.config
    for spec in config["references"]:
        yield from open_source(
            spec, Reading.of_references(spec, bool(config["pairs"])), ctx.resolve
        ).batches()


def good(examined: Iterator[Examined], dropped: Counter[str]) -> Iterator[pa.RecordBatch]:
    """Yield the pairs to keep; count the others by reason in `dropped`.

    A prompt that was there before is a duplicate, whatever else is wrong with it.
    """
    seen = Seen()
    for batch in examined:
        new = seen.add(batch.ids)
        dropped["duplicate"] += int(np.count_nonzero(~new))
        faults = batch.faults[new & (batch.faults >= 0)]
        dropped.update(REASONS[fault] for fault in faults.tolist())
        yield batch.good.filter(pa.array(new[batch.faults < 0]))


def examine(pairs: Sequence[Pair], thinking: Thinking) -> Examined:
    """Find the fault of each pair, and make rows of the pairs without one."""
    faults = [fault(pair, thinking) for pair in pairs]
    rows = [_row(pair) for pair, found in zip(pairs, faults, strict=True) if found is None]
    columns = zip(*rows, strict=True) if rows else [()] * len(SCHEMA)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
    places = [-1 if found is None else REASONS.index(found) for found in faults]
    return Examined(
        hashed(pair.id for pair in pairs), np.array(places, np.int8), pa.record_batch(arrays, SCHEMA)
    )


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


def of_chunk(thinking: Thinking, path: Path) -> Examined:
    """Examine the pairs of a generate unit's chunk."""
    chunk: dict[str, Pair] = {}
    for row in read_jsonl(path):
        pair = chunk.setdefault(row["id"], Pair(row["id"], row["prompt"], {}))
        mode, text = row["mode"], row["text"]
        parts = Parts(row["reasoning"], row["answer"], not thinking.close or thinking.close in text)
        stray = _stray(thinking, mode, text, parts)
        pair.answers[mode] = Answer(*parts, row["finish"] == "length", stray, row["tokens"])
    return examine(list(chunk.values()), thinking)


def published(
    ctx: Context, spec: dict[str, Any], thinking: Thinking, cut: Counter[str]
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of an existing dataset: `count` of them, drawn by `seed`.

    Args:
        cut: Gets the rows of which something was left out, by what; of all rows, also those not drawn.

    Raises:
        ValueError: A column is missing, or the dataset has too few rows.
    """
    source = open_source(spec, Reading.of_pairs(spec, thinking), ctx.resolve)
    if (count := spec.get("count")) is None:
        yield from source.batches()
        cut.update(source.cut)
        return
    total = sum(len(batch) for batch in source.batches())
    if count > total:
        raise ValueError(f"{source.name}: {count} pairs are wanted, and it has {total} rows")
    wanted, start = np.zeros(total, bool), 0
    wanted[sample(total, count, spec.get("seed") or 0).to_numpy()] = True
    for batch in source.batches():
        yield batch.filter(pa.array(wanted[start : start + len(batch)]))
        start += len(batch)
    cut.update(source.cut)


def of_batch(thinking: Thinking, batch: pa.RecordBatch) -> Examined:
    """Examine rows of a published dataset."""
    return examine([_pair(row, thinking) for row in batch.to_pylist()], thinking)


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


def measured(batches: Iterator[pa.RecordBatch], lengths: dict[str, Lengths]) -> Iterator[pa.RecordBatch]:
    """Yield the batches, and add their answers' lengths by mode: in tokens, or characters if unknown."""
    columns = {"ift": ("ift",), "reasoning": ("reasoning", "answer")}
    for batch in batches:
        for mode, parts in columns.items():
            of_parts = [
                pc.coalesce(batch.column(f"tokens_{part}"), pc.utf8_length(batch.column(part)))
                for part in parts
            ]
            lengths[mode].add(sum(each.to_numpy(zero_copy_only=False).astype(np.int64) for each in of_parts))
        yield batch


def _row(pair: Pair) -> tuple[str | int | None, ...]:
    """Return a row of SCHEMA. What a teacher thought before its plain answer is left out."""
    plain, thought = (pair.answers[mode] for mode in MODES)
    texts = (pair.id, pair.prompt, thought.reasoning, thought.answer, plain.answer)
    return (
        *texts, *(thought.tokens[part] for part in ("prompt", "reasoning", "answer")), plain.tokens["answer"],
    )  # fmt: skip
