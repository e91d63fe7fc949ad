"""The first rows of a file that a study names, looked at before any job is: `sor plan` says what is wrong.

However large the file is, no more than its first rows are read, or the footer where it is Parquet.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.text.jsonrows import NAMES, Row, is_json, is_parquet, json_rows, texts_of

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 100  # that are looked at
BYTES = 1 << 24  # of text in them after which no more are
PAIR_COLUMNS = ("prompt", "reasoning", "ift")


def check_rows(file: Path, columns: tuple[str, ...], count: int | None = None) -> None:
    """Look whether a file of rows can be read.

    Args:
        count: how many rows the study wants of it, at least; None: any number.

    Raises:
        ValueError: it is of no known kind, cannot be read, lacks a column, holds something else than text
            there, or has fewer rows.
    """
    try:
        if is_parquet(file):
            rows: int | None = _check_parquet(file, columns)
        elif is_json(file):
            rows = _check_json(file, columns)
        else:
            raise ValueError(f"{file}: rows are read from {NAMES}")
    except OSError as error:
        raise ValueError(f"{file}: cannot be read: {error.strerror or error}") from None
    if rows is not None and rows < (1 if count is None else count):
        wanted = "" if count is None else f", and {count} are wanted"
        raise ValueError(f"{file}: it has {rows or 'no'} rows{wanted}")


def missing(file: Path, columns: tuple[str, ...], found: list[str]) -> ValueError:
    """What to say of a file that lacks one of these columns."""
    lacking = ", ".join(repr(column) for column in columns if column not in found)
    return ValueError(f"{file}: no column {lacking}; it has {', '.join(map(str, found)) or 'none'}")


def check_types(name: str, schema: pa.Schema, columns: tuple[str, ...]) -> None:
    """Whether columns of Arrow are there and hold text, in whatever form.

    Raises:
        ValueError: they are not, or do not.
    """
    if not set(columns) <= set(schema.names):
        raise missing(Path(name), columns, schema.names)
    for column in columns:
        kind = schema.field(column).type
        if not _is_text(kind):
            raise ValueError(f"{name}: column {column!r} must hold text and holds {kind}")


def _is_text(kind: pa.DataType) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return any(
        check(kind) for check in (types.is_string, types.is_large_string, types.is_string_view, types.is_null)
    )


def _check_parquet(file: Path, columns: tuple[str, ...]) -> int:
    """The number of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as parquet:
            check_types(str(file), parquet.schema_arrow, columns)
            return int(parquet.metadata.num_rows)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file}: not Parquet, or damaged: {' '.join(str(error).split())}") from None


def _check_json(file: Path, columns: tuple[str, ...]) -> int | None:
    """The number of rows; None where there are more than were looked at."""
    known = dict[str, None]()
    rows = size = 0
    for line, row in islice(json_rows(file), ROWS + 1):
        rows += 1
        size += _size(row)
        known |= dict.fromkeys(row)
        texts_of(file, line, row, columns)
        if rows > ROWS or size > BYTES:
            rows = -1
            break
    if rows and not set(columns) <= known.keys():
        raise missing(file, columns, list(known))
    return None if rows < 0 else rows


def _size(row: Row) -> int:
    return sum(len(value) for value in row.values() if isinstance(value, str))
