"""Terminal output as rich renderables: plans, differences, states, the live view of a run.

Rendering only: nothing here queries Slurm or changes anything.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jobs.core.causes import ANSWERS, Run
from jobs.core.plain import plain
from jobs.core.recipe_words import in_words, shown
from jobs.core.unit import STAGES, Unit
from jobs.core.wording import count, span
from launch.columns import Columns
from launch.local.scheduler import Event, Running
from launch.state.attempt_files import current_progress
from launch.state.command_line import command
from launch.state.exit_code import Outlook, outlook
from launch.state.ledger import Job
from launch.state.reconcile import Difference, reconcile
from launch.state.states import State
from launch.state.status import StudyStatus, UnitStatus
from launch.state.waits import Waiting, submit_again, waiting
from launch.study import budgets
from launch.study.plan import MARGIN, gpu_hours, settings_varied, totals
from launch.submit.bad_nodes import Verdict

STYLES = {
    State.WAITING: "dim", State.QUEUED: "cyan", State.RUNNING: "blue", State.STALLED: "magenta",
    State.PREEMPTED: "yellow", State.DONE: "green", State.FAILED: "bold red", State.BLOCKED: "red",
    State.DAMAGED: "bold magenta",
}  # fmt: skip
SHORT = {  # headings of narrow columns
    State.WAITING: "wait", State.QUEUED: "queue", State.RUNNING: "run", State.STALLED: "stall",
    State.PREEMPTED: "again", State.DONE: "done", State.FAILED: "fail", State.BLOCKED: "block",
    State.DAMAGED: "damage",
}  # fmt: skip
SIGNS = {
    "imports": ("…", "dim"),
    "started": ("▶", "blue"),
    "done": ("✓", "green"),
    "again": ("↻", "yellow"),
    "failed": ("✗", "bold red"),
}


def amount(flops: float | None) -> str:
    """Format FLOPs: 1.2e18 -> '1.20e18'."""
    if flops is None:
        return "unknown"
    mantissa, _, exponent = f"{flops:.2e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def needs(unit: Unit) -> str:
    """Describe the resources that a unit requests, in a few words."""
    r = unit.resources
    parts = [f"{r.workers} x"] if r.workers > 1 else []
    parts += [f"{r.nodes} nodes"] if r.nodes > 1 else []
    if r.gpus_per_node:
        parts.append(f"{r.gpus_per_node} GPU{'s' * (r.gpus_per_node > 1)}")
    else:
        cores = r.tasks_per_node * r.cpus_per_task
        parts.append(f"{cores} core{'s' * (cores > 1)}")
    return " ".join(parts)


def memory(mib: int | None) -> str:
    """Format memory: 3328 -> '3.2 GiB'; '-' if unknown."""
    return f"{mib / 1024:.1f} GiB" if mib else "-"


def memory_used(used: int | None, asked: int | None) -> str:
    """Format used and requested memory: '1.9 of 3.5 GiB'; '-' if unknown."""
    return f"{memory(used).removesuffix(' GiB')} of {memory(asked)}" if used and asked else memory(used)


def gpu_use(progress: dict[str, Any] | None, short: bool = False) -> str:
    """Format the use of a running job's GPUs: 'GPUs 8, 93 % busy, 71 of 80 GiB', or '93 %, 71 of 80 GiB'.

    The percentage is the mean of all, the memory that of the fullest. Empty if nothing is known.
    """
    gpus = (progress or {}).get("gpus") or []
    busy = [gpu["busy"] for gpu in gpus if gpu.get("busy") is not None]
    full = [gpu for gpu in gpus if gpu.get("used") is not None and gpu.get("total")]
    parts = [f"{sum(busy) / len(busy):.0f} %{'' if short else ' busy'}"] if busy else []
    if full:
        most = max(full, key=lambda gpu: gpu["used"] / gpu["total"])
        parts.append(f"{most['used'] / 1024:.0f} of {most['total'] / 1024:.0f} GiB")
    return ", ".join(parts if short or not parts else [f"GPUs {len(gpus)}", *parts])


def plan_view(now: StudyStatus, more: Sequence[RenderableType] = ()) -> RenderableType:
    """Render the units of a study by stage: requested resources, estimated compute, state.

    Args:
        more: what to show between the units and the sums.
    """
    table = Columns(
        ("stage", "unit", "needs", "memory", "limit (h)", "GPU hours", "FLOPs", "state"),
        numbers=("memory", "limit (h)", "GPU hours", "FLOPs"),
        optional=("limit (h)", "FLOPs", "memory", "needs", "GPU hours"),
    )
    last = ""
    for seen in now.units:
        unit = seen.unit
        hours = f"{gpu_hours(unit):,.1f}" if unit.resources.gpus else "-"
        flops = amount(unit.flops) if unit.flops is not None or unit.stage == "generate" else "-"
        stage = unit.stage if unit.stage != last else ""
        last = unit.stage
        table.add(
            stage, unit.name, needs(unit), memory(unit.resources.memory), f"{unit.resources.hours:g}", hours,
            flops,
            Text(seen.state, STYLES[seen.state]),
        )  # fmt: skip
    units = [seen.unit for seen in now.units]
    differ = [
        f"{in_words(key)} {', '.join(map(shown, values))}" for key, values in settings_varied(units).items()
    ]
    varied = [f"trained with {'; '.join(differ)}"] if differ else []
    lines = [Text(line, "dim") for line in (*varied, *budgets.notes(units))]
    lines += [Text(line, "yellow") for line in [budgets.repeated(units)] if line]
    return Group(table, "", *lines, *([""] if lines else []), *more, stage_sums(units))


def stage_sums(units: list[Unit]) -> Table:
    """Return a table of totals per stage and overall."""
    table = Table("stage", box=None, pad_edge=False)
    for title in ("units", "FLOPs (estimate)", "GPU hours"):
        table.add_column(title, justify="right")
    for stage in STAGES:
        of_stage = [u for u in units if u.stage == stage]
        if of_stage:
            _sum_row(table, stage, of_stage)
    table.add_section()
    _sum_row(table, "all", units, "bold")
    return table


def _sum_row(table: Table, name: str, units: list[Unit], style: str = "") -> None:
    sums = totals(units)
    flops = amount(sums["flops"]) if sums["flops"] != 0 else "-"
    hours = f"{sums['gpu_hours']:,.0f}" if sums["gpu_hours"] else "-"
    table.add_row(name, str(sums["units"]), flops, hours, style=style)


def difference_view(difference: Difference, cluster: str) -> RenderableType:
    """Render what `sor submit` is about to do, and its estimated cost."""
    lines = [Text(f"{difference.done} done, {len(difference.active)} queued or running")]
    if vain := difference.withdraw:
        line = f"- cancel {len(vain)} jobs that would wait forever: {listed(vain)}"
        lines.append(Text(line, "yellow"))
    if difference.former:
        ids = ", ".join(job.id or job.submission for job in difference.former)
        line = f"! jobs of units that the study no longer has, which canceling the study ends, too: {ids}"
        lines.append(Text(line, "yellow"))
    for seen in difference.damaged:
        line = f"! damaged, skipped: {seen.unit.stage} {seen.unit.name}: {plain(seen.reason or '')}"
        lines.append(Text(line, "bold magenta"))
    for seen in difference.outdated:
        line = f"! set aside {seen.unit.stage} {seen.unit.name}: {seen.reason}"
        lines.append(Text(line, "yellow"))
    for stage in STAGES:
        if found := [s for s in difference.submit if s.unit.stage == stage]:
            again = sum(s.attempt is not None for s in found)
            retried = f" ({again} again)" if again else ""
            lines.append(Text(f"+ {stage} {len(found)}{retried}: {listed(found)}", "green"))
    if difference.submit:
        lines.append(Text(cost([seen.unit for seen in difference.submit], cluster), "bold"))
    return Group(*lines)


def cost(units: Sequence[Unit], cluster: str) -> str:
    """Describe the estimated cost of units, and the largest job."""
    gpu, jobs = (
        sum(map(gpu_hours, units)),
        sum(u.resources.hours * u.resources.workers for u in units) / MARGIN,
    )
    largest = max(units, key=lambda u: (u.resources.nodes * u.resources.gpus_per_node, u.resources.hours))
    job = replace(largest, resources=replace(largest.resources, workers=1))
    used = f"{span(gpu)} of GPU time" if gpu else f"{span(jobs)} of job time"
    limit = span(largest.resources.hours)
    return f"{count(len(units), 'unit')} on {cluster}: about {used}; largest job: {needs(job)}, up to {limit}"


def held_view(held: Sequence[tuple[Unit, str]]) -> RenderableType:
    """Render the units left for the next submit, with the reasons."""
    reasons: dict[str, list[Unit]] = {}
    for unit, why in held:
        reasons.setdefault(why, []).append(unit)
    return Group(
        *(
            Text(f"{count(len(units), 'unit')} not submitted yet: {why}", "yellow")
            for why, units in reasons.items()
        )
    )


def listed(seen: Sequence[UnitStatus], most: int = 6) -> str:
    """Name the first few units, and count the rest."""
    first = ", ".join(s.unit.name for s in seen[:most])
    return first + (f" and {len(seen) - most} more" if len(seen) > most else "")


def status_view(now: StudyStatus, logs: Mapping[str, list[str]] | None = None) -> RenderableType:
    """Render a headline, counts per stage, running units, what needs attention, and the next step.

    Args:
        logs: the last log lines of units, by id; if not empty, failed units without lines are only named.
    """
    states = [s for s in State if now.of(s)]
    titles = ("total", *map(str, states))
    table = Columns(("stage", *titles), numbers=titles, short={str(s): SHORT[s] for s in states})
    for row in now.stages():
        counts = [Text(str(row[s] or "·"), STYLES[s] if row[s] else "dim") for s in states]
        table.add(row["stage"], str(row["total"]), *counts)
    says, next_step = headline(now)
    parts: list[RenderableType] = [says, "", table]
    running = now.of(State.RUNNING, State.STALLED)
    parts += ["", running_table((s.unit, s.progress) for s in running)] if running else []
    failed = now.of(State.FAILED)
    shown = [s for s in failed if s.unit.id in logs] if logs else failed
    for seen in (*now.of(State.STALLED, State.DAMAGED), *shown):
        parts.append(problem(seen, now, logs.get(seen.unit.id, []) if logs else []))
    if rest := [s for s in failed if s not in shown]:
        parts.append(Text(f"{len(rest)} more failed: {listed(rest)}", "red"))
    parts += [waiting_line(w) for w in waiting(now)]
    if blocked := now.of(State.BLOCKED):
        parts.append(Text(f"{len(blocked)} blocked: {blocked[0].unit.name}: {blocked[0].reason}", "red"))
    parts += [Text(f"damaged: {plain(harm)}", "bold magenta") for harm in now.harm]
    parts += [keeper_line(now)] if now.keeper or now.keeping else []
    if now.submitting:
        parts.append(Text(f"being submitted by {now.submitting.who}", "cyan"))
    parts += [_kept_whole(Text(f"next: {next_step}"))] if next_step else []
    return Group(*parts)


def headline(now: StudyStatus) -> tuple[Text, str | None]:
    """Return where a study stands, in a line, and the command that continues it if a person has to."""
    name, end, total = now.root.path.name, outlook(now), len(now.units)
    if end is Outlook.DONE:
        return Text(f"{name}: done, {count(total, 'unit')}", "bold green"), command(now.root, "report")
    counts = {state: len(now.of(state)) for state in State}
    parts = [f"{n} {state}" for state, n in counts.items() if n and state is not State.DONE]
    says = f"{counts[State.DONE]} of {count(total, 'unit')} done, {', '.join(parts)}"
    if end is Outlook.CONTINUES:
        return Text(f"{name}: in progress: {says}", "bold blue"), command(now.root, "monitor")
    if not any(seen.attempt for seen in now.units):
        return Text(f"{name}: not submitted yet: {says}", "bold"), command(now.root, "submit")
    # A second submit would be refused, and one that finds nothing to do would change nothing.
    verb = "monitor" if now.submitting or reconcile(now).nothing else "submit"
    return Text(f"{name}: needs attention: {says}", "bold red"), command(now.root, verb)


def waiting_line(found: Waiting) -> Text:
    """Render units whose jobs cannot currently start, with the reason and what to do."""
    stages = {seen.unit.stage for seen in found.units}
    which = f"{stages.pop()} {listed(found.units)}" if len(stages) == 1 else listed(found.units)
    style = "red" if found.advice else "yellow"
    line = Text(f"cannot start: {which}: {plain(found.words)}", style)
    return _kept_whole(line.append(f"\n  {found.advice}", "default")) if found.advice else line


def keeper_line(now: StudyStatus) -> Text:
    """Render whether a keeper is active and, if not, why."""
    if now.keeping:
        return Text(f"keeper: 'sor keep' of {now.keeping.who}", "dim")
    assert now.keeper is not None
    last, job = now.keeper.attempt, now.keeper.attempt.jobs[0]
    if now.kept is not None:
        return Text(
            f"keeper: {f'job {now.kept.jobs[0].id}' if now.kept.jobs else 'a job that is being submitted'}",
            "dim",
        )
    if last.ended is not None:
        return Text(f"no keeper any more: {last.reason}", "dim")
    return _kept_whole(Text(f"{keeper_gone(job)}. To continue{submit_again(now)}", "yellow"))


def keeper_gone(job: Job) -> str:
    """Say that the keeper's job has ended without a next one, and where its log is."""
    return f"no keeper any more: job {job.id} is gone (its log is in submissions/{job.submission})"


