"""The `sor` command line. Each command is one short function.

Heavy imports are deferred until a command needs them: `sor --help` must be instant on a login node.
"""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.core.trust import private_umask
from launch import completion, options
from launch.encoding import use_utf8
from launch.options import ClusterOpt, IntervalOpt, JsonOpt, OnlyOpt, RunsOpt, StudyArg, YesOpt
from launch.state.command_line import RUNS

if TYPE_CHECKING:
    from launch.state.status import StudyStatus
    from launch.study_run import Project

app = typer.Typer(
    help="Scale or Reason: run a whole distillation study, and answer its question.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
# Allocations between garbage collections. Thousands of units produce no garbage, and the default
# threshold would cost a third of the time.
GARBAGE = 1_000_000


def main() -> None:
    """Run the `sor` program."""
    use_utf8()
    private_umask()
    gc.set_threshold(GARBAGE)
    # Without this, pydantic searches all installed packages, of which there are hundreds, for plugins.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    try:
        answer(sys.argv[1:])
    finally:
        gc.freeze()  # skips the final collection: there is no garbage then, either


def answer(arguments: list[str]) -> None:
    """Run one command and turn errors into messages, with exit code 2 if permanent, 1 if transient.

    Raises:
        SystemExit: always, with the exit code.
    """
    try:
        app(arguments)
    except OSError as error:
        from launch.fileerrors import explained

        words, code = explained(error, arguments)
        _complain(words)
        sys.exit(code)
    except (ValueError, RuntimeError) as error:
        from jobs.core.secrets import SecretsError
        from jobs.store.rundir import Damaged
        from launch.state.errors import SlurmUnavailable
        from launch.state.lock import Locked
        from launch.study.presets import StudyError
        from launch.submit.limits import Refusal

        known = StudyError | Damaged | Refusal | SecretsError | Locked | SlurmUnavailable
        if not isinstance(error, known):
            raise
        _complain(str(error))
        sys.exit(1 if isinstance(error, Locked | SlurmUnavailable) else 2)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"sor {version('scale-or-reason')}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version, and exit.")
    ] = False,
) -> None:
    """Run a whole distillation study on Slurm or on this machine, and answer its question."""


@app.command()
def init(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="The file to write.")] = None,
    preset: options.FromOpt = None,
    sizes: options.SizesOpt = None,
    data: options.RowsOpt = None,
    benchmarks: options.BenchmarksOpt = None,
    gpus: options.GpusOpt = None,
    model: options.ModelOpt = None,
    cluster: options.NewClusterOpt = None,
) -> None:
    """Write a study file, a model's preset, or a cluster file, to start from.

    In a terminal, a FILE without options is asked about.
    """
    from launch.commands.init import write_cluster
    from launch.commands.init_model import write_model
    from launch.commands.init_questions import ask_study
    from launch.commands.init_study import Choice, names_in, write_study
    from launch.commands.output import is_terminal

    chosen = [preset, sizes, data, benchmarks, gpus] != [None] * 5
    if (file is None) == (cluster is None) or [chosen, model is not None, cluster is not None].count(
        True
    ) > 1:
        raise typer.BadParameter("give FILE, for a study; FILE and --model, for a preset; or --cluster FILE")
    if cluster:
        print(write_cluster(cluster))
    elif file and model:
        print(write_model(file, model))
    elif file and not chosen and is_terminal(sys.stdin) and is_terminal(sys.stdout):
        sys.exit(ask_study(file))
    elif file:
        choice = Choice(preset or "demo", names_in(sizes or ""), data or "", names_in(benchmarks or ""), gpus)
        print(write_study(file, choice))


@app.command()
def studies(cluster: ClusterOpt = None, runs: RunsOpt = RUNS) -> None:
    """List the studies that were submitted, with their state, and the shipped ones."""
    from launch.commands.studies import print_studies

    sys.exit(print_studies(runs, cluster))


@app.command()
def plan(study: StudyArg, cluster: ClusterOpt = None, runs: RunsOpt = RUNS, json: JsonOpt = False) -> None:
    """Show the units of a study, their resources, and what is done already."""
    from launch.commands.plan import print_plan

    print_plan(_open(study, cluster, runs), json)


