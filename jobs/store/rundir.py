"""Every file name of a run directory and every atomic write: the only module that knows them.

A run directory (`runs/STUDY`) is a `StudyDir`; each unit of work has a `UnitDir` in it, STAGE/NAME-ID.
A result is published by renaming a complete directory to `out`, once: a reader sees all of it or nothing.
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

RESULT = "result.json"  # what the stage says of its result: counts, FLOPs, accuracies
STAGED = re.compile(r"out\.(\d+\.\d+)\.(\d+)\.\d+\.tmp")  # run and worker, as Context.staging names it


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
    result = At(f"out/{RESULT}")
    work = At("work")  # what a later attempt can go on from: chunks, claims, benchmarks
    checkpoints = At("work/checkpoints")  # step-N, after N steps
    runs = At("work/runs")  # a file named ATTEMPT.RESTART for each run that keeps to the fence
    progress = At("progress.json")  # how far the running attempt is
    attempts = At("attempts.jsonl")  # a journal: how each run ended, as its processes saw it

    @property
    def id(self) -> str:
        """The unit's identity, which its folder's name ends with."""
        return self.path.name.rpartition("-")[2]

    @property
    def done(self) -> bool:
        """Done is what is on disk: a published result. Never what a scheduler says."""
        return look_at(f"{self.path}/out").there

    def unit(self) -> Unit:
        """The unit as it was planned.

        Raises:
            Damaged: unit.json is not one.
        """
        try:
            return Unit.from_json(read_json(self.spec))
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise Damaged(f"{self.spec}: not a unit: {type(error).__name__}: {error}") from None

    def read_result(self) -> dict[str, Any]:
        """What the stage says of its result.

        Raises:
            FileNotFoundError: there is no result.
            Damaged: there is something else, or it cannot be read.
        """
        if harm := look_at(str(self.out)).harm:
            raise Damaged(harm)
        found: dict[str, Any] = read_json(self.result, {})
        return found

    def staging(self, run: str) -> Path:
        """Where a run of the unit builds its result, beside `out` so that one rename publishes it."""
        return self.path / f"out.{run}.tmp"

    def superseded(self, attempt: int) -> Path:
        """Where an attempt's result is kept once its inputs were made again."""
        return self.path / f"superseded.{attempt}"

    def new_superseded(self, attempt: int) -> Path:
        """Make such a folder, with a number added where the attempt has one: superseded.3.2."""
        first = self.superseded(attempt)
        for aside in itertools.chain([first], (Path(f"{first}.{n}") for n in itertools.count(2))):
            with suppress(FileExistsError):
                aside.mkdir()
                return aside
        raise AssertionError("counting ends never")

    def publish(self, staged: Path) -> bool:
        """Make `staged` the unit's result; False if another copy of the unit published first.

        Raises:
            Damaged: something that is no result has its name. It stays.
        """
        fsync_tree(staged)
        first = rename_once(staged, self.out, RESULT)
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
    ledger = At("ledger.jsonl")  # a journal: what was submitted and how it ended
    lock = At("lock")
    notified = At("notified.jsonl")  # a journal: the notifications that were sent
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
        ranks = {int(rank): path for path in found if (rank := path.name.split("_")[-2]).isdecimal()}
        return [path for _, path in sorted(ranks.items()) if path.is_file()]

    def unit(self, unit: Unit | Input) -> UnitDir:
        return UnitDir(self.path / f"{unit.stage}/{unit.name}-{unit.id}")

    def done(self, unit: Unit) -> bool:
        """The same as `unit(unit).done`."""
        return self.look_at(unit).there

    def look_at(self, unit: Unit) -> Found:
        """What has the name of a unit's result; in a third of the time that `UnitDir` takes."""
        return look_at(f"{self.path}/{unit.stage}/{unit.name}-{unit.id}/out")

    def begun(self) -> set[str]:
        """The ids of the units that have a folder: one listing a stage for all of them."""
        found = set[str]()
        for stage in STAGES:
            with suppress(FileNotFoundError, NotADirectoryError):
                found |= {name.rpartition("-")[2] for name in os.listdir(self.path / stage)}
        return found

    def published(self, stage: str) -> list[UnitDir]:
        """All units of a stage that are done, also those that the study no longer wants, by name."""
        return [d for p in sorted(self.path.glob(f"{stage}/*/out")) if (d := UnitDir(p.parent)).done]


class Found(NamedTuple):
    """What has the name of a result.

    Args:
        there: it is one.
        harm: it is none, and what it is and what to do, in a sentence. None where there is nothing.
    """

    there: bool
    harm: str | None = None


NOTHING, THERE = Found(False), Found(True)


def look_at(out: str) -> Found:
    """The one test for a result: a real folder with a result.json that is a file and not empty.

    Two questions to the file system for a result, one for none: there may be 10,000. What is in the file only
    `UnitDir.read_result` looks at.
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
        f"{path}: {what}. Move {path.removesuffix(f'/{RESULT}')} away, then 'sor submit' makes it again",
    )


def order(run: str) -> tuple[int, ...]:
    """By this runs of a unit sort in the order in which they began; a run is ATTEMPT.RESTART."""
    return tuple(map(int, run.split(".")))


def study_of(unit_dir: Path) -> StudyDir:
    """The study that a unit's folder belongs to."""
    return StudyDir(unit_dir.parent.parent)


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file so that a reader sees the old one or the new one, never half of it.

    Raises:
        Damaged: a folder has its name.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    aside.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    try:
        os.replace(aside, path)
    except IsADirectoryError:
        aside.unlink()
        raise Damaged(not_a_file(path) or str(path)) from None


def write_jsonl(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write a file of lines that nobody reads before it is whole."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def append_jsonl(path: Path, record: dict[str, Any]) -> None:
    """Append one line, in one write, and have it on disk before returning.

    Only for a file that one host alone writes (see jobs/store/journal.py).

    Raises:
        OSError: it could not be written whole: the disk is full.
        Damaged: something else than a file has its name.
    """
    line = (json.dumps(record) + "\n").encode()
    if what := not_a_file(path):  # a FIFO would take the line, and a link lead out of the run directory
        raise Damaged(what)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    try:
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            line = b"\n" + line  # a writer died in its line, or is in the middle of it: stay apart
        if os.write(fd, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(fd)
    finally:
        os.close(fd)


def rename_once(aside: Path, final: Path, proof: str) -> bool:
    """Give a complete folder the name that readers look for.

    Args:
        proof: a file that every such folder holds.

    Returns:
        False if another copy of the job was faster; the folder is then removed.

    Raises:
        Damaged: something else has the name. It stays, and so does the folder.
    """
    try:
        if not os.path.lexists(final):  # the system would replace an empty folder
            os.rename(aside, final)
            return True
    except OSError:
        if not os.path.lexists(final):
            raise
    mode = os.lstat(final).st_mode
    if not stat.S_ISDIR(mode) or not (final / proof).is_file():
        what = "a folder without " + proof if stat.S_ISDIR(mode) else kind_of(mode)
        raise Damaged(f"{final}: {what} is in the way of {aside}. Move it away; 'sor submit' then goes on")
    shutil.rmtree(aside)
    return False


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
