"""The state of a training before its cooldown, from which that of the next larger budget continues.

A state saves time and changes no result: the training that continues from it takes the same steps alone if
it is not there. So it is no part of a result, and can be removed at any time. It may be as large as fourteen
bytes a parameter: it is saved only if a planned training wants it, and removed by that one once it is done.
"""

from __future__ import annotations

import shutil

from jobs.core.unit import CONTINUES, Input
from jobs.runtime.context import Context
from jobs.store.checkpoints import Checkpoints
from jobs.store.rundir import UnitDir, study_of


def before(ctx: Context) -> Checkpoints | None:
    """Return where the training that this one continues keeps its state; None if it continues none."""
    folder = _continued(ctx)
    return Checkpoints(folder.stable, ctx.run) if folder else None


def wanted(ctx: Context) -> bool:
    """Return whether a training is to continue from this one, and is not done yet."""
    reader = ctx.unit.execution.get("continued_by")
    return reader is not None and not study_of(ctx.folder.path).unit(Input(**reader)).done


def remove(ctx: Context) -> None:
    """Remove the states that nobody needs any more, once this training is published."""
    folder = _continued(ctx)
    if folder:
        shutil.rmtree(folder.stable, ignore_errors=True)
    if not wanted(ctx):
        shutil.rmtree(ctx.folder.stable, ignore_errors=True)


def _continued(ctx: Context) -> UnitDir | None:
    given = next((i for i in ctx.unit.inputs if i.role == CONTINUES), None)
    return study_of(ctx.folder.path).unit(given) if given else None
