"""All file names of a run directory and all atomic writes; no other module knows them.

A run directory (`runs/STUDY`) is a `StudyDir`; each unit of work has a `UnitDir` in it, STAGE/NAME-ID.
A result is published by renaming a complete directory to `out`, once: readers see all of it or nothing.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jobs.core.unit import STAGES, Input, Unit
from jobs.store.records import Damaged as Damaged
from jobs.store.records import kind_of, not_a_file
from jobs.store.records import read_json as read_json
from jobs.store.records import read_jsonl as read_jsonl

RESULT = "result.json"  # the stage's summary of its result: counts, FLOPs, accuracies
STAGED = re.compile(r"out\.(\d+\.\d+)\.(\d+)\.\d+\.tmp")  # run and worker, as named by Context.staging


@dataclass(frozen=True)
class At:
    """Descriptor for a path below a folder."""

    name: str

    def __get__(self, folder: UnitDir | StudyDir, _: type) -> Path:
        return folder.path / self.name


@dataclass(frozen=True)
class UnitDir:
    """The folder of one unit."""

    path: Path

    spec = At("unit.json")  # the unit: config, inputs, resources
    out = At("out")  # its result, which exists if and only if the unit is done
    result = At(f"out/{RESULT}")
    work = At("work")  # what a later attempt can resume from: chunks, claims, benchmarks
    checkpoints = At("work/checkpoints")  # step-N, after N steps
    stable = At("work/stable")  # step-N, before the cooldown: another unit continues from it
    runs = At("work/runs")  # a file named ATTEMPT.RESTART for each run that uses a fence
    events = At("tensorboard")  # a training's event files, where TensorBoard is installed
    progress = At("progress.json")  # progress of the running attempt
    attempts = At("attempts.jsonl")  # a journal: how each run ended, as its processes saw it

    @property
    def id(self) -> str:
        """The unit's identity, the last part of its folder's name."""
        return self.path.name.rpartition("-")[2]

    @property
    def done(self) -> bool:
        """Whether a result is published on disk; the scheduler's view does not matter."""
        return look_at(f"{self.path}/out").there

    def unit(self) -> Unit:
        """Return the unit as planned.

        Raises:
            Damaged: unit.json does not hold a unit.
        """
        try:
            return Unit.from_json(read_json(self.spec))
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise Damaged(f"{self.spec}: not a unit: {type(error).__name__}: {error}") from None

    def read_result(self) -> dict[str, Any]:
        """Return the stage's summary of its result.

        Raises:
            FileNotFoundError: There is no result.
            Damaged: The path is not a result folder, or the summary cannot be read.
        """
        if harm := look_at(str(self.out)).harm:
            raise Damaged(harm)
        found: dict[str, Any] = read_json(self.result, {})
        return found

    def staging(self, run: str) -> Path:
        """Return where a run builds its result, beside `out` so that one rename publishes it."""
        return self.path / f"out.{run}.tmp"

    def superseded(self, attempt: int) -> Path:
        """Return where an attempt's result is kept after its inputs were made again."""
        return self.path / f"superseded.{attempt}"

    def new_superseded(self, attempt: int) -> Path:
        """Create such a folder, with a number added if the attempt already has one: superseded.3.2."""
        first = self.superseded(attempt)
        for aside in itertools.chain([first], (Path(f"{first}.{n}") for n in itertools.count(2))):
            with suppress(FileExistsError):
                aside.mkdir()
                return aside
        raise AssertionError("counting ends never")

    def publish(self, staged: Path) -> bool:
        """Make `staged` the unit's result; return False if another copy of the unit published first.

        Raises:
            Damaged: Something that is not a result occupies the name. It is left in place.
        """
        fsync_tree(staged)
        first = rename_once(staged, self.out, RESULT)
        fsync_dir(self.path)
        return first

    def clear(self, run: str, worker: int) -> None:
        """Remove unpublished results of earlier runs, which are dead or too late.

        Other workers of the same attempt may still be running.
        """
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
    origin = At("origin.json")  # the file that it was submitted from
    submitted = At("submitted.json")  # the user's last submission, for keepers to continue
    nodes = At("nodes")  # NAME.jsonl: consecutive fast failures on this node
    by_hand = At("by_hand")  # records of jobs whose scripts come from --out
    ledger = At("ledger.jsonl")  # a journal: submissions and how they ended
    lock = At("lock")
    keep_lock = At("keep.lock")  # held by `sor keep` as long as it runs
    notified = At("notified.jsonl")  # a journal: notifications sent
    notified_lock = At("notified.lock")  # held while deciding what to notify
    written_report = At("report/latest")  # of `sor report`; the report stage has a unit's folder
    exported = At("export")  # of `sor export`: a folder for the pairs, and one for each student
    code = At("code")  # HASH: the code that jobs run, as of their submission

    def node(self, name: str) -> Path:
        """Return the file in which jobs record failures on a node; `name` is Slurm's."""
        return self.nodes / f"{name}.jsonl"

    def submission(self, name: str) -> Path:
        """Return a submission's folder: elements.jsonl, submit.sh and JOB_RANK_log.out."""
        return self.path.absolute() / "submissions" / name

    def logs(self, submission: str, job: str | None) -> list[Path]:
        """Return the log files of one job, one per rank; empty before the job has started."""
        found = self.submission(submission).glob(f"{job}_*_log.out")
        ranks = {int(rank): path for path in found if (rank := path.name.split("_")[-2]).isdecimal()}
        return [path for _, path in sorted(ranks.items()) if path.is_file()]

    def unit(self, unit: Unit | Input) -> UnitDir:
        return UnitDir(self.path / f"{unit.stage}/{unit.name}-{unit.id}")

    def done(self, unit: Unit) -> bool:
        """Whether the unit is done, as `unit(unit).done`."""
        return self.look_at(unit).there

    def look_at(self, unit: Unit) -> Found:
        """Look up a unit's result, in a third of the time that `UnitDir` takes."""
        return look_at(f"{self.path}/{unit.stage}/{unit.name}-{unit.id}/out")

    def with_folders(self) -> set[str]:
        """Return the IDs of the units that have a folder, with one listing per stage."""
        found = set[str]()
        for stage in STAGES:
            with suppress(FileNotFoundError, NotADirectoryError):
                found |= {name.rpartition("-")[2] for name in os.listdir(self.path / stage)}
        return found

    def published(self, stage: str) -> list[UnitDir]:
        """Return all done units of a stage, sorted by name, including those the study no longer wants."""
        return [d for p in sorted(self.path.glob(f"{stage}/*/out")) if (d := UnitDir(p.parent)).done]


