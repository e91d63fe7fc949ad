"""Run a study on this machine and show how it goes: a live view in a terminal, lines where there is none."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable

from rich.console import Console
from rich.live import Live

from jobs.rundir import StudyDir
from jobs.unit import Unit
from launch.foreground import Event, Foreground
from launch.local import Local, visible_gpus
from launch.observe import Snapshot
from launch.project import Project
from launch.reconcile import Difference
from launch.show import event_line, live_view
from launch.states import State

FRAMES = 0.5  # seconds between two looks at the progress files for the live view


def run_here(console: Console, project: Project, now: Snapshot, difference: Difference) -> int:
    """Run a difference to its end; returns the exit code."""
    assert isinstance(project.backend, Local)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job can be ended by it even if we are not
    done = {s.unit.id for s in now.of(State.DONE)}
    view = _View(console, [s.unit for s in now.units], done)
    cores = len(os.sched_getaffinity(0))
    run = Foreground(project.backend, project.ledger, cores, visible_gpus(), view.tell, view.tick)
    view.run = run
    try:
        with view.live:
            run.run(difference)
    except KeyboardInterrupt:
        console.print("stopped; what was finished stays, and 'sor submit' goes on from there")
        return 130
    _summary(console, run, project.root)
    return 1 if run.failures else 0


class _View:
    """The view of a run."""

    def __init__(self, console: Console, units: list[Unit], done: Iterable[str]) -> None:
        self.live = Live(console=console, auto_refresh=False, transient=True)
        self.run: Foreground | None = None
        self._console, self._units, self._done = console, units, set(done)
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
        unit, jobs = failure.seen.unit, failure.jobs
        logs = root.logs(jobs[0].submission, jobs[0].id) if jobs else []
        console.print(f"\nfailed: {unit.stage} {unit.name}: {failure.reason}", style="red", soft_wrap=True)
        if logs:
            console.print(f"  log: {logs[0]}", soft_wrap=True)
    if run.failures:
        blocked = f", {len(run.blocked)} left out because of that" if run.blocked else ""
        console.print(f"\n{len(run.failures)} failed{blocked}; 'sor submit' tries again")
    else:
        console.print(f"all done: {root.path}", soft_wrap=True)
