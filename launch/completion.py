"""Values that a shell completes: studies, clusters, units. After an error none: a prompt shows no message."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import click

from launch.state.command_line import RUNS


def studies(incomplete: str) -> list[str]:
    """Return the shipped studies, those of the run folder, and YAML files here."""
    from launch.study.presets import known_names

    runs = Path(os.environ.get("SOR_RUNS") or RUNS)
    submitted = [file.parent.name for file in runs.glob("*/study.json")]
    files = [str(path) for path in Path().glob("*.yaml")]
    return _fitting({*known_names("studies"), *submitted, *files}, incomplete)


def presets(incomplete: str) -> list[str]:
    """Return the shipped studies and their aliases."""
    from launch.commands.init_study import starts

    return _fitting(set(starts()), incomplete)


def clusters(incomplete: str) -> list[str]:
    """Return the shipped clusters, and YAML files here."""
    from launch.study.presets import known_names

    return _fitting({*known_names("clusters"), *(str(path) for path in Path().glob("*.yaml"))}, incomplete)


def units(ctx: click.Context, incomplete: str) -> list[str]:
    """Return the units of the study on the command line, as stage/name."""
    from launch.study_run import open_project

    with suppress(Exception):
        study = ctx.params["study"]
        runs, cluster = Path(ctx.params.get("runs") or RUNS), ctx.params.get("cluster")
        found = {f"{unit.stage}/{unit.name}" for unit in open_project(study, cluster, runs).units}
        return _fitting(found, incomplete)
    return []


def _fitting(names: set[str], incomplete: str) -> list[str]:
    return sorted(name for name in names if name.startswith(incomplete))