class Found(NamedTuple):
    """Outcome of looking for a result.

    Args:
        there: Whether there is a result.
        harm: What is there instead of a result, and what to do about it; None for a result or nothing.
    """

    there: bool
    harm: str | None = None


NOTHING, THERE = Found(False), Found(True)


def look_at(out: str) -> Found:
    """Test for a result: a real folder with a result.json that is a nonempty regular file.

    Two file system calls for a result, one without: there may be 10,000. Only `UnitDir.read_result` reads the
    file's content.
    """
    try:
        folder = os.lstat(out).st_mode
    except OSError:
        return NOTHING
    file = f"{out}/{RESULT}"
    if not stat.S_ISDIR(folder):
        return _harm(out, f"{kind_of(folder)}, not the folder of a result")
    try:
        found = os.lstat(file)
    except OSError as error:
        return _harm(out, f"a folder without {RESULT} ({error.strerror})")
    if not stat.S_ISREG(found.st_mode):
        return _harm(file, f"{kind_of(found.st_mode)}, not a file")
    return THERE if found.st_size else _harm(file, "empty")


def _harm(path: str, what: str) -> Found:
    return Found(
        False,
        f"{path}: {what}. Move {path.removesuffix(f'/{RESULT}')} away, then submit again to remake it",
    )


def order(run: str) -> tuple[int, ...]:
    """Return the sort key of a run, ATTEMPT.RESTART: runs of a unit sort by their start."""
    return tuple(map(int, run.split(".")))


def study_of(unit_dir: Path) -> StudyDir:
    """Return the study that a unit's folder belongs to."""
    return StudyDir(unit_dir.parent.parent)


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file atomically: readers see the old file or the new one.

    Raises:
        Damaged: The path is a folder.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    aside.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    try:
        os.replace(aside, path)
    except IsADirectoryError:
        aside.unlink()
        raise Damaged(not_a_file(path) or str(path)) from None


def write_jsonl(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write a JSONL file that has no readers before it is complete."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def append_jsonl(path: Path, record: dict[str, Any]) -> None:
    """Append one line in one write, and flush it to disk.

    Only for files written by a single host (see jobs/store/journal.py).

    Raises:
        OSError: The line could not be written completely, e.g. because the disk is full.
        Damaged: The path is not a regular file.
    """
    line = (json.dumps(record) + "\n").encode()
    if what := not_a_file(path):  # a FIFO would swallow the line, a link could lead elsewhere
        raise Damaged(what)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    try:
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            line = b"\n" + line  # another writer died in its line, or is still writing it
        if os.write(fd, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(fd)
    finally:
        os.close(fd)


def rename_once(aside: Path, final: Path, proof: str) -> bool:
    """Move a complete folder to the name that readers look for.

    Args:
        proof: A file that every such folder contains.

    Returns:
        False if another copy of the job was faster; the folder is then removed.

    Raises:
        Damaged: Something else occupies the name. It is left in place, and so is the folder.
    """
    try:
        if not os.path.lexists(final):  # rename would replace an empty folder
            os.rename(aside, final)
            return True
    except OSError:
        if not os.path.lexists(final):
            raise
    mode = os.lstat(final).st_mode
    if not stat.S_ISDIR(mode) or not (final / proof).is_file():
        what = "a folder without " + proof if stat.S_ISDIR(mode) else kind_of(mode)
        raise Damaged(f"{final}: {what} is in the way of {aside}. Move it away, then submit again")
    shutil.rmtree(aside)
    return False


def link_once(aside: Path, final: Path) -> bool:
    """Link a complete file to the name that readers look for; return False if another process was faster."""
    try:
        os.link(aside, final)
    except FileExistsError:
        return False
    finally:
        aside.unlink()
    return True


def fsync_dir(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def fsync_tree(path: Path) -> None:
    """Flush every file below `path`, so that a rename never publishes files that a power cut would empty."""
    for folder, _, files in os.walk(path):
        for name in files:
            fsync_dir(Path(folder, name))
        fsync_dir(Path(folder))
