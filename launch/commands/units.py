"""Units that a person names on the command line."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from launch.state.command_line import command
from launch.state.status import StudyStatus, UnitStatus


def chosen(now: StudyStatus, wanted: Sequence[str]) -> list[UnitStatus]:
    """Return the units named by id, by name, or by stage/name.

    Raises:
        typer.BadParameter: a name is that of no unit, or of several.
    """
    found = []
    for name in wanted:
        fits = [u for u in now.units if name in (u.unit.id, u.unit.name, f"{u.unit.stage}/{u.unit.name}")]
        if not fits:
            listing = command(now.root, "plan", "--json")
            raise typer.BadParameter(f"{name!r} is not a unit. To list them: {listing}")
        if len(fits) > 1:
            places = [f"{u.unit.stage}/{u.unit.name}" for u in fits]
            apart = places if len(set(places)) == len(places) else [u.unit.id for u in fits]
            raise typer.BadParameter(f"{name!r} names several units: give one of {', '.join(apart)}")
        found += fits
    return found
