"""Which benchmarks' data is in the hub's cache: what `sor prefetch` has loaded, as long as it is there.

Only lm-eval knows what a task reads, and it takes a quarter of a minute to start. So `sor prefetch`, which
starts it, records in the cache where each task's data lies, and a submission looks for these folders only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from jobs.store.rundir import write_json
from launch.study.hub_cache import Cache
from launch.study.hub_needs import Benchmarks

RECORD = "sor-benchmarks.json"  # folders of data by task, in the cache's home
FILES = ("*.yaml", "*.py")  # what a task is made of, in any folder below


def absent(cache: Cache, found: Iterable[Benchmarks]) -> list[Benchmarks]:
    """Return the benchmarks that were not loaded into this cache, or whose data has gone from it since."""
    known, left = _read(cache), list[Benchmarks]()
    for each in found:
        keys = _keys(each)
        tasks = tuple(task for task in each.tasks if not _there(known.get(keys[task["task"]])))
        left += [Benchmarks(each.include, tasks)] if tasks else []
    return left


def record(cache: Cache, loaded: Benchmarks, folders: Mapping[str, list[str]]) -> None:
    """Write down where the data of tasks lies, by their names."""
    keys = _keys(loaded)
    new = {keys[name]: where for name, where in folders.items()}
    cache.home.mkdir(parents=True, exist_ok=True)
    write_json(cache.home / RECORD, {**_read(cache), **new})


def _there(folders: list[str] | None) -> bool:
    return folders is not None and all(Path(folder).is_dir() for folder in folders)


def _keys(of: Benchmarks) -> dict[str, str]:
    """Return each task's key in the record: its name, with a digest of the files that say what is loaded."""
    names = [str(task["task"]) for task in of.tasks]
    if not of.folder:
        return {name: name for name in names}
    folder, digest = Path(of.folder), hashlib.sha256()
    for path in sorted(path for pattern in FILES for path in folder.rglob(pattern)):
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return {name: f"{name}@{digest.hexdigest()[:12]}" for name in names}


def _read(cache: Cache) -> dict[str, list[str]]:
    """Return the record; empty if there is none that can be read, since all it saves is a look."""
    try:
        found = json.loads((cache.home / RECORD).read_text(encoding="utf-8"))
        return {str(key): [str(folder) for folder in where] for key, where in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
