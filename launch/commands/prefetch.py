"""`sor prefetch`: bring what a study reads from the hub into the cache, for nodes without internet."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec

from rich.console import Console

from jobs.core.plain import PlainConsole, printable
from jobs.core.secrets import load_secrets
from launch.columns import Columns
from launch.commands.hub_files import Listing, download, listing
from launch.commands.submit import ask
from launch.study.hub_cache import Cache, missing
from launch.study.hub_needs import Need, benchmarks, needs
from launch.study.slurm_section import OFFLINE
from launch.study_run import Project
from launch.submit.hub_check import cache_of, unfinished
from launch.submit.limits import Refusal

NOT_INSTALLED = "{} is not installed in {}: {} -m pip install {}"


def prefetch(project: Project, *, yes: bool) -> int:
    """Fetch what the study's unfinished units need, and return the exit code.

    Returns:
        0 if all is in the cache; 1 if something is missing, or the user declines; 2 if nobody can be asked.

    Raises:
        Refusal: huggingface_hub is not installed.
    """
    console = PlainConsole()
    units = unfinished(project.poll())
    _name_benchmarks(console, benchmarks(units))
    wanted = needs(units)
    if not wanted:
        console.print("nothing to fetch: what is left of the study reads no model and no rows of the hub")
        return 0
    if find_spec("huggingface_hub") is None:
        raise Refusal(_not_installed("huggingface_hub", "huggingface_hub"))
    _prepare_environment(project)
    cache = cache_of(project.cluster)
    with console.status("asking the hub"):
        found = [listing(need) for need in wanted]
    to_do = [each for each in found if not each.why and _absent(each, cache)]
    if to_do:
        _show(console, to_do, cache)
        if not yes and (refused := ask("Fetch these?", console)) is not None:
            return refused
    return _report(console, found, {each.need: _fetch(each, cache) for each in to_do}, cache)


def _name_benchmarks(console: Console, found: Mapping[str, list[str]]) -> None:
    """Print that the data of benchmarks is not fetched here, and lm-eval's commands that load it."""
    if not found:
        return
    console.print("not covered: the data of benchmarks, which lm-eval fetches itself:", style="yellow")
    for folder, names in found.items():
        words = ["lm_eval", "--model", "dummy", "--limit", "1", "--tasks", ",".join(names)]
        words += ["--include_path", folder] if folder else []
        console.print(f"  {shlex.join(words)}", soft_wrap=True)


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


def _show(console: Console, to_do: Sequence[Listing], cache: Cache) -> None:
    """Print what is about to be fetched, and whether there is room for it."""
    table = Columns(("to fetch", "", "files", "size"), numbers=("files", "size"))
    for each in to_do:
        at_most = "up to " if each.need.split is not None else ""
        files = "" if at_most else str(len(each.absent(cache)))
        table.add(str(each.need), each.need.kind, files, at_most + in_bytes(_left(each, cache)))
    console.print(table)
    place = next(folder for folder in (cache.hub, *cache.hub.parents) if folder.exists())
    free, all_of_it = shutil.disk_usage(place).free, sum(_left(each, cache) for each in to_do)
    console.print(f"{in_bytes(all_of_it)} in all; {in_bytes(free)} free in {cache.hub}", soft_wrap=True)
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
        return _not_installed("datasets", "'scale-or-reason[eval]'")
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


def _report(console: Console, found: Sequence[Listing], failed: dict[Need, str], cache: Cache) -> int:
    """Print what is in the cache and what is missing, and return the exit code."""
    lacking = 0
    for each in found:
        here = missing(cache, each.need)
        why = failed.get(each.need) or (here and (each.why or here))
        lacking += bool(why)
        note = f" (not compared with the hub: {each.why})" if each.why and not why else ""
        words = f"missing  {each.need}: {why}" if why else f"there    {each.need}{note}"
        console.print(words, style="bold red" if why else "green", soft_wrap=True)
    if lacking:
        console.print(f"{lacking} of the {len(found)} are missing")
    return int(bool(lacking))


def _not_installed(package: str, what: str) -> str:
    return NOT_INSTALLED.format(package, sys.prefix, sys.executable, what)


def in_bytes(size: float) -> str:
    """Format a number of bytes."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
