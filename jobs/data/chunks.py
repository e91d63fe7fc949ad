"""The prompts of a generate unit, in chunks that its workers share, and what is finished of them, on disk.

    work/prompts.parquet       the prompts, one row group per chunk; drawn once, by the first worker
    work/claims/               claims of workers on chunks, and on publishing (jobs/data/leases.py)
    work/parts/CHUNK.OWNER.jsonl  rows as they finish; one file per worker, so none appends to a torn line
    work/chunks/CHUNK.jsonl    a finished chunk: rows in prompt order; linked once, never rewritten
    work/sums/CHUNK.json       the counts of a finished chunk; made again from its rows where missing
    work/workers/OWNER.json    the seconds for which each worker held the model

A worker may be killed at any line: another one, or its next attempt, continues from the rows in the parts.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.core.unit import MODES
from jobs.store.rundir import fsync_dir, link_once
from jobs.text.parquet import streamed

CHUNK_ROWS = 256  # prompts of a chunk, at most
SHARES = 4  # a chunk is at most this part of a worker's equal share of what is left


@dataclass(frozen=True)
class Pool:
    """The chunks of a unit on disk."""

    work: Path
    prompts: pq.ParquetFile

    @classmethod
    def open(cls, work: Path, workers: int, load: Callable[[], pa.Table]) -> Pool:
        """Return the unit's chunks, drawn by the first worker and the same for all.

        Args:
            workers: Workers that are expected to share the unit.
            load: Returns the prompts: columns id and prompt.
        """
        path = work / "prompts.parquet"
        if not path.exists():
            work.mkdir(exist_ok=True)
            aside = path.with_name(f".prompts.{uuid.uuid4().hex}")
            _write(load(), aside, workers)
            link_once(aside, path)
        return cls(work, streamed(path))

    @property
    def chunks(self) -> int:
        return int(self.prompts.num_row_groups)

    @property
    def rows(self) -> int:
        """All rows of the unit: one for each prompt and mode."""
        return int(self.prompts.metadata.num_rows) * len(MODES)

    def path(self, chunk: int) -> Path:
        return self.work / "chunks" / f"{chunk:05d}.jsonl"

    def sums(self, chunk: int) -> Path:
        return self.work / "sums" / f"{chunk:05d}.json"

    def missing(self) -> list[int]:
        """Return the chunks that are not finished."""
        there = {p.name for p in (self.work / "chunks").glob("*.jsonl")}
        return [c for c in range(self.chunks) if self.path(c).name not in there]

    def counts(self) -> tuple[int, int]:
        """Return the number of rows in finished chunks, and of all rows."""
        rest = sum(int(self.prompts.metadata.row_group(c).num_rows) for c in self.missing())
        return self.rows - rest * len(MODES), self.rows

    def read(self, chunk: int) -> dict[str, str]:
        """Return the prompts of a chunk by id, in order."""
        table = self.prompts.read_row_group(chunk)
        return dict(zip(table.column("id").to_pylist(), table.column("prompt").to_pylist(), strict=True))

    def parts(self, chunk: int) -> list[Path]:
        return sorted((self.work / "parts").glob(f"{chunk:05d}.*.jsonl"))

    def finish(self, chunk: int, owner: str, lines: Iterable[str]) -> bool:
        """Publish a chunk's rows; return False if another worker, which held it before, was faster."""
        final = self.path(chunk)
        aside = final.with_name(f".{chunk:05d}.{owner}")
        with aside.open("w", encoding="utf-8") as file:
            file.writelines(lines)
        fsync_dir(aside)
        first = link_once(aside, final)
        for part in self.parts(chunk):
            part.unlink(missing_ok=True)
        return first


def chunk_sizes(prompts: int, workers: int) -> list[int]:
    """Return how many prompts each chunk has.

    Where several workers share the unit, chunks become smaller towards the end: a worker that is up to
    `SHARES` times slower than the others has no more left than these when no chunk is left to claim.
    """
    sizes, left = list[int](), prompts
    while left:
        share = math.ceil(left / (SHARES * workers)) if workers > 1 else left
        sizes.append(min(CHUNK_ROWS, share))
        left -= sizes[-1]
    return sizes


def _write(table: Any, path: Path, workers: int) -> None:
    at = 0
    with pq.ParquetWriter(path, table.schema) as file:
        for size in chunk_sizes(len(table), workers):
            file.write_table(table.slice(at, size), row_group_size=size)
            at += size
