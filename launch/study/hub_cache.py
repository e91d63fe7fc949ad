"""What is in the Hugging Face hub's cache on this machine, by a few looks at files.

Neither huggingface_hub nor datasets is imported: the layout of their folders is documented, and a submission
must not wait for them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from launch.study.hub_needs import Need
from launch.study.textfile import read_text

COMMIT = re.compile(r"[0-9a-f]{40}")
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")  # names of the weights' files
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
# Any of these files makes a tokenizer, of whatever family.
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt",
              "tekken.json")  # fmt: skip


class Cache(NamedTuple):
    """The folders of the cache: of repositories, and of datasets as tables."""

    home: Path
    hub: Path
    tables: Path

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Cache:
        """Return the folders that jobs with these variables read."""
        base = environ.get("XDG_CACHE_HOME") or "~/.cache"
        home = _path(environ.get("HF_HOME") or f"{base}/huggingface")
        hub = _path(environ.get("HF_HUB_CACHE") or f"{home}/hub")
        return cls(home, hub, _path(environ.get("HF_DATASETS_CACHE") or f"{home}/datasets"))


def _path(text: str) -> Path:
    return Path(os.path.expandvars(text)).expanduser()  # as huggingface_hub does


def commit_of(cache: Cache, need: Need) -> str:
    """Return the commit of a repository's revision here; the revision itself if that is unknown."""
    revision = need.revision or "main"
    try:
        return read_text(repository(cache, need) / "refs" / revision).strip()
    except ValueError:  # there is no such file if the revision is a commit
        return revision


def repository(cache: Cache, need: Need) -> Path:
    """Return the folder of a repository in the cache."""
    return cache.hub / f"{need.repo_type}s--{need.name.replace('/', '--')}"


def snapshot(cache: Cache, need: Need) -> Path | None:
    """Return the folder with the files of a repository at its revision; None if the cache has none."""
    commit = commit_of(cache, need)
    folder = repository(cache, need) / "snapshots" / commit
    return folder if commit and folder.is_dir() else None


def missing(cache: Cache, need: Need) -> str:
    """Return what the cache lacks for a need, in words; empty if it lacks nothing."""
    if need.split is not None:
        return "" if table(cache, need) else "its rows are not in the cache"
    folder = snapshot(cache, need)
    if folder is None:
        return "not in the cache"
    if need.weights and not (folder / "config.json").is_file():
        return "config.json is missing"
    if need.tokens and not any((folder / name).is_file() for name in TOKENIZERS):
        return "its tokenizer is missing"
    return _weights_missing(folder) if need.weights else ""


def _weights_missing(folder: Path) -> str:
    for index in INDEXES:
        if (folder / index).is_file():
            size, shards = _index(folder / index)
            lacking = [name for name in shards if not (folder / name).is_file()]
            if not lacking:
                return ""
            of = f", {size / 1e9:.0f} GB in all" if size else ""
            return f"{len(lacking)} of {len(shards)} files of weights are missing{of}"
    there = (path.is_file() for pattern in WEIGHTS for path in folder.glob(pattern))
    return "" if any(there) else "its weights are missing"


def _index(file: Path) -> tuple[int, list[str]]:
    """Return the bytes of all weights, 0 if unknown, and the names of their files."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))  # may have megabytes
        size = found.get("metadata", {}).get("total_size", 0)
        return int(size), sorted(set(found["weight_map"].values()))
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return 0, []  # what cannot be understood is left to the jobs


def table(cache: Cache, need: Need) -> Path | None:
    """Return the folder with a dataset's rows as tables, in which jobs without a network find them.

    `datasets` reads these, not the repository's own files, and takes the newest folder of whatever commit: so
    another commit's is None.

    Returns:
        None if there is none, or one without the split.
    """
    owner, _, name = need.name.rpartition("/")
    of_dataset = cache.tables / f"{owner + '___' if owner else ''}{_snake(name)}"
    folders = [p for p in of_dataset.glob(f"{need.subset or '*'}/*/*") if (p / "dataset_info.json").is_file()]
    if not folders:
        return None
    newest = max(folders, key=lambda folder: folder.stat().st_mtime)
    commit = commit_of(cache, need)
    if COMMIT.fullmatch(newest.name) and newest.name != commit:
        return None
    splits = set(re.findall(r"(?:^|\+)\s*([\w.]+)", need.split or "")) - {"all"}
    return newest if all(any(newest.glob(f"*-{split}*.arrow")) for split in splits) else None


def _snake(name: str) -> str:
    """Return a dataset's name as `datasets` writes it in its folders."""
    name = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", name)
    return re.sub(r"([a-z\d])([A-Z])", r"\1_\2", name).lower()
