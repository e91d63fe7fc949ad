"""`sor status`: where a study, or some of its units, stand."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from jobs.core.causes import runs
from jobs.store import journal
from jobs.store.rundir import Damaged
from jobs.store.schema import ATTEMPT
from launch.commands.output import complain, show, show_json
from launch.commands.units import chosen
from launch.state.errors import SlurmUnavailable
from launch.state.exit_code import outlook
from launch.state.log_files import last_words
from launch.state.status import StudyStatus
from launch.study_run import Project
from launch.submit.bad_nodes import verdict
from launch.views import nodes_view, status_view, unit_view


def print_status(project: Project, now: StudyStatus, units: Sequence[str], as_json: bool) -> int:
    """Print a study's state, that of some units with their runs, or either as JSON.

    Returns:
        The exit code: see `exit_code.Outlook`.
    """
    logs = last_words(now)
    if as_json:
        listed = [
            seen.to_json(logs.get(seen.unit.id)) for seen in (chosen(now, units) if units else now.units)
        ]
        root = str(now.root.path.absolute())
        show_json({"study": now.root.path.name, "root": root, "stages": now.stages(), "units": listed})
    elif units:
        for seen in chosen(now, units):
            lines = list[dict[str, Any]]()
            with suppress(Damaged):  # reported by the unit's state
                lines = journal.read(seen.folder.attempts, ATTEMPT)
            show(unit_view(seen, runs(lines), logs.get(seen.unit.id, ())))
    else:
        show(status_view(now, logs))
        try:
            show(nodes_view(verdict(project)))
        except SlurmUnavailable as error:  # the status itself is printed already
            complain(str(error))
    return outlook(now)
