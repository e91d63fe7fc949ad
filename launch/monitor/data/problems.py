"""Problems of a study that need attention, worst first, each with the command to fix it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jobs.core.causes import ANSWERS, Cause
from jobs.core.plain import plain
from launch.state.states import ACTIVE, State
from launch.state.status import StudyStatus, UnitStatus
from launch.state.waits import waiting
from launch.submit.bad_nodes import Verdict
from launch.views import keeper_line, listed, nodes_lines


@dataclass(frozen=True)
class Problem:
    """Something that needs attention.

    Args:
        title: what is wrong, and with which units.
        advice: what to do, with the command.
        words: the last lines of a log.
        grave: whether it persists without intervention.
    """

    title: str
    advice: str
    words: Sequence[str] = ()
    grave: bool = True


def problems(
    study: str,
    now: StudyStatus,
    nodes: Verdict,
    lively: Sequence[UnitStatus],
    words: Mapping[str, Sequence[str]],
) -> list[Problem]:
    """Return all known problems of a study.

    Args:
        study: its name.
        nodes: the nodes that its next submissions avoid.
        lively: its units that are neither done, queued nor waiting.
        words: the last log lines of failed units, by id.
    """
    found = [*_failed(lively, words, study), *_stalled(lively, study)]
    shown = waiting(now)
    found += [
        Problem(
            f"{len(w.units)} cannot start: {listed(w.units, 3)}: {w.words}", w.advice, grave=bool(w.advice)
        )
        for w in shown
    ]
    known = {seen.unit.id for w in shown for seen in w.units}
    if vain := [s for s in now.units if s.in_vain and s.unit.id not in known]:
        title = f"{len(vain)} queued for something that can never come: {listed(vain, 3)}"
        found.append(Problem(title, f"sor submit {study} withdraws their jobs"))
    for seen in (s for s in lively if s.state is State.DAMAGED):
        title = f"damaged: {seen.unit.stage} {seen.unit.name}: {seen.reason}"
        found.append(Problem(title, f"then sor submit {study}"))
    found += [Problem(f"damaged: {harm}", f"then sor submit {study}") for harm in now.harm]
    if blocked := [s for s in lively if s.state is State.BLOCKED]:
        title = f"{len(blocked)} blocked: {blocked[0].unit.stage} {blocked[0].unit.name} {blocked[0].reason}"
        found.append(Problem(title, f"sor submit {study} goes on with them once that is fixed"))
    found += _around(now, nodes, study)
    to_do = sum(seen.state != State.DONE for seen in now.units)
    if to_do and not found and now.kept is None and not any(seen.state in ACTIVE for seen in now.units):
        title = f"nothing is at work, and {to_do:,} units are to be done"
        found.append(Problem(title, f"sor submit {study}", grave=False))
    return found


def _failed(lively: Sequence[UnitStatus], words: Mapping[str, Sequence[str]], study: str) -> list[Problem]:
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
        advice = f"sor logs {study} {first.unit.id}   {ANSWERS[cause].advice}; then sor submit {study}"
        found.append(Problem(title, advice, words.get(first.unit.id, ())))
    return found


def _stalled(lively: Sequence[UnitStatus], study: str) -> list[Problem]:
    return [
        Problem(
            f"stalled: {seen.unit.stage} {seen.unit.name}: {plain(seen.reason or '')}",
            f"sor cancel {study} {seen.unit.id}   then sor submit {study} begins it again",
        )
        for seen in lively
        if seen.state is State.STALLED
    ]


def _around(now: StudyStatus, nodes: Verdict, study: str) -> list[Problem]:
    """Return problems with nodes, the keeper, or orphaned jobs."""
    found = [
        Problem(line, "sinfo -R says what is known of nodes", grave=False) for line in nodes_lines(nodes)
    ]
    if now.former:
        ids = ", ".join(job.id or job.submission for job in now.former[:6])
        title = f"{len(now.former)} jobs work for units that the study no longer has: {ids}"
        found.append(Problem(title, f"sor cancel {study} ends them, and all others", grave=False))
    if now.keeper and now.keeper.attempt.ended is None and now.kept is None:
        found.append(Problem(keeper_line(now).plain, f"sor submit {study} starts another one"))
    return found
