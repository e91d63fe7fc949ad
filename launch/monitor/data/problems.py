"""Problems of a study that need attention, worst first, each with the command to fix it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jobs.core.causes import ANSWERS, Cause
from jobs.core.plain import plain
from launch.state.command_line import command
from launch.state.exit_code import in_progress
from launch.state.states import State
from launch.state.status import StudyStatus, UnitStatus
from launch.state.waits import submit_again, waiting
from launch.submit.bad_nodes import Verdict
from launch.views import keeper_gone, listed, nodes_lines


@dataclass(frozen=True)
class Problem:
    """Something that needs attention.

    Args:
        title: what is wrong, and with which units.
        advice: what to do; each line ends with its command, if it has one.
        words: the last lines of a log.
        grave: whether it persists without intervention.
    """

    title: str
    advice: tuple[str, ...]
    words: Sequence[str] = ()
    grave: bool = True


def problems(
    now: StudyStatus, nodes: Verdict, lively: Sequence[UnitStatus], words: Mapping[str, Sequence[str]]
) -> list[Problem]:
    """Return all known problems of a study.

    Args:
        nodes: the nodes that its next submissions avoid.
        lively: its units that are neither done, queued nor waiting.
        words: the last log lines of failed units, by id.
    """
    submit = submit_again(now)
    found = [*_failed(lively, words, submit), *_stalled(lively, submit)]
    shown = waiting(now)
    found += [
        Problem(
            f"{len(w.units)} cannot start: {listed(w.units, 3)}: {w.words}",
            (w.advice,) if w.advice else (),
            grave=bool(w.advice),
        )
        for w in shown
    ]
    known = {seen.unit.id for w in shown for seen in w.units}
    if vain := [s for s in now.units if s.in_vain and s.unit.id not in known]:
        title = f"{len(vain)} queued behind jobs that failed: {listed(vain, 3)}"
        found.append(Problem(title, (f"to cancel and resubmit them{submit}",)))
    for seen in (s for s in lively if s.state is State.DAMAGED):
        title = f"damaged: {seen.unit.stage} {seen.unit.name}: {seen.reason}"
        found.append(Problem(title, (f"then{submit}",)))
    found += [Problem(f"damaged: {harm}", (f"then{submit}",)) for harm in now.harm]
    if blocked := [s for s in lively if s.state is State.BLOCKED]:
        title = f"{len(blocked)} blocked: {blocked[0].unit.stage} {blocked[0].unit.name} {blocked[0].reason}"
        found.append(Problem(title, (f"when that is fixed{submit}",)))
    found += _around(now, nodes, submit)
    to_do = sum(seen.state != State.DONE for seen in now.units)
    if to_do and not found and not in_progress(now):
        title = f"nothing is queued or running, and {to_do:,} units are not done"
        found.append(Problem(title, (f"to submit them{submit}",), grave=False))
    return found


def _failed(lively: Sequence[UnitStatus], words: Mapping[str, Sequence[str]], submit: str) -> list[Problem]:
    by_cause: dict[Cause, list[UnitStatus]] = {}
    for seen in lively:
        if seen.cause:
            by_cause.setdefault(seen.cause, []).append(seen)
    found = []
    for cause, units in sorted(by_cause.items(), key=lambda item: -len(item[1])):
        first = units[0]
        others = f" and {len(units) - 1} more" if len(units) > 1 else ""
        title = f"{len(units)} failed, {cause}: {first.unit.stage} {first.unit.name}{others}: "
        title += plain(first.reason or "")
        said = words.get(first.unit.id, ())
        logs = [f"its log: {command(first.root, 'logs', first.unit.id)}"] if said else []
        found.append(Problem(title, (*logs, f"{ANSWERS[cause].advice}; then{submit}"), said))
    return found


def _stalled(lively: Sequence[UnitStatus], submit: str) -> list[Problem]:
    return [
        Problem(
            f"stalled: {seen.unit.stage} {seen.unit.name}: {plain(seen.reason or '')}",
            (f"to restart it: {command(seen.root, 'cancel', seen.unit.id)}", f"then{submit}"),
        )
        for seen in lively
        if seen.state is State.STALLED
    ]


def _around(now: StudyStatus, nodes: Verdict, submit: str) -> list[Problem]:
    """Return problems with nodes, the keeper, or orphaned jobs."""
    found = [
        Problem(line, ("known problems of nodes: sinfo -R",), grave=False) for line in nodes_lines(nodes)
    ]
    if now.former:
        ids = ", ".join(job.id or job.submission for job in now.former[:6])
        title = f"{len(now.former)} jobs of units that the study no longer has: {ids}"
        cancel = command(now.root, "cancel")
        found.append(Problem(title, (f"to cancel these and all others: {cancel}",), grave=False))
    if now.keeper and now.keeper.attempt.ended is None and not now.continued:
        found.append(Problem(keeper_gone(now.keeper.attempt.jobs[0]), (f"to start another one{submit}",)))
    return found
