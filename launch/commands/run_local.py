"""Run a study on this machine and show its progress: a live view in a terminal, plain lines elsewhere."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live

from jobs.core.wording import count
from launch.local.backend import Local
from launch.local.machine import visible_gpus
from launch.local.scheduler import Event, Foreground
from launch.local.stopping import Stopped, Stopping, mute
from launch.state.command_line import command
from launch.state.lock import Lost
from launch.state.log_files import logs_of
from launch.state.reconcile import Difference
from launch.state.status import StudyStatus
from launch.study_run import Project
from launch.views import event_line, live_view

FRAMES = 0.5  # seconds between reads of the progress files for the live view


def run_here(
    console: Console, project: Project, now: StudyStatus, difference: Difference, stopping: Stopping
) -> int:
    """Run a difference to its end or until a signal, and return the exit code.

    Raises:
        Lost: another process took over, or canceled the study.
    """
    assert isinstance(project.backend, Local)
    live = Live(console=console, auto_refresh=False, transient=True)
    units, drawn = [s.unit for s in now.units], 0.0

    def report(event: Event) -> None:
        with _printing():
            live.console.print(time.strftime("%H:%M:%S "), event_line(event), sep="")

    def draw() -> None:
        nonlocal drawn
        if console.is_terminal and time.monotonic() - drawn > FRAMES:
            drawn = time.monotonic()
            with _printing():
                live.update(live_view(units, run.done, run.running), refresh=True)

    cores = len(os.sched_getaffinity(0))
    run = Foreground(project.backend, project.ledger, cores, visible_gpus(), report, draw)
    try:
        with live:
            run.run(now, difference)
    except Stopped as stopped:
        _say(console, "stopping: running units save their work; Ctrl-C again does not wait for that")
        run.cancel(stopping.hurried)
        _say(console, f"stopped; finished work is kept. To continue: {command(project.root, 'submit')}")
        return 128 + stopped.number
    except Lost:
        run.leave(stopping.hurried)
        raise
    for seen in run.failures:
        failed = f"{seen.unit.stage} {seen.unit.name}: {seen.reason}"
        console.print(f"\nfailed: {failed}", style="red", soft_wrap=True)
        for log in logs_of(seen, project.root)[:1]:
            console.print(f"  log: {log}", soft_wrap=True)
    if run.failures:
        blocked = f", {len(run.blocked)} blocked by that" if run.blocked else ""
        again = command(project.root, "submit")
        console.print(f"\n{len(run.failures)} failed{blocked}. To retry: {again}", soft_wrap=True)
        return 1
    left = len({unit.id for unit in units} - run.done)
    if left:
        again = command(project.root, "submit")
        console.print(f"done, {count(left, 'unit')} left. To continue: {again}", soft_wrap=True)
    else:
        report_command = command(project.root, "report")
        console.print(f"all done: {project.root.path}. Its report: {report_command}", soft_wrap=True)
    return 0


@contextmanager
def _printing() -> Iterator[None]:
    """Treat a closed terminal or a broken pipe as a hangup (SIGHUP)."""
    try:
        yield
    except (OSError, SystemExit) as error:  # rich exits on a broken pipe
        if isinstance(error, OSError) and error.errno not in (errno.EIO, errno.EPIPE):
            raise
        mute()
        raise Stopped(signal.SIGHUP) from error


def _say(console: Console, words: str) -> None:
    """Print, ignoring a closed terminal or pipe: jobs must be asked to save all the same."""
    try:
        console.print(words, soft_wrap=True)
    except (OSError, SystemExit):
        mute()