def nodes_view(found: Verdict) -> RenderableType:
    """Render the nodes on which jobs fail at once, and whether they are avoided."""
    return Group(*(Text(line, "yellow") for line in nodes_lines(found)))


def nodes_lines(found: Verdict) -> list[str]:
    """Return the lines of `nodes_view` as text."""
    lines = [
        f"node {n.name} is avoided until {time.strftime('%d %b %H:%M', time.localtime(n.until))}: "
        f"{len(n.units)} jobs in a row failed on it at once; the last error: {n.error}"
        for n in found.avoid
    ]
    lines += [f"damaged, skipped: {harm}" for harm in found.harm]
    if found.many:
        bad = ", ".join(n.name for n in found.many)
        lines.append(
            f"jobs fail at once on {bad}: too many nodes to avoid, so the cause is probably elsewhere. "
            f"The last error: {found.many[-1].error}"
        )
    return lines


def problem(seen: UnitStatus, now: StudyStatus, log: Sequence[str] = ()) -> Text:
    """Render a unit that needs attention: what happened, what to do, and the end of its log."""
    where = f"{seen.unit.stage} {seen.unit.name}"
    said = Text(f"{seen.state}: {where}: {plain(seen.reason or '')}\n", "red")
    if seen.cause:
        said.append(f"  {seen.cause}: {ANSWERS[seen.cause].advice}\n")
    for line in log:
        said.append(f"  | {line}\n", "dim")
    if log or seen.state is State.STALLED:  # without a log, the command would fail
        said.append(f"  {command(seen.root, 'logs', seen.unit.id)}\n")
    if seen.state is State.STALLED:
        said.append(f"  to restart it: {command(seen.root, 'cancel', seen.unit.id)}\n")
        said.append(f"  then{submit_again(now)}\n")
    said.rstrip()
    return _kept_whole(said)


