"""Early check of the first rows of a study's file, so that `sor plan` reports errors before any job runs.

Only the first rows are read, or the footer of a Parquet file, however large the file is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.text.jsonrows import NAMES, Row, is_json, is_parquet, json_rows
from jobs.text.messages import KEYS, REFERENCE, Reading, texts_of
from jobs.text.parquet import streamed

if TYPE_CHECKING:
    import pyarrow as pa

JSON = "arrow.json"  # Arrow's type of messages of several forms, as `datasets` loads them
ROWS = 100  # maximum rows checked
BYTES = 1 << 24  # characters of text after which checking stops


def check_rows(file: Path, how: Reading | Sequence[str], count: int | None = None) -> None:
    """Check that a file of rows can be read.

    Args:
        how: What is read of each row; names of columns are read as they are.
        count: Minimum number of rows that the study needs; None for at least one.

    Raises:
        ValueError: The format is unknown, the file cannot be read, a column is missing or holds something
            other than text or chats, or there are too few rows.
    """
    how = Reading.of(how)
    try:
        if is_parquet(file):
            rows: int | None = _check_parquet(file, how)
        elif is_json(file):
            rows = _check_json(file, how)
        else:
            raise ValueError(f"{file}: rows are read from {NAMES}")
    except OSError as error:
        raise ValueError(f"{file}: cannot be read: {error.strerror or error}") from None
    if rows is not None and rows < (1 if count is None else count):
        wanted = "" if count is None else f", and {count} are wanted"
        raise ValueError(f"{file}: it has {rows or 'no'} rows{wanted}")


def missing(file: Path, how: Reading, found: list[str]) -> ValueError:
    """Return the error for a file that lacks one of the columns."""
    lacking = [column for column in how.names if column not in found]
    words = f"no column {', '.join(map(repr, lacking))}; it has {', '.join(map(str, found)) or 'none'}"
    by_name = f"columns: {{{', '.join(f'{part}: NAME' for part in how.columns)}}}"
    key = by_name if len(how.columns) > 1 else "column: NAME"
    return ValueError(f"{file}: {words}. '{key}' names others")


def check_types(name: str, schema: pa.Schema, how: Reading) -> None:
    """Check that columns of an Arrow schema exist and hold text of any Arrow type, texts, or messages.

    Raises:
        ValueError: A column is missing or holds something else.
    """
    if not set(how.names) <= set(schema.names):
        raise missing(Path(name), how, schema.names)
    for part, column in how.columns.items():
        kind = schema.field(column).type
        if not is_text(kind) and not _is_list(kind) and not (part == REFERENCE and is_number(kind)):
            raise ValueError(f"{name}: column {column!r} must hold text or messages, and holds {kind}")


def is_number(kind: pa.DataType) -> bool:
    """Whether an Arrow type is one of numbers."""
    from pyarrow import types

    return types.is_integer(kind) or types.is_floating(kind)


def objects(batch: pa.RecordBatch) -> list[Row]:
    """Return the rows of a batch as objects, with messages in JSON parsed."""
    rows: list[Row] = batch.to_pylist()
    for field in batch.schema:
        if _is_json(getattr(field.type, "value_type", None)):
            for row in rows:
                row[field.name] = row[field.name] and [item and json.loads(item) for item in row[field.name]]
    return rows


def _is_json(kind: pa.DataType | None) -> bool:
    return getattr(kind, "extension_name", "") == JSON


def _is_list(kind: pa.DataType) -> bool:
    """Whether a type is that of lists of texts, or of messages."""
    from pyarrow import types

    if not types.is_list(kind) and not types.is_large_list(kind) and not types.is_fixed_size_list(kind):
        return False
    item = kind.value_type
    if not types.is_struct(item):
        return is_text(item) or _is_json(item)
    fields = {item.field(place).name for place in range(item.num_fields)}
    return any(set(keys) <= fields for keys in KEYS)


def is_text(kind: pa.DataType) -> bool:
    """Whether an Arrow type is one of text."""
    from pyarrow import types

    if types.is_dictionary(kind):
        return is_text(kind.value_type)
    return any(
        check(kind) for check in (types.is_string, types.is_large_string, types.is_string_view, types.is_null)
    )


def _check_parquet(file: Path, how: Reading) -> int:
    """Return the number of rows."""
    import pyarrow as pa

    try:
        with streamed(file) as parquet:
            check_types(str(file), parquet.schema_arrow, how)
            if not all(is_text(parquet.schema_arrow.field(column).type) for column in how.names):
                first = next(parquet.iter_batches(ROWS, columns=how.names), None)
                for place, row in enumerate(objects(first) if first else ()):
                    texts_of(f"{file}, row {place + 1}", row, how)
            return int(parquet.metadata.num_rows)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file}: not Parquet, or damaged: {' '.join(str(error).split())}") from None


def _check_json(file: Path, how: Reading) -> int | None:
    """Return the number of rows; None if there are more than were checked."""
    known = dict[str, None]()
    rows = size = 0
    for line, row in islice(json_rows(file), ROWS + 1):
        rows += 1
        size += _size(row)
        known |= dict.fromkeys(row)
        texts_of(f"{file}, line {line}", row, how)
        if rows > ROWS or size > BYTES:
            rows = -1
            break
    if rows and not set(how.names) <= known.keys():
        raise missing(file, how, list(known))
    return None if rows < 0 else rows


def _size(row: Row) -> int:
    return sum(len(value if isinstance(value, str) else str(value)) for value in row.values())
