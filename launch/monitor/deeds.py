"""What a monitor does to a study when a person asks for it: what `sor cancel` and `sor submit` do.

What they would print comes back as text. Nothing here knows the screen.
"""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import replace

from jobs.core.causes import named
from jobs.store.rundir import read_json
from launch.commands.submit import cancel, submit
from launch.monitor.actions import Action
from launch.study_run import Project, backend_of

OUTDATED = "somebody edited and submitted the study a moment ago: look at it first"


def carry_out(action: Action, project: Project, opened: float) -> str:
    """Cancel or submit, and say what came of it, also where it failed.

    Args:
        opened: when the project was, in seconds since the epoch.
    """
    # A backend of its own, since the thread that looks uses the other one.
    project = replace(project, backend=backend_of(project.cluster, project.root))
    said = io.StringIO()
    try:
        with redirect_stdout(said), redirect_stderr(said):
            end = _submit(project, opened) if action.kind == "submit" else _cancel(project, action.units)
    except Exception as error:  # the monitor goes on whatever it was
        meant = isinstance(error, ValueError | RuntimeError | OSError)  # with words for people
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
    now = project.look()
    chosen = None if units is None else [seen for seen in now.units if seen.unit.id in units]
    ended = cancel(project, now, chosen)
    return f"cancelled: {', '.join(ended)}" if ended else "nothing was running any more"