@app.command()
def prefetch(study: StudyArg, cluster: ClusterOpt = None, runs: RunsOpt = RUNS, yes: YesOpt = False) -> None:
    """Fetch what a study reads from the hub, for compute nodes without internet."""
    from launch.commands.prefetch import prefetch as fetch

    sys.exit(fetch(_open(study, cluster, runs), yes=yes))


@app.command()
def submit(
    study: StudyArg,
    cluster: ClusterOpt = None,
    runs: RunsOpt = RUNS,
    yes: YesOpt = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")] = False,
    only: OnlyOpt = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="With --dry-run: write the sbatch scripts there.", readable=False),
    ] = None,
) -> None:
    """Compare the plan with what is done and queued, and submit what is missing."""
    from jobs.core.unit import STAGES
    from launch.commands import submit as submitting

    if only is not None and only not in STAGES:
        raise typer.BadParameter(
            f"{only!r} is not a stage; stages are {', '.join(STAGES)}", param_hint="--only"
        )
    if out and not dry_run:
        raise typer.BadParameter("needs --dry-run", param_hint="--out")
    project = _open(study, cluster, runs)
    if project.file is None:
        _complain(f"no file {study}: it is submitted as it was last time; for changes, name its YAML file")
    if dry_run:
        sys.exit(submitting.preview(project, only, out))
    sys.exit(submitting.submit(project, yes=yes, only=only))


@app.command()
def keep(
    study: StudyArg,
    cluster: ClusterOpt = None,
    runs: RunsOpt = RUNS,
    every: Annotated[
        float, typer.Option(min=30, metavar="SECONDS", help="Between rounds, each of which asks Slurm.")
    ] = 300,
) -> None:
    """Submit the rest of a submitted study as its jobs end, where no job may do that; run it in tmux.

    Exit code 0: all submitted units are done. 1: nothing more can be submitted. It may be stopped and started
    again at any time.
    """
    from launch.commands.keep import keep as keep_on

    sys.exit(keep_on(_open(study, cluster, runs), every))


@app.command()
def status(
    study: StudyArg,
    cluster: ClusterOpt = None,
    runs: RunsOpt = RUNS,
    json: JsonOpt = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="First wait until the exit code is 0 or 4; send SOR_NOTIFY.")
    ] = False,
    interval: IntervalOpt = None,
    units: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[UNIT]...", autocompletion=completion.units, help="Show these units with all their runs."
        ),
    ] = None,
) -> None:
    """Show the state of a study, also by the exit code.

    0: all is done. 3: it continues by itself. 4: it needs attention: something failed, stalled, or is to be
    submitted.
    """
    from launch.commands.status import print_status

    project = _open(study, cluster, runs)
    if interval and not wait:
        raise typer.BadParameter("needs --wait", param_hint="--interval")
    now = _waited(project, interval) if wait else project.poll()
    sys.exit(print_status(project, now, units or (), json))


@app.command()
def monitor(
    study: Annotated[
        list[str] | None,
        typer.Argument(metavar="[STUDY ...]", help="Default: all that have a run directory."),
    ] = None,
    cluster: ClusterOpt = None,
    runs: RunsOpt = RUNS,
    interval: IntervalOpt = None,
    once: Annotated[bool, typer.Option("--once", help="Print the screen once, and exit.")] = False,
) -> None:
    """Show studies full screen, updated continuously; ? lists the keys."""
    from launch.monitor.app import monitor as show
    from launch.study_run import started_projects

    said: list[str] = []
    projects = [_open(name, cluster, runs) for name in study or ()]
    if not projects:
        projects, said = started_projects(runs, cluster)
    sys.exit(show(projects, interval, once, said))


