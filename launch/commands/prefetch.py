"""`sor prefetch`: bring what a study reads from the hub into the cache, for nodes without internet."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import NamedTuple

from rich.console import Console

from jobs.core.plain import PlainConsole, printable
from jobs.core.secrets import load_secrets
from launch.columns import Columns
from launch.commands.benchmark_files import fetch_benchmarks
from launch.commands.hub_files import Listing, download, listing
from launch.commands.submit import ask
from launch.study.benchmark_cache import absent
from launch.study.hub_cache import Cache, missing
from launch.study.hub_needs import Benchmarks, Need, benchmarks, needs
from launch.study.slurm_section import OFFLINE
from launch.study_run import Project
from launch.submit.hub_check import cache_of, unfinished
from launch.submit.limits import Refusal

NOT_INSTALLED = "{} is not installed in {}: {} -m pip install {}"


class Line(NamedTuple):
    """A line of the report: what a study reads, and why it is missing, empty if it is there."""

    what: str
    why: str


def prefetch(project: Project, *, yes: bool) -> int:
    """Fetch what the study's unfinished units need, and return the exit code.

    Returns:
        0 if all is in the cache; 1 if something is missing, or the user declines; 2 if nobody can be asked.

    Raises:
        Refusal: huggingface_hub is not installed.
    """
    console = PlainConsole()
    units = unfinished(project.poll())
    wanted, asked = needs(units), benchmarks(units)
    if not wanted and not asked:
        console.print("nothing to fetch: what is left of the study reads nothing of the hub")
        return 0
    if find_spec("huggingface_hub") is None:
        raise Refusal(not_installed("huggingface_hub", "huggingface_hub"))
    _prepare_environment(project)
    cache = cache_of(project.cluster)
    with console.status("asking the hub"):
        found = [listing(need) for need in wanted]
    to_do = [each for each in found if not each.why and _absent(each, cache)]
    tasks = absent(cache, asked)
    if to_do or tasks:
        _show(console, to_do, tasks, cache)
        if not yes and (refused := ask("Fetch these?", console)) is not None:
            return refused
    failed = {each.need: _fetch(each, cache) for each in to_do}
    lines = _models_and_rows(found, failed, cache)
    lines += _benchmarks(asked, [(each, _fetch_benchmarks(console, each, cache)) for each in tasks])
    return _report(console, lines)


def _prepare_environment(project: Project) -> None:
    """Set what huggingface_hub and datasets read at import: the folders of jobs, with a network."""
    load_secrets()  # a token
    os.environ.update(project.cluster.slurm.environment)
    for name in OFFLINE:
        os.environ.pop(name, None)


def _absent(found: Listing, cache: Cache) -> bool:
    """Return whether anything is to be fetched; of a dataset, jobs read tables only."""
    if found.need.split is not None:
        return bool(missing(cache, found.need))
    return bool(found.absent(cache) or missing(cache, found.need))


def _show(console: Console, to_do: Sequence[Listing], tasks: Sequence[Benchmarks], cache: Cache) -> None:
    """Print what is about to be fetched, and whether there is room for it."""
    table = Columns(("to fetch", "", "files", "size"), numbers=("files", "size"))
    for each in to_do:
        at_most = "up to " if each.need.split is not None else ""
        files = "" if at_most else str(len(each.absent(cache)))
        table.add(str(each.need), each.need.kind, files, at_most + in_bytes(_left(each, cache)))
    for each in (task["task"] for group in tasks for task in group.tasks):
        table.add(each, "benchmark", "", "unknown")
    console.print(table)
    place = next(folder for folder in (cache.hub, *cache.hub.parents) if folder.exists())
    free, all_of_it = shutil.disk_usage(place).free, sum(_left(each, cache) for each in to_do)
    at_least = " and benchmarks" if tasks else " in all"
    console.print(f"{in_bytes(all_of_it)}{at_least}; {in_bytes(free)} free in {cache.hub}", soft_wrap=True)
    if all_of_it > free:
        words = "! not enough room: set HF_HOME, here and in 'slurm.environment', to a folder with more"
        console.print(words, style="yellow", soft_wrap=True)


def _left(found: Listing, cache: Cache) -> int:
    return sum(found.files[name] for name in found.absent(cache))


def _fetch(found: Listing, cache: Cache) -> str:
    """Fetch one repository, and return why that failed; empty if all of it is in the cache."""
    if found.need.split is None:
        return download(found, cache)
    if find_spec("datasets") is None:
        return not_installed("datasets", "'scale-or-reason[eval]'")
    need = found.need
    spec = {"dataset": need.name, "subset": need.subset, "revision": need.revision, "split": need.split}
    return _in_a_process(spec, {}) or _in_a_process(spec, dict.fromkeys(OFFLINE, "1"))


def _in_a_process(spec: dict[str, str | None], more: dict[str, str]) -> str:
    """Load rows as a job does, in a process that imports `datasets`; progress goes to the terminal.

    Args:
        more: variables of that process.

    Returns:
        Why it failed; empty if it did not.
    """
    done = subprocess.run(
        [sys.executable, "-m", "jobs.data.fetch_rows", json.dumps(spec)],
        env={**os.environ, **more},
        stdout=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    )
    return "" if done.returncode == 0 else printable(done.stdout).strip() or f"exit code {done.returncode}"


def _fetch_benchmarks(console: Console, wanted: Benchmarks, cache: Cache) -> dict[str, str]:
    """Fetch the data of tasks, and return why that failed by task; empty if it is in the cache."""
    if find_spec("lm_eval") is None:
        return {task["task"]: not_installed("lm_eval", "'scale-or-reason[eval]'") for task in wanted.tasks}
    return fetch_benchmarks(console, wanted, cache)


def _models_and_rows(found: Sequence[Listing], failed: Mapping[Need, str], cache: Cache) -> list[Line]:
    """Return the lines of repositories, by what the cache has after fetching."""
    lines = []
    for each in found:
        here = missing(cache, each.need)
        why = failed.get(each.need) or (here and (each.why or here))
        note = f" (not compared with the hub: {each.why})" if each.why and not why else ""
        lines.append(Line(f"{each.need}{note}", why))
    return lines


def _benchmarks(
    asked: Sequence[Benchmarks], tried: Sequence[tuple[Benchmarks, dict[str, str]]]
) -> list[Line]:
    failed = {(group.include, name): why for group, found in tried for name, why in found.items()}
    return [
        Line(f"benchmark {task['task']}", failed.get((group.include, task["task"]), ""))
        for group in asked
        for task in group.tasks
    ]


def _report(console: Console, lines: Sequence[Line]) -> int:
    """Print what is in the cache and what is missing, and return the exit code."""
    for line in lines:
        words = f"missing  {line.what}: {line.why}" if line.why else f"there    {line.what}"
        console.print(words, style="bold red" if line.why else "green", soft_wrap=True)
    if lacking := sum(bool(line.why) for line in lines):
        console.print(f"{lacking} of the {len(lines)} are missing")
    return int(bool(lacking))


def not_installed(package: str, what: str) -> str:
    """Return that a package is missing, and the command that installs it."""
    return NOT_INSTALLED.format(package, sys.prefix, sys.executable, what)


def in_bytes(size: float) -> str:
    """Format a number of bytes."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
