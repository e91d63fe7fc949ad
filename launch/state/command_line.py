"""Commands about a study, as printed to a person: they work when pasted into the shell that printed them."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobs.store.rundir import StudyDir

RUNS = Path("runs")  # where run directories are, unless --runs or SOR_RUNS says otherwise
# What the user typed for a study and its cluster in this process, by the study's run directory.
_typed = dict[Path, tuple[str, str | None]]()


def note_typed(root: StudyDir, study: str, cluster: str | None) -> None:
    """Use what the user typed for a study and its cluster in the commands that are printed about it."""
    _typed[root.path] = study, cluster


def command(root: StudyDir, verb: str, *arguments: str) -> str:
    """Return a `sor` command about the study with this run directory.

    A study that nobody has named in this process is named by its run directory.
    """
    study, cluster = _typed.get(root.path, (str(root.path), None))
    words = ["sor", verb, study, *arguments]
    if cluster not in (None, os.environ.get("SOR_CLUSTER")) and "--cluster" not in arguments:
        words += ["--cluster", str(cluster)]
    runs, given = root.path.parent, Path(os.environ.get("SOR_RUNS") or RUNS)
    if Path(study) != root.path and runs not in (given, given.absolute()):
        words += ["--runs", str(runs)]
    return shlex.join(words)
