"""Figures computed from a study's status: the progress of stages, study and students. Pure.

A poll of tens of thousands of units must be cheap: what does not change between polls is computed once and
passed from summary to summary; of the rest, only running units are processed one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import compress
from operator import mul

from jobs.core.unit import STAGES, Unit
from launch.monitor.data.eta import (
    BY_PLAN,
    ZERO,
    Span,
    Track,
    count_rate,
    expected_hours,
    follow,
    own_left,
    ratio,
    stage_left,
)
from launch.monitor.data.problems import Problem, problems
from launch.monitor.data.students import Grid, Places, grid, places
from launch.monitor.data.unit_files import Took, UnitFiles
from launch.state.states import State
from launch.state.status import StudyStatus, UnitStatus
from launch.study_run import Project
from launch.submit.bad_nodes import Verdict

AT_WORK = (State.RUNNING, State.STALLED)


@dataclass(frozen=True)
class Work:
    """A running unit.

    Args:
        share: the share that is done; None before the first progress report.
        rate, per: amount per second, and its unit ("tokens", "rows" …).
        left: seconds until it is done.
    """

    track: Track | None
    share: float | None
    rate: float | None
    per: str
    left: Span | None


@dataclass(frozen=True)
class Stage:
    """The progress of a stage.

    Args:
        share: share of its units that is done, running ones counted in part.
        rate, per: of its running units together, if all count the same.
        left: seconds until it is done, from when it can start; None: unknown.
    """

    name: str
    total: int
    counts: Mapping[State, int]
    share: float
    rate: float | None
    per: str
    left: Span | None


@dataclass(frozen=True)
class Part:
    """A stage in the plan: its units' indices, estimated hours and GPUs, and each unit's place in these."""

    indices: list[int]
    hours: list[float]
    gpus: list[int]
    where: Mapping[str, int]


@dataclass(frozen=True)
class Outline:
    """The fixed figures of a plan.

    Args:
        flops: estimates; `planned` is their sum, None if any is unknown.
        tasks: number of benchmarks.
    """

    units: list[Unit]
    parts: Mapping[str, Part]
    flops: list[int]
    planned: float | None
    places: Places
    tasks: int


@dataclass(frozen=True)
class Summary:
    """A study's figures at one moment.

    Args:
        elapsed: seconds from its first submission to now, or to its end.
        gpu_hours: used so far, by finished and current runs.
        measured: whether `gpu_hours_left` rests on finished units in every stage; else partly on the plan.
        flops, flops_planned: done and planned; None: unknown.
        left: seconds until all is done, without the stages in `unknown`, which have no estimate.
        problems: the worst first.
        unread: units whose files are still to be read, and which are not counted yet.
        work: of running units, by id.
        took: of units with finished runs, by id.
        lively: units that are neither done, queued nor waiting.
    """

    stages: tuple[Stage, ...]
    elapsed: float | None
    gpu_hours: float
    gpu_hours_left: Span
    measured: bool
    flops: float
    flops_planned: float | None
    left: Span | None
    unknown: tuple[str, ...]
    problems: Sequence[Problem]
    unread: int
    grid: Grid
    work: Mapping[str, Work] = field(repr=False)
    took: Mapping[str, Took] = field(repr=False)
    lively: list[UnitStatus] = field(repr=False)
    outline: Outline = field(repr=False)


def summarize(
    project: Project, now: StudyStatus, nodes: Verdict, facts: UnitFiles, before: Summary | None, at: float
) -> Summary:
    """Summarize a study.

    The study's time left is the sum over its stages. This ignores that stages overlap (the first students are
    evaluated while the last are trained), which makes it too long, and that available resources may change.

    Args:
        nodes: the nodes that its next submissions avoid.
        facts: already updated with the same status.
        before: the summary of the previous poll; None at the first.
        at: when the study was polled, in seconds since the epoch.
    """
    outline = before.outline if before and before.outline.units is project.units else outlined(project)
    done, quiet = State.DONE, (State.DONE, State.WAITING, State.QUEUED)
    over = [seen.state is done for seen in now.units]
    rest = [seen for seen in now.units if seen.state not in quiet]
    busy = [seen for seen in rest if seen.state in AT_WORK]
    work = {seen.unit.id: _work(seen, facts, before) for seen in busy}
    shares = {id: w.share for id, w in work.items() if w.share}
    found = [_stage(name, part, now, busy, work, facts) for name, part in outline.parts.items()]
    stages = tuple(stage for stage, _, _ in found)
    known = [s.left for s in stages if s.left is not None]
    end = max(took.ended for took in facts.took.values()) if all(over) and facts.took else at
    return Summary(
        stages=stages,
        elapsed=max(end - facts.started, 0.0) if facts.started is not None else None,
        gpu_hours=(facts.gpu_seconds + sum(_gpu_seconds(seen, at) for seen in busy)) / 3600,
        gpu_hours_left=sum((gpu for _, gpu, _ in found), ZERO),
        measured=all(measured for _, _, measured in found),
        flops=sum(compress(outline.flops, over))
        + sum(shares.get(s.unit.id, 0.0) * (s.unit.flops or 0) for s in busy),
        flops_planned=outline.planned,
        left=sum(known, ZERO) if known else None,
        unknown=tuple(s.name for s in stages if s.left is None),
        problems=problems(now, nodes, rest, facts.words),
        unread=facts.unread,
        grid=grid(outline.places, now.units, shares, facts, outline.tasks),
        work=work,
        took=dict(facts.took),
        lively=rest,
        outline=outline,
    )


def outlined(project: Project) -> Outline:
    """Compute the fixed figures of a plan."""
    units, parts = project.units, {}
    hours_of = cache(lambda stage, flops, needs: expected_hours(stage, flops, needs, project.cluster))
    of_stage: dict[str, list[int]] = {stage: [] for stage in STAGES}
    for index, unit in enumerate(units):
        of_stage[unit.stage].append(index)
    for stage, indices in of_stage.items():
        if indices:
            mine = [units[i] for i in indices]
            # What an endpoint computes takes no time of this cluster's cores: its plan's hours count.
            here = [None if "endpoint" in unit.execution else unit.flops for unit in mine]
            hours = [hours_of(stage, n, unit.resources) for n, unit in zip(here, mine, strict=True)]
            where = {unit.id: index for index, unit in enumerate(mine)}
            parts[stage] = Part(indices, hours, [unit.resources.gpus for unit in mine], where)
    flops = [unit.flops for unit in units if unit.stage in ("generate", "train", "evaluate")]
    planned = None if None in flops else sum(f for f in flops if f)
    tasks = sum(len(group.tasks) for group in project.study.benchmarks)
    return Outline(units, parts, [u.flops or 0 for u in units], planned, places(project.study, units), tasks)


def _stage(
    name: str,
    part: Part,
    now: StudyStatus,
    busy: list[UnitStatus],
    work: Mapping[str, Work],
    facts: UnitFiles,
) -> tuple[Stage, Span, bool]:
    """Return a stage, its remaining GPU hours, and whether these rest on its finished units."""
    done, total = State.DONE, len(part.indices)
    states = [now.units[i].state for i in part.indices]
    counts = {state: states.count(state) for state in State}
    mine = [(s.unit, work[s.unit.id]) for s in busy if s.unit.stage == name]
    waits = [state is not done for state in states]
    timed = [(unit, w.left) for unit, w in mine if w.left is not None]
    for unit, _ in timed:
        waits[part.where[unit.id]] = False
    to_come, wanted = list(compress(part.hours, waits)), list(compress(part.gpus, waits))
    finished = ((seconds, part.hours[part.where[id]]) for id, seconds in facts.finished[name].items())
    found = ratio([seconds / 3600 / hours for seconds, hours in finished if hours])
    gpu = (found or BY_PLAN) * sum(map(mul, to_come, wanted))
    for unit, left in timed:
        gpu += left * (unit.resources.gpus / 3600)
    rates = {w.per for _, w in mine if w.rate}
    stage = Stage(
        name,
        total,
        counts,
        (counts[done] + sum(w.share or 0.0 for _, w in mine)) / total,
        sum(w.rate or 0.0 for _, w in mine) if len(rates) == 1 else None,
        rates.pop() if len(rates) == 1 else "",
        stage_left([left for _, left in timed], to_come, found, max(len(timed), _room(busy, wanted))),
    )
    return stage, gpu, found is not None or not any(wanted)


def _room(busy: list[UnitStatus], wanted: list[int]) -> float:
    """Return how many units with these GPU needs fit on the study's current GPUs; 0: unknown."""
    need = sum(wanted) / len(wanted) if wanted else 0.0
    held = sum(seen.unit.resources.gpus for seen in busy)
    return max(held / need, float(held > 0)) if need else float(len(busy))


def _work(seen: UnitStatus, facts: UnitFiles, before: Summary | None) -> Work:
    progress, unit = seen.progress, seen.unit
    if progress is None:
        return Work(None, None, None, "", None)
    was, took = before.work.get(unit.id) if before else None, facts.took.get(unit.id)
    track = follow(was.track if was else None, unit, progress, took.kept if took else 0)
    if seen.state == State.STALLED:
        return Work(track, track.share, None, "", None)
    tokens = progress.get("tokens_per_second")
    rate, per = (tokens, "tokens") if tokens else (count_rate(track), str(progress["unit"]))
    return Work(track, track.share, rate, per, own_left(track))


def _gpu_seconds(seen: UnitStatus, at: float) -> float:
    """Return the GPU seconds of the current run."""
    live, started = seen.live, started_at(seen)
    if live is None or started is None:
        return 0.0
    each = seen.unit.resources.nodes * seen.unit.resources.gpus_per_node
    return max(at - started, 0.0) * each * len(live.jobs)


def started_at(seen: UnitStatus) -> float | None:
    """Return when the current run of a running unit started, if known."""
    if seen.live is not None and seen.live.start is not None:
        return seen.live.start
    return float(seen.progress["started"]) if seen.progress else None
