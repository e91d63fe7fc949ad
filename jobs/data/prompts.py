"""Text rows from a study's sources: local JSON or Parquet files, or a hub dataset.

Sources may hold millions of long rows, so columns stay in Arrow and rows are streamed. The caller interprets
the texts.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.text.jsonrows import NAMES, is_json, is_parquet, json_rows, texts_of
from jobs.text.rowcheck import check_rows, check_types

ROWS = 1000  # rows per streamed batch
COMMIT = re.compile(r"[0-9a-f]{40}")
TEXT = pa.large_string()  # 64-bit offsets: a column may hold more than 2 GB


@dataclass(frozen=True)
class Source:
    """A source of rows: its name, for messages, and a function that streams text batches in order."""

    name: str
    batches: Callable[[], Iterator[pa.RecordBatch]]


def open_source(
    spec: dict[str, Any],
    columns: Sequence[str],
    resolve: Callable[[str], str] = str,
    numbers: Collection[str] = (),
) -> Source:
    """Open columns of an entry in a study's `prompts` or `pairs`.

    Args:
        spec: "path" of a local file or folder, or "dataset" on the hub with "subset", "revision", "split".
        resolve: Maps a path of the study to a path on disk.
        numbers: Columns that may hold numbers, too, which are read as text.

    Raises:
        ValueError: The file does not exist, its format is unknown, or a column is missing or not text.
    """
    text = pa.schema([(column, TEXT) for column in columns])
    if not spec.get("path"):
        return _of_the_hub(spec, text, numbers)
    path = Path(resolve(spec["path"]))
    if not path.exists():
        raise ValueError(f"prompts: no such path: {path}")
    inside = () if path.is_file() else sorted(p for p in path.rglob("*") if not p.name.startswith("."))
    files = [path] if path.is_file() else [p for p in inside if is_parquet(p) or is_json(p)]
    if not files:
        raise ValueError(f"{path}: no prompts found; they are read from {NAMES}")
    for file in files:
        check_rows(file, tuple(columns), None if len(files) == 1 else 0, numbers)
    return Source(str(path), lambda: chain.from_iterable(_read(file, text, numbers) for file in files))


def load_rows(spec: dict[str, Any]) -> Any:
    """Load a dataset of the hub, or of its cache, as `datasets.Dataset`.

    Raises:
        ValueError: The cache has another commit than the one that the spec names.
        Exception: As `datasets.load_dataset`.
    """
    import datasets

    wanted = spec.get("revision") or ""
    loaded = datasets.load_dataset(
        spec["dataset"], spec.get("subset"), revision=spec.get("revision"), split=spec.get("split") or "train"
    )
    # Where the hub cannot be reached, `datasets` takes what it loaded last, of whatever commit.
    for file in loaded.cache_files:
        commit = Path(file["filename"]).parent.name
        if COMMIT.fullmatch(wanted) and COMMIT.fullmatch(commit) and commit != wanted:
            raise ValueError(
                f"the cache has {spec['dataset']} at commit {commit}, and the study names {wanted}: run "
                "'sor prefetch STUDY' where the hub can be reached"
            )
    return loaded


def _of_the_hub(spec: dict[str, Any], text: pa.Schema, numbers: Collection[str]) -> Source:
    name = f"{spec['dataset']} ({spec.get('split') or 'train'})"
    table = load_rows(spec).data.table
    check_types(name, table.schema, tuple(text.names), numbers)
    chosen = table.select(text.names)
    return Source(name, lambda: (batch.cast(text) for batch in chosen.to_batches(ROWS)))


def _read(file: Path, text: pa.Schema, numbers: Collection[str]) -> Iterator[pa.RecordBatch]:
    if is_parquet(file):
        try:
            with pq.ParquetFile(file) as parquet:
                for batch in parquet.iter_batches(ROWS, columns=text.names):
                    found = batch.cast(text)
                    found.validate(full=True)  # nothing else checks for valid UTF-8
                    yield found
        except pa.ArrowException as error:
            raise ValueError(f"{file}: {error}") from None
        return
    columns = tuple(text.names)
    rows = (texts_of(file, line, row, columns, numbers) for line, row in json_rows(file))
    while some := list(islice(rows, ROWS)):
        yield pa.record_batch([pa.array(column, TEXT) for column in zip(*some, strict=True)], text)


def load_prompts(specs: Sequence[dict[str, Any]], resolve: Callable[[str], str] = str) -> pa.Table:
    """Load the prompts of a study: columns id and prompt, in the sources' order, without duplicate texts.

    Blank texts and exact repeats, also of earlier sources, are removed; then each source contributes `count`
    of its prompts, drawn by `seed` without replacement (all if count is null). An id is a hash of the text,
    so it does not depend on what else is drawn.

    Raises:
        ValueError: As for `open_source`; or a source has too few prompts, or all rows are blank.
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
                f"{source.name}: {count} prompts are requested, and column {column!r} has {len(distinct)} "
                f"different ones in {len(texts)} rows"
            )
        chosen = distinct.take(sample(len(distinct), count, spec.get("seed") or 0))
        ids = [prompt_id(text.as_py()) for text in chosen]
        tables.append(pa.table({"id": pa.array(ids, pa.string()), "prompt": chosen}))
    table = pa.concat_tables(tables)
    if not len(table):
        raise ValueError("no prompts: every row is blank")
    return table


def sample(total: int, count: int | None, seed: int) -> pa.Array:
    """Return `count` distinct numbers below `total`, sorted; all of them if count is None."""
    if count is None:
        return pa.array(range(total), pa.int64())
    return pa.array(np.sort(np.random.default_rng(seed).permutation(total)[:count]))


def prompt_id(text: str) -> str:
    """Return a prompt's identifier: 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
