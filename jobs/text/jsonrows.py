"""Rows of JSON from users: one object per line, or one array of objects; plain, gzip or zstd; BOM allowed.

Every error names the file and the line. Imports are light, since `sor plan` reads the first rows of a file
before any job does. Parsing in Python is as fast as Arrow's JSON reader on one core (measured: 43 and
48 MB/s), which reports no line numbers and supports neither BOM nor arrays.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

KINDS = (".jsonl", ".ndjson", ".json")
PARQUET = ".parquet"
PACKED = (".gz", ".zst")
NAMES = f"*{PARQUET}, *{', *'.join(KINDS)}, the last three also with .gz or .zst"
LONGEST = 1 << 26  # maximum bytes of a row
CHUNK = 1 << 16  # bytes of an array read at a time
WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
Row = dict[str, Any]


def is_json(file: Path) -> bool:
    """Whether a file's name marks it as rows of JSON."""
    name = file.name.lower()
    return name.endswith((*KINDS, *(kind + packed for kind in KINDS for packed in PACKED)))


def is_parquet(file: Path) -> bool:
    """Whether a file's name marks it as Parquet."""
    return file.name.lower().endswith(PARQUET)


def json_rows(file: Path) -> Iterator[tuple[int, Row]]:
    """Yield the rows of a file, each with the line it starts on (from 1); blank lines are skipped.

    Raises:
        ValueError: Input is not UTF-8, not JSON, not an object, or a row is too long; names file and line.
    """
    with _opened(file) as stream:
        try:
            first, before = _beginning(stream)
            if first.startswith(WIDE):
                raise ValueError(f"{file}: UTF-16 or UTF-32: save the file as UTF-8")
            first = first.removeprefix(codecs.BOM_UTF8)
            rows = _of_array if first.lstrip().startswith(b"[") else _of_lines
            yield from rows(file, first, before, stream)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"{file}: not gzip, or cut off: {error}") from None


def _opened(file: Path) -> IO[bytes]:
    packed = file.suffix.lower()
    if packed == ".gz":
        return cast(IO[bytes], gzip.open(file))
    if packed == ".zst":
        import pyarrow as pa  # Python 3.11 has no zstd

        return cast(IO[bytes], io.BufferedReader(pa.input_stream(str(file), compression="zstd")))
    return file.open("rb")


def _beginning(stream: IO[bytes]) -> tuple[bytes, int]:
    """Return the first nonblank line and the number of lines before it."""
    before = 0
    while (line := stream.readline(LONGEST)) and not line.removeprefix(codecs.BOM_UTF8).strip():
        before += line.endswith(b"\n")
    return line, before


def _of_lines(file: Path, first: bytes, before: int, stream: IO[bytes]) -> Iterator[tuple[int, Row]]:
    number, line = before + 1, first
    while line:
        if line.strip():
            if len(line) >= LONGEST:
                raise ValueError(f"{file}, line {number}: longer than {LONGEST >> 20} MB: not a row a line")
            yield number, _object(file, number, _loaded(file, number, line))
        number, line = number + 1, stream.readline(LONGEST)


def _loaded(file: Path, number: int, line: bytes) -> Any:
    try:
        return json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise _not_utf8(file, number, line, error) from None
    except json.JSONDecodeError as error:
        words = f"{file}, line {number}: not JSON: {error.msg} at character {error.pos + 1}"
        raise ValueError(f"{words}; a row is one object on one line") from None
    except RecursionError:
        raise ValueError(f"{file}, line {number}: nested too deeply") from None
    except ValueError as error:  # an integer with too many digits
        raise ValueError(f"{file}, line {number}: {error}") from None


def _object(file: Path, number: int, value: Any) -> Row:
    if not isinstance(value, dict):
        found = type(value).__name__
        raise ValueError(f"{file}, line {number}: a row is an object of columns, found a {found}")
    return value


def _not_utf8(file: Path, number: int, data: bytes, error: UnicodeDecodeError) -> ValueError:
    found = data[error.start]
    words = f"not UTF-8: byte 0x{found:02x}; convert the file, as with iconv -f latin1 -t utf-8"
    return ValueError(f"{file}, line {number}: {words}")


def _of_array(file: Path, first: bytes, before: int, stream: IO[bytes]) -> Iterator[tuple[int, Row]]:
    """Yield the objects of one array, reading piece by piece."""
    text = _Text(file, first, before + 1, stream)
    text.skip("[")
    if text.peek() == "]":
        text.skip("]")
    else:
        while True:
            number = text.line
            yield number, _object(file, number, text.value())
            if text.peek() != ",":
                break
            text.skip(",")
        text.skip("]")
    if text.peek():
        raise ValueError(f"{file}, line {text.line}: something follows the array")


class _Text:
    """Decoded but unconsumed text of a file.

    Attributes:
        line: Line number of the next character.
    """

    def __init__(self, file: Path, first: bytes, line: int, stream: IO[bytes]) -> None:
        self.line = line
        self._file, self._stream, self._rest = file, stream, first
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text, self._at = "", 0
        self._read_to = line  # line of the next bytes to decode

    def peek(self) -> str:
        """Return the next nonblank character; empty at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\r\n":
                self.line += self._text[self._at] == "\n"
                self._at += 1
            if self._at < len(self._text) or not self._more(CHUNK):
                return self._text[self._at : self._at + 1]

    def skip(self, character: str) -> None:
        if self.peek() != character:
            found = repr(self.peek()) if self.peek() else "the end"
            raise ValueError(f"{self._file}, line {self.line}: {character!r} is needed, found {found}")
        self._at += 1
        self.peek()

    def value(self) -> Any:
        """Return the next complete value."""
        size = CHUNK
        while True:
            try:
                value, end = json.JSONDecoder().raw_decode(self._text, self._at)
            except (json.JSONDecodeError, RecursionError) as error:
                if isinstance(error, json.JSONDecodeError) and size < LONGEST and self._more(size):
                    size *= 2
                    continue
                words = getattr(error, "msg", "nested too deeply, or longer than a row may be")
                raise ValueError(f"{self._file}, line {self.line}: not JSON: {words}") from None
            self.line += self._text.count("\n", self._at, end)
            self._at = end
            return value

    def _more(self, size: int) -> bool:
        """Read more input; return whether there was any."""
        data = self._rest or self._stream.read(size)
        self._rest = b""
        try:
            decoded = self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            number = self._read_to + data.count(b"\n", 0, error.start)
            raise _not_utf8(self._file, number, error.object, error) from None
        self._read_to += data.count(b"\n")
        self._text, self._at = self._text[self._at :] + decoded, 0
        return bool(data)
