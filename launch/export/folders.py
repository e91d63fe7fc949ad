"""Folders that appear complete, are brought up to date when their sources change, and keep what a user edits.

A folder is built beside its name and renamed. A hidden note in it says what it was made from: a folder
without a note belongs to somebody else and is left alone.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jobs.store.rundir import fsync_tree, read_json, write_json

NOTE = ".sor-export.json"
CARD = "README.md"
FORMAT = 1  # raise it when the same results are exported in another way
Facts = dict[str, Any]


def linked(source: Path, target: Path) -> None:
    """Make a hard link to a file that nobody edits; copy it where links are impossible."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def written(folder: Path, source: str, fill: Callable[[Path], Facts], card: Callable[[Facts], str]) -> str:
    """Write a folder, or bring it up to date; must be called under a lock.

    Args:
        source: All that its files depend on, as text.
        fill: Writes the files into an empty folder, and returns what the card says about them; called only
            if `source` has changed. Files that the user has added stay.
        card: Returns the text of README.md. One that the user has edited stays.

    Returns:
        What was done: "written", "updated" or "unchanged".

    Raises:
        ValueError: Something else has the folder's name.
    """
    staged, before = (folder.with_name(f".{folder.name}.{end}") for end in ("staged", "before"))
    _recover(folder, staged, before)
    there = os.path.lexists(folder)
    note: Facts = read_json(folder / NOTE, {}) if (folder / NOTE).is_file() else {}
    if there and not note:
        raise ValueError(
            f"{folder} is there and was not written by sor export: move it, or name another folder, --out DIR"
        )
    made_from = _hash(f"{FORMAT} {source}")
    same = note.get("source") == made_from
    edited = there and _hash(_card(folder)) != note["card"]
    if same and (edited or note["card"] == _hash(card(note["facts"]))):
        return "unchanged"
    staged.mkdir()
    try:
        facts = note["facts"] if same else fill(staged)
        files = note["files"] if same else list(_files(staged))
        for name in _files(folder):
            if same or name not in note["files"]:
                linked(folder / name, staged / name)
        text = _card(folder) if edited else card(facts)
        (staged / CARD).write_text(text, encoding="utf-8")
        ours = note["card"] if edited else _hash(text)
        write_json(staged / NOTE, {"source": made_from, "card": ours, "files": files, "facts": facts})
        fsync_tree(staged)
        if there:
            folder.rename(before)
        staged.rename(folder)
        shutil.rmtree(before, ignore_errors=True)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return "updated" if there else "written"


def _recover(folder: Path, staged: Path, before: Path) -> None:
    """Undo what a killed export left: an unfinished folder, and one that was about to be replaced."""
    if before.exists() and not os.path.lexists(folder):
        before.rename(folder)
    for path in (staged, before):
        if path.exists():
            shutil.rmtree(path)


def _files(folder: Path) -> Iterator[str]:
    """Yield a folder's files but for its card, hidden ones and those in hidden folders."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and str(name) != CARD and not any(part.startswith(".") for part in name.parts):
            yield str(name)


def _card(folder: Path) -> str:
    card = folder / CARD
    return card.read_text(encoding="utf-8") if card.is_file() else ""


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
