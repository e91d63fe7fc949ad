"""One round of a keeper: what `sor submit` would do now, on the study as its user last submitted it.

The keeper job and `sor keep` share it. It makes no decisions for the user: canceled units and removed results
stay so, and failed units are restarted only if that may help, a few times.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs.core.plain import PlainConsole
from jobs.core.secrets import SecretsError
from jobs.core.unit import Unit
from jobs.store.clock import ahead
from jobs.store.rundir import Damaged, StudyDir, read_json
from jobs.store.schema import HANDED_OVER
from launch.slurm.parse import Refused
from launch.state.command_line import command
from launch.state.exit_code import hopeless, may_help
from launch.state.reconcile import Difference, reconcile
from launch.state.states import State
from launch.state.status import StudyStatus, UnitStatus
from launch.study.presets import StudyError
from launch.study_run import Project, reopen_project
from launch.submit import trust
from launch.submit.array_jobs import submit_arrays
from launch.submit.arrays import Array
from launch.submit.bad_nodes import Verdict, verdict
from launch.submit.limits import Refusal
from launch.submit.next_keeper import digest, waits_for_room
from launch.submit.steps import WITHDRAWN, arrays, settled, withdraw

BUDGET = 3  # attempts per unit since the user submitted, including that one
ALL_DONE = "all submitted units are done"
# Refusals that end when jobs of the user have ended: of Slurm's controller, and of TACC's filter.
FULL = re.compile(r"MaxSubmit|max job limits|too many (simultaneous )?jobs", re.IGNORECASE)


class Over(RuntimeError):
    """No further round would submit anything; the message says why.

    Attributes:
        done: whether that is because all submitted units are done.
    """

    @property
    def done(self) -> bool:
        return self.args == (ALL_DONE,)


@dataclass(frozen=True)
class Round:
    """What one round found and did.

    Args:
        project: the study as last submitted.
        now, nodes: its state before anything was submitted, and the nodes that are avoided.
        everything: the difference, including what needs a decision by the user.
        withdrawn: units whose jobs were canceled, since these would have waited forever.
        submitted: the arrays that Slurm accepted, with their ids.
        held: units that were not submitted, with the reasons.
        refused: why Slurm refused an array, after which none was submitted.
    """

    project: Project
    now: StudyStatus
    nodes: Verdict
    everything: Difference
    withdrawn: Sequence[Unit]
    submitted: Sequence[tuple[str, Array]]
    held: Sequence[tuple[Unit, str]]
    refused: str | None

    @property
    def room(self) -> bool:
        """Whether units were held only until other jobs end."""
        return waits_for_room(self.held)

    @property
    def full(self) -> bool:
        """Whether Slurm refused an array only until other jobs end."""
        return self.refused is not None and FULL.search(self.refused) is not None

    @property
    def over(self) -> str | None:
        """Why nothing is queued or running, and no further round would change that; None otherwise."""
        if self.submitted or self.everything.active or self.room:
            return None
        return self.refused or _why_over(self.now, self.everything, self.held)


def take_round(
    root: StudyDir,
    code: Path,
    fence: Callable[[], None],
    report: Callable[[str, Array], None],
    opened: Callable[[StudyDir], Project] = reopen_project,
) -> Round:
    """Submit what is missing and needs no decision by the user. The caller holds the study's lock.

    Args:
        code: the snapshot of the code that jobs run.
        fence: of that lock.
        report: called with each array that Slurm has accepted, after its job id.
        opened: returns the study as its user last submitted it.

    Raises:
        Over: nothing can be submitted without the user.
        Lost: `fence` found that another process holds the lock.
        SlurmUnavailable: Slurm does not answer.
    """
    with giving_up():
        trust.check(root)
        last = last_submission(root)
        project = replace(opened(root), fence=fence)
        if digest(project.units) != last["units"]:
            again = command(root, "submit")
            raise Over(f"the study's files have changed since. To continue with them: {again}")
        now = settled(project, PlainConsole(width=200))
        everything = reconcile(now, last["only"])
        nodes, started = verdict(project), project.ledger.attempts_since(last["time"] - ahead(root.path))
        wanted = helpful(everything, last["asked"], nodes.units, started)
        planned = arrays(project, now, wanted)
        withdrawn = withdraw(project, wanted.withdraw, "withdrawn", WITHDRAWN)
        submitted, refused = list[tuple[str, Array]](), None

        def accepted(id: str, array: Array) -> None:
            submitted.append((id, array))
            report(id, array)

        try:
            submit_arrays(planned.arrays, project, code, nodes.names, accepted)
        except Refused as error:
            refused = f"Slurm refused a submission: {error}"
    return Round(project, now, nodes, everything, withdrawn, submitted, planned.held, refused)


@contextmanager
def giving_up() -> Iterator[None]:
    """Raise `Over` for errors that every further round would meet, too."""
    try:
        yield
    except (StudyError, Refusal, SecretsError, Damaged) as error:
        raise Over(str(error)) from error


def last_submission(root: StudyDir) -> dict[str, Any]:
    """Return what a person asked for when the study was last submitted; see `next_keeper.record`.

    Raises:
        Over: it was never submitted, or was canceled since.
    """
    try:
        last: dict[str, Any] = read_json(root.submitted, HANDED_OVER)
    except FileNotFoundError:
        words = "the study was never submitted to Slurm, or was canceled. To submit it"
        raise Over(f"{words}: {command(root, 'submit')}") from None
    return last


def helpful(
    difference: Difference, asked: Collection[str], unlucky: Collection[str], started: Counter[str]
) -> Difference:
    """Return the part of a difference that needs no decision by the user.

    Args:
        asked: ids of the units that the user submitted; there may have been no room for all of them.
        unlucky: ids of the units that failed on a node that is avoided now.
        started: attempts at each unit since the user submitted.
    """
    submit, left_out, stuck = list[UnitStatus](), set[str](), set[str]()
    for seen in difference.submit:
        id, needs = seen.unit.id, {i.id for i in seen.unit.inputs}
        if hopeless(seen) or needs & stuck:  # their jobs stay, since the limit may be raised
            stuck.add(id)
        first = id in asked and not started[id]
        again = started[id] < BUDGET and (id in unlucky or may_help(seen))
        if (first or again) and not needs & left_out and id not in stuck:
            submit.append(seen)
        else:
            left_out.add(id)
    withdraw = tuple(seen for seen in difference.withdraw if seen.unit.id not in stuck)
    return replace(difference, submit=tuple(submit), outdated=(), withdraw=withdraw)


def _why_over(now: StudyStatus, everything: Difference, held: Sequence[tuple[Unit, str]]) -> str:
    """Return why nothing is queued or running and no keeper follows."""
    if everything.damaged:
        first = everything.damaged[0]
        return f"damaged: {first.unit.stage} {first.unit.name}: {first.reason}"
    if not everything.submit:
        return ALL_DONE
    failed = now.of(State.FAILED)
    if failed:
        more = f", and {len(failed) - 1} more" if len(failed) > 1 else ""
        first = failed[0]
        return f"failed units are not retried: {first.unit.stage} {first.unit.name}: {first.reason}{more}"
    again = command(now.root, "submit")
    return held[0][1] if held else f"the rest was canceled, or its result removed. To submit it: {again}"