def _kept_whole(text: Text) -> Text:
    """Leave wrapping to the terminal: a command in the text must stay one line when it is copied."""
    text.no_wrap, text.overflow = True, "ignore"
    return text


def unit_view(seen: UnitStatus, ended: Sequence[Run], log: Iterable[str] = ()) -> RenderableType:
    """Render one unit: state and reason, requested resources, and its runs with their memory use.

    Args:
        ended: its finished runs, oldest first.
    """
    unit, reason = seen.unit, f": {plain(seen.reason)}" if seen.reason else ""
    per_node = f"{memory(seen.requested)} of memory per node"
    limits = f"requests {needs(unit)}, {per_node}, {unit.resources.hours:g} h"
    about = [
        Text.assemble(f"{unit.stage} {unit.name} ({unit.id}): ", (seen.state, STYLES[seen.state]), reason),
        Text(f"  {limits}", "dim"),
        *([Text(f"  {seen.cause}: {ANSWERS[seen.cause].advice}", "yellow")] if seen.cause else []),
    ]
    table = Columns(("  run", "ended", "seconds", "memory", "outcome"), numbers=("seconds", "memory"))
    for run in ended:
        when = time.strftime("%d %b %H:%M", time.localtime(run.ended))
        end = f"{run.cause}: {plain(run.error)}" if run.error else "succeeded"
        took = "?" if run.seconds is None else f"{run.seconds:,.0f}"
        name = f"  {run.attempt}.{run.restart}" + (f" worker {run.worker}" if run.worker else "")
        table.add(name, when, took, memory_used(run.memory, run.asked), Text(end))
    running = [running_table([(unit, seen.progress)])] if seen.state == State.RUNNING else []
    return Group(*about, *running, *([table] if ended else []), *(Text(f"  | {line}", "dim") for line in log))


