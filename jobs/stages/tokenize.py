"""Tokenize the pairs with one tokenizer, once for all mixtures, block sizes and sizes of students.

Prompts are rendered as a student is asked, and answers as it must write them in either mode. Pairs that no
student can learn from are marked with the reason. Row groups of the pairs are tokenized by as many processes
as the unit has cores, and written in their order (jobs/data/token_store.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from jobs.data.pairs import PAIRS, TEXTS
from jobs.data.pool import ordered
from jobs.data.token_store import FAULTS, Pairs, token_type, write
from jobs.runtime.context import Context
from jobs.text.chat import Chat
from jobs.text.encoding import token_ids, written
from jobs.text.parquet import streamed
from jobs.text.thinking import Thinking

SHARED = ("transformers.models.auto.tokenization_auto", __name__)
BATCH = 1_000_000  # characters tokenized in one call, whose tokens take a hundred times as many bytes


class Source(NamedTuple):
    """Which tokenizer: its path or name, its revision, and the tags around the thinking."""

    path: str
    revision: str | None
    thinking: Thinking


def imports() -> None:
    """Import what every tokenizing needs."""
    from transformers import AutoTokenizer  # noqa: F401


def run(ctx: Context) -> None:
    """Tokenize the collated pairs."""
    ctx.progress.outside("importing transformers", unit="prompts")
    config = ctx.unit.config
    source = Source(ctx.resolve(config["tokenizer"]), config["revision"], Thinking.of(config["thinking"]))
    tokenizer, chat = loaded(source)
    if fault := chat.student_fault():
        raise ValueError(fault)
    kind = token_type(len(tokenizer))
    file = ctx.input("collate") / PAIRS
    total, groups = opened(file).metadata.num_rows, opened(file).num_row_groups
    work = partial(of_group, source, file, kind.name)
    processes = min(ctx.unit.resources.cpus_per_task, groups)

    def counted() -> Iterator[Pairs]:
        done = 0
        for batch in ordered(work, range(groups), processes, preload=SHARED):
            yield batch
            done += len(batch.faults)
            ctx.progress.update(done, total, "prompts", force=done == len(batch.faults), kept=0)

    staged = ctx.staging()
    result = write(staged, counted(), kind)
    if not result["prompts"]:
        raise ValueError(f"a student can learn from none of {total} prompts; dropped: {result['dropped']}")
    ctx.publish(staged, result)


@cache
def loaded(source: Source) -> tuple[Any, Chat]:
    """Load a tokenizer and its chat template, once in each process."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source.path, revision=source.revision)
    return tokenizer, Chat.of(tokenizer, source.thinking)


@cache
def opened(file: Path) -> pq.ParquetFile:
    """Open the pairs, once in each process: their footer lists every row group."""
    return streamed(file)


def of_group(source: Source, file: Path, kind: str, group: int) -> Pairs:
    """Tokenize one row group of the pairs."""
    tokenizer, chat = loaded(source)
    rows = opened(file).read_row_group(group, list(TEXTS)).to_pydict()
    return tokenized(tokenizer, chat, list(zip(*(rows[name] for name in TEXTS), strict=True)), kind)


def tokenized(tokenizer: Any, chat: Chat, rows: list[tuple[str, ...]], kind: str) -> Pairs:
    """Tokenize pairs: rows of TEXTS."""
    faults, texts = np.zeros(len(rows), np.uint8), list[str]()
    lengths = np.zeros((len(rows), 3), np.uint32)
    for place, (prompt, reasoning, answer, plain) in enumerate(rows):
        asked = chat.ask(prompt)
        if chat.thinking.stray(reasoning, answer) or chat.thinking.stray(plain):
            faults[place] = FAULTS.index("stray_tags")
        elif chat.thinking.state(asked) != chat.state:
            faults[place] = FAULTS.index("switched")
        else:
            texts += (asked, written(chat, "", plain, asked), written(chat, reasoning, answer, asked))
    ids = list[np.ndarray[Any, Any]]()
    numbered = zip(accumulate(map(len, texts)), texts, strict=True)
    for _, some in groupby(numbered, lambda text: text[0] // BATCH):
        ids += (np.array(row, kind) for row in token_ids(tokenizer, [text for _, text in some]))
    lengths[faults == 0] = np.array([len(row) for row in ids], np.uint32).reshape(-1, 3)
    return Pairs(np.concatenate([np.zeros(0, kind), *ids]), lengths, faults)
