"""Early check of the first rows of a study's file, so that `sor plan` reports errors before any job runs.

Only the first rows are read, or the footer of a Parquet file, however large the file is.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.text.jsonrows import NAMES, Row, is_json, is_parquet, json_rows, texts_of

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 100  # maximum rows checked
BYTES = 1 << 24  # characters of text after which checking stops
PAIR_COLUMNS = ("prompt", "reasoning", "ift")


def check_rows(
    file: Path, columns: tuple[str, ...], count: int | None = None, numbers: Collection[str] = ()
) -> None:
    """Check that a file of rows can be read.

    Args:
        count: Minimum number of rows that the study needs; None for at least one.
        numbers: Columns that may hold numbers in place of text.

    Raises:
        ValueError: The format is unknown, the file cannot be read, a column is missing or holds something
            other than text, or there are too few rows.
    """
    try:
        if is_parquet(file):
            rows: int | None = _check_parquet(file, columns, numbers)
        elif is_json(file):
            rows = _check_json(file, columns, numbers)
        else:
            raise ValueError(f"{file}: rows are read from {NAMES}")
    except OSError as error:
        raise ValueError(f"{file}: cannot be read: {error.strerror or error}") from None
    if rows is not None and rows < (1 if count is None else count):
        wanted = "" if count is None else f", and {count} are wanted"
        raise ValueError(f"{file}: it has {rows or 'no'} rows{wanted}")


def missing(file: Path, columns: tuple[str, ...], found: list[str]) -> ValueError:
    """Return the error for a file that lacks one of these columns."""
    lacking = ", ".join(repr(column) for column in columns if column not in found)
    return ValueError(f"{file}: no column {lacking}; it has {', '.join(map(str, found)) or 'none'}")


def check_types(
    name: str, schema: pa.Schema, columns: tuple[str, ...], numbers: Collection[str] = ()
) -> None:
    """Check that columns of an Arrow schema exist and hold text of any Arrow type, or numbers where they may.

    Raises:
        ValueError: A column is missing or does not hold text.
    """
    if not set(columns) <= set(schema.names):
        raise missing(Path(name), columns, schema.names)
    for column in columns:
        kind = schema.field(column).type
        if not _is_text(kind) and not (column in numbers and _is_number(kind)):
            raise ValueError(f"{name}: column {column!r} must hold text and holds {kind}")


def _is_text(kind: pa.DataType) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return any(
        check(kind) for check in (types.is_string, types.is_large_string, types.is_string_view, types.is_null)
    )


def _is_number(kind: pa.DataType) -> bool:
    from pyarrow import types

    return types.is_integer(kind) or types.is_floating(kind)


def _check_parquet(file: Path, columns: tuple[str, ...], numbers: Collection[str]) -> int:
    """Return the number of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as parquet:
            check_types(str(file), parquet.schema_arrow, columns, numbers)
            return int(parquet.metadata.num_rows)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file}: not Parquet, or damaged: {' '.join(str(error).split())}") from None


def _check_json(file: Path, columns: tuple[str, ...], numbers: Collection[str]) -> int | None:
    """Return the number of rows; None if there are more than were checked."""
    known = dict[str, None]()
    rows = size = 0
    for line, row in islice(json_rows(file), ROWS + 1):
        rows += 1
        size += _size(row)
        known |= dict.fromkeys(row)
        texts_of(file, line, row, columns, numbers)
        if rows > ROWS or size > BYTES:
            rows = -1
            break
    if rows and not set(columns) <= known.keys():
        raise missing(file, columns, list(known))
    return None if rows < 0 else rows


def _size(row: Row) -> int:
    return sum(len(value) for value in row.values() if isinstance(value, str))
