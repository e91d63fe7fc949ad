"""The compute-node checks of `sor doctor`: files, packages, GPUs, Slurm, the hub.

They run as the function of a prepare unit, so they take the same path as any job. Findings are written line
by line, since the next check may kill the process. Values of secrets are never written.
"""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from jobs.core.secrets import FILE, hide
from jobs.store.progress import Progress
from jobs.store.provenance import version
from jobs.store.rundir import append_jsonl

FINDINGS = "findings.jsonl"
MADE_BEFORE, MADE_HERE = "made-before", "made-here"  # files created by the login node and by the job
# Each package with an attribute whose access imports the rest of it.
STACK = {
    "torch": "nn", "transformers": "AutoModelForCausalLM", "accelerate": "Accelerator", "deepspeed": "ops",
    "lm_eval": "simple_evaluate", "math_verify": "parse", "datasets": "Dataset", "vllm": "LLM",
}  # fmt: skip
INSTALL = "pip install -e '.[gpu]' where there are NVIDIA GPUs, 'make install' for the CPU stack"
NO_VLLM = f"no vLLM: generation falls back to transformers, far slower. {INSTALL}"
MINIMUM_DISK = 10 * 10**9  # bytes; below this even the small shipped studies run short
MINIMUM_FILES = 100_000  # a large study with its logs and checkpoints makes tens of thousands
HUB_TIMEOUT = 10.0  # seconds
SBATCH_TIMEOUT = 30.0  # seconds
LONGEST = 300  # characters of an error message


@dataclass(frozen=True)
class Finding:
    """Result of one check; `verdict` is ok, warning or problem."""

    verdict: str
    text: str


ok, warning, problem = (partial(Finding, verdict) for verdict in ("ok", "warning", "problem"))


def probe(staged: Path, args: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Write the findings about this node.

    Args:
        args: "folder", where the login node created a file and findings go; "script", the job's own script;
            "gpus", the number requested; "keeper", whether the cluster file enables one.

    Returns:
        "cache": the hub cache's path and its `mark`; None if there is no cache.
    """
    folder = Path(args["folder"])
    node = chain(
        _files(folder), _packages(), _gpus(args["gpus"]), _submits(args["script"], args["keeper"]), _hub()
    )
    for finding in node:
        append_jsonl(folder / FINDINGS, asdict(replace(finding, text=hide(finding.text))))
    constants = sys.modules.get("huggingface_hub.constants")
    cache = Path(constants.HF_HUB_CACHE) if constants else None
    return {"cache": [str(cache), mark(cache)] if cache and cache.exists() else None}


def behaves(folder: Path) -> bool:
    """Whether exclusive create and rename work on this file system as locks and results require."""
    with tempfile.TemporaryDirectory(dir=folder) as made:
        lock = Path(made, "lock")
        return creates(lock) and not creates(lock) and _renames(Path(made))


def creates(path: Path) -> bool:
    """Whether an exclusive create succeeds, i.e. the file did not exist."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def few_files(folder: Path) -> str | None:
    """Return how few more files a file system, or the user's quota there, has room for.

    Returns:
        None if these are MINIMUM_FILES or more, or if the file system does not say.
    """
    found = os.statvfs(folder)
    if not found.f_files or found.f_favail >= MINIMUM_FILES:  # 0: of file systems without a number of files
        return None
    return f"there is room for only {found.f_favail:,} more files"


def mark(folder: Path) -> list[int]:
    """Return a fingerprint of a folder, equal on all nodes that share it and rarely equal for two folders."""
    found = folder.stat()
    return [found.st_ino, found.st_mtime_ns]


def _renames(folder: Path) -> bool:
    """Whether a rename publishes a folder, and a second rename onto it is refused."""
    for name in ("first", "second"):
        (folder / name).mkdir()
        (folder / name / "file").touch()
    os.rename(folder / "first", folder / "out")
    try:
        os.rename(folder / "second", folder / "out")
    except OSError:
        return (folder / "out" / "file").exists()
    return False


def _files(folder: Path) -> Iterator[Finding]:
    node = socket.gethostname()
    if not creates(folder / MADE_HERE) or creates(folder / MADE_BEFORE) or not behaves(folder):
        yield problem(f"{node}: exclusive create or rename does not work there: use another --runs DIR")
    else:
        yield ok(f"{node} sees files created here, and exclusive create and rename work there")


def _packages() -> Iterator[Finding]:
    yield ok(f"Python {platform.python_version()} at {sys.executable}")
    found = []
    for name, part in STACK.items():
        print(f"importing {name}", flush=True)  # last line in the log if the import kills the job
        try:
            getattr(importlib.import_module(name), part)
        except (Exception, SystemExit) as error:
            if not isinstance(error, ModuleNotFoundError) or error.name != name:
                yield problem(f"{name} cannot be imported: {_in_a_line(error)}")
            elif name == "vllm":
                yield warning(NO_VLLM)
            else:
                yield problem(f"{name} is not installed there. {INSTALL}")
        else:
            found.append(f"{name} {version(name) or version(f'{name}-cpu')}")
    if found:
        yield ok(", ".join(found))
    if shutil.which("c++") or shutil.which("g++"):
        yield ok("a C++ compiler, which DeepSpeed needs")
    else:
        yield problem("no C++ compiler, which DeepSpeed needs: load a module that provides one")


def _gpus(asked: int) -> Iterator[Finding]:
    """Check whether torch can use the GPUs allocated to the job."""
    torch = sys.modules.get("torch")
    if not asked or torch is None:
        return
    try:
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    except RuntimeError as error:
        yield problem(f"torch cannot use the GPU: {_in_a_line(error)}")
        return
    if len(names) >= asked:
        yield ok(f"torch sees the allocated GPU: {names[0]}")
    elif torch.version.cuda or torch.version.hip:
        yield problem(
            "torch sees no GPU, although one is allocated: check the driver ('nvidia-smi' in a job), the "
            "modules and, in a container, --nv or --rocm",
        )
    else:
        yield problem(f"torch {version('torch')} is a CPU build, and a GPU is allocated. {INSTALL}")


def _submits(script: str, keeper: bool) -> Iterator[Finding]:
    """Check whether a job may submit jobs, as a keeper must; `sbatch --test-only` validates the job's own
    script without submitting it."""
    command = ("sbatch", "--test-only", script)
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=SBATCH_TIMEOUT,
            check=False,
        )
        error = None if done.returncode == 0 else done.stderr.strip().rpartition("\n")[2]
    except FileNotFoundError:
        error = "no sbatch there"
    except subprocess.TimeoutExpired:
        error = f"no answer within {SBATCH_TIMEOUT:g} s"
    if error is None:
        words = "which the keeper does" if keeper else "so that 'slurm.keeper' of the cluster file works here"
        yield ok(f"jobs may submit jobs, {words}")
    elif keeper:
        words = "remove 'slurm.keeper' from the cluster file, and run 'sor keep' on a login node instead"
        yield problem(f"jobs cannot submit jobs ({error}): {words}")
    else:
        words = "'slurm.keeper' does not work here; 'sor keep' on a login node does the same"
        yield warning(f"jobs cannot submit jobs ({error}): {words}")


