"""Pack rows into token blocks: what a student of one mixture reads, in order.

A block holds whole rows one after another, without attention across them (training restarts positions at
each row). Only answer tokens count toward the loss, never prompts. Models and training are out of scope here.

A published pack is two arrays of shape (blocks, block size): `tokens.u32`, and `flags.u8` with the bits from
jobs/data/blocks.py. They are streamed to disk, so that billions of tokens need not fit into memory.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jobs.data.blocks import LEARN, PADDING, REASONING, START
from jobs.data.pairs import PAIRS, TEXTS
from jobs.runtime.context import Context
from jobs.text.chat import Chat
from jobs.text.thinking import Thinking

OPEN_BLOCKS = 64  # open blocks that still take rows: more pack tighter, fewer keep the order
BATCH = 1000  # rows tokenized in one call
# Why a prompt is dropped in all modes: a thinking tag inside a part of an answer; a prompt whose words make
# the chat template switch the thinking; a row that is longer than a block.
REASONS = ("stray_tags", "switched", "too_long")


@dataclass(frozen=True)
class Row:
    """A prompt and its answer as token IDs, and whether the answer has reasoning."""

    prompt: Sequence[int]
    answer: Sequence[int]
    reasoned: bool = False

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


def imports() -> None:
    """Import what every packing needs."""
    from transformers import AutoTokenizer  # noqa: F401


def run(ctx: Context) -> None:
    """Pack the mixture described by the unit's config."""
    ctx.progress.outside("importing transformers", unit="prompts")
    from transformers import AutoTokenizer

    config = ctx.unit.config
    tokenizer = AutoTokenizer.from_pretrained(ctx.resolve(config["tokenizer"]), revision=config["revision"])
    chat = Chat.of(tokenizer, Thinking.of(config["thinking"]))
    if fault := chat.student_fault():
        raise ValueError(fault)
    data = ctx.input("collate")
    modes = _of_modes(pq.read_table(data / PAIRS, columns=list(TEXTS)))
    size, prompts = config["block_size"], modes["ift"].num_rows
    steps = 2 * prompts  # each prompt is measured in both modes, then written in one

    def measured(done: int) -> None:
        ctx.progress.update(done, steps, "prompts", force=not done, phase="measuring")

    kept, dropped = usable(tokenizer, chat, modes, size, measured)
    if not len(kept):
        raise ValueError(
            f"none of {prompts} prompts can be used in both modes with blocks of {size} tokens; dropped: "
            f"{dropped}. Those that are too long need a larger training.block"
        )
    wanted = mixture(len(kept), config["share"], config["order"], config["seed"])

    def phases() -> Iterator[Iterator[Row]]:
        done = prompts
        for phase in wanted:
            ctx.progress.update(done, steps, "prompts", force=True, phase="packing")
            yield encoded(tokenizer, chat, modes, [(mode, kept[index]) for mode, index in phase])
            done += sum(len(index) for _, index in phase)

    staged = ctx.staging()
    result = write(staged, phases(), size, padding=tokenizer.pad_token_id or 0)
    ctx.publish(staged, {"prompts": len(kept), "dropped": dropped, **result})


def _of_modes(pairs: pa.Table) -> dict[str, pa.Table]:
    """Return the rows of each mode."""
    plain = {
        "prompt": pairs["prompt"],
        "reasoning": pa.array([""]).take(pa.array([0] * len(pairs))),
        "answer": pairs["ift"],
    }
    return {"ift": pa.table(plain), "reasoning": pairs.select(["prompt", "reasoning", "answer"])}


def usable(
    tokenizer: Any, chat: Chat, modes: dict[str, pa.Table], size: int, report: Callable[[int], None]
) -> tuple[NDArray[np.int64], dict[str, int]]:
    """Select the prompts whose rows a student can learn from in every mode, whatever the mixture.

    A row dropped in one mode is dropped in the other: mixtures with the same tokenizer and block size contain
    the same prompts, and students differ only in their supervision.

    Args:
        modes: Collated rows, the same prompts in the same order.
        size: Tokens per block.
        report: Called with the number of prompts done.

    Returns:
        The kept indices, and the number of dropped prompts by the first of REASONS that holds in any mode.
    """
    kept, dropped = array("q"), dict.fromkeys(REASONS, 0)
    total = modes["ift"].num_rows
    for start in range(0, total, BATCH):
        report(start)
        faults = [
            _faults(tokenizer, chat, table.slice(start, BATCH).to_pydict(), size) for table in modes.values()
        ]
        for index, found in enumerate(zip(*faults, strict=True), start):
            if reason := next((reason for reason in REASONS if reason in found), None):
                dropped[reason] += 1
            else:
                kept.append(index)
    return np.array(kept), dropped


def _faults(tokenizer: Any, chat: Chat, rows: dict[str, list[str]], size: int) -> list[str | None]:
    """Return the fault of each row of one mode, None if it has none."""
    faults: list[str | None] = []
    for prompt, *parts in zip(rows["prompt"], rows["reasoning"], rows["answer"], strict=True):
        asked = chat.ask(prompt)
        switched = chat.thinking.state(asked) != chat.state
        faults.append("stray_tags" if chat.thinking.stray(*parts) else "switched" if switched else None)
    fine = [i for i, fault in enumerate(faults) if fault is None]
    some = ([rows[column][i] for i in fine] for column in ("prompt", "reasoning", "answer"))
    for i, row in zip(fine, encode(tokenizer, chat, *some), strict=True):
        faults[i] = "too_long" if len(row) > size else None
    return faults


