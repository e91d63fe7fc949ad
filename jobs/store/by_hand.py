"""Jobs of scripts that a person submits by hand: their array enters itself into the study's records.

Of a script that `sor submit --dry-run --out DIR` wrote nobody knows when, or how often, it is submitted. So
the first job of an array that starts enters the array, which gets the numbers of its attempts then. The
records are numbered files, N.json. Each is made once, by a link, and who makes one has read all before it: no
two give a unit the same number. Once the folder exists, `sor submit` takes its numbers there, too.
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

TOLD = "by_hand.json"  # in a submission's folder: what its jobs have to know
ELEMENTS = "elements.jsonl"
NAME = re.compile(r"\d+\.json")
JOB = re.compile(r"\d+(;[A-Za-z0-9_.-]+)?", re.ASCII)  # of an array, and of one of several clusters
Record = Mapping[str, Any]


def survey(folder: Path) -> tuple[list[Record], list[BadLine]]:
    """All records of a study, in the order in which they were made, and apart the files that are none."""
    found, bad = list[Record](), list[BadLine]()
    for number in _numbers(folder):
        try:
            found.append(_record(folder, number))
        except FileNotFoundError:
            continue  # somebody has just removed it
        except Damaged as error:
            bad.append(BadLine(str(error), _contents(folder / f"{number}.json"), "the file"))
    return found, bad


def records(folder: Path) -> list[Record]:
    """The same for who needs all of them.

    Raises:
        Damaged: one of them cannot be read.
    """
    found, bad = survey(folder)
    if bad:
        raise Damaged(f"{bad[0].why}. Remove the file once none of those jobs runs")
    return found


def _numbers(folder: Path) -> list[int]:
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    found = sorted(int(name.removesuffix(".json")) for name in names if NAME.fullmatch(name))
    while os.path.lexists(folder / f"{_next(found)}.json"):  # a listing of a network file system may be old
        found.append(_next(found))
    return found


def _next(numbers: Sequence[int]) -> int:
    return numbers[-1] + 1 if numbers else 1


def reserve(folder: Path, numbers: Mapping[str, int]) -> bool:
    """Take the numbers of attempts, by the ids of their units, for a submission of `sor`.

    Returns:
        False if jobs that were submitted by hand have taken one of them.
    """

    def entry(before: Sequence[Record]) -> Record | None:
        taken = last_attempts(record for record in before if "submission" in record)
        return None if any(taken.get(unit, 0) >= n for unit, n in numbers.items()) else {"reserved": numbers}

    def sound(folder: Path) -> Sequence[Record]:  # units that others name are not submitted
        return survey(folder)[0]

    return not numbers or not folder.is_dir() or _add(folder, entry, sound) is not None


def last_attempts(found: Iterable[Record]) -> dict[str, int]:
    """The highest number of an attempt at each unit that records tell of, by the unit's id."""
    last = dict[str, int]()
    for record in found:
        entered = {unit: number for unit, (number, _) in record.get("attempts", {}).items()}
        taken = {**record.get("reserved", {}), **entered}
        last |= {unit: max(number, last.get(unit, 0)) for unit, number in taken.items()}
    return last


def enter(submission: Path, root: StudyDir, unit: str) -> int:
    """The number of this job's attempt at a unit; its array is entered if no job of it has done so yet.

    All processes of the job, and the job when it is started again, get the same. Results that were made from
    an earlier result of the array's units are set aside.
    """
    told = read_json(submission / TOLD)
    id = ";".join(
        filter(
            None, (os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ["SLURM_JOB_ID"], told["slurm_cluster"])
        )
    )
    name = os.environ.get("SLURM_JOB_NAME", told["name"])
    number = 0
    root.by_hand.mkdir(exist_ok=True)

    def entry(before: Sequence[Record]) -> Record | None:
        nonlocal number
        mine = [r for r in before if (r.get("submission"), r.get("job")) == (name, id)]
        for record in mine:
            if unit in record["attempts"]:
                number = record["attempts"][unit][0]
                return None
        last = last_attempts([{"reserved": told["numbers"]}, *before])
        entered = {u for record in mine for u in record["attempts"]}
        to_do = _to_do(submission, root)
        if unit not in to_do:  # another worker was faster
            number = 1
            return None
        attempts = {u: (last.get(u, 0) + 1, to_do[u]) for u in to_do.keys() - entered | {unit}}
        number = attempts[unit][0]
        where = {"cluster": told["cluster"], "host": socket.gethostname()}
        return {"submission": name, "job": id, "time": time.time(), **where, "attempts": attempts}

    if made := _add(root.by_hand, entry):
        _link_logs(submission, root, name)
        entered = read_json(made)["attempts"]
        for path in sorted({path for u in entered for path in told["readers"][u]}):
            _set_aside(UnitDir(root.path / path), made)
    return number


def _add(
    folder: Path,
    entry: Callable[[Sequence[Record]], Record | None],
    read: Callable[[Path], Sequence[Record]] = records,
) -> Path | None:
    """Make the next record, of what `entry` says to the records before it; None if it says None."""
    aside = folder / f".{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
    while True:
        number = _next(_numbers(folder))  # before they are read: whoever is faster takes it, or has been read
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
        except FileExistsError:  # another job was faster: read what it says
            time.sleep(0.05)
        finally:
            aside.unlink()


@cache  # a record never changes
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
        raise Damaged(f"{path}: not what a job that was submitted by hand writes") from None
    return found


def _contents(path: Path) -> bytes:
    with suppress(OSError, Damaged), open_regular(path) as file:
        return file.read()
    return b""


def _to_do(submission: Path, root: StudyDir) -> dict[str, list[int | None]]:
    """The indices of the jobs of each unit of a submission that is not done, by the unit's id.

    Where the submission is one job, without an array, it has no index.
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
    """Have the logs of this submission be found where those of others are."""
    place = root.submission(name)
    if place.name == name:
        place.parent.mkdir(exist_ok=True)
        with suppress(FileExistsError):
            place.symlink_to(submission)


def _set_aside(reader: UnitDir, before: Path) -> None:
    """Keep a result that is older than a file under another name, with the work that it came from."""
    with suppress(FileNotFoundError):
        if reader.result.stat().st_mtime_ns >= before.stat().st_mtime_ns:
            return
        number = 1
        while reader.superseded(number).exists():
            number += 1
        aside = reader.superseded(number)
        aside.mkdir()
        print(f"{reader.out} was made from an earlier result: it is in {aside} now", flush=True)
        os.rename(reader.out, aside / reader.out.name)
        os.rename(reader.work, aside / reader.work.name)
