"""Snapshot of the code that jobs run, in the run directory, so that edits of the checkout do not affect them.

A snapshot is named by its contents, made once, and published by one rename. It holds the files that git
tracks, or that the wheel installed: never others beside them, such as notes or credentials. An existing one
is compared with the code before it is trusted.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from jobs.core.paths import CODE, DATA
from jobs.store.provenance import DISTRIBUTION, SNAPSHOT, commit, git
from jobs.store.rundir import Damaged, StudyDir, fsync_dir, fsync_tree, read_json, write_json

FOR_JOBS = ("jobs", "analysis", "configs/evals")
FOR_KEEPER = ("jobs", "analysis", "launch", "configs", "sbatch_templates")
# Of an unpacked archive, which has no list of files.
SUFFIXES = (".py", ".html", ".css", ".js", ".yaml", ".sh", ".bash", "")


@dataclass(frozen=True)
class _File:
    """One file of a snapshot."""

    contents: bytes
    mode: int


def snapshot(root: StudyDir, *, keeper: bool = False) -> Path:
    """Return the folder with a snapshot of this code, which is made unless it exists.

    Args:
        keeper: whether a keeper runs from it and needs the submitting code, too. Without that, the snapshot
            has half as many files, each of which costs time on a shared file system.

    Raises:
        Damaged: a snapshot with this name exists and has other contents.
    """
    files = _files(FOR_KEEPER if keeper else FOR_JOBS)
    contents = sorted((name, file.contents, file.mode & 0o111 != 0) for name, file in files.items())
    digest = hashlib.sha256(repr(contents).encode()).hexdigest()[:12]
    target = root.code / digest
    if target.is_dir():
        _verify(target, files)
        return target
    root.code.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.code, prefix=".") as aside:
        staged = Path(aside, digest)
        for name, file in files.items():
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            (staged / name).write_bytes(file.contents)
            (staged / name).chmod(file.mode)
        write_json(staged / SNAPSHOT, {"snapshot": digest, **commit(CODE), "files": sorted(files)})
        fsync_tree(staged)
        try:
            os.rename(staged, target)
        except OSError:
            if not target.is_dir():  # another submitter was first
                raise
    fsync_dir(root.code)
    return target


def untracked() -> list[str]:
    """Return the Python files beside the code that no snapshot holds, since git does not track them."""
    if not (CODE / ".git").exists():
        return []
    listed = git(CODE, "ls-files", "--others", "--exclude-standard", "-z", "--", *FOR_KEEPER)
    return sorted(name for name in (listed or "").split("\0") if name.endswith(".py"))


def _files(folders: Collection[str]) -> dict[str, _File]:
    """Return the regular files of the code in these folders, by name relative to the code."""
    found = {}
    for name, path in _listed(folders).items():
        if name.startswith(tuple(f"{folder}/" for folder in folders)) and _inside(path):
            # Only the owner may change what jobs run, whatever the checkout allows.
            found[name] = _File(path.read_bytes(), stat.S_IMODE(path.stat().st_mode) & 0o755)
    return found


def _listed(folders: Iterable[str]) -> Mapping[str, Path]:
    """Return the paths of the code's files, as listed by a snapshot, by git, or by the wheel."""
    if (CODE / SNAPSHOT).is_file():
        return {name: CODE / name for name in read_json(CODE / SNAPSHOT)["files"]}
    if DATA != CODE:
        installed = metadata.distribution(DISTRIBUTION).files or ()
        return {str(name).removeprefix(f"{DATA.name}/"): CODE / name for name in installed}
    tracked = git(CODE, "ls-files", "-z", "--", *folders) if (CODE / ".git").exists() else None
    if tracked is not None:
        return {name: CODE / name for name in tracked.split("\0") if name}
    found = (path for folder in folders for path in (CODE / folder).rglob("*"))
    return {
        str(path.relative_to(CODE)): path
        for path in found
        if path.suffix in SUFFIXES and not path.name.startswith(".")
    }


def _inside(path: Path) -> bool:
    """Return whether a path is a regular file of the code, and not a link that leads out of it."""
    return path.is_file() and path.resolve().is_relative_to(CODE)


def _verify(target: Path, files: Mapping[str, _File]) -> None:
    """Compare a snapshot with the code that it is named after.

    Raises:
        Damaged: a file is missing, was changed or was added.
    """
    there = {
        str(path.relative_to(target))
        for path in target.rglob("*")
        if not path.is_dir() and not path.name.startswith(".") and path.parent.name != "__pycache__"
    }
    wrong = there ^ {*files, SNAPSHOT}
    wrong |= {name for name in there & files.keys() if (target / name).read_bytes() != files[name].contents}
    if wrong:
        raise Damaged(
            f"{target} is not the code that it is named after any more: {', '.join(sorted(wrong)[:5])} "
            "changed. Queued jobs would run that code: cancel them, move the folder away and "
            "submit again"
        )
