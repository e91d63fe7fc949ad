"""Read CSV files from users and spreadsheets, or reject them with advice; and write them safely.

Spreadsheets run text that begins with = + - or @ as a formula. Such cells are written with a leading
apostrophe, which reading removes.
"""

from __future__ import annotations

import csv
import difflib
import io
import math
import re
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

import pandas as pd

from analysis.results.files import Unreadable, read_text
from analysis.results.table import COLUMNS, few, plain, warn

FORMULA = re.compile(r"'*[=+\-@\t\r]")
ESCAPED = re.compile(r"'+[=+\-@\t\r]")
INDEX = ("", "index", "unnamed:_0")  # names of columns that only number the rows
MISSING = {"", "-", "–", "na", "n/a", "nan", "none", "null"}
WORDS = {column for column, kind in COLUMNS.items() if kind == "str"}
DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(e[+-]?\d+)?", re.IGNORECASE)
LARGEST = 1e60  # numbers beyond it, or below its inverse, are errors
THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+")


def write_csv(table: pd.DataFrame, file: Path) -> None:
    """Write a table so that no cell is a formula for a spreadsheet; numbers stay numbers."""
    escaped = table.copy()
    for column in table.columns:
        if pd.api.types.is_string_dtype(table[column]):
            escaped[column] = table[column].map(_escape)
    escaped.to_csv(file, index=False)


def _escape(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and FORMULA.match(cell) else cell


def read_csv(file: Path, needed: Sequence[str], allowed: Collection[str], key: list[str]) -> pd.DataFrame:
    """Read a table with unique `key` and valid numbers.

    Fields may be separated by commas, semicolons or tabs; with the latter two, decimal commas are allowed.
    Column names are case-insensitive. Columns of row numbers are skipped, and unknown ones with a warning,
    unless their name is close to an allowed one.

    Raises:
        ValueError: Something cannot be read; names file, line or column, and gives advice.
    """
    try:
        text = read_text(file).removeprefix("\ufeff")
    except Unreadable as error:
        raise ValueError(f"{file}: {error}. Save it as CSV in UTF-8") from None
    separator = _separator(text)
    names, rows = _cells(file, text, separator)
    places = _columns(file, names, needed, allowed)
    data = {
        column: [
            _word(row[place]) if column in WORDS else _number(file, line, column, row[place], separator)
            for line, row in rows
        ]
        for column, place in places.items()
    }
    table = pd.DataFrame(
        {name: pd.Series(cells, dtype="str" if name in WORDS else "float64") for name, cells in data.items()}
    )
    _check_keys(file, table, key)
    if "share" in table:
        table["share"] = _shares(file, table["share"])
    return table


def _separator(text: str) -> str:
    header = text.lstrip("\r\n").partition("\n")[0]
    return max(",;\t", key=header.count)


def _cells(file: Path, text: str, separator: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header, and each nonblank row with its line number, padded to the header's length."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    lines = []
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                lines.append((reader.line_num, cells))
    except csv.Error as error:
        raise ValueError(f"{file}, line {reader.line_num}: no CSV ({error})") from None
    if not lines:
        raise ValueError(f"{file}: the file is empty")
    names, rows = [cell.strip() for cell in lines[0][1]], lines[1:]
    for place, (number, cells) in enumerate(rows):
        if any(cell.strip() for cell in cells[len(names) :]):
            raise ValueError(
                f"{file}, line {number}: {len(cells)} cells, but the header has {len(names)}. A cell that "
                f"contains {separator!r} must stand in double quotes"
            )
        rows[place] = (number, (cells + [""] * len(names))[: len(names)])
    return names, rows


def _columns(file: Path, names: list[str], needed: Sequence[str], allowed: Collection[str]) -> dict[str, int]:
    """Return the position of each allowed column."""
    keys = [re.sub(r"[\s-]+", "_", name.strip().lower()) for name in names]
    if twice := [key for key, times in Counter(keys).items() if times > 1 and key in allowed]:
        raise ValueError(f"{file}: the column {twice[0]!r} occurs more than once")
    for column in needed:
        if column not in keys:
            raise ValueError(f"{file}: the column {column!r} is missing; the header is {few(names, 30)!r}")
    others = [name for name, key in zip(names, keys, strict=True) if key not in {*allowed, *INDEX}]
    for name in others:
        if like := difflib.get_close_matches(name.lower(), allowed, n=1, cutoff=0.85):
            raise ValueError(f"{file}: unknown column {name!r}; is it {like[0]!r}? Rename or remove it")
    if others:
        warn(f"{file}: unknown columns are ignored: {few(map(plain, others))}.")
    return {key: place for place, key in enumerate(keys) if key in allowed}


def _word(cell: str) -> str | None:
    cell = plain(cell[1:] if ESCAPED.match(cell) else cell)
    return cell or None


def _number(file: Path, line: int, column: str, cell: str, separator: str) -> float:
    """Parse a number; NaN for a cell that marks a missing value."""
    text, percent = cell.strip(), False
    if text.lower() in MISSING:
        return math.nan
    if text.endswith("%"):
        text, percent = text[:-1].strip(), True
    if "," in text:
        ambiguous = THOUSANDS.fullmatch(text) and (separator == "," or text.count(",") > 1)
        if ambiguous or not DECIMAL_COMMA.fullmatch(text):
            raise ValueError(
                f"{file}, line {line}: {column} is {plain(cell)!r}. "
                "Write numbers without separators of thousands"
            )
        text = text.replace(",", ".")
    try:
        found = float(text) if "_" not in text else math.nan
    except ValueError:
        found = math.nan
    if not math.isfinite(found) or abs(found) > LARGEST or 0 < abs(found) < 1 / LARGEST:
        raise ValueError(f"{file}, line {line}: {column} is {plain(cell)!r}; a number is needed")
    return found / 100 if percent else found


def _check_keys(file: Path, table: pd.DataFrame, key: list[str]) -> None:
    for column in key:
        if table[column].isna().any():
            raise ValueError(f"{file}: a line has no {column}")
    if (twice := table[table.duplicated(key)]).size:
        raise ValueError(f"{file}: {', '.join(twice[key].iloc[0])} stands in more than one line")
    for column in set(table.columns) - WORDS - {"accuracy"}:
        if not (bad := table[table[column] < 0]).empty:
            raise ValueError(
                f"{file}: {column} of {bad['student'].iloc[0]} is {bad[column].iloc[0]:g}; "
                "a number from 0 is needed"
            )
    for column in {"n", "seed"} & set(table.columns):
        whole = table[column].dropna()
        if (whole % 1 != 0).any() or (whole >= 2**53).any():
            raise ValueError(f"{file}: {column} must be whole numbers below 2^53")


def _shares(file: Path, shares: pd.Series[float]) -> pd.Series[float]:
    """Return shares as fractions; a column with values above 1 is in percent, as 0, 25, 50, 100."""
    if not (shares > 1).any():
        return shares
    if (shares > 100).any() or ((shares > 0) & (shares < 1)).any():
        raise ValueError(
            f"{file}: share has values from {shares.min():g} to {shares.max():g}. It is the share of "
            "reasoning rows: write all of them as fractions from 0 to 1, or all in percent from 0 to 100"
        )
    warn(f"{file}: share has values up to {shares.max():g}: it is read as percent.")
    return shares / 100
