"""Turn rows into packed token blocks: what a student of one mixture reads, in order.

A block holds whole rows one after the other; nothing attends across them (training restarts positions at
each row). Loss counts on answers only, never on prompts. This module knows nothing of models or training.

A published pack is two arrays of shape (blocks, block size): `tokens.u32`, and `flags.u8` with the bits
below. They are written as a stream, so that a study of billions of tokens needs no such memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jobs.context import Context
from jobs.rundir import read_json
from jobs.thinking import join
from jobs.unit import MODES

LEARN, START, PADDING = 1, 2, 4  # the flags of a token: loss counts here, a row starts here, no row
OPEN_BLOCKS = 64  # blocks that still take rows at any time: more pack tighter, fewer keep the order
BATCH = 1000  # rows tokenized in one call


@dataclass(frozen=True)
class Row:
    """A prompt and its answer, as token ids."""

    prompt: Sequence[int]
    answer: Sequence[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True)
class Blocks:
    """Packed blocks, mapped from disk."""

    tokens: NDArray[np.uint32]  # of shape (blocks, block size)
    flags: NDArray[np.uint8]  # of the same shape
    phases: tuple[int, ...]  # how many blocks each phase of the training has, in order

    @classmethod
    def open(cls, folder: Path) -> Blocks:
        """The blocks that a pack unit published."""
        result = read_json(folder / "result.json")
        phases = tuple(p["blocks"] for p in result["phases"])
        shape = (sum(phases), result["block_size"])
        tokens = np.memmap(folder / "tokens.u32", np.uint32, "r", shape=shape)
        return cls(tokens, np.memmap(folder / "flags.u8", np.uint8, "r", shape=shape), phases)

    def lengths(self, blocks: NDArray[np.int64]) -> list[int]:
        """Lengths in tokens of all rows in these blocks, padding left out."""
        flags = self.flags[blocks].reshape(-1)  # each block begins with a start: rows never span two
        starts = np.flatnonzero(flags & START)
        lengths = np.diff(np.append(starts, len(flags)))
        return [int(n) for n in lengths[(flags[starts] & PADDING) == 0]]

    def positions(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Position of each token in its own row, of shape (len(blocks), block size)."""
        flags = self.flags[blocks]
        index = np.arange(flags.shape[1])
        return index - np.maximum.accumulate(np.where(flags & START, index, 0), axis=1)


def run(ctx: Context) -> None:
    """Pack the mixture that the unit's config describes."""
    from transformers import AutoTokenizer

    config = ctx.unit.config
    tokenizer = AutoTokenizer.from_pretrained(ctx.resolve(config["tokenizer"]), revision=config["revision"])
    data = ctx.input("collate")
    columns = ["prompt", "reasoning", "answer"]
    modes = {mode: pq.read_table(data / f"{mode}.parquet", columns=columns) for mode in MODES}
    wanted = mixture(modes["ift"].num_rows, config["share"], config["order"], config["seed"])
    total = sum(len(index) for phase in wanted for _, index in phase)

    def phases() -> Iterator[Iterator[Row]]:
        done = 0
        for phase in wanted:
            ctx.progress.update(done, total, "rows", force=True)
            yield encoded(tokenizer, modes, phase, config["thinking"])
            done += sum(len(index) for _, index in phase)

    staged = ctx.staging()
    result = write(staged, phases(), config["block_size"], padding=tokenizer.pad_token_id or 0)
    if not result["rows"]:
        raise ValueError(
            f"none of {total} rows fits into a block of {config['block_size']} tokens: raise training.block"
        )
    ctx.publish(staged, result)


def mixture(prompts: int, share: float, order: str, seed: int) -> list[list[tuple[str, NDArray[np.int64]]]]:
    """Which prompts are learnt in which mode, in the order of training.

    Every mixture holds each prompt once: a share of them with reasoning, the others with plain answers.
    With one seed the prompts of a smaller share are among those of a larger one.

    Args:
        prompts: how many there are.
        share: of them with reasoning, 0 to 1.
        order: "sequential" is two phases, plain answers and then reasoning; "shuffled" is one.

    Returns:
        Phases, each a list of (mode, indices of prompts).
    """
    shuffled = np.random.default_rng(seed).permutation(prompts)
    plain = prompts - round(prompts * share)
    parts = [("ift", shuffled[:plain]), ("reasoning", shuffled[plain:])]
    parts = [(mode, index) for mode, index in parts if len(index)]
    return [[part] for part in parts] if order == "sequential" else [parts]


