"""Every file name of a run directory and every atomic write: the only module that knows them.

A run directory (`runs/STUDY`) is a `StudyDir`; each unit of work has a `UnitDir` in it, STAGE/NAME-ID.
A result is published by renaming a complete directory to `out`, once: a reader sees all of it or nothing.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.unit import STAGES, Input, Unit

STAGED = re.compile(r"out\.(\d+\.\d+)\.(\d+)\.\d+\.tmp")  # run and worker, as Context.staging names it


class Damaged(ValueError):
    """A file of a run directory that cannot be read as what it should be."""


@dataclass(frozen=True)
class At:
    """A path below a folder, read as an attribute of the folder."""

    name: str

    def __get__(self, folder: UnitDir | StudyDir, _: type) -> Path:
        return folder.path / self.name


@dataclass(frozen=True)
class UnitDir:
    """The folder of one unit."""

    path: Path

    spec = At("unit.json")  # what it is: config, inputs, resources
    out = At("out")  # its result, which exists if and only if the unit is done
    result = At("out/result.json")  # what the stage says of itself: counts, FLOPs, accuracies
    work = At("work")  # what a later attempt can go on from: chunks, claims, benchmarks
    checkpoints = At("work/checkpoints")  # step-N, after N steps
    runs = At("work/runs")  # a file named ATTEMPT.RESTART for each run that keeps to the fence
    progress = At("progress.json")  # how far the running attempt is
    attempts = At("attempts.jsonl")  # how each run ended, as its processes saw it

    @property
    def id(self) -> str:
        """The unit's identity, which its folder's name ends with."""
        return self.path.name.rpartition("-")[2]

    @property
    def done(self) -> bool:
        """Done is what is on disk: a published result. Never what a scheduler says."""
        return self.out.is_dir()

    def unit(self) -> Unit:
        """The unit as it was planned."""
        return Unit.from_json(read_json(self.spec))

    def staging(self, run: str) -> Path:
        """Where a run of the unit builds its result, beside `out` so that one rename publishes it."""
        return self.path / f"out.{run}.tmp"

    def superseded(self, attempt: int) -> Path:
        """Where an attempt's result is kept once its inputs were made again."""
        return self.path / f"superseded.{attempt}"

    def publish(self, staged: Path) -> bool:
        """Make `staged` the unit's result; False if another copy of the unit published first."""
        fsync_tree(staged)
        first = rename_once(staged, self.out)
        fsync_dir(self.path)
        return first

    def clear(self, run: str, worker: int) -> None:
        """Remove what runs before this one left of results that they never published: they are dead, or too
        late. Other workers of the same attempt may be at work still."""
        mine = order(run)
        for path in self.path.iterdir():
            if found := STAGED.fullmatch(path.name):
                other = order(found[1])
                if other < mine and (other[0] < mine[0] or int(found[2]) == worker):
                    shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True)
class StudyDir:
    """The folder of one study."""

    path: Path

    study = At("study.json")  # resolved: presets and defaults filled in
    submitted = At("submitted.json")  # how a person submitted it last, for the keeper to go on from
    nodes = At("nodes")  # NAME.jsonl: failures in a row of jobs soon after they had begun on this node
    by_hand = At("by_hand")  # what jobs of scripts of --out entered when they started
    ledger = At("ledger.jsonl")  # what was submitted and how it ended
    lock = At("lock")
    notified = At("notified.jsonl")  # what somebody was told of
    notified_lock = At("notified.lock")  # held by who decides what to tell, and for as long
    written_report = At("report/latest")  # of `sor report`; the report stage has a unit's folder
    code = At("code")  # HASH: the code that jobs run, as it was when they were submitted

    def node(self, name: str) -> Path:
        """Where jobs tell of failures on a node; `name` is Slurm's."""
        return self.nodes / f"{name}.jsonl"

    def submission(self, name: str) -> Path:
        """What was handed over under this name: elements.jsonl, submit.sh and JOB_RANK_log.out."""
        return self.path.absolute() / "submissions" / name

    def logs(self, submission: str, job: str | None) -> list[Path]:
        """The log files of one job, a file a rank; none before it has started."""
        found = self.submission(submission).glob(f"{job}_*_log.out")
        return sorted(found, key=lambda path: int(path.name.split("_")[-2]))

    def unit(self, unit: Unit | Input) -> UnitDir:
        return UnitDir(self.path / f"{unit.stage}/{unit.name}-{unit.id}")

    def done(self, unit: Unit) -> bool:
        """The same as `unit(unit).done`; it takes a third of the time."""
        return os.path.isdir(f"{self.path}/{unit.stage}/{unit.name}-{unit.id}/out")

    def begun(self) -> set[str]:
        """The ids of the units that have a folder: one listing a stage for all of them."""
        found = set[str]()
        for stage in STAGES:
            with suppress(FileNotFoundError):
                found |= {name.rpartition("-")[2] for name in os.listdir(self.path / stage)}
        return found

    def published(self, stage: str) -> list[UnitDir]:
        """All units of a stage that are done, also those that the study no longer wants, by name."""
        return [d for p in sorted(self.path.glob(f"{stage}/*/out")) if (d := UnitDir(p.parent)).done]


def order(run: str) -> tuple[int, ...]:
    """By this runs of a unit sort in the order in which they began; a run is ATTEMPT.RESTART."""
    return tuple(map(int, run.split(".")))


def study_of(unit_dir: Path) -> StudyDir:
    """The study that a unit's folder belongs to."""
    return StudyDir(unit_dir.parent.parent)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file so that a reader sees the old one or the new one, never half of it."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    aside.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    os.replace(aside, path)


def write_jsonl(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write a file of lines that nobody reads before it is whole."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def append_jsonl(path: Path, record: dict[str, Any]) -> None:
    """Append one line, in one write, and have it on disk before returning.

    Raises:
        OSError: it could not be written whole: the disk is full.
    """
    line = (json.dumps(record) + "\n").encode()
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            line = b"\n" + line  # a writer died in its line, or is in the middle of it: stay apart
        if os.write(fd, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(fd)
    finally:
        os.close(fd)


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a JSONL file; a torn last line (a writer died in it) is left out.

    Raises:
        Damaged: a line before the last is not JSON.
    """
    if not path.exists():
        return
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line == "\n":
                continue
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                if not line.endswith("\n"):
                    return
                raise Damaged(
                    f"{path}, line {number}: not JSON ({error}): {line[:80]!r}. Remove it, if its writer died"
                ) from None


def rename_once(aside: Path, final: Path) -> bool:
    """Give a complete folder the name that readers look for.

    Returns:
        False if another copy of the job was faster; the folder is then removed.
    """
    try:
        os.rename(aside, final)
    except OSError:
        if not final.is_dir():
            raise
        shutil.rmtree(aside)
        return False
    return True


def link_once(aside: Path, final: Path) -> None:
    """Give a complete file the name that readers look for, unless another process was faster."""
    with suppress(FileExistsError):
        os.link(aside, final)
    aside.unlink()


def fsync_dir(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def fsync_tree(path: Path) -> None:
    """Have every file below `path` on disk: a rename must not publish what a power cut would empty."""
    for folder, _, files in os.walk(path):
        for name in files:
            fsync_dir(Path(folder, name))
        fsync_dir(Path(folder))