def _hub() -> Iterator[Finding]:
    try:
        from huggingface_hub import constants, get_token
    except ImportError:
        return  # a package that depends on it has failed to import, too
    offline = constants.HF_HUB_OFFLINE
    if offline:
        yield ok("HF_HUB_OFFLINE is set: models and data are read from the hub's cache")
    elif error := _no_answer(constants.ENDPOINT):
        yield warning(
            f"{constants.ENDPOINT} cannot be reached from there ({error}): set 'offline: true' under 'slurm' "
            "in the cluster file, and run 'sor prefetch STUDY' on a login node",
        )
    else:
        yield ok(f"{constants.ENDPOINT} can be reached from there")
    if get_token():
        where = "HF_TOKEN" if os.environ.get("HF_TOKEN") else "the hub's own file"
        yield ok(f"hub credentials: in {where}")
    elif not offline:
        yield warning(
            f"no hub credentials, which gated models and data need: 'hf auth login', or HF_TOKEN in {FILE}",
        )
    yield _room(Path(constants.HF_HUB_CACHE), offline)


def _room(cache: Path, offline: bool) -> Finding:
    place = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free, few = shutil.disk_usage(place).free, few_files(place)
    words = f"the hub's cache {cache}: {free / 10**9:.0f} GB free"
    if place != cache and offline:
        return warning(f"{words}, but not there, and nothing is fetched offline: set HF_HOME to it")
    words += "" if place == cache else "; made by the first download"
    if few:
        return warning(f"{words}, but {few}: set HF_HOME to a folder elsewhere, or remove files")
    return ok(words) if free > MINIMUM_DISK else warning(words)


def _no_answer(url: str) -> str | None:
    """Return why a server cannot be reached; None if it gives any response."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=HUB_TIMEOUT).close()
    except urllib.error.HTTPError:
        return None
    except OSError as error:
        return _in_a_line(getattr(error, "reason", error))
    return None


def _in_a_line(error: object) -> str:
    text = " ".join(str(error).split())[:LONGEST]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
