"""The page of one unit: progress, past runs, configuration, and the end of its log. Pure."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import isfinite
from typing import Any

from rich.text import Text

from jobs.core.causes import ANSWERS
from jobs.core.plain import plain
from jobs.core.unit import Unit
from launch.monitor.data.study_view import StudyView
from launch.monitor.data.unit_files import Story
from launch.monitor.views.text import (
    Lines,
    around,
    bar,
    beside,
    chart,
    columns,
    duration,
    flow,
    in_words,
    percent,
    rate_in_words,
    sparkline,
)
from launch.monitor.views.unit_table import elapsed, heard, held, job_of, rate_of, saying, tries
from launch.monitor.views.wrap import wrapped
from launch.state.command_line import command
from launch.state.states import State
from launch.state.status import UnitStatus
from launch.state.waits import submit_again
from launch.views import STYLES, amount, gpu_use, memory, memory_used, needs

WIDE = 120  # columns needed to place two blocks side by side
MOST = 4  # rows of a reason; the log says it in full
TALL = 4  # rows from which the loss is a plot instead of a line of blocks
LABEL = 8
NOTHING = Story()


def detail(
    view: StudyView, seen: UnitStatus, log: Sequence[str], width: int, height: int, story: Story = NOTHING
) -> Lines:
    """Render the page of a unit.

    Args:
        log: the last lines of its log.
        width, height: available space, in cells.
        story: data from the unit's own files.
    """
    half = width // 2 if width >= WIDE else width
    about = _about(view, seen, half)
    graphs = _graphs(view, seen, story, half, height // 6)
    config = _config(seen.unit)
    left = [*about, *graphs]
    room = max(height // 3, 4)  # for the log
    upper = max(height - room - 1, 0)
    ends = _runs(story, max(2, min(len(story.runs), upper - len(left) - 1)))
    if width >= WIDE:
        block = beside([*left, *ends], config[: max(len(left) + len(ends), 12)])
    else:
        block = [*left, *ends, *config[: max(0, upper - len(left) - len(ends))]]
    block = block[:upper]
    lines = list(log)[-max(height - len(block) - 1, 0) :] if log else []
    title = Text("log" if lines else "no log yet", "dim")
    return Lines([*block, title, *(Text(f"┃ {plain(line)}") for line in lines)], width, height)


def _about(view: StudyView, seen: UnitStatus, width: int) -> list[Text]:
    """Return name, state and reason; node and progress; what to do."""
    unit, at = seen.unit, view.taken
    submit = submit_again(view.now) if view.now else ""
    work = view.summary.work.get(unit.id) if view.summary else None
    said = saying(seen, at)
    lines = [Text.assemble((f"{unit.stage} {unit.name}", "bold"), (f"   {unit.id}", "dim"))]
    first, *rows = wrapped(f"{seen.state}: {said}", width)[:MOST] if said else [str(seen.state)]
    style = STYLES[seen.state]
    lines += [Text.assemble((seen.state, style), first.removeprefix(seen.state)), *map(Text, rows)]
    where = [f"job {job_of(seen)}"] if job_of(seen) else []
    where += [f"on {seen.live.nodes}"] if seen.live and seen.live.nodes else []
    took = view.summary.took.get(unit.id) if view.summary else None
    where += [f"run {tries(seen, took)}"] if tries(seen, took) else []
    if spent := elapsed(seen, took, at):
        where.append(f"{'running for' if work else 'took'} {in_words(spent)}")
    where += [f"last heartbeat {in_words(heard(seen, at))} ago"] if heard(seen, at) else []
    where += [f"memory used {held(seen)}"] if held(seen) else []
    where += [use] if (use := gpu_use(seen.progress)) and work else []
    lines += _listed(where, width)
    plan = [f"requests {needs(unit)}", f"{memory(seen.requested)} of memory per node"]
    plan += [f"{unit.resources.hours:g} h", *([f"{amount(unit.flops)} FLOPs"] if unit.flops else [])]
    lines += _listed(plan, width, "dim")
    if work and work.share is not None:
        drawn = bar([(work.share, "█", "blue"), (1 - work.share, "·", "dim")], min(30, width // 3))
        drawn.append(f" {percent(work.share)}{f'  {rate_of(work)}' if work.rate else ''}")
        left = [Text(f"{around(work.left, words=True)} left")] if work.left else []
        lines += flow([drawn, *left], width, gap=2)
    todo = [f"{ANSWERS[seen.cause].advice}; then{submit}"] if seen.cause else []
    if seen.state == State.STALLED:
        todo = [f"to restart it: {command(seen.root, 'cancel', unit.id)}", f"then{submit}"]
    return [*lines, *(Text(row, "yellow") for line in todo for row in wrapped(line, width))]


def _listed(parts: Sequence[str], width: int, style: str = "") -> list[Text]:
    """Return parts with commas between them, wrapped at the width."""
    every = [Text(part, style) for part in [*(f"{part}," for part in parts[:-1]), *parts[-1:]]]
    return flow(every, width, gap=1)


def _graphs(view: StudyView, seen: UnitStatus, story: Story, width: int, height: int) -> list[Text]:
    """Draw loss and rate of a training; for other units, the rate as sampled by the monitor.

    Args:
        height: rows for the loss; below `TALL`, it gets one.
    """
    lines, room = list[Text](), max(width - LABEL - 24, 8)
    if len(story.losses) > 1 and height >= TALL:
        lines += _loss(story.losses, width, height)
    elif story.losses:
        ends = f"  {story.losses[0]:.3f} to {story.losses[-1]:.3f}"
        lines.append(Text(f"{'loss':{LABEL}}{sparkline(story.losses, room)}{ends}"))
    rates: Sequence[float] = story.rates
    per = "tokens"
    work = view.summary.work.get(seen.unit.id) if view.summary else None
    if not rates and work and work.track:
        points = work.track.points[1:]
        rates = [(b[2] - a[2]) / (b[0] - a[0]) for a, b in pairwise(points) if b[2] >= a[2]]
        per = work.per
    if rates:
        most = f"  {rate_in_words(rates[-1], per)}"
        used = f", {percent(story.utilisation)} MFU" if story.utilisation is not None else ""
        lines.append(Text(f"{'rate':{LABEL}}{sparkline(rates, room)}{most}{used}"))
    return lines


def _loss(losses: Sequence[float], width: int, height: int) -> list[Text]:
    """Plot the loss over the steps so far, below a line with its first and last value."""
    title = f"loss from the first step to now: {losses[0]:.3f} to {losses[-1]:.3f}"
    drawn = chart(losses, max(width - LABEL - 2, 8), height - 1)
    known = [loss for loss in losses if isfinite(loss)]
    labels = {0: f"{max(known):.3f}", height - 2: f"{min(known):.3f}"} if known else {}
    rows = [
        Text.assemble((f"{labels.get(number, ''):>{LABEL}} ┃", "dim"), (row, "blue"))
        for number, row in enumerate(drawn)
    ]
    return [Text(title), *rows]


def _runs(story: Story, most: int) -> list[Text]:
    """Return a table of the last runs and how they ended."""
    if not story.runs:
        return []
    rows = [[Text(t, "dim") for t in ("run", "ended", "took", "memory", "node", "outcome")]]
    for run in story.runs[-most:]:
        name = f"{run.attempt}.{run.restart}" + (f" worker {run.worker}" if run.worker else "")
        ended = time.strftime("%d %b %H:%M", time.localtime(run.ended))
        end = f"{run.cause}: {plain(run.error)}" if run.error else "succeeded"
        took = duration(run.seconds) if run.seconds is not None else "?"
        style = "" if run.error is None else "yellow"
        held = memory_used(run.memory, run.asked)
        rows.append([*map(Text, (name, ended, took, held, run.host or "?")), Text(end, style)])
    return columns(rows, right=(2, 3))


def _config(unit: Unit) -> list[Text]:
    """Return the configuration, a line per key, short values first: they distinguish units."""
    settings = {**unit.config, **unit.execution}
    lines = [(key, plain(_in_words(value))) for key, value in settings.items() if value is not None]
    return [
        Text.assemble((f"{key}  ", "dim"), value) for key, value in sorted(lines, key=lambda x: len(x[1]))
    ]


def _in_words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_in_words(inner)}" for key, inner in value.items() if inner is not None)
    return ", ".join(map(_in_words, value)) if isinstance(value, list | tuple) else str(value)