@app.command()
def logs(
    study: StudyArg,
    unit: Annotated[
        str | None,
        typer.Argument(metavar="[UNIT]", autocompletion=completion.units, help="Its name or id."),
    ] = None,
    cluster: ClusterOpt = None,
    runs: RunsOpt = RUNS,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Keep printing new output.")] = False,
    failed: Annotated[
        bool, typer.Option("--failed", help="Print the end of each failed unit's log.")
    ] = False,
) -> None:
    """Print the log of a unit's last attempt, all ranks."""
    from launch.commands.logs import print_failed, print_logs
    from launch.commands.units import chosen

    if failed == (unit is not None):
        raise typer.BadParameter("give either a unit or --failed")
    project = _open(study, cluster, runs)
    now = project.poll()
    if unit is None:
        sys.exit(print_failed(now))
    [seen] = chosen(now, [unit])
    sys.exit(print_logs(seen, project, follow))


@app.command()
def cancel(
    study: StudyArg,
    unit: Annotated[
        list[str] | None, typer.Argument(metavar="[UNIT ...]", autocompletion=completion.units)
    ] = None,
    cluster: ClusterOpt = None,
    runs: RunsOpt = RUNS,
    yes: YesOpt = False,
) -> None:
    """Cancel the jobs of a study, or of some units. Finished results stay."""
    from jobs.core.plain import PlainConsole
    from jobs.core.wording import count
    from launch.commands.submit import ask
    from launch.commands.submit import cancel as cancel_units
    from launch.commands.units import chosen

    project = _open(study, cluster, runs)
    now = project.poll()
    live = [seen for seen in now.units if seen.live or seen.unconfirmed]
    if not unit and not yes and (live or now.continued or now.former):
        question = f"Cancel all jobs of {now.root.path.name} ({count(len(live), 'unit')})?"
        if (refused := ask(question, PlainConsole())) is not None:
            sys.exit(refused)
    ended = cancel_units(project, now, chosen(now, unit) if unit else None)
    print(f"canceled: {', '.join(ended)}" if ended else "nothing to cancel: no job is queued or running")


@app.command()
def report(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="A study, or a folder of lm-eval results.")],
    cluster: ClusterOpt = None,
    runs: RunsOpt = RUNS,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where to write it.", readable=False)
    ] = None,
) -> None:
    """Write the report and print the frontier."""
    from launch.commands.report import report_folder, report_study

    if Path(study).is_dir():
        sys.exit(report_folder(Path(study), out))
    sys.exit(report_study(_open(study, cluster, runs), out))


@app.command()
def export(
    study: StudyArg,
    cluster: ClusterOpt = None,
    runs: RunsOpt = RUNS,
    out: options.ExportOpt = None,
    push: options.PushOpt = None,
    data: options.PairsOpt = False,
    students: options.StudentsOpt = None,
    yes: YesOpt = False,
) -> None:
    """Write the pairs as a dataset, and each trained student as a model, with cards, ready to upload."""
    from launch.commands.export import Wanted
    from launch.commands.export import export as export_study
    from launch.commands.init_study import names_in

    wanted = Wanted(data, names_in(students or ""))
    sys.exit(export_study(_open(study, cluster, runs), out, wanted, push, yes=yes))


@app.command()
def doctor(
    cluster: Annotated[
        str | None,
        typer.Option(metavar="NAME", envvar="SOR_CLUSTER", help="Test a compute node, too, by a short job."),
    ] = None,
    runs: RunsOpt = RUNS,
    patience: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="That the short job may wait for a node.")
    ] = 60,
) -> None:
    """Check whether this machine, or a cluster, can run a study, and how to fix what is missing."""
    from launch.commands.doctor import examine
    from launch.study.cluster import load_cluster

    found = load_cluster(cluster) if cluster else None
    sys.exit(examine(runs, found if found and found.backend == "slurm" else None, patience))


def _open(study: str, cluster: str | None, runs: Path) -> Project:
    from launch.study_run import open_project

    return open_project(study, cluster, runs)


def _waited(project: Project, interval: float | None) -> StudyStatus:
    """Wait until the study is done or needs attention; Ctrl-C exits the program."""
    from launch.commands.wait import INTERVALS, wait

    try:
        return wait(project, interval or INTERVALS[project.cluster.backend])
    except KeyboardInterrupt:
        sys.exit(130)


def _complain(words: str) -> None:
    from launch.commands.output import complain

    complain(words)
