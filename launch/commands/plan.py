"""`sor plan`: the units of a study, their resources, and what is done already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from launch.columns import Columns
from launch.commands.output import show, show_json
from launch.state.status import UnitStatus
from launch.study.gpu_fit import Fit, fits, uneven, unfit
from launch.study.plan import totals
from launch.study_run import Project
from launch.submit.gpu_check import engine_faults
from launch.submit.hub_check import absent, unfinished
from launch.views import plan_view


def print_plan(project: Project, as_json: bool) -> None:
    """Print the plan as a table, or as JSON."""
    now, found = project.poll(), fits(project.units, project.cluster)
    if as_json:
        gpus = {unit.id: fit for fit in found for unit in fit.units}
        sums = totals([seen.unit for seen in now.units])
        units = [_unit(seen, gpus.get(seen.unit.id)) for seen in now.units]
        show_json({"study": now.root.path.name, "units": units, "totals": sums})
        return
    more: list[RenderableType] = [Text(fault, "bold red") for fault in uneven(project.units)]
    more += [gpu_view(found)] if found else []
    for fault in engine_faults(project.study, project.units, project.cluster):
        more.append(Text(fault.words, "bold red" if fault.refused else "yellow"))
    if lacking := absent(project, unfinished(now)):
        more.append(Text(lacking, "yellow"))
    show(plan_view(now, [*more, ""] if more else []))


def gpu_view(found: Sequence[Fit]) -> RenderableType:
    """Render how trainings on GPUs are run, the memory that they need, and what does not fit."""
    titles = ("trainings", "GPUs", "micro_batch", "zero", "recompute", "GiB per GPU")
    table = Columns(titles, numbers=titles[1:])
    for fit in found:
        choice, first, more = fit.choice, fit.units[0].name, len(fit.units) - 1
        style = "bold red" if fit.refused else "yellow" if fit.tight else ""
        table.add(
            f"{first} and {more} more" if more else first,
            str(fit.way.processes),
            str(choice.micro_batch),
            "-" if choice.zero is None else str(choice.zero),
            "yes" if choice.checkpointing else "no",
            Text(f"{fit.needed:.0f} of {fit.gpu:g}", style),
        )
    faults = [(fit, words) for fit in found if (words := unfit(fit))]
    lines = [Text(words, "bold red" if fit.refused else "yellow") for fit, words in faults]
    return Group(table, *lines)


def _unit(seen: UnitStatus, fit: Fit | None) -> dict[str, Any]:
    unit = seen.unit
    needs = {"after": [i.id for i in unit.inputs], "resources": asdict(unit.resources), "flops": unit.flops}
    gpu = {"needed": round(fit.needed, 1), "of": fit.gpu, **fit.choice._asdict()} if fit else None
    return {
        "id": unit.id,
        "stage": unit.stage,
        "name": unit.name,
        **needs,
        "gpu_memory": gpu,
        "state": seen.state,
    }
