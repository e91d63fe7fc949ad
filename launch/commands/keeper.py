"""The keeper: a job that does what `sor submit` would do now, on the study as the user last submitted it.

What it submits is decided in rounds.py. It submits the next keeper as long as units are queued or running, or
wait for room; then it records why it is the last one.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from jobs.core.plain import say
from jobs.core.secrets import load_secrets
from jobs.core.trust import private_umask
from jobs.store.rundir import Damaged, StudyDir
from launch.notify.hook import Notifier
from launch.slurm.backend import Slurm
from launch.slurm.client import SlurmClient
from launch.slurm.parse import Refused
from launch.state.errors import SlurmUnavailable
from launch.state.ledger import KEEPER, Attempt, Ledger, unfenced
from launch.state.lock import Lock, Locked
from launch.state.status import NEVER, Keeper, StudyStatus
from launch.study.presets import StudyError
from launch.study_run import reopen_project
from launch.submit.array_jobs import in_words
from launch.submit.bad_nodes import Verdict, verdict
from launch.submit.code_snapshot import snapshot
from launch.submit.next_keeper import in_queue, submit_next
from launch.submit.rounds import Over, giving_up, take_round

PAUSE = 10.0  # seconds before Slurm or the lock is tried again


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
        print(f"the next keeper is job {_continue(root, fence)}")
    except Over as over:
        ledger.ended("over", [(KEEPER, attempt.number, str(over))])
        say(f"no further keeper: {over}")


def _continue(root: StudyDir, fence: Callable[[], None]) -> str:
    """Submit missing units and the next keeper, and return the id of its job. Raises what `keep` does.

    Raises:
        Over: no keeper follows.
    """
    with giving_up():
        code = snapshot(root, keeper=True)
        found = take_round(root, code, fence, lambda id, array: print(f"submitted {in_words(array)}: {id}"))
        if found.refused:
            say(found.refused)
        if found.over:
            raise Over(found.over)
        keeper = found.now.keeper
        assert keeper is not None
        live = in_queue(found.everything, found.submitted)
        return submit_next(
            found.project, keeper.attempt.number + 1, live, code, found.room, found.nodes.names
        )


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


if __name__ == "__main__":
    main()
