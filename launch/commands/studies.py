"""`sor studies`: what can be run, and where each submitted study stands."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from jobs.core.plain import PlainConsole
from jobs.store.rundir import Damaged
from launch.slurm.shared import SharedClient
from launch.state.errors import SlurmUnavailable
from launch.study.presets import CONFIGS, StudyError, known_names
from launch.study_run import sharing, started_projects
from launch.views import headline


def print_studies(runs: Path, cluster: str | None) -> int:
    """Print the studies of the run folder, the latest first, and the shipped ones; return the exit code.

    Returns:
        1 if a study's state is unknown, since Slurm does not answer or it cannot be opened.
    """
    console, code = PlainConsole(), 0
    try:
        projects, troubles = started_projects(runs, cluster)
    except StudyError as error:
        projects, troubles = [], [str(error)] if any(runs.glob("*/study.json")) else []
    clients = dict[str | None, SharedClient]()
    for project in projects:
        try:
            console.print(headline(sharing(project, clients).poll())[0], soft_wrap=True)
        except (SlurmUnavailable, Damaged, OSError) as error:
            troubles.append(f"{project.study.name}: {error}")
    for trouble in troubles:
        console.print(trouble, style="yellow", soft_wrap=True)
        code = 1
    if not projects and not troubles:
        console.print(f"no study was submitted in {runs}")
    console.print("")
    _print_shipped(console)
    return code


def _print_shipped(console: Console) -> None:
    """Print the shipped studies with the first words of each file, below the line that names its schema."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for name in known_names("studies"):
        lines = (CONFIGS / "studies" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
        table.add_row(name, lines[1].removeprefix("#").strip())
    console.print(table)
