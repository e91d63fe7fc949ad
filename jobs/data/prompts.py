"""Text rows from a study's sources: local JSON or Parquet files, or a hub dataset.

Sources may hold millions of long rows, so columns stay in Arrow and rows are streamed. The caller interprets
the texts.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.text.jsonrows import NAMES, is_json, is_parquet, json_rows
from jobs.text.messages import Reading, texts_of
from jobs.text.parquet import streamed
from jobs.text.rowcheck import check_rows, check_types, is_number, is_text, objects

ROWS = 1000  # rows per streamed batch
COMMIT = re.compile(r"[0-9a-f]{40}")
TEXT = pa.large_string()  # 64-bit offsets: a column may hold more than 2 GB


class Rows(NamedTuple):
    """Some rows of a source.

    Args:
        place: Where they are, up to the number of a row.
        numbers: Of the rows.
        rows: The columns that are read, or objects.
    """

    place: str
    numbers: Sequence[int]
    rows: pa.RecordBatch | list[dict[str, Any]]


class Source:
    """A source of rows.

    Args:
        name: For messages.
        how: What is read of each row.
        read: Streams the rows.

    Attributes:
        cut: How many rows something was left out of, by what, in the last call of `batches`.
    """

    def __init__(self, name: str, how: Reading, read: Callable[[], Iterator[Rows]]) -> None:
        self.name, self._how, self._read = name, how, read
        self.cut = Counter[str]()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Stream the rows as batches of text, with a column for each part that is read.

        Raises:
            ValueError: A row cannot be read.
        """
        self.cut.clear()
        for some in self._read():
            try:
                found = pa.record_batch(self._columns(some), list(self._how.columns))
                found.validate(full=True)  # nothing else checks for valid UTF-8
            except (pa.ArrowException, UnicodeDecodeError) as error:
                raise ValueError(f"{some.place} {some.numbers[0]} or after: {error}") from None
            yield found

    def _columns(self, some: Rows) -> list[pa.Array]:
        columns, rows = self._how.columns, some.rows
        if isinstance(rows, pa.RecordBatch):
            if all(is_text(kind) or is_number(kind) for kind in rows.schema.types):
                return [rows.column(column).cast(TEXT) for column in columns.values()]
            rows = objects(rows)
        texts = []
        for number, row in zip(some.numbers, rows, strict=True):
            found, cut = texts_of(f"{some.place} {number}", row, self._how)
            texts.append(found)
            self.cut.update(cut)
        return [pa.array(column, TEXT) for column in zip(*texts, strict=True)]


def open_source(
    spec: dict[str, Any], how: Reading | Sequence[str], resolve: Callable[[str], str] = str
) -> Source:
    """Open an entry in a study's `prompts` or `pairs`.

    Args:
        spec: "path" of a local file or folder, or "dataset" on the hub with "subset", "revision", "split".
        how: What is read of each row; names of columns are read as they are.
        resolve: Maps a path of the study to a path on disk.

    Raises:
        ValueError: The file does not exist, its format is unknown, or a column is missing or holds something
            else than text and chats.
    """
    how = Reading.of(how)
    if not spec.get("path"):
        return _of_the_hub(spec, how)
    path = Path(resolve(spec["path"]))
    if not path.exists():
        raise ValueError(f"prompts: no such path: {path}")
    inside = () if path.is_file() else sorted(p for p in path.rglob("*") if not p.name.startswith("."))
    files = [path] if path.is_file() else [p for p in inside if is_parquet(p) or is_json(p)]
    if not files:
        raise ValueError(f"{path}: no prompts found; they are read from {NAMES}")
    for file in files:
        check_rows(file, how, None if len(files) == 1 else 0)
    return Source(str(path), how, lambda: chain.from_iterable(_rows(file, how) for file in files))


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


def _of_the_hub(spec: dict[str, Any], how: Reading) -> Source:
    name = f"{spec['dataset']} ({spec.get('split') or 'train'})"
    table = load_rows(spec).data.table
    check_types(name, table.schema, how)
    chosen = table.select(how.names)
    return Source(name, how, lambda: _numbered(name, chosen.to_batches(ROWS)))


def _rows(file: Path, how: Reading) -> Iterator[Rows]:
    """Yield the rows of a file in batches."""
    if is_parquet(file):
        try:
            with streamed(file) as parquet:
                yield from _numbered(str(file), parquet.iter_batches(ROWS, columns=how.names))
        except pa.ArrowException as error:
            raise ValueError(f"{file}: {error}") from None
        return
    rows = json_rows(file)
    while some := list(islice(rows, ROWS)):
        numbers, objects = zip(*some, strict=True)
        yield Rows(f"{file}, line", numbers, list(objects))


def _numbered(name: str, batches: Iterable[pa.RecordBatch]) -> Iterator[Rows]:
    start = 1
    for batch in batches:
        yield Rows(f"{name}, row", range(start, start + len(batch)), batch)
        start += len(batch)


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
        source = open_source(spec, Reading.of_prompts(spec), resolve)
        texts = pa.chunked_array([batch.column("prompt") for batch in source.batches()], TEXT)
        if source.cut:
            print(f"{source.name}: left out of rows: {dict(source.cut)}", flush=True)
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
