"""The command line: `sor VERB STUDY`. One command is one short function.

Nothing heavy is imported before a command needs it: `sor --help` must answer at once on a login node.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from launch.observe import Seen, Snapshot

app = typer.Typer(
    help="Scale or Reason: run a whole distillation study, and answer its question.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
StudyArg = Annotated[str, typer.Argument(metavar="STUDY", help="A YAML file, or a name in configs/studies.")]
UnitArg = Annotated[str, typer.Argument(metavar="UNIT", help="Its name or id, as `sor status --json` lists.")]
ClusterOpt = Annotated[str, typer.Option("--cluster", metavar="NAME", help="A name in configs/clusters.")]
RunsOpt = Annotated[
    Path, typer.Option("--runs", metavar="DIR", envvar="SOR_RUNS", help="Where run directories are.")
]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print JSON for programs (see the README).")]
LOCAL, RUNS = "local", Path("runs")


def main() -> None:
    """The `sor` program: a user's mistake is answered in words, with exit code 2."""
    try:
        app()
    except ValueError as error:
        from jobs.rundir import Damaged
        from launch.study import StudyError

        if not isinstance(error, StudyError | Damaged):
            raise
        print("\n".join(f"sor: {line}" for line in str(error).splitlines()), file=sys.stderr)
        sys.exit(2)


@app.command()
def plan(study: StudyArg, cluster: ClusterOpt = LOCAL, runs: RunsOpt = RUNS, json: JsonOpt = False) -> None:
    """Show the units of a study, what each needs, and what is done already."""
    now = _look(study, cluster, runs)
    if not json:
        from launch.show import plan_view

        _print(plan_view(now))
        return
    from launch.plan import totals

    units = [_planned(seen) for seen in now.units]
    _print_json({"study": now.root.path.name, "units": units, "totals": totals([s.unit for s in now.units])})


@app.command()
def submit(
    study: StudyArg,
    cluster: ClusterOpt = LOCAL,
    runs: RunsOpt = RUNS,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and stop.")] = False,
    only: Annotated[str | None, typer.Option("--only", metavar="STAGE", help="Only this stage.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Stay and show progress (always so here).")] = False,
) -> None:
    """Do what is missing: compare what should be with what is, and run the difference."""
    from launch import submit as submitting

    _stage(only)
    sys.exit(submitting.submit(study, cluster, runs, yes=yes, dry_run=dry_run, only=only))


@app.command()
def status(study: StudyArg, cluster: ClusterOpt = LOCAL, runs: RunsOpt = RUNS, json: JsonOpt = False) -> None:
    """Show where a study stands."""
    now = _look(study, cluster, runs)
    if json:
        units = [seen.to_json() for seen in now.units]
        root = str(now.root.path.absolute())
        _print_json({"study": now.root.path.name, "root": root, "stages": now.stages(), "units": units})
        return
    from launch.show import status_view

    _print(status_view(now))


@app.command()
def monitor(
    study: StudyArg,
    cluster: ClusterOpt = LOCAL,
    runs: RunsOpt = RUNS,
    interval: Annotated[float, typer.Option(min=1, help="Seconds between two looks.")] = 5,
) -> None:
    """Keep showing where a study stands, until it is done or Ctrl-C."""
    from launch.monitor import watch

    watch(lambda: _look(study, cluster, runs), interval)


@app.command()
def logs(
    study: StudyArg,
    unit: UnitArg,
    cluster: ClusterOpt = LOCAL,
    runs: RunsOpt = RUNS,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on printing what is added.")] = False,
) -> None:
    """Print what the last attempt at a unit printed, all its ranks."""
    from launch.logs import print_logs

    [seen] = _chosen(_look(study, cluster, runs), [unit])
    sys.exit(print_logs(seen, follow))


@app.command()
def cancel(
    study: StudyArg,
    unit: Annotated[list[str] | None, typer.Argument(metavar="[UNIT ...]")] = None,
    cluster: ClusterOpt = LOCAL,
    runs: RunsOpt = RUNS,
) -> None:
    """End the running jobs of a study, or those of some units. What they had finished stays."""
    from launch.submit import cancel_units

    now = _look(study, cluster, runs)
    chosen = _chosen(now, unit) if unit else list(now.units)
    ended = cancel_units(now.root, chosen)
    print(f"cancelled: {', '.join(ended)}" if ended else "nothing is running: nothing to cancel")


@app.command()
def report(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="A study, or a folder of lm-eval results.")],
    cluster: ClusterOpt = LOCAL,
    runs: RunsOpt = RUNS,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Where to write it.")] = None,
) -> None:
    """Write the report and print the frontier."""
    from launch.report import make_report

    sys.exit(make_report(study, cluster, runs, out))


@app.command()
def doctor(runs: RunsOpt = RUNS) -> None:
    """Check that this machine can run a study, and say what to do where it cannot."""
    from launch.doctor import examine

    sys.exit(examine(runs))


def _look(study: str, cluster: str, runs: Path) -> Snapshot:
    """The study as it is now."""
    from launch.submit import look

    return look(study, cluster, runs)


def _planned(seen: Seen) -> dict[str, Any]:
    """A unit as `sor plan --json` prints it."""
    from dataclasses import asdict

    unit = seen.unit
    return {
        "id": unit.id,
        "stage": unit.stage,
        "name": unit.name,
        "after": [i.id for i in unit.inputs],
        "resources": asdict(unit.resources),
        "flops": unit.flops,
        "state": seen.state,
    }


def _chosen(now: Snapshot, wanted: list[str]) -> list[Seen]:
    """The units that a person named, by id, by name, or by stage/name."""
    found = []
    for name in wanted:
        fits = [u for u in now.units if name in (u.unit.id, u.unit.name, f"{u.unit.stage}/{u.unit.name}")]
        if not fits:
            raise typer.BadParameter(f"{name!r} is no unit of {now.root.path.name}; 'sor plan' lists them")
        if len(fits) > 1:
            which = ", ".join(f"{u.unit.stage}/{u.unit.name}" for u in fits)
            raise typer.BadParameter(f"{name!r} names several units: say one of {which}")
        found += fits
    return found


def _stage(name: str | None) -> None:
    from jobs.unit import STAGES

    if name is not None and name not in STAGES:
        raise typer.BadParameter(f"{name!r} is no stage; there are {', '.join(STAGES)}", param_hint="--only")


def _print(renderable: Any) -> None:
    from rich.console import Console

    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(width=200)  # a file has no width: do not cut what goes into it
    console.print(renderable)


def _print_json(data: Any) -> None:
    import json

    print(json.dumps(data, indent=1))
