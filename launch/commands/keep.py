"""`sor keep`: the keeper as a loop on a login node, where jobs may not submit jobs or few may be queued.

Each round does what the keeper's job does (rounds.py) and holds the study's lock for no longer than that, so
that the loop can be killed at any line and started again. Its own lock keeps a second one away.
"""

from __future__ import annotations

import shutil
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from jobs.core.plain import plain, say
from jobs.core.wording import count
from jobs.store.rundir import Damaged, StudyDir
from launch.commands.output import is_terminal
from launch.fileerrors import REASONS
from launch.local.stopping import Stopped, Stopping
from launch.notify.hook import Notifier
from launch.slurm.backend import Slurm
from launch.slurm.hourly import HourlyClient
from launch.slurm.parse import NotSetUp
from launch.state.backend import LiveJobs
from launch.state.command_line import command
from launch.state.errors import SlurmUnavailable
from launch.state.ledger import KEEPER
from launch.state.lock import Lock, Locked
from launch.state.states import State
from launch.study.cluster import Cluster
from launch.study.presets import StudyError
from launch.study_run import Project, reopen_project
from launch.submit import trust
from launch.submit.array_jobs import in_words
from launch.submit.arrays import Array
from launch.submit.bad_nodes import verdict
from launch.submit.code_snapshot import snapshot
from launch.submit.limits import Refusal
from launch.submit.rounds import Over, Round, last_submission, take_round

LEAST = 30.0  # seconds between rounds, each of which calls squeue
LONGEST = 600.0  # seconds between attempts while Slurm does not answer
BUSY = "this study is being continued", "One 'sor keep' is enough: end that process to start another one"


def keep(project: Project, every: float) -> int:
    """Continue a study until its submitted units are done, nothing more can be submitted, or a signal comes.

    Args:
        every: seconds between rounds.

    Returns:
        The exit code: 0 if all submitted units are done, 1 if a person has to do something, 128 and the
        signal's number after a signal.

    Raises:
        Refusal: the study runs on this machine, was never submitted, or a keeper's job continues it.
        Locked: another `sor keep` continues it; `Lost`, if that one took over.
        NotSetUp: there is no Slurm here.
    """
    _refuse(project)
    root, lines = project.root, Lines()
    again = command(root, "keep")
    try:
        with Stopping(), Lock(root.keep_lock, busy=BUSY) as lock:
            if lock.took_over:
                lines.add(f"continues after {lock.took_over}, which is no longer alive")
            rounds = _Rounds(root, snapshot(root), every, lines)
            while True:
                lock.check()
                time.sleep(rounds.take())
    except Over as over:
        lines.add(str(over) if over.done else f"nothing more can be submitted: {over}")
        _notify(root)
        return 0 if over.done else 1
    except Stopped as stopped:
        lines.add(f"stopped; jobs that are queued or running continue. To continue submitting: {again}")
        return 128 + stopped.number


class Lines:
    """Lines with the time of day; in a terminal, the last one can be temporary."""

    def __init__(self) -> None:
        self._terminal = is_terminal(sys.stdout)
        self._shown = 0  # characters of the temporary line

    def add(self, words: str) -> None:
        """Print a line."""
        self.clear()
        say(f"{time.strftime('%H:%M:%S')} {words}")

    def show(self, words: str) -> None:
        """Print a line that the next one replaces, where there is a terminal."""
        self.clear()
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            line = plain(f"{time.strftime('%H:%M:%S')} {words}")[:width]
            self._shown = len(line)
            print(line, end="", flush=True)

    def clear(self) -> None:
        """Remove the temporary line."""
        if self._shown:
            print(f"\r{' ' * self._shown}\r", end="", flush=True)
            self._shown = 0


