"""Confirmation questions before a study is changed, or why there is nothing to do. Pure.

Questions reflect the state on display; the action itself works from a fresh one (actions.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jobs.core.wording import count
from launch.monitor.data.study_view import StudyView
from launch.state.command_line import command
from launch.state.reconcile import reconcile
from launch.state.status import UnitStatus

NAMED = 4  # units listed by name in a question
UNKNOWN = "the study has not been polled yet"


@dataclass(frozen=True)
class Action:
    """An action requested by the user.

    Args:
        units: ids of the affected units; None: the whole study.
    """

    kind: Literal["quit", "refresh", "cancel", "submit"]
    study: int = 0
    units: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Question:
    """A question answered by a key; n and Esc always mean no."""

    text: str
    answers: tuple[tuple[str, Action], ...]


def ask_cancel(
    view: StudyView, study: int, units: Sequence[UnitStatus] | None = None, listed: Sequence[UnitStatus] = ()
) -> Question | str:
    """Return the question to ask before canceling units, or why there is nothing to cancel.

    Args:
        study: its index.
        units: the selected units; None: the whole study.
        listed: units that can be canceled all together instead.
    """
    now, name = view.now, view.project.study.name
    if now is None:
        return UNKNOWN
    hit = _cancelable(now.units if units is None else units)
    if units is None:
        if not (hit or now.continued or now.former or now.submitting):
            return f"no job of {name} is queued or running: nothing to cancel"
        what = [_jobs(hit)] if hit else []
        what += ["its keeper"] if now.continued else []
        what += [f"the submit of {now.submitting.who}"] if now.submitting else []
        what += [f"{count(len(now.former), 'job')} of units that it no longer has"] if now.former else []
        return _question(
            f"Cancel the study {name}: {', '.join(what)}?", ("y", "yes", Action("cancel", study))
        )
    every = _cancelable(listed)
    if not hit and not every:
        return "neither queued nor running: nothing to cancel"
    answers = [("y", "yes", Action("cancel", study, _ids(hit)))] if hit else []
    if len(every) > len(hit):
        answers.append(("a", f"all listed, {_jobs(every)}", Action("cancel", study, _ids(every))))
    return _question(f"Cancel {_jobs(hit)} of {name}?" if hit else "Cancel?", *answers)


def ask_submit(view: StudyView, study: int) -> Question | str:
    """Return the question to ask before resubmitting a study, or why it is not submitted."""
    name = view.project.study.name
    if view.now is None:
        return UNKNOWN
    if running := view.now.submitting:
        return f"{name} is being submitted already, by {running.who}"
    if view.project.cluster.backend == "local":
        submit = command(view.project.root, "submit")
        return f"a study on this machine runs in the foreground; in another terminal: {submit}"
    what = reconcile(view.now)
    if what.nothing:
        return f"nothing to submit: {what.done} done, {len(what.active)} queued or running"
    jobs = sum(seen.unit.resources.workers for seen in what.submit)
    text = f"Submit {name}: {count(jobs, 'job')} for {_units(what.submit)}" if jobs else f"Submit {name}"
    text += f", cancel {len(what.withdraw)} that would wait forever" if what.withdraw else ""
    text += f", set aside {count(len(what.outdated), 'outdated result')}" if what.outdated else ""
    return _question(f"{text}?", ("y", "yes", Action("submit", study)))


def _question(text: str, *answers: tuple[str, str, Action]) -> Question:
    keys = ", ".join(f"{key}: {words}" for key, words, _ in answers)
    return Question(f"{text}\n{keys}, n: no", tuple((key, action) for key, _, action in answers))


def _cancelable(units: Sequence[UnitStatus]) -> list[UnitStatus]:
    """Return the units that `sor cancel` would end."""
    return [seen for seen in units if seen.live is not None or seen.unconfirmed]


def _ids(units: Sequence[UnitStatus]) -> tuple[str, ...]:
    return tuple(seen.unit.id for seen in units)


def _jobs(units: Sequence[UnitStatus]) -> str:
    jobs = sum(max(1, len(seen.live.jobs)) if seen.live else 1 for seen in units)
    return f"{count(jobs, 'job')} of {_units(units)}"


def _units(units: Sequence[UnitStatus]) -> str:
    names = ", ".join(f"{seen.unit.stage} {seen.unit.name}" for seen in units[:NAMED])
    more = f" and {len(units) - NAMED} more" if len(units) > NAMED else ""
    return f"{count(len(units), 'unit')} ({names}{more})" if units else "no unit"
