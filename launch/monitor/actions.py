"""What is asked before anything is done to a study, or why nothing is. Pure.

The questions say what is known now; what is done follows from another look (app.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from launch.monitor.data.study_view import Sight
from launch.state.reconcile import reconcile
from launch.state.status import Seen

NAMED = 4  # units that a question names
UNKNOWN = "nothing is known of the study yet"


@dataclass(frozen=True)
class Action:
    """What a person wants to have done.

    Args:
        units: ids of those it is about; None: the study.
    """

    kind: Literal["quit", "look", "cancel", "submit"]
    study: int = 0
    units: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Question:
    """A question that waits for one of some keys; n and Esc always mean no."""

    text: str
    answers: tuple[tuple[str, Action], ...]


def ask_cancel(
    sight: Sight, study: int, units: Sequence[Seen] | None = None, listed: Sequence[Seen] = ()
) -> Question | str:
    """The question before units are cancelled, or why there is nothing to cancel.

    Args:
        study: its number.
        units: those that are selected; None: the study.
        listed: those that can be cancelled all together instead.
    """
    now, name = sight.now, sight.project.study.name
    if now is None:
        return UNKNOWN
    hit = _in_hand(now.units if units is None else units)
    if units is None:
        if not (hit or now.kept or now.former):
            return f"nothing of {name} is running: nothing to cancel"
        what = [_jobs(hit)] if hit else []
        what += ["its keeper"] if now.kept else []
        what += [f"{count(len(now.former), 'job')} of units that it no longer has"] if now.former else []
        return _question(
            f"Cancel the study {name}: {', '.join(what)}?", ("y", "yes", Action("cancel", study))
        )
    every = _in_hand(listed)
    if not hit and not every:
        return "no job has it in hand: nothing to cancel"
    answers = [("y", "yes", Action("cancel", study, _ids(hit)))] if hit else []
    if len(every) > len(hit):
        answers.append(("a", f"all that are listed, {_jobs(every)}", Action("cancel", study, _ids(every))))
    return _question(f"Cancel {_jobs(hit)} of {name}?" if hit else "Cancel?", *answers)


def ask_submit(sight: Sight, study: int) -> Question | str:
    """The question before a study is submitted again, or why it is not."""
    name = sight.project.study.name
    if sight.project.cluster.backend == "local":
        return f"type 'sor submit {name}' in another terminal: here it runs in the foreground"
    if sight.now is None:
        return UNKNOWN
    what = reconcile(sight.now)
    if what.nothing:
        return f"nothing to submit: {what.done} done, {len(what.active)} in hand"
    jobs = sum(seen.unit.resources.workers for seen in what.submit)
    text = f"Submit {name}: {count(jobs, 'job')} for {_units(what.submit)}" if jobs else f"Submit {name}"
    text += f", withdraw {len(what.withdraw)} that wait in vain" if what.withdraw else ""
    text += f", set aside {count(len(what.outdated), 'outdated result')}" if what.outdated else ""
    return _question(f"{text}?", ("y", "yes", Action("submit", study)))


def _question(text: str, *answers: tuple[str, str, Action]) -> Question:
    keys = ", ".join(f"{key}: {words}" for key, words, _ in answers)
    return Question(f"{text}\n{keys}, n: no", tuple((key, action) for key, _, action in answers))


def _in_hand(units: Sequence[Seen]) -> list[Seen]:
    """Those that `sor cancel` would end."""
    return [seen for seen in units if seen.live is not None or seen.unheard]


def _ids(units: Sequence[Seen]) -> tuple[str, ...]:
    return tuple(seen.unit.id for seen in units)


def _jobs(units: Sequence[Seen]) -> str:
    jobs = sum(max(1, len(seen.live.jobs)) if seen.live else 1 for seen in units)
    return f"{count(jobs, 'job')} of {_units(units)}"


def _units(units: Sequence[Seen]) -> str:
    names = ", ".join(f"{seen.unit.stage} {seen.unit.name}" for seen in units[:NAMED])
    more = f" and {len(units) - NAMED} more" if len(units) > NAMED else ""
    return f"{count(len(units), 'unit')} ({names}{more})" if units else "no unit"


def count(number: int, word: str) -> str:
    """A number and what is counted: 1 job, 2 jobs."""
    return f"{number:,} {word}{'s' * (number != 1)}"
