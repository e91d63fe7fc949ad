"""The keeper: a job that does what `sor submit` would do now, on the study as the user last submitted it.

It makes no decisions for the user: canceled units and removed results stay so, and failed units are restarted
only if that may help, a few times. It submits the next keeper as long as units are queued or running, or wait
for room; then it records why it is the last one.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs.core.plain import PlainConsole, say
from jobs.core.secrets import SecretsError, load_secrets
from jobs.core.trust import private_umask
from jobs.core.unit import Unit
from jobs.store.clock import ahead
from jobs.store.rundir import Damaged, StudyDir, read_json
from jobs.store.schema import HANDED_OVER
from launch.notify.hook import Notifier
from launch.slurm.backend import Slurm
from launch.slurm.client import SlurmClient
from launch.slurm.parse import Refused
from launch.state.command_line import command
from launch.state.errors import SlurmUnavailable
from launch.state.exit_code import hopeless, may_help
from launch.state.ledger import KEEPER, Attempt, Ledger, unfenced
from launch.state.lock import Lock, Locked
from launch.state.reconcile import Difference, reconcile
from launch.state.states import State
from launch.state.status import NEVER, Keeper, StudyStatus, UnitStatus
from launch.study.presets import StudyError
from launch.study_run import reopen_project
from launch.submit import trust
from launch.submit.array_jobs import in_words, submit_arrays
from launch.submit.arrays import Array
from launch.submit.bad_nodes import Verdict, verdict
from launch.submit.code_snapshot import snapshot
from launch.submit.limits import Refusal
from launch.submit.next_keeper import digest, in_queue, submit_next, waits_for_room
from launch.submit.steps import WITHDRAWN, arrays, settled, withdraw

BUDGET = 3  # attempts per unit since the user submitted, including that one
PAUSE = 10.0  # seconds before Slurm or the lock is tried again
ALL_DONE = "all submitted units are done"


def main() -> None:
    """Run the keeper of the study whose submission is the first argument, within the time limit."""
    for name in ("PATH", "PYTHONPATH"):  # each job's shell extends and passes on what it got
        os.environ[name] = ":".join(dict.fromkeys(os.environ.get(name, "").split(":")))
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda *_: sys.exit(1))  # as Ctrl-C would: the lock is released
    private_umask()
    load_secrets()
    submission = Path(sys.argv[1])
    root = StudyDir(submission.parent.parent)
    while True:
        try:
            with Lock(root.lock) as lock:
                keep(root, submission.name, lock.check)
            notify(root)
            return
        except (SlurmUnavailable, Refused, Locked) as error:
            say(f"{error}\nretrying in {PAUSE:.0f} s")
            time.sleep(PAUSE)


def keep(root: StudyDir, name: str, fence: Callable[[], None] = unfenced) -> None:
    """Reconcile once and submit the next keeper, if `name` is the submission of the ledger's keeper.

    Raises:
        Lost: `fence` found that another process holds the lock.
        SlurmUnavailable: Slurm does not answer.
        Refused: Slurm rejected the next keeper.
    """
    ledger = Ledger(root.ledger, fence=fence)
    attempt = _last(ledger)
    if attempt.ended or attempt.jobs[0].submission != name:
        print("a newer keeper has replaced this one: nothing to do")
        return
    try:
        why = _reconcile(root, fence)
    except (StudyError, Refusal, SecretsError, Damaged) as error:
        why = str(error)
    if why is not None:
        ledger.ended("over", [(KEEPER, attempt.number, why)])
        say(f"no further keeper: {why}")


def notify(root: StudyDir) -> None:
    """Send news to the user's hook, if there is one: no other program may be watching."""
    notifier = Notifier(root, say)
    if not notifier.on:
        return
    try:
        project = reopen_project(root)
        now, nodes = project.poll(), verdict(project)
    except (StudyError, Damaged):  # the reason why the keeper gave up
        last = Ledger(root.ledger).attempts()[KEEPER]
        now, nodes = StudyStatus(root, (), keeper=Keeper(last, None)), Verdict()
    notifier.report(now, nodes)
    notifier.close()


def _last(ledger: Ledger) -> Attempt:
    """Return the last keeper that Slurm accepted.

    Raises:
        SlurmUnavailable: it is not known whether Slurm accepted one.
    """
    last = ledger.attempts()[KEEPER]
    if last.ended is None and last.jobs[0].id is None:
        client = SlurmClient(cluster=last.jobs[0].slurm_cluster)
        live = Slurm(client).live({KEEPER: last}).get(KEEPER)
        if live is None:
            ledger.ended("lost", [(KEEPER, last.number, NEVER)])
            return ledger.attempts()[KEEPER]
        if not live.jobs:
            raise SlurmUnavailable("it is not known yet whether Slurm accepted the next keeper")
    return last


def _reconcile(root: StudyDir, fence: Callable[[], None]) -> str | None:
    """Submit missing units and the next keeper.

    Returns:
        Why no keeper follows; None if one does.
    """
    trust.check(root)
    as_submitted: dict[str, Any] = read_json(root.submitted, HANDED_OVER)
    project = replace(reopen_project(root), fence=fence)
    if digest(project.units) != as_submitted["units"]:
        return f"the study's files have changed since. To continue with them: {command(root, 'submit')}"
    now = settled(project, PlainConsole(width=200))
    everything = reconcile(now, as_submitted["only"])
    nodes, started = verdict(project), project.ledger.attempts_since(as_submitted["time"] - ahead(root.path))
    wanted = helpful(everything, as_submitted["asked"], nodes.units, started)
    planned, code = arrays(project, now, wanted), snapshot(root, keeper=True)
    withdraw(project, wanted.withdraw, "withdrawn", WITHDRAWN)
    submitted, refused = list[tuple[str, Array]](), None

    def report(id: str, array: Array) -> None:
        submitted.append((id, array))
        print(f"submitted {in_words(array)}: {id}")

    try:
        submit_arrays(planned.arrays, project, code, nodes.names, report)
    except Refused as error:
        refused = f"Slurm refused a submission: {error}"
        say(str(refused))
    room = waits_for_room(planned.held)
    if not (submitted or everything.active or room):
        return refused or _why_over(now, everything, planned.held)
    assert now.keeper is not None
    number, live = now.keeper.attempt.number + 1, in_queue(everything, submitted)
    print(f"the next keeper is job {submit_next(project, number, live, code, room, nodes.names)}")
    return None


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
    if not everything.submit:
        return ALL_DONE
    failed = now.of(State.FAILED)
    if failed:
        more = f", and {len(failed) - 1} more" if len(failed) > 1 else ""
        first = failed[0]
        return f"failed units are not retried: {first.unit.stage} {first.unit.name}: {first.reason}{more}"
    again = command(now.root, "submit")
    return held[0][1] if held else f"the rest was canceled, or its result removed. To submit it: {again}"


if __name__ == "__main__":
    main()
