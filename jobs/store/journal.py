"""Journals that several machines append to: one file of JSON lines per writing host.

Appends are atomic among the processes of one host, also on NFS, but not between two NFS clients, one of which
would overwrite the other's lines. So `NAME.jsonl` is written as `NAME.HOST.jsonl`, and all of these are read
together, in time order. A plain `NAME.jsonl` comes from an older version and is read like the others.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.store.clock import ahead
from jobs.store.records import BadLine, Damaged, Shape, ShapeOf, read_lines
from jobs.store.rundir import append_jsonl


def own(path: Path) -> Path:
    """Return the file to which processes of this host write the journal `path`."""
    host = re.sub(r"[^\w-]", "_", socket.gethostname())
    return path.with_name(f"{path.stem}.{host}.jsonl")


def files(path: Path) -> list[Path]:
    """Return the files of a journal, sorted by name."""
    try:
        names = os.listdir(path.parent)
    except FileNotFoundError:
        return []
    return [
        path.with_name(n) for n in sorted(names) if n.startswith(f"{path.stem}.") and n.endswith(".jsonl")
    ]


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Append a record and flush it to disk; its "time" defaults to now and is by this machine's clock.

    Raises:
        OSError: The record could not be written completely, e.g. because the disk is full.
        Damaged: The path of this host's file is not a regular file.
    """
    at = float(record.get("time", time.time())) + ahead(path.parent)
    append_jsonl(own(path), {**record, "time": at})


def read(path: Path, shape: Shape | ShapeOf) -> list[dict[str, Any]]:
    """Return the records in time order, with times by this machine's clock.

    Raises:
        Damaged: A line is not a record; the message names the first one.
    """
    records, bad = survey(path, shape)
    if bad:
        raise Damaged(f"{bad[0].why}. Remove the line, if its writer died")
    return records


def survey(path: Path, shape: Shape | ShapeOf) -> tuple[list[dict[str, Any]], Sequence[BadLine]]:
    """Return the records as `read` does, and separately the bad lines.

    Raises:
        Damaged: One of the paths is not a regular file.
    """
    bad, found = list[BadLine](), list[tuple[float, dict[str, Any]]]()
    several = files(path)
    for file in several:
        found += _timed(file, shape, bad)
    if len(several) > 1:
        found.sort(key=lambda each: each[0])
    difference = ahead(path.parent) if found else 0.0
    if difference:
        found = [(at, {**record, "time": record["time"] - difference}) for at, record in found]
    return [record for _, record in found], bad


def _timed(file: Path, shape: Shape | ShapeOf, bad: list[BadLine]) -> Iterator[tuple[float, dict[str, Any]]]:
    """Yield a file's records with sort times that never decrease, even if a clock was set back."""
    latest = 0.0
    for line in read_lines(file, shape):
        if isinstance(line, BadLine):
            bad.append(line)
        else:
            latest = max(latest, line["time"])
            yield latest, line
