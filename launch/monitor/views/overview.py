"""The first page: a study's progress, problems, stages, students and running units. Pure.

Each section is a list of lines; the most important sections come first and get the space.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.text import Text

from jobs.core.wording import about
from launch.monitor.data.problems import Problem
from launch.monitor.data.study_view import StudyView
from launch.monitor.data.summary import Stage, Summary
from launch.monitor.views.students import WIDE, students
from launch.monitor.views.text import (
    BAR,
    Lines,
    around,
    bar,
    cells,
    columns,
    duration,
    flow,
    in_words,
    percent,
    rate_in_words,
    shorten,
    window,
)
from launch.monitor.views.unit_table import rows_of
from launch.monitor.views.wrap import wrapped
from launch.state.states import State
from launch.views import SHORT, STYLES, amount

LEAST_BAR = 8
LEFT_OUT = {"few": (State.QUEUED, State.WAITING, State.PREEMPTED), "fewest": (State.BLOCKED,)}
TROUBLE = 3  # rows of an error at most
COUNTED = (  # columns of the stage table
    State.RUNNING, State.QUEUED, State.WAITING, State.PREEMPTED, State.STALLED, State.FAILED, State.BLOCKED,
    State.DAMAGED,
)  # fmt: skip


def overview(views: Sequence[StudyView], chosen: int, width: int, height: int, first: int = 0) -> Lines:
    """Render a line per study, and the selected study in full.

    Args:
        width, height: available space, in cells.
        first: the index of the first study of the list as it was drawn before.
    """
    view = views[chosen]
    lines = _studies(views, chosen, width, listed(len(views), chosen, height, first))
    lines += head(view, width)
    summary, now = view.summary, view.now
    if summary is None or now is None:
        return Lines(lines, width, height)
    apart = [Text()] if height >= 28 else []
    stages, found = _stages(summary, width), summary.problems
    rest = height - len(lines) - len(stages) - len(apart)
    below = len(summary.grid.rows) + 1 + (10 if height >= 36 else 0) if summary.grid.cells else 0
    busy = [seen for seen in summary.lively if seen.unit.id in summary.work]
    below += min(len(busy), 10) + 2 if height >= 50 else 0
    shown = _problems(found, width, min(max(rest - below - len(apart), len(found[:3]) + 1), rest, 20))
    lines += [*(apart if shown else []), *shown, *apart, *stages]
    lines += _with_gap(apart, students(summary.grid, width, height - len(lines) - len(apart)))
    room = height - len(lines) - len(apart) - 1
    lines += _with_gap(apart, rows_of(view, busy[:room], None, width) if busy and room > 1 else [])
    return Lines(lines, width, height)


def _with_gap(apart: list[Text], lines: list[Text]) -> list[Text]:
    return [*apart, *lines] if lines else []


def listed(total: int, chosen: int, height: int, first: int) -> range:
    """Return the indices of the studies that the page lists, in its first rows; none if there is only one."""
    return window(total, chosen, max(1, height // 5), first) if total > 1 else range(0)


def _studies(views: Sequence[StudyView], chosen: int, width: int, shown: range) -> list[Text]:
    """Return a line for each study that is shown, and a line below them."""
    rows = []
    for index in shown:
        view = views[index]
        name = Text(f"{'>' if index == chosen else ' '} {shorten(view.project.study.name, width // 3)}")
        name.stylize("bold" if index == chosen else "")
        rows.append([name, *_standing(view)])
    return [*columns(rows, right=(1,)), Text("─" * width, "dim")] if rows else []


def _standing(view: StudyView) -> tuple[Text, Text, Text]:
    """Summarize a study in three cells: progress, time left, problems."""
    if view.summary is None or view.now is None:
        return Text("-"), Text("no answer yet" if view.trouble else "polling", "yellow"), Text()
    stages, wrong = view.summary.stages, len(view.summary.problems)
    done, total = sum(s.counts[State.DONE] for s in stages), sum(s.total for s in stages)
    trouble = Text(f"! {wrong} need attention" if wrong else "", "red")
    return Text(f"{done:,} of {total:,} done"), _until(view.summary, short_form=True)[0], trouble


def head(view: StudyView, width: int) -> list[Text]:
    """Return the header: its title, who is submitting the study, resources used, estimated end."""
    lines = title(view, width)
    if view.now and view.now.submitting:
        lines.append(Text(f"being submitted by {view.now.submitting.who}", "cyan"))
    return lines + (_figures(view.summary, width) if view.summary else [])


def title(view: StudyView, width: int) -> list[Text]:
    """Return the study, its cluster, the age of the data and, if so, why there is no newer data."""
    name = Text.assemble((view.project.study.name, "bold"), f" on {view.project.cluster.name}")
    age = time.time() - view.taken
    if view.now is None:
        lines = [name.append("   first poll in progress", "dim")]
    else:
        late = age > 2 * view.interval + 5
        words = f"   updated {in_words(duration(age))} ago"
        lines = [name.append(words, "yellow" if late else "dim")]
        if view.asked is not None and time.time() - view.asked > 5:
            lines[0].append(f", polling for {in_words(duration(time.time() - view.asked))}", "yellow")
        elif width >= WIDE:
            lines[0].append(f", polled every {in_words(duration(view.interval))}", "dim")
    if view.trouble:
        rows = wrapped(f"! no newer data: {view.trouble}", width)
        lines += [Text(row, "yellow") for row in rows[:TROUBLE]]
    return lines


def _figures(summary: Summary, width: int) -> list[Text]:
    """Return the resources used and left, wrapped to the width."""
    parts = [Text(f"{in_words(duration(summary.elapsed))} so far")] if summary.elapsed is not None else []
    parts += _until(summary)
    if summary.flops_planned:
        share = percent(summary.flops / summary.flops_planned)
        parts.append(Text(f"{share} of {amount(summary.flops_planned)} FLOPs"))
    else:
        parts.append(Text(f"{amount(summary.flops)} FLOPs done"))
    left = summary.gpu_hours_left
    if summary.gpu_hours or left.mid:
        span = f" ({about(left.low)} to {about(left.high)})" if left.high > left.low and width >= 70 else ""
        plan = "" if summary.measured else " (plan)"
        parts.append(
            Text(f"{summary.gpu_hours:,.0f} GPU hours used, about {about(left.mid)}{span} left{plan}")
        )
    parts += [Text(f"reading {summary.unread:,} more results", "dim")] if summary.unread else []
    return flow(parts, width)


def _until(summary: Summary, short_form: bool = False) -> list[Text]:
    """Return the estimated time until everything is done, with its range and its end in the long form."""
    if all(s.counts[State.DONE] == s.total for s in summary.stages):
        return [Text("all done", "green")]
    known = summary.left
    unknown = ", ".join(summary.unknown)
    if known is None or not known.mid:
        return [Text("time left unknown" if unknown else "almost done")]
    if short_form:
        return [Text(f"{'over ' if unknown else ''}{in_words(duration(known.mid))} left")]
    left = Text(f"{around(known, words=True)} left")
    if unknown:
        return [left, Text(f"time for {unknown} unknown")]
    when = time.strftime("%a %d %b %H:%M", time.localtime(time.time() + known.mid))
    return [left, Text(f"until {when}")]


def _problems(found: Sequence[Problem], width: int, room: int) -> list[Text]:
    """List the problems, with advice if there is space for all of it, and log lines if there is more."""
    room = max(room, 0)
    if len(found) > room:
        found, rest = found[: max(room - 1, 0)], len(found) - max(room - 1, 0)
    else:
        rest = 0
    spare, advice = room - len(found) - bool(rest), list[list[str]]()
    for problem in found:
        rows = [row for line in problem.advice for row in wrapped(line, width, 2)]
        advice.append(rows if len(rows) <= spare else [])  # half a command is none
        spare -= len(advice[-1])
    each = spare // max(1, sum(bool(p.words) for p in found))
    lines = []
    for problem, rows in zip(found, advice, strict=True):
        lines.append(Text(f"! {problem.title}", "bold red" if problem.grave else "yellow"))
        words = problem.words[-each:] if each > 0 else ()
        lines += [Text(f"  ┃ {line}", "dim") for line in words]
        lines += map(Text, rows)
    return [*lines, *([Text(f"! {rest} more need attention", "bold red")] if rest else [])]


def _stages(summary: Summary, width: int) -> list[Text]:
    """Return a line per stage: progress, units by state, rate, time left."""
    shown = [s for s in COUNTED if any(stage.counts[s] for stage in summary.stages)]
    for wanted in ("words rate span", "rate span", "rate", "", "few", "fewest"):
        if wanted in LEFT_OUT:
            shown = [s for s in shown if s not in LEFT_OUT[wanted]]
        rows = _stage_rows(summary, shown, wanted)
        gap, right = 1 + ("words" in wanted), range(2, 3 + len(shown) + ("rate" in wanted))
        room = width - max(map(cells, columns(rows, right, gap)))
        if room >= LEAST_BAR:
            for row, stage in zip(rows[1:], summary.stages, strict=True):
                row[1] = _bar(stage, min(room, 40))
            break
    return columns(rows, right, gap)


def _stage_rows(summary: Summary, shown: Sequence[State], wanted: str) -> list[list[Text]]:
    """Return the rows of the stage table, without the progress bars.

    Args:
        shown: the states to count.
        wanted: optional parts: "words" (full state names), "rate", "span" (the range of the time left).
    """
    words = [s.value if "words" in wanted else SHORT[s] for s in shown]
    titles = ["stage", "", "done", *words, *(["rate"] if "rate" in wanted else []), "left"]
    rows = [[Text(title, "dim") for title in titles]]
    for stage in summary.stages:
        counts = [Text(f"{stage.counts[s]:,}" if stage.counts[s] else "·", _style(stage, s)) for s in shown]
        row = [Text(stage.name), Text(), Text(f"{stage.counts[State.DONE]:,}/{stage.total:,}"), *counts]
        if "rate" in wanted:
            row.append(Text(rate_in_words(stage.rate, stage.per) if stage.rate else ""))
        rows.append([*row, Text(_left(stage, "span" in wanted))])
    return rows


def _left(stage: Stage, span: bool) -> str:
    if stage.left is None:
        return "unknown"
    if not stage.left.mid:
        return ""
    return around(stage.left) if span else duration(stage.left.mid)


def _style(stage: Stage, state: State) -> str:
    return STYLES[state] if stage.counts[state] else "dim"


def _bar(stage: Stage, width: int) -> Text:
    """Draw a stage's progress: done, running, preempted or queued, waiting, failed."""
    c = stage.counts
    done = stage.share * stage.total
    work = max(c[State.DONE] + c[State.RUNNING] + c[State.STALLED] - done, 0.0)
    wrong = c[State.FAILED] + c[State.BLOCKED] + c[State.DAMAGED]
    parts = [
        (done, BAR[State.DONE], "green"),
        (work, BAR[State.RUNNING], "blue"),
        (c[State.PREEMPTED] + c[State.QUEUED], BAR[State.QUEUED], "cyan"),
        (c[State.WAITING], BAR[State.WAITING], "dim"),
        (wrong, BAR[State.FAILED], "red"),
    ]
    return bar(parts, width)
