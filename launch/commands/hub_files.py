"""Models of the hub, listed and downloaded by huggingface_hub, with the reason where that fails.

huggingface_hub is imported when a function is called: its constants are those of the environment then.
"""

from __future__ import annotations

import glob
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

from launch.study.hub_cache import Cache, repository
from launch.study.hub_needs import Need

PATIENCE = 30.0  # seconds that the hub may take to describe a repository
# What tokenizers and configurations are read from: files of the top folder, and named chat templates.
SMALL = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "additional_chat_templates/*.jinja")
# The files of weights, the first of these lines that a repository has: loaders prefer safetensors, and
# nothing reads both. Some repositories have the same weights a second time, as consolidated.safetensors.
WEIGHTS = (
    ("model.safetensors", "model-*-of-*.safetensors"), ("*.safetensors",), ("pytorch_model*.bin",)
)  # fmt: skip
INDEX = "*.index.json"


@dataclass(frozen=True)
class Listing:
    """A repository as the hub describes it.

    Args:
        commit: of the revision.
        files: those that are read, with their bytes.
        why: why it cannot be fetched, and what helps; empty if it can be.
    """

    need: Need
    commit: str = ""
    files: Mapping[str, int] = field(default_factory=dict)
    why: str = ""

    @property
    def size(self) -> int:
        """Bytes of the files."""
        return sum(self.files.values())

    def absent(self, cache: Cache) -> list[str]:
        """Return the files that the cache lacks, or has with another size."""
        folder = repository(cache, self.need) / "snapshots" / self.commit
        return [name for name, size in self.files.items() if _size(folder / name) != size]


def _size(file: Any) -> int:
    return file.stat().st_size if file.is_file() else -1


def listing(need: Need) -> Listing:
    """Ask the hub for a repository's files, in one call."""
    from huggingface_hub import HfApi

    try:
        info = HfApi().repo_info(
            need.name, revision=need.revision, repo_type=need.repo_type, timeout=PATIENCE, files_metadata=True
        )
    except Exception as error:
        return Listing(need, why=reason(error, need))
    siblings = getattr(info, "siblings", None) or ()
    sizes = {each.rfilename: each.size or 0 for each in siblings}
    return Listing(need, info.sha or "", chosen(sizes, need))


def chosen(sizes: Mapping[str, int], need: Need) -> dict[str, int]:
    """Return the files that jobs read, of all files of a repository."""
    if need.split is not None:
        return dict(sizes)
    ways = ([name for name in sizes if _is_one(name, way)] for way in WEIGHTS)
    weights = next((names for names in ways if names), []) if need.weights else []
    # The index of the other format would name files that are not there.
    index = f"*.{weights[0].rpartition('.')[2]}.index.json" if weights else ""
    small = [n for n in sizes if _is_one(n, SMALL) and (not _is_one(n, (INDEX,)) or _is_one(n, (index,)))]
    return {name: sizes[name] for name in [*small, *weights]}


def _is_one(name: str, patterns: tuple[str, ...]) -> bool:
    """Return whether a file's path is one of the patterns, in the same folder."""
    return any(fnmatch(name, each) and name.count("/") == each.count("/") for each in patterns)


def download(found: Listing, cache: Cache) -> str:
    """Download the files of a listing that the cache lacks, and return why that failed; empty if it did not.

    huggingface_hub locks each file, so that processes do not download the same one, and keeps those that are
    complete: the next call continues after them.
    """
    from huggingface_hub import snapshot_download

    need = found.need
    try:
        snapshot_download(
            need.name, revision=need.revision, allow_patterns=[glob.escape(name) for name in found.files]
        )
    except Exception as error:
        return reason(error, need)
    # A listing of the whole repository, by which huggingface_hub 2 calls a snapshot incomplete, without a
    # network, if files are missing that nobody reads.
    (repository(cache, need) / "trees" / f"{found.commit}.json").unlink(missing_ok=True)
    absent = found.absent(cache)
    return f"incomplete: {', '.join(absent[:3])}; run this command again" if absent else ""


def reason(error: Exception, need: Need) -> str:
    """Return why the hub gave no answer or no file, and what helps."""
    from huggingface_hub import errors

    page = f"{_endpoint()}/{'datasets/' if need.split is not None else ''}{need.name}"
    causes = [error, *([error.__cause__] if isinstance(error.__cause__, Exception) else [])]
    for each in causes:
        if isinstance(each, errors.GatedRepoError):
            return f"gated: ask for access at {page}, then: hf auth login"
        if isinstance(each, errors.RevisionNotFoundError):
            return f"not found: the hub has {need.name}, but not its revision {need.revision}"
        if isinstance(each, errors.RepositoryNotFoundError):
            return f"not found: there is no {page}, or it is private and needs: hf auth login"
        if isinstance(each, errors.HfHubHTTPError):
            return f"the hub answered {each.response.status_code}: run this command again later"
    for each in causes:
        if type(each).__module__.partition(".")[0] in ("httpx", "httpx2", "requests"):
            return f"no network: {_endpoint()} cannot be reached ({_line(each)})"
    return _line(error)


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _endpoint() -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT)
