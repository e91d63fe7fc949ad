"""Units in a table, a line each. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import RenderableType
from rich.text import Text

from launch.logs import plain
from launch.monitor.board import AT_WORK, Work, begun_at
from launch.monitor.cells import Lines, cells, columns, duration, percent, short, shorten
from launch.monitor.sight import Sight
from launch.observe import Seen
from launch.reasons import why
from launch.show import STYLES
from launch.states import State

# Titles of the columns beside state, unit and reason, and from which width on there is room for each.
TITLES = {"done": 56, "left": 72, "rate": 80, "for": 96, "job": 104, "try": 112, "heard": 124, "node": 136}
SHOWN = ("job", "node", "for", "try", "done", "rate", "left", "heard")
FLUSH = ("for", "try", "done", "left", "heard")


def job_of(seen: Seen) -> str:
    """Its last job, and how many others there are."""
    ids = [job.id for job in seen.jobs if job.id]
    return f"{ids[0]}{f' +{len(ids) - 1}' if len(ids) > 1 else ''}" if ids else ""


def elapsed(seen: Seen, at: float) -> str:
    """How long its run has been at work."""
    begun = begun_at(seen) if seen.state in AT_WORK else None
    return duration(at - begun) if begun is not None else ""


def rate_of(work: Work | None) -> str:
    """What a unit at work does in a second."""
    return f"{short(work.rate)} {work.per}/s" if work and work.rate else ""


def heard(seen: Seen, at: float) -> str:
    """How long ago a unit at work gave its last sign of life."""
    return duration(at - seen.progress["updated"]) if seen.progress and seen.state in AT_WORK else ""


FACTS: dict[str, Callable[[Seen, Work | None, float], str]] = {
    "job": lambda seen, work, at: job_of(seen),
    "node": lambda seen, work, at: seen.live.nodes or "" if seen.live else "",
    "for": lambda seen, work, at: elapsed(seen, at),
    "try": lambda seen, work, at: str(seen.attempt.number) if seen.attempt else "",
    "done": lambda seen, work, at: percent(work.share) if work and work.share is not None else "",
    "rate": lambda seen, work, at: rate_of(work),
    "left": lambda seen, work, at: duration(work.left.mid) if work and work.left else "",
    "heard": lambda seen, work, at: heard(seen, at),
}


def saying(seen: Seen, at: float) -> str:
    """Why it is in its state; of one at work, what it says of itself."""
    told = seen.progress or {}
    if seen.state != State.RUNNING:
        return plain(why(seen, at))
    if not told:
        return "starting"
    words = [str(told[key]) for key in ("phase", "benchmark") if key in told]
    words += [f"loss {told['loss']:.3f}"] if told.get("loss") is not None else []
    return plain(", ".join([*words, f"{told['done']:,} of {told['total']:,} {told['unit']}"]))


def unit_table(sight: Sight, rows: Sequence[Seen], selected: int, width: int, height: int) -> RenderableType:
    """The units of `rows` around the selected one.

    Args:
        selected: its place among `rows`.
        width, height: the room for it, in cells.
    """
    if not rows:
        return Lines([Text("no units", "dim")], width, height)
    room = max(height - 1, 1)
    first = min(max(0, selected - room // 2), max(0, len(rows) - room))
    return Lines(rows_of(sight, rows[first : first + room], selected - first, width), width, height)


def rows_of(sight: Sight, shown: Sequence[Seen], selected: int | None, width: int) -> list[Text]:
    """A line of titles and a line for each of these units, as wide as there is room."""
    at = sight.taken
    work = sight.board.work if sight.board else {}
    titles = [title for title in SHOWN if width >= TITLES[title]]
    longest = max(18, width // 4)
    lines = [
        [Text("state", "dim"), Text("unit", "dim"), *(Text(t, "dim") for t in titles), Text("why", "dim")]
    ]
    for seen in shown:
        unit = seen.unit
        name = shorten(f"{unit.stage} {unit.name}", longest)
        facts = {title: FACTS[title](seen, work.get(unit.id), at) for title in titles}
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
