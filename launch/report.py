"""What `sor report` does: a study's report, or one of a folder of lm-eval results made elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from jobs.rundir import StudyDir
from launch.project import open_project
from launch.states import State


def make_report(study: str, cluster: str | None, runs: Path, out: Path | None) -> int:
    """Write the report and print its table; returns the exit code."""
    from analysis.report import claims_table, terminal_table, usage_line, write_report

    folder, units = Path(study), None
    if not folder.is_dir():
        now = open_project(study, cluster, runs).look()
        evaluations = [s for s in now.units if s.unit.stage == "evaluate"]
        done = [s for s in evaluations if s.state == State.DONE]
        if not done:
            print(
                f"sor: none of {len(evaluations)} evaluations is done yet: 'sor status {study}'",
                file=sys.stderr,
            )
            return 1
        if len(done) < len(evaluations):
            print(f"{len(done)} of {len(evaluations)} evaluations are done: this report is a partial one")
        folder, units = now.root.path, {s.unit.id for s in done}
    try:
        report = write_report(folder, out or StudyDir(folder).written_report, units)
    except ValueError as error:
        print(f"sor: {error}", file=sys.stderr)
        return 1
    console = Console()
    console.print(terminal_table(report.results))
    console.print(claims_table(report.tables["claims"]))
    if took := usage_line(report.tables["usage"]):
        console.print(took)
    for warning in report.warnings:
        console.print(f"! {warning}", style="yellow")
    console.print(f"report: {report.page}", soft_wrap=True)
    return 0
