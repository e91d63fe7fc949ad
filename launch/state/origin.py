"""Which file a run directory's study comes from, so that two files of one name are told apart."""

from __future__ import annotations

import shlex
from contextlib import suppress
from pathlib import Path

from jobs.store.records import TEXT
from jobs.store.rundir import Damaged, StudyDir, read_json, write_json
from launch.study.presets import CONFIGS, Mistake, StudyError
from launch.study.textfile import is_file

ORIGIN = {"file": TEXT}


def refuse_another(root: StudyDir, file: Path) -> None:
    """Refuse a file whose study would share the run directory with that of another one.

    An edited, moved or copied file still counts as the same one.

    Raises:
        StudyError: the study was submitted from another file, which is still there and differs.
    """
    if not root.origin.is_file():  # submitted by an earlier version, or never
        return
    before = Path(read_json(root.origin, ORIGIN)["file"])
    if before.resolve() == file.resolve() or _content(before) in (None, file.read_bytes()):
        return
    words = (
        f"{root.path} belongs to another file with this name, {before}. Give this study a name of its own "
        "('name: …'), or a folder of run directories (--runs DIR)"
    )
    if not before.is_relative_to(CONFIGS):
        words += f". If it is to replace the other one: {shlex.join(['mv', str(before), f'{before}.old'])}"
    raise StudyError([Mistake(file, "name", words)])


def record(root: StudyDir, file: Path) -> None:
    """Record that a study is submitted from a file."""
    write_json(root.origin, {"file": str(file.absolute())})


def moved_from(runs: Path, file: Path) -> StudyDir | None:
    """Return the run directory of a study that was submitted from a file which is gone."""
    for origin in sorted(runs.glob(f"*/{StudyDir(runs).origin.name}")):
        with suppress(Damaged, OSError):  # of another study, which says so itself
            if read_json(origin, ORIGIN)["file"] == str(file.absolute()):
                return StudyDir(origin.parent)
    return None


def _content(file: Path) -> bytes | None:
    """Return what a file holds; None if it is gone or cannot be read."""
    try:
        return file.read_bytes() if is_file(file) else None
    except OSError:
        return None
