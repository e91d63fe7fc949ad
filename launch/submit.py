"""What `sor submit`, `sor cancel` and `sor status` do, between the command line and the pure parts."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.prompt import Confirm

from jobs.rundir import StudyDir, read_json, write_json
from jobs.unit import MODES, Unit
from launch.backends import Local, visible_gpus
from launch.cluster import load_cluster
from launch.estimate import Lengths
from launch.foreground import Event, Foreground
from launch.ledger import Ledger
from launch.lock import Lock, Locked
from launch.observe import Seen, Snapshot, observe
from launch.plan import plan
from launch.reconcile import Difference, reconcile
from launch.show import difference_view, event_line, live_view
from launch.states import State
from launch.study import load_study

FRAMES = 0.5  # seconds between two looks at the progress files for the live view


def look(study_name: str, cluster_name: str, runs: Path) -> Snapshot:
    """The study as it is now.

    Raises:
        StudyError: the study or the cluster has mistakes.
    """
    study, cluster = load_study(study_name), load_cluster(cluster_name)
    root = StudyDir(runs / study.name)
    units = plan(study, cluster)
    collate = next(u for u in units if u.stage == "collate")
    if root.unit(collate).done:  # real lengths make better estimates
        units = plan(study, cluster, measured(root.unit(collate).result, Lengths.expected(study)))
    return observe(units, root, Local())


def measured(result: Path, expected: Lengths) -> Lengths:
    """The counts and lengths that the collate stage found; prompts' lengths stay as expected."""
    found = read_json(result)
    if found["lengths_in"] != "tokens":
        return Lengths(found["prompts"], expected.prompt, expected.ift, expected.reasoning)
    means = {mode: round(found["lengths"][mode]["mean"]) for mode in MODES}
    return Lengths(found["prompts"], expected.prompt, **means)


def submit(
    study_name: str, cluster_name: str, runs: Path, *, yes: bool, dry_run: bool, only: str | None
) -> int:
    """Reconcile a study; returns the exit code."""
    console = Console()
    now = look(study_name, cluster_name, runs)
    difference = reconcile(now, only)
    console.print(difference_view(difference))
    if difference.nothing and not difference.active:
        console.print("nothing to do")
        return 0
    if dry_run or not (yes or _agreed(console)):
        return 0
    try:
        with Lock(now.root.lock) as lock:
            if lock.took_over:
                console.print(
                    f"took over the lock of {lock.took_over}: it is not alive any more", style="yellow"
                )
            now = look(study_name, cluster_name, runs)  # it may have changed while a person thought
            write_json(now.root.study, load_study(study_name).model_dump(mode="json"))
            return _run(console, now, reconcile(now, only))
    except Locked as error:
        console.print(f"sor: {error}", style="red")
        return 1


def _agreed(console: Console) -> bool:
    if not sys.stdin.isatty():
        console.print("not a terminal, so nobody to ask: 'sor submit --yes' does it")
        return False
    return Confirm.ask("Do it?", console=console)


def _run(console: Console, now: Snapshot, difference: Difference) -> int:
    ledger = Ledger(now.root.ledger)
    for seen in difference.outdated:
        set_aside(seen, ledger)
    done = {s.unit.id for s in now.of(State.DONE)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job can be ended by it even if we are not
    view = _View(console, [s.unit for s in now.units], done)
    run = Foreground(Local(), ledger, len(os.sched_getaffinity(0)), visible_gpus(), view.tell, view.tick)
    view.run = run
    try:
        with view.live:
            run.run(difference)
    except KeyboardInterrupt:
        console.print("stopped; what was finished stays, and 'sor submit' goes on from there")
        return 130
    _summary(console, run, now.root)
    return 1 if run.failures else 0


def set_aside(seen: Seen, ledger: Ledger) -> None:
    """Keep a result that was made from inputs which are made again, under another name."""
    number = seen.attempt.number if seen.attempt else 0
    aside = seen.folder.superseded(number)
    aside.mkdir(exist_ok=True)
    for part in (seen.folder.work, seen.folder.out):
        if part.exists():
            os.rename(part, aside / part.name)
    if seen.attempt:
        ledger.outdated(seen.unit, number)


class _View:
    """The live view of a run in a terminal; lines where there is none."""

    def __init__(self, console: Console, units: list[Unit], done: set[str]) -> None:
        self.live = Live(console=console, auto_refresh=False, transient=True)
        self.run: Foreground | None = None
        self._console, self._units, self._done = console, units, done
        self._drawn = 0.0

    def tell(self, event: Event) -> None:
        if event.kind == "done":
            self._done.add(event.unit.id)
        clock = time.strftime("%H:%M:%S ")
        self.live.console.print(clock, event_line(event), sep="")

    def tick(self) -> None:
        if self._console.is_terminal and self.run and time.monotonic() - self._drawn > FRAMES:
            self._drawn = time.monotonic()
            self.live.update(live_view(self._units, self._done, self.run.running), refresh=True)


def _summary(console: Console, run: Foreground, root: StudyDir) -> None:
    for failure in run.failures:
        unit = failure.seen.unit
        logs = failure.seen.folder.last_log()
        console.print(f"\nfailed: {unit.stage} {unit.name}: {failure.reason}", style="red", soft_wrap=True)
        if logs:
            console.print(f"  log: {logs[0]}", soft_wrap=True)
    if run.failures:
        blocked = f", {len(run.blocked)} left out because of that" if run.blocked else ""
        console.print(f"\n{len(run.failures)} failed{blocked}; 'sor submit' tries again")
    else:
        console.print(f"all done: {root.path}", soft_wrap=True)


def cancel_units(root: StudyDir, units: list[Seen]) -> list[str]:
    """End the jobs of these units; returns the names of those that had any."""
    backend, ledger, ended = Local(), Ledger(root.ledger), []
    for seen in units:
        if seen.attempt is None or backend.state(seen.attempt, seen.folder) is None:
            continue
        ledger.cancelled(seen.unit, seen.attempt.number)  # first, so that a waiting submit finds out why
        for job in seen.attempt.jobs:
            backend.cancel(job, seen.folder)
        ended.append(f"{seen.unit.stage} {seen.unit.name}")
    return ended