def running_table(units: Iterable[tuple[Unit, dict[str, Any] | None]]) -> Columns:
    """Return a table of running units with their progress."""
    titles = ("", "stage", "unit", "progress", "count", "facts")
    table = Columns(titles, optional=("progress", "stage", "facts"), heading=False)
    for unit, p in units:
        if p is None:
            table.add(Text("▶", "blue"), unit.stage, unit.name, "", "starting: no report yet", "")
            continue
        bar = ProgressBar(total=max(p["total"], 1), completed=p["done"], width=24)
        facts = [p["phase"]] if "phase" in p else []
        facts += [f"loss {p['loss']:.3f}"] if p.get("loss") is not None else []
        facts += [f"{p['tokens_per_second']:,.0f} tokens/s"] if "tokens_per_second" in p else []
        facts += [f"memory {memory(p['memory'])}"] if p.get("memory") else []
        facts += [use] if (use := gpu_use(p)) else []
        count = f"{p['done']:,} of {p['total']:,} {p['unit']}" if p["total"] else ""
        table.add(Text("▶", "blue"), unit.stage, unit.name, bar, count, ", ".join(facts))
    return table


def event_line(event: Event) -> Text:
    """Render one event of a run."""
    sign, style = SIGNS[event.kind]
    return Text.assemble((sign, style), f" {event.unit.stage} {event.unit.name}", (f"  {event.text}", "dim"))


def live_view(units: list[Unit], done: set[str], running: dict[str, Running]) -> RenderableType:
    """Render a progress bar per stage, and the running units."""
    stages = Table(box=None, pad_edge=False, show_header=False)
    for stage in STAGES:
        ids = [u.id for u in units if u.stage == stage]
        if ids:
            finished = len(done.intersection(ids))
            bar = ProgressBar(total=len(ids), completed=finished, width=24)
            stages.add_row("  " + stage, bar, f"{finished} of {len(ids)}")
    at_work = [(r.seen.unit, current_progress(r.seen.folder, r.attempt)) for r in running.values()]
    return Group("", stages, "", running_table(at_work))
