"""`sor plan`: the units of a study, their resources, and what is done already."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from launch.commands.output import show, show_json
from launch.state.status import StudyStatus, UnitStatus
from launch.study.plan import totals
from launch.views import plan_view


def print_plan(now: StudyStatus, as_json: bool) -> None:
    """Print the plan as a table, or as JSON."""
    if as_json:
        sums = totals([seen.unit for seen in now.units])
        show_json({"study": now.root.path.name, "units": list(map(_unit, now.units)), "totals": sums})
    else:
        show(plan_view(now))


def _unit(seen: UnitStatus) -> dict[str, Any]:
    unit = seen.unit
    needs = {"after": [i.id for i in unit.inputs], "resources": asdict(unit.resources), "flops": unit.flops}
    return {"id": unit.id, "stage": unit.stage, "name": unit.name, **needs, "state": seen.state}
