"""The monitor's actions on a study: `sor cancel` and `sor submit`.

Their output is returned as text; nothing here depends on the screen.
"""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import replace

from jobs.core.causes import named
from jobs.store.rundir import read_json
from launch.commands.submit import cancel, submit
from launch.monitor.questions import Action
from launch.study_run import Project, backend_of

OUTDATED = "the study was edited and submitted a moment ago: check it first"


def carry_out(action: Action, project: Project, opened: float) -> str:
    """Cancel or submit, and return the outcome as text, failures included.

    Args:
        opened: when the project was opened, in seconds since the epoch.
    """
    # A separate backend, since the polling thread uses the other one.
    project = replace(project, backend=backend_of(project.cluster, project.root))
    said = io.StringIO()
    try:
        with redirect_stdout(said), redirect_stderr(said):
            end = _submit(project, opened) if action.kind == "submit" else _cancel(project, action.units)
    except Exception as error:  # no failed action may end the monitor
        meant = isinstance(error, ValueError | RuntimeError | OSError)  # these have readable messages
        end = f"{action.kind} failed: {error if meant else named(error)}"
    return f"{said.getvalue()}{end}".strip()


def _submit(project: Project, opened: float) -> str:
    file = project.root.study
    with suppress(FileNotFoundError):
        if file.stat().st_mtime > opened and read_json(file) != project.study.model_dump(mode="json"):
            return OUTDATED
    submit(project, yes=True, only=None)
    return ""


def _cancel(project: Project, units: tuple[str, ...] | None) -> str:
    now = project.poll()
    chosen = None if units is None else [seen for seen in now.units if seen.unit.id in units]
    ended = cancel(project, now, chosen)
    return f"canceled: {', '.join(ended)}" if ended else "no job was queued or running any more"
