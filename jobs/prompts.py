"""Rows of text from where a study finds them: local JSONL or Parquet files, or a dataset of the hub.

Sources may hold millions of long rows, so columns stay in Arrow and rows are streamed. What the texts mean is
the business of the caller.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow.json import ParseOptions, ReadOptions, open_json

ROWS = 1000  # in a batch that is streamed
BLOCK = 1 << 26  # bytes of JSON that are read at once; no row may be longer
TEXT = pa.large_string()  # offsets of 64 bits: a column may hold more than 2 GB
KINDS = (".parquet", ".jsonl")


@dataclass(frozen=True)
class Source:
    """Where rows come from: its name, as people know it, and what streams batches of text, in order."""

    name: str
    batches: Callable[[], Iterator[pa.RecordBatch]]


def open_source(spec: dict[str, Any], columns: Sequence[str], resolve: Callable[[str], str] = str) -> Source:
    """Open columns of what a study's `prompts` or `pairs` names.

    Args:
        spec: "path" of a local file or folder, or "dataset" on the hub with "subset", "revision", "split".
        resolve: path of the study to path on disk.

    Raises:
        ValueError: there is no such file, it is of no known kind, or a column is missing or holds no text.
    """
    text = pa.schema([(column, TEXT) for column in columns])
    if not spec.get("path"):
        return _of_the_hub(spec, text)
    path = Path(resolve(spec["path"]))
    if not path.exists():
        raise ValueError(f"prompts: there is no {path}")
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in KINDS)
    if not files or files[0].suffix not in KINDS:
        raise ValueError(f"{path}: no prompts found; they are read from files named *{', *'.join(KINDS)}")
    for file in files:
        _check(str(file), _schema(file), columns)
    return Source(str(path), lambda: chain.from_iterable(_read(file, text) for file in files))


def _of_the_hub(spec: dict[str, Any], text: pa.Schema) -> Source:
    import datasets

    split = spec.get("split") or "train"
    name = f"{spec['dataset']} ({split})"
    loaded = datasets.load_dataset(
        spec["dataset"], spec.get("subset"), revision=spec.get("revision"), split=split
    )
    table = loaded.data.table
    _check(name, table.schema, text.names)
    return Source(name, lambda: iter(table.select(text.names).cast(text).to_batches(ROWS)))


def _schema(file: Path) -> pa.Schema:
    if file.suffix == ".parquet":
        return pq.read_schema(file)
    with file.open(encoding="utf-8") as lines:
        return pa.schema([(name, TEXT) for name in json.loads(next(lines, "{}"))])


def _check(name: str, schema: pa.Schema, columns: Sequence[str]) -> None:
    for column in columns:
        if column not in schema.names:
            raise ValueError(f"{name}: no column {column!r}; it has {', '.join(schema.names)}")
        kind = schema.field(column).type
        if kind not in (TEXT, pa.string(), pa.null()):
            raise ValueError(f"{name}: column {column!r} must hold text and holds {kind}")


def _read(file: Path, text: pa.Schema) -> Iterator[pa.RecordBatch]:
    if file.suffix == ".parquet":
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(ROWS, columns=text.names):
                yield batch.cast(text)
    else:
        others = ParseOptions(explicit_schema=text, unexpected_field_behavior="ignore")
        try:
            yield from open_json(file, ReadOptions(block_size=BLOCK), others)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{file}: {error}") from None


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
        column = spec["column"]
        source = open_source(spec, [column], resolve)
        texts = pa.chunked_array([batch.column(column) for batch in source.batches()], TEXT)
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
