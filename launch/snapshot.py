"""The code that jobs run: a copy in the run directory, so that editing the checkout does not change them.

A copy is named by its contents, made once, and published by one rename.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from jobs.provenance import SNAPSHOT, commit
from jobs.rundir import StudyDir, fsync_dir, fsync_tree, write_json

ROOT = Path(__file__).resolve().parent.parent
FOR_JOBS = ("jobs", "analysis", "configs/evals")
FOR_KEEPER = ("jobs", "analysis", "launch", "configs", "sbatch_templates")
SUFFIXES = (".py", ".html", ".yaml", ".sh", ".bash", "")


def snapshot(root: StudyDir, *, keeper: bool = False) -> Path:
    """The folder with a copy of this code; it is made where there is none yet.

    Args:
        keeper: whether a keeper runs from it, which needs what submits, too. Without that it is half as many
            files, each of which a shared file system takes its time for.
    """
    sources = _sources(FOR_KEEPER if keeper else FOR_JOBS)
    files = {str(path.relative_to(ROOT)): path.read_bytes() for path in sources}
    digest = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()[:12]
    target = root.code / digest
    if target.is_dir():
        return target
    root.code.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.code, prefix=".") as aside:
        staged = Path(aside, digest)
        for name, contents in files.items():
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            (staged / name).write_bytes(contents)
        write_json(staged / SNAPSHOT, {"snapshot": digest, **commit(ROOT)})
        fsync_tree(staged)
        try:
            os.rename(staged, target)
        except OSError:
            if not target.is_dir():  # another submitter was first
                raise
    fsync_dir(root.code)
    return target


def _sources(folders: Iterable[str]) -> list[Path]:
    """The files of the folders, without what editors leave beside them."""
    found = (path for folder in folders for path in (ROOT / folder).rglob("*"))
    return [p for p in found if p.suffix in SUFFIXES and not p.name.startswith(".") and p.is_file()]
