"""Attempts of jobs whose scripts are submitted by hand: the job array records them itself.

A script written by `sor submit --dry-run --out DIR` may be submitted at any time and any number of times, so
the first job of an array to start records the array, which then gets its attempt numbers. The records are
numbered files, N.json. Each is created once, by a link, by a job that has read all earlier ones: no two give
a unit the same number. Once the folder exists, `sor submit` also takes its numbers there.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from jobs.store.records import BadLine, open_regular
from jobs.store.rundir import Damaged, StudyDir, UnitDir, read_json

NOTE = "by_hand.json"  # in a submission's folder: what its jobs need to know
ELEMENTS = "elements.jsonl"
NAME = re.compile(r"\d+\.json")
JOB = re.compile(r"\d+(;[A-Za-z0-9_.-]+)?", re.ASCII)  # job ID, with the cluster's name if several
Record = Mapping[str, Any]


def survey(folder: Path) -> tuple[list[Record], list[BadLine]]:
    """Return all records of a study in the order of creation, and separately the unreadable files."""
    found, bad = list[Record](), list[BadLine]()
    for number in _numbers(folder):
        try:
            found.append(_record(folder, number))
        except FileNotFoundError:
            continue  # removed in the meantime
        except Damaged as error:
            bad.append(BadLine(str(error), _contents(folder / f"{number}.json"), "the file"))
    return found, bad


def records(folder: Path) -> list[Record]:
    """Return all records of a study; see `survey`.

    Raises:
        Damaged: A record cannot be read.
    """
    found, bad = survey(folder)
    if bad:
        raise Damaged(f"{bad[0].why}. Remove the file once none of its jobs is live")
    return found


def _numbers(folder: Path) -> list[int]:
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    found = sorted(int(name.removesuffix(".json")) for name in names if NAME.fullmatch(name))
    while os.path.lexists(folder / f"{_next(found)}.json"):  # a listing on a network file system may be stale
        found.append(_next(found))
    return found


def _next(numbers: Sequence[int]) -> int:
    return numbers[-1] + 1 if numbers else 1


def reserve(folder: Path, numbers: Mapping[str, int]) -> bool:
    """Reserve attempt numbers, by unit ID, for a submission of `sor`.

    Returns:
        False if jobs submitted by hand have taken one of the numbers.
    """

    def entry(before: Sequence[Record]) -> Record | None:
        taken = last_attempts(record for record in before if "submission" in record)
        return None if any(taken.get(unit, 0) >= n for unit, n in numbers.items()) else {"reserved": numbers}

    def sound(folder: Path) -> Sequence[Record]:  # units in unreadable records are not submitted
        return survey(folder)[0]

    return not numbers or not folder.is_dir() or _add(folder, entry, sound) is not None


def last_attempts(found: Iterable[Record]) -> dict[str, int]:
    """Return the highest attempt number in the records, by unit ID."""
    last = dict[str, int]()
    for record in found:
        entered = {unit: number for unit, (number, _) in record.get("attempts", {}).items()}
        taken = {**record.get("reserved", {}), **entered}
        last |= {unit: max(number, last.get(unit, 0)) for unit, number in taken.items()}
    return last


def enter(submission: Path, root: StudyDir, unit: str) -> int:
    """Return the number of this job's attempt at a unit, recording its array if no other job has.

    All processes of the job, and its requeued runs, get the same number. Results made from an earlier result
    of the array's units are set aside.
    """
    note = read_json(submission / NOTE)
    id = ";".join(
        filter(
            None, (os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ["SLURM_JOB_ID"], note["slurm_cluster"])
        )
    )
    name = os.environ.get("SLURM_JOB_NAME", note["name"])
    number = 0
    root.by_hand.mkdir(exist_ok=True)

    def entry(before: Sequence[Record]) -> Record | None:
        nonlocal number
        mine = [r for r in before if (r.get("submission"), r.get("job")) == (name, id)]
        for record in mine:
            if unit in record["attempts"]:
                number = record["attempts"][unit][0]
                return None
        last = last_attempts([{"reserved": note["numbers"]}, *before])
        entered = {u for record in mine for u in record["attempts"]}
        to_do = _to_do(submission, root)
        if unit not in to_do:  # another worker has finished the unit
            number = 1
            return None
        attempts = {u: (last.get(u, 0) + 1, to_do[u]) for u in to_do.keys() - entered | {unit}}
        number = attempts[unit][0]
        where = {"cluster": note["cluster"], "host": socket.gethostname()}
        return {"submission": name, "job": id, "time": time.time(), **where, "attempts": attempts}

    if made := _add(root.by_hand, entry):
        _link_logs(submission, root, name)
        entered = read_json(made)["attempts"]
        for path in sorted({path for u in entered for path in note["readers"][u]}):
            _set_aside(UnitDir(root.path / path), made)
    return number


def _add(
    folder: Path,
    entry: Callable[[Sequence[Record]], Record | None],
    read: Callable[[Path], Sequence[Record]] = records,
) -> Path | None:
    """Create the next record from what `entry` makes of the earlier ones; None if `entry` returns None."""
    aside = folder / f".{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
    while True:
        number = _next(_numbers(folder))  # before reading: a faster job takes this number or has been read
        record = entry(read(folder))
        if record is None:
            return None
        with aside.open("w", encoding="utf-8") as file:
            json.dump(record, file)
            file.flush()
            os.fsync(file.fileno())
        path = folder / f"{number}.json"
        try:
            os.link(aside, path)
            return path
        except FileExistsError:  # another job was faster: read its record
            time.sleep(0.05)
        finally:
            aside.unlink()


@cache  # records never change
def _record(folder: Path, number: int) -> Record:
    path = folder / f"{number}.json"
    try:
        found: Record = read_json(path)
        if "reserved" not in found:
            texts = [found[key] for key in ("submission", "job", "cluster", "host")]
            sound = all(isinstance(text, str) for text in texts) and JOB.fullmatch(found["job"])
            attempts = found["attempts"].values()
            integers = [found["time"] // 1, *(i for number, indices in attempts for i in (number, *indices))]
            if not sound or not all(isinstance(i, int | float) for i in integers):
                raise ValueError
        last_attempts([found])
    except (ValueError, TypeError, KeyError, AttributeError):
        raise Damaged(f"{path}: not a record of a job that was submitted by hand") from None
    return found


def _contents(path: Path) -> bytes:
    with suppress(OSError, Damaged), open_regular(path) as file:
        return file.read()
    return b""


def _to_do(submission: Path, root: StudyDir) -> dict[str, list[int | None]]:
    """Return the job indices of a submission's unfinished units, by unit ID.

    A submission of one job without an array has the index None.
    """
    found, array = dict[str, list[int | None]](), "SLURM_ARRAY_JOB_ID" in os.environ
    with (submission / ELEMENTS).open(encoding="utf-8") as lines:
        for line in lines:
            element = json.loads(line)
            unit = element["unit"]
            if not UnitDir(root.path / f"{unit['stage']}/{unit['name']}-{unit['id']}").done:
                found.setdefault(unit["id"], []).append(element["index"] if array else None)
    return found


def _link_logs(submission: Path, root: StudyDir, name: str) -> None:
    """Link this submission's logs into the study, next to those of other submissions."""
    place = root.submission(name)
    if place.name == name:
        place.parent.mkdir(exist_ok=True)
        with suppress(FileExistsError):
            place.symlink_to(submission)


def _set_aside(reader: UnitDir, before: Path) -> None:
    """Move a result older than `before` aside, together with its work folder."""
    with suppress(FileNotFoundError):
        if reader.result.stat().st_mtime_ns >= before.stat().st_mtime_ns:
            return
        number = 1
        while reader.superseded(number).exists():
            number += 1
        aside = reader.superseded(number)
        aside.mkdir()
        print(f"{reader.out} was made from an earlier result: moved to {aside}", flush=True)
        os.rename(reader.out, aside / reader.out.name)
        os.rename(reader.work, aside / reader.work.name)
