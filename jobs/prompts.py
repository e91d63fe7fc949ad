"""Rows of text from where a study finds them: local JSONL or Parquet files, or a dataset of the hub.

Sources may hold millions of long rows, so columns stay in Arrow and rows are streamed; nothing here makes
a Python object of a whole source. What the texts mean is the business of the caller.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

ROWS = 1000  # in a batch that is streamed
TEXT = pa.large_string()  # offsets of 64 bits: a column may hold more than 2 GB


@dataclass(frozen=True)
class Source:
    """Where rows come from.

    Args:
        name: as people know it.
        names: its columns.
        stream: batches of the named columns, in order.
    """

    name: str
    names: list[str]
    stream: Callable[[Sequence[str]], Iterator[pa.RecordBatch]]

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Batches of these columns, all text, in order.

        Raises:
            ValueError: a column is missing or holds something else than text.
        """
        for column in columns:
            if column not in self.names:
                raise ValueError(f"{self.name}: no column {column!r}; it has {', '.join(self.names)}")
        for batch in self.stream(columns):
            for column in columns:
                kind = batch.column(column).type
                if not (pa.types.is_large_string(kind) or pa.types.is_string(kind) or pa.types.is_null(kind)):
                    raise ValueError(f"{self.name}: column {column!r} must hold text and holds {kind}")
            yield pa.RecordBatch.from_arrays([batch.column(c).cast(TEXT) for c in columns], list(columns))


def open_source(spec: dict[str, Any], resolve: Callable[[str], str] = str) -> Source:
    """Open what a study's `prompts` or `pairs` names.

    Args:
        spec: "path" of a local file or folder, or "dataset" on the hub with "subset", "revision", "split".
        resolve: path of the study to path on disk.

    Raises:
        ValueError: there is no such file, or it is of no known kind.
    """
    if not spec.get("path"):
        return _open_dataset(spec)
    path = Path(resolve(spec["path"]))
    if not path.exists():
        raise ValueError(f"prompts: there is no {path}")
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in _READERS)
    if not files or files[0].suffix not in _READERS:
        raise ValueError(f"{path}: no prompts found; they are read from files named *{', *'.join(_READERS)}")

    def stream(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for file in files:
            yield from _READERS[file.suffix][1](file, columns)

    return Source(str(path), _READERS[files[0].suffix][0](files[0]), stream)


def load_prompts(specs: Sequence[dict[str, Any]], resolve: Callable[[str], str] = str) -> pa.Table:
    """The prompts of a study: columns id and prompt, in the sources' order, no text twice.

    Each source gives `count` of its prompts, drawn by `seed` without replacement (all where count is null),
    after blank ones and exact repeats, also of earlier sources, were taken out. An id is a hash of the text,
    so that a prompt keeps it whatever else is drawn.

    Raises:
        ValueError: see `Source`; or a source has fewer prompts than it should give.
    """
    tables: list[pa.Table] = []
    for spec in specs:
        source = open_source(spec, resolve)
        column = spec["column"]
        read = [batch.column(column) for batch in source.batches([column])]
        texts = pa.chunked_array(read, TEXT)
        distinct = texts.filter(pc.not_equal(pc.utf8_trim_whitespace(texts), "")).unique()
        if tables:
            seen = pa.chunked_array([c for t in tables for c in t.column("prompt").chunks], TEXT)
            distinct = distinct.filter(pc.invert(pc.is_in(distinct, seen.combine_chunks())))
        count = spec.get("count")
        if count is not None and count > len(distinct):
            raise ValueError(
                f"{source.name}: {count} prompts are wanted, and column {column!r} has {len(distinct)} "
                f"different ones in {len(texts)} rows"
            )
        chosen = distinct.take(sample(len(distinct), count, spec.get("seed") or 0))
        ids = [prompt_id(text.as_py()) for text in chosen]
        tables.append(pa.table({"id": pa.array(ids, pa.string()), "prompt": chosen}))
    table = pa.concat_tables(tables)
    if not len(table):
        raise ValueError("there are no prompts: every row is blank")
    return table


def sample(total: int, count: int | None, seed: int) -> pa.Array:
    """`count` different numbers below `total`, in order; all of them where count is None."""
    if count is None:
        return pa.array(range(total), pa.int64())
    return pa.array(np.sort(np.random.default_rng(seed).permutation(total)[:count]))


def prompt_id(text: str) -> str:
    """16 hexadecimal digits that stand for a prompt."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _open_dataset(spec: dict[str, Any]) -> Source:
    import datasets

    split = spec.get("split") or "train"
    data = datasets.load_dataset(
        spec["dataset"], spec.get("subset"), revision=spec.get("revision"), split=split
    )
    return Source(
        f"{spec['dataset']} ({split})",
        list(data.column_names),
        lambda columns: iter(data.data.table.select(list(columns)).to_batches(max_chunksize=ROWS)),
    )


def _parquet_names(path: Path) -> list[str]:
    import pyarrow.parquet as pq

    return list(pq.read_schema(path).names)


def _parquet(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(ROWS, columns=list(columns))


def _jsonl_names(path: Path) -> list[str]:
    with path.open() as lines:
        return list(json.loads(next(lines, "{}")))


def _jsonl(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    from jobs.rundir import read_jsonl

    rows: list[dict[str, Any]] = []
    for row in read_jsonl(path):
        rows.append(row)
        if len(rows) == ROWS:
            yield _batch(rows, columns)
            rows = []
    if rows:
        yield _batch(rows, columns)


def _batch(rows: list[dict[str, Any]], columns: Sequence[str]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({c: [row.get(c) for row in rows] for c in columns})


_READERS = {".parquet": (_parquet_names, _parquet), ".jsonl": (_jsonl_names, _jsonl)}