class _Rounds:
    """The rounds of one `sor keep`.

    Args:
        code: the snapshot of this code, which jobs run even if the checkout changes meanwhile.
        every: seconds between rounds.

    Raises:
        SecretsError: the secrets file, which may hold the hook, cannot be used.
    """

    def __init__(self, root: StudyDir, code: Path, every: float, lines: Lines) -> None:
        self._root, self._code, self._every, self._lines = root, code, every, lines
        self._notifier = Notifier(root, lines.add)
        self._backend: Slurm | None = None  # remembers what accounting has said
        self._did = list[str]()  # in this round
        self._before = ""  # where the study stood at the last round
        self._answered: float | None = None  # when Slurm last did
        self._silent = 0  # rounds in a row without an answer

    def take(self) -> float:
        """Take one round, and return the seconds until the next one.

        Raises:
            Over: no further round would submit anything.
            NotSetUp: there is no Slurm here, and never was.
        """
        self._lines.clear()
        try:
            with Lock(self._root.lock) as lock:
                found = take_round(self._root, self._code, lock.check, self._report, self._opened)
        except Locked as error:
            self._add(str(error))
            return min(self._every, LEAST)
        except (SlurmUnavailable, OSError) as error:
            return self._wait(error)
        self._answered, self._silent = time.time(), 0
        self._notifier.report(found.now, found.nodes)
        self._tell(found)
        if found.refused and self._backend and isinstance(self._backend.client, HourlyClient):
            self._backend.client.forget()
        self._stop(found)
        return self._every

    def _report(self, id: str, array: Array) -> None:
        self._did.append(f"submitted {in_words(array)}: {id}")

    def _opened(self, root: StudyDir) -> Project:
        """Return the study as last submitted, with the backend of earlier rounds and no keeper's job."""
        project = reopen_project(root)
        assert isinstance(project.backend, Slurm)
        slurm_cluster = project.backend.client.cluster
        if self._backend is None or self._backend.client.cluster != slurm_cluster:
            self._backend = Slurm(HourlyClient(slurm_cluster))
        return replace(project, backend=self._backend, cluster=_without_keeper(project.cluster))

    def _wait(self, error: SlurmUnavailable | OSError) -> float:
        """Return how long to wait after a round without an answer; errors that would stay are raised."""
        if isinstance(error, NotSetUp) and self._answered is None:
            raise error
        if isinstance(error, OSError) and error.errno in REASONS:
            raise error
        if self._answered:
            self._notifier.silent(self._answered)
        pause = min(self._every * 2.0**self._silent, max(self._every, LONGEST))
        words = f"{error} The next round is in {pause:.0f} s"
        if self._silent and not self._did:
            self._lines.show(words)
        else:
            self._add(words)
        self._silent += 1
        return pause

    def _tell(self, found: Round) -> None:
        """Print what a round did and where the study stands, if that is new."""
        if found.withdrawn:
            names = ", ".join(f"{unit.stage} {unit.name}" for unit in found.withdrawn)
            self._did.append(f"canceled what would have waited forever: {names}")
        if found.refused:
            self._did.append(found.refused)
        stands = _stands(found)
        if self._did or stands != self._before:
            self._add(stands)
        else:
            then = time.strftime("%H:%M:%S", time.localtime(time.time() + self._every))
            self._lines.show(f"nothing new: {stands}; the next round is at {then}")
        self._before = stands

    def _add(self, words: str) -> None:
        """Print a line with what this round has done so far."""
        self._lines.add("; ".join([*self._did, words]))
        self._did.clear()

    def _stop(self, found: Round) -> None:
        """Raise `Over` if no further round is needed."""
        why = found.over
        if found.now.kept is not None:
            why = f"the keeper's job {_job(found.now.kept)} continues this study"
        if why and not (found.full and why == found.refused):
            self._notifier.close()  # the last message comes after those before it
            raise Over(why)


def _refuse(project: Project) -> None:
    """Refuse a study that there is nothing to continue of, or that a keeper's job continues.

    Raises:
        Refusal: it is one of these.
    """
    root = project.root
    if project.cluster.backend == "local":
        submit = command(root, "submit", "--cluster", "NAME")
        raise Refusal(
            "'sor keep' continues studies on Slurm, and on this machine 'sor submit' itself runs a study to "
            f"its end: to run it on Slurm, submit it there first: {submit}"
        )
    try:
        source = last_submission(root)["source"]
    except Over as over:
        raise Refusal(str(over)) from over
    if source != project.cluster.source:
        here = command(root, "submit")
        raise Refusal(f"the study was last submitted with --cluster {source}. To submit it here: {here}")
    trust.check(root)
    keeper = project.ledger.attempts().get(KEEPER)
    if keeper and keeper.ended is None and (kept := project.poll().kept):
        raise Refusal(
            f"the keeper's job {_job(kept)} continues this study, so that 'sor keep' is not "
            "needed. To use it instead: remove 'slurm.keeper' from the cluster file, then "
            f"{command(root, 'submit')}, which ends that job"
        )


def _job(kept: LiveJobs) -> str:
    """Return the id of a keeper's job, or what is known instead."""
    return str(kept.jobs[0].id) if kept.jobs else "that is being submitted"


def _without_keeper(cluster: Cluster) -> Cluster:
    """Return a cluster without keeper jobs, for which limits would keep a place free."""
    return cluster.model_copy(update={"slurm": cluster.slurm.model_copy(update={"keeper": None})})


def _stands(found: Round) -> str:
    """Return where a study stands after a round, in words."""
    new = {element.unit.id for _, array in found.submitted for element in array.elements}
    failed = sum(seen.unit.id not in new for seen in found.now.of(State.FAILED))
    live, total = len(found.everything.active) + len(new), len(found.now.units)
    parts = [f"{found.everything.done} of {count(total, 'unit')} done", f"{live} queued or running"]
    parts += [f"{failed} failed"] if failed else []
    rest = total - found.everything.done - live - failed
    parts += [f"{rest} not submitted"] if rest else []
    return ", ".join(parts)


def _notify(root: StudyDir) -> None:
    """Send the last news to the user's hook, if there is one."""
    notifier = Notifier(root, say)
    if not notifier.on:
        return
    with suppress(StudyError, Damaged, SlurmUnavailable, FileNotFoundError):  # why the rounds are over
        project = reopen_project(root)
        notifier.report(project.poll(), verdict(project))
        notifier.close()
