"""The table of units, one line each. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from jobs.core.plain import plain
from launch.monitor.data.study_view import StudyView
from launch.monitor.data.summary import AT_WORK, Work, started_at
from launch.monitor.data.unit_files import Took
from launch.monitor.views.text import Lines, cells, columns, duration, percent, rate_in_words, shorten, window
from launch.state.reasons import why
from launch.state.states import State
from launch.state.status import UnitStatus
from launch.views import STYLES, gpu_use, memory_used

# Columns besides state, unit and reason, and the terminal width from which each is shown.
TITLES = {
    "done": 56, "left": 64, "for": 90, "rate": 100, "job": 110, "run": 120, "heartbeat": 130, "node": 140,
    "memory": 150, "GPUs": 180,
}  # fmt: skip
VANISH = ("GPUs",)  # columns that are left out where no unit has anything to show in them
ROOMY, NAME = 150, 40  # narrower tables leave room for the reason: names have so many cells at most
SHOWN = ("job", "node", "for", "run", "done", "rate", "left", "memory", "GPUs", "heartbeat")
FLUSH = ("for", "run", "done", "left", "memory", "heartbeat")


def job_of(seen: UnitStatus) -> str:
    """Return the unit's last job, and how many others there are."""
    ids = [job.id for job in seen.jobs if job.id]
    return f"{ids[0]}{f' +{len(ids) - 1}' if len(ids) > 1 else ''}" if ids else ""


def elapsed(seen: UnitStatus, took: Took | None, at: float) -> str:
    """Return how long the current run has taken, or all runs together if none is running."""
    if seen.state in AT_WORK:
        started = started_at(seen)
        return duration(at - started) if started is not None else ""
    return duration(took.seconds) if took else ""


def tries(seen: UnitStatus, took: Took | None) -> str:
    """Return the number of runs, including a current one; at least the number of attempts."""
    runs = (took.runs if took else 0) + (seen.state in AT_WORK)
    return str(max(runs, seen.attempt.number if seen.attempt else 0) or "")


def rate_of(work: Work | None) -> str:
    """Format the rate of a running unit."""
    return rate_in_words(work.rate, work.per) if work and work.rate else ""


def heard(seen: UnitStatus, at: float) -> str:
    """Return the time since a running unit's last heartbeat."""
    return duration(at - seen.progress["updated"]) if seen.progress and seen.state in AT_WORK else ""


def held(seen: UnitStatus) -> str:
    """Return the memory that a running unit's first process has used at most, and what its job requested."""
    used = seen.progress.get("memory") if seen.progress and seen.state in AT_WORK else None
    return memory_used(used, seen.requested) if used else ""


def _facts(seen: UnitStatus, work: Work | None, took: Took | None, at: float) -> dict[str, str]:
    """Return the contents of the columns, by title."""
    return {
        "job": job_of(seen),
        "node": seen.live.nodes or "" if seen.live else "",
        "for": elapsed(seen, took, at),
        "run": tries(seen, took),
        "done": percent(work.share) if work and work.share is not None else "",
        "rate": rate_of(work),
        "left": duration(work.left.mid) if work and work.left else "",
        "memory": held(seen),
        "GPUs": gpu_use(seen.progress, short=True) if seen.state in AT_WORK else "",
        "heartbeat": f"{age} ago" if (age := heard(seen, at)) else "",
    }


def saying(seen: UnitStatus, at: float) -> str:
    """Return the reason for a unit's state, or the progress that a running unit reports."""
    progress = seen.progress or {}
    if seen.state != State.RUNNING:
        return plain(why(seen, at))
    if not progress:
        return "starting: no report yet"
    words = [str(progress[key]) for key in ("phase", "benchmark") if key in progress]
    words += [f"loss {progress['loss']:.3f}"] if progress.get("loss") is not None else []
    if progress["done"] or not words:  # while a model is loaded there is nothing to count
        words.append(f"{progress['done']:,} of {progress['total']:,} {progress['unit']}")
    return plain(", ".join(words))


def unit_table(
    view: StudyView, rows: Sequence[UnitStatus], selected: int, width: int, height: int, first: int = 0
) -> Lines:
    """Render as many units of `rows` as there is space for, the selected one among them.

    Args:
        selected: its index in `rows`.
        width, height: available space, in cells.
        first: the index of the first unit of the table as it was drawn before.
    """
    if not rows:
        return Lines([Text("no units", "dim")], width, height)
    shown = visible(len(rows), selected, height, first)
    lines = rows_of(view, rows[shown.start : shown.stop], selected - shown.start, width)
    chosen = rows[selected]
    whole = f"{chosen.unit.stage} {chosen.unit.name}: {saying(chosen, view.taken) or chosen.state}"
    return Lines([*lines, Text(whole, "dim")], width, height)


def visible(total: int, selected: int, height: int, first: int) -> range:
    """Return the indices of the units that a table of this height shows, below its heading."""
    return window(total, selected, max(height - 2, 1), first)


def rows_of(view: StudyView, shown: Sequence[UnitStatus], selected: int | None, width: int) -> list[Text]:
    """Return a heading and a line per unit, with the columns that fit the width."""
    at, work = view.taken, view.summary.work if view.summary else {}
    took = view.summary.took if view.summary else {}
    each = [_facts(seen, work.get(seen.unit.id), took.get(seen.unit.id), at) for seen in shown]
    titles = [title for title in SHOWN if width >= TITLES[title]]
    titles = [t for t in titles if t not in VANISH or any(facts[t] for facts in each)]
    longest = max(18, 2 * width // 5)
    if width < ROOMY:
        longest = min(longest, NAME)
    lines = [
        [Text("state", "dim"), Text("unit", "dim"), *(Text(t, "dim") for t in titles), Text("why", "dim")]
    ]
    for seen, facts in zip(shown, each, strict=True):
        unit = seen.unit
        name = f"{unit.stage} {unit.name}"
        name = name if len(name) <= longest else shorten(unit.name, longest)
        lines.append([
            Text(seen.state, STYLES[seen.state]), Text(name), *(Text(facts[t]) for t in titles),
            Text(saying(seen, at)),
        ])  # fmt: skip
    flush = [2 + titles.index(t) for t in FLUSH if t in titles]
    table = columns(lines, right=flush)
    if selected is None:
        return table
    marked = [
        Text("  ") + table[0],
        *(Text("> " if i == selected else "  ") + t for i, t in enumerate(table[1:])),
    ]
    chosen = marked[1 + selected]
    chosen.append(" " * (width - cells(chosen)))
    chosen.stylize("reverse")
    return marked
