"""`sor report`: write and print the report of a study, or of a folder of results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jobs.store.rundir import StudyDir
from launch.commands.energy import energy
from launch.commands.output import complain
from launch.state.command_line import command
from launch.state.states import State
from launch.study_run import Project


def report_study(project: Project, out: Path | None) -> int:
    """Report on the evaluations that are done, and return the exit code: 1 if none is."""
    now = project.poll()
    evaluations = [seen for seen in now.units if seen.unit.stage == "evaluate"]
    done = {seen.unit.id for seen in evaluations if seen.state == State.DONE}
    if not done:
        look = command(now.root, "status")
        complain(f"none of {len(evaluations)} evaluations is done yet. Their state: {look}")
        return 1
    if len(done) < len(evaluations):
        print(f"partial report: {len(done)} of {len(evaluations)} evaluations are done")
    return _report(now.root.path, out, done, energy(project))


def report_folder(folder: Path, out: Path | None) -> int:
    """Report on a folder of results, of any tool that is understood, and return the exit code."""
    return _report(folder, out)


def _report(
    folder: Path, out: Path | None, units: set[str] | None = None, joules: Mapping[str, int] | None = None
) -> int:
    from analysis.report import print_report, write_report  # the one command that loads tables

    try:
        written = write_report(folder, out or StudyDir(folder).written_report, units, joules)
    except ValueError as error:
        complain(str(error))
        return 2
    print_report(written)
    return 0
