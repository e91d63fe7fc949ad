"""Records that several machines add to one by one: a file of JSON lines for each host that wrote.

Appending is atomic among the processes of one host, also on NFS; between two clients of NFS it is not, and
one would overwrite the other's lines. So `NAME.jsonl` is written as `NAME.HOST.jsonl`, and read from all of
these together, in the order of time. A `NAME.jsonl` itself is an older version's, and read like the others.
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
    """The file that processes of this host write of the journal `path`."""
    host = re.sub(r"[^\w-]", "_", socket.gethostname())
    return path.with_name(f"{path.stem}.{host}.jsonl")


def files(path: Path) -> list[Path]:
    """The files of a journal, by name."""
    try:
        names = os.listdir(path.parent)
    except FileNotFoundError:
        return []
    return [
        path.with_name(n) for n in sorted(names) if n.startswith(f"{path.stem}.") and n.endswith(".jsonl")
    ]


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Add a record, on disk before this returns; its "time" is now unless given, by this machine's clock.

    Raises:
        OSError: it could not be written whole: the disk is full.
        Damaged: something else than a file has the name of this host's.
    """
    at = float(record.get("time", time.time())) + ahead(path.parent)
    append_jsonl(own(path), {**record, "time": at})


def read(path: Path, shape: Shape | ShapeOf) -> list[dict[str, Any]]:
    """The records, in the order of time, which is this machine's.

    Raises:
        Damaged: a line is no record. It names the first one.
    """
    records, bad = survey(path, shape)
    if bad:
        raise Damaged(f"{bad[0].why}. Remove the line, if its writer died")
    return records


def survey(path: Path, shape: Shape | ShapeOf) -> tuple[list[dict[str, Any]], Sequence[BadLine]]:
    """The same, with the lines that are no records apart.

    Raises:
        Damaged: one of the files is none.
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
    """The records of one file with the times to sort them by: never out of their order in the file, also
    where a clock was put back."""
    latest = 0.0
    for line in read_lines(file, shape):
        if isinstance(line, BadLine):
            bad.append(line)
        else:
            latest = max(latest, line["time"])
            yield latest, line