def mixture(prompts: int, share: float, order: str, seed: int) -> list[list[tuple[str, NDArray[np.int64]]]]:
    """Assign a mode to each prompt, in training order.

    Every mixture contains each prompt once: a share with reasoning, the rest with plain answers. For one
    seed, the reasoning prompts of a smaller share are a subset of those of a larger share.

    Args:
        prompts: Number of prompts.
        share: Fraction with reasoning, 0 to 1.
        order: "sequential" is two phases, plain answers and then reasoning; "shuffled" is one.

    Returns:
        Phases, each a list of (mode, prompt indices).
    """
    shuffled = np.random.default_rng(seed).permutation(prompts)
    plain = prompts - round(prompts * share)
    parts = [("ift", shuffled[:plain]), ("reasoning", shuffled[plain:])]
    parts = [(mode, index) for mode, index in parts if len(index)]
    return [[part] for part in parts] if order == "sequential" else [parts]


def encoded(
    tokenizer: Any, chat: Chat, modes: dict[str, pa.Table], phase: list[tuple[str, NDArray[np.int64]]]
) -> Iterator[Row]:
    """Yield a phase's rows as tokens; several modes are interleaved evenly, each in its given order."""
    streams = [_of_mode(tokenizer, chat, modes[mode], index) for mode, index in phase]
    if len(streams) == 1:
        yield from streams[0]
        return
    place = [((i + 0.5) / len(index), k) for k, (_, index) in enumerate(phase) for i in range(len(index))]
    for _, k in sorted(place):
        yield next(streams[k])


def _of_mode(tokenizer: Any, chat: Chat, table: pa.Table, index: NDArray[np.int64]) -> Iterator[Row]:
    for start in range(0, len(index), BATCH):
        rows = table.take(pa.array(index[start : start + BATCH])).to_pydict()
        yield from encode(tokenizer, chat, rows["prompt"], rows["reasoning"], rows["answer"])


def encode(
    tokenizer: Any, chat: Chat, prompts: list[str], reasoning: list[str], answers: list[str]
) -> Iterator[Row]:
    """Encode prompts as a student is asked and answers as it must write them, including the end of turn.

    Prompt and answer are tokenized separately, as at inference.

    Args:
        reasoning: Reasoning of each answer; empty for none.
    """
    asked = [chat.ask(prompt) for prompt in prompts]
    parts = zip(reasoning, answers, asked, strict=True)
    answered = [
        chat.thinking.written(thought, answer, prompt) + chat.end for thought, answer, prompt in parts
    ]
    if not asked:
        return
    ids = tokenizer(asked + answered, add_special_tokens=False)["input_ids"]
    rows = zip(ids[: len(asked)], ids[len(asked) :], map(bool, reasoning), strict=True)
    yield from (Row(*row) for row in rows)


def write(folder: Path, phases: Iterable[Iterable[Row]], size: int, padding: int) -> dict[str, Any]:
    """Pack streams of rows and write the blocks, phase by phase; no block holds rows of two phases.

    Args:
        size: Tokens per block; no row is longer.
        padding: Token that fills a block after its last row.

    Returns:
        Counts of blocks, rows and tokens.
    """
    sums = dict.fromkeys(("rows", "reasoning_rows", "tokens", "answer_tokens", "row_squares"), 0)

    def counted(rows: Iterable[Row]) -> Iterator[Row]:
        for row in rows:
            assert len(row) <= size
            sums["rows"] += 1
            sums["reasoning_rows"] += row.reasoned
            sums["tokens"] += len(row)
            sums["answer_tokens"] += len(row.answer)
            sums["row_squares"] += len(row) ** 2
            yield row

    blocks = []
    with (folder / "tokens.u32").open("wb") as tokens, (folder / "flags.u8").open("wb") as flags:
        for rows in phases:
            blocks.append(0)
            for block in packed(counted(rows), size):
                read, marks = _arrays(block, size, padding)
                tokens.write(read.tobytes())
                flags.write(marks.tobytes())
                blocks[-1] += 1
    return {
        "block_size": size,
        "phases": [{"blocks": number} for number in blocks],
        **sums,
        "filled": sums["tokens"] / (sum(blocks) * size),
    }


def _arrays(block: list[Row], size: int, padding: int) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
    """Return tokens and flags of a block."""
    tokens = np.full(size, padding, np.uint32)
    flags = np.full(size, PADDING, np.uint8)
    at = 0
    for row in block:
        end, answer = at + len(row), at + len(row.prompt)
        tokens[at:end] = [*row.prompt, *row.answer]
        flags[at:answer], flags[answer:end] = 0, LEARN
        flags[at:end] |= REASONING if row.reasoned else 0
        flags[at] |= START
        at = end
    if at < size:
        flags[at] |= START
    return tokens, flags


def packed(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    """Yield blocks packed by first fit over a window of open blocks: tight, and close to the given order.

    No row has more than `size` tokens.
    """
    blocks: list[list[Row]] = []
    room: list[int] = []
    for row in rows:
        fits = next((i for i, left in enumerate(room) if left >= len(row)), None)
        if fits is None:
            if len(blocks) == OPEN_BLOCKS:
                fullest = room.index(min(room))
                del room[fullest]
                yield blocks.pop(fullest)
            blocks.append([])
            room.append(size)
            fits = len(blocks) - 1
        blocks[fits].append(row)
        room[fits] -= len(row)
    yield from blocks
