"""Commands about a study, as printed to a person: they work when pasted into the shell that printed them."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobs.store.rundir import StudyDir

RUNS = Path("runs")  # where run directories are, unless --runs or SOR_RUNS says otherwise
_called = dict[Path, str]()  # what the user typed for a study in this process, by its run directory


def call_it(root: StudyDir, typed: str) -> None:
    """Use what the user typed for a study, a file or a name, in the commands that are printed about it."""
    _called[root.path] = typed


def command(root: StudyDir, verb: str, *arguments: str) -> str:
    """Return a `sor` command about the study with this run directory."""
    runs = root.path.parent
    given = Path(os.environ.get("SOR_RUNS") or RUNS)
    where = [] if runs in (given, given.absolute()) else ["--runs", str(runs)]
    return shlex.join(["sor", verb, _called.get(root.path, root.path.name), *arguments, *where])
