"""Bring the data of benchmarks into the hub's cache: lm-eval loads them, in a process, as evaluations do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import NamedTuple

from rich.console import Console

from jobs.core.plain import printable
from launch.study.benchmark_cache import record
from launch.study.hub_cache import Cache
from launch.study.hub_needs import Benchmarks
from launch.study.slurm_section import OFFLINE

LONGEST = 300  # characters of a reason: some libraries list all that they tried


class Loaded(NamedTuple):
    """A task that lm-eval has loaded: where its data lies, and why it failed, empty if it did not."""

    folders: list[str]
    why: str


def fetch_benchmarks(console: Console, wanted: Benchmarks, cache: Cache) -> dict[str, str]:
    """Have lm-eval load tasks with the hub, and then without it, as jobs do; record those that succeed.

    Returns:
        Why each task failed, by its name; empty if it is in the cache.
    """
    with_hub = _load(console, wanted, {})
    without = _load(console, wanted, dict.fromkeys(OFFLINE, "1"), "checking benchmarks without the hub")
    record(cache, wanted, {name: found.folders for name, found in without.items() if not found.why})
    return {name: found.why and (with_hub[name].why or found.why) for name, found in without.items()}


def _load(
    console: Console, wanted: Benchmarks, more: Mapping[str, str], title: str = "loading benchmarks"
) -> dict[str, Loaded]:
    """Load tasks in a process that imports lm-eval; its own messages go to the terminal.

    Args:
        more: variables of that process.
    """
    found, names = dict[str, Loaded](), [str(task["task"]) for task in wanted.tasks]
    tasks = json.dumps([dict(task) for task in wanted.tasks])
    with (
        console.status(title) as status,
        subprocess.Popen(
            [sys.executable, "-m", "jobs.evaluation.fetch_tasks", wanted.folder, tasks],
            env={**os.environ, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if more else None,
            encoding="utf-8",
            errors="replace",
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith('{"task":'):  # tasks may print, too
                said = json.loads(line)
                found[said["task"]] = Loaded(said["folders"], printable(said["why"])[:LONGEST])
                status.update(f"{title}: {len(found)} of {len(names)}")
    lost = Loaded([], f"lm-eval ended with exit code {process.returncode}")
    return {name: found.get(name, lost) for name in names}
