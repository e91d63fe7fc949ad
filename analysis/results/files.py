"""Files of unknown origin: their text or JSON, or why there is none. Nothing here blocks or recurses."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobs.store.records import Damaged, open_regular


class Unreadable(Exception):
    """A file cannot be used; the message says why, without the file's name."""


def read_text(file: Path) -> str:
    """Return the text of a regular UTF-8 file.

    Raises:
        Unreadable: The path is missing or not a regular file, cannot be read, or is not UTF-8.
    """
    try:
        with open_regular(file) as opened:
            return opened.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unreadable(f"not UTF-8 (byte {error.start})") from None
    except Damaged:
        raise Unreadable("not a regular file") from None
    except (OSError, ValueError) as error:
        raise Unreadable(getattr(error, "strerror", None) or str(error)) from None


def read_object(file: Path) -> dict[str, Any]:
    """Return the JSON object of a file.

    Raises:
        Unreadable: See `read_text`; or the content is not JSON, or not an object.
    """
    data = parse(read_text(file))
    if not isinstance(data, dict):
        raise Unreadable(f"not a JSON object but {type(data).__name__}")
    return data


def parse(text: str) -> Any:
    """Parse JSON, which may be nested deeper or hold longer numbers than Python can read.

    Raises:
        Unreadable: The text is not JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise Unreadable("JSON that is nested too deeply") from None
    except ValueError as error:
        raise Unreadable(f"not JSON ({error})") from None


def section(data: Any, *keys: str) -> dict[str, Any]:
    """Return the object below some keys; empty if there is none."""
    for key in keys:
        data = data.get(key) if isinstance(data, dict) else None
    return data if isinstance(data, dict) else {}


def walk(root: Path, suffix: str) -> Iterator[Path]:
    """Yield paths below a folder by suffix, in alphabetical order; hidden ones are skipped."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (
            Path(folder, name) for name in sorted(names) if name.endswith(suffix) and not name.startswith(".")
        )