def encoded(
    tokenizer: Any,
    modes: dict[str, pa.Table],
    phase: list[tuple[str, NDArray[np.int64]]],
    thinking: dict[str, str],
) -> Iterator[Row]:
    """The rows of a phase as tokens; several modes are interleaved evenly, each in its given order."""
    streams = [_of_mode(tokenizer, modes[mode], index, thinking) for mode, index in phase]
    if len(streams) == 1:
        yield from streams[0]
        return
    place = [((i + 0.5) / len(index), k) for k, (_, index) in enumerate(phase) for i in range(len(index))]
    for _, k in sorted(place):
        yield next(streams[k])


def _of_mode(
    tokenizer: Any, table: pa.Table, index: NDArray[np.int64], thinking: dict[str, str]
) -> Iterator[Row]:
    for start in range(0, len(index), BATCH):
        rows = table.take(pa.array(index[start : start + BATCH])).to_pydict()
        answers = [
            join(r, a, thinking["open"], thinking["close"]) if r else a
            for r, a in zip(rows["reasoning"], rows["answer"], strict=True)
        ]
        yield from encode(tokenizer, rows["prompt"], answers)


def encode(tokenizer: Any, prompts: list[str], answers: list[str], **template: Any) -> Iterator[Row]:
    """Prompts through the chat template, answers as the model must write them, with the turn's end.

    Prompt and answer are tokenized apart, as they are when a model answers.
    """
    asked = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": p}], add_generation_prompt=True, tokenize=False, **template
        )
        for p in prompts
    ]
    end = turn_end(tokenizer)
    ids = tokenizer(asked + [a + end for a in answers], add_special_tokens=False)["input_ids"]
    return (Row(p, a) for p, a in zip(ids[: len(asked)], ids[len(asked) :], strict=True))


def turn_end(tokenizer: Any) -> str:
    """The text with which the chat template ends an assistant's turn, such as <|im_end|>."""
    mark = "ANSWER"
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": mark}]
    text: str = tokenizer.apply_chat_template(turns, tokenize=False)
    end = text.rpartition(mark)[2].strip()
    return end or str(tokenizer.eos_token)


def write(folder: Path, phases: Iterable[Iterable[Row]], size: int, padding: int) -> dict[str, Any]:
    """Pack streams of rows and write the blocks, phase after phase; no block holds rows of two phases.

    Args:
        size: tokens of a block; longer rows are left out.
        padding: the token after a block's last row.

    Returns:
        What was packed.
    """
    sums = dict.fromkeys(("rows", "too_long", "tokens", "answer_tokens", "row_squares"), 0)

    def fitting(rows: Iterable[Row]) -> Iterator[Row]:
        for row in rows:
            if len(row) > size:
                sums["too_long"] += 1
                continue
            sums["rows"] += 1
            sums["tokens"] += len(row)
            sums["answer_tokens"] += len(row.answer)
            sums["row_squares"] += len(row) ** 2
            yield row

    blocks = []
    with (folder / "tokens.u32").open("wb") as tokens, (folder / "flags.u8").open("wb") as flags:
        for rows in phases:
            blocks.append(0)
            for block in packed(fitting(rows), size):
                read, marks = _arrays(block, size, padding)
                tokens.write(read.tobytes())
                flags.write(marks.tobytes())
                blocks[-1] += 1
    return {
        "block_size": size,
        "phases": [{"blocks": number} for number in blocks],
        **sums,
        "filled": sums["tokens"] / (sum(blocks) * size) if sums["tokens"] else 0.0,
    }


def _arrays(block: list[Row], size: int, padding: int) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
    """Tokens and flags of a block."""
    tokens = np.full(size, padding, np.uint32)
    flags = np.full(size, PADDING, np.uint8)
    at = 0
    for row in block:
        end, answer = at + len(row), at + len(row.prompt)
        tokens[at:end] = [*row.prompt, *row.answer]
        flags[at:answer], flags[answer:end] = 0, LEARN
        flags[at] |= START
        at = end
    if at < size:
        flags[at] |= START
    return tokens, flags


def packed(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    """First fit over a window of open blocks, near the given order, and tight; no row has more than `size`
    tokens."""
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
