"""Run a study on this machine and show how it goes: a live view in a terminal, lines where there is none."""

from __future__ import annotations

import os
import signal
import threading
import time

from rich.console import Console
from rich.live import Live

from launch.foreground import Event, Foreground
from launch.here import visible_gpus
from launch.local import Local
from launch.logs import logs_of
from launch.observe import Snapshot
from launch.project import Project
from launch.reconcile import Difference
from launch.show import event_line, live_view

FRAMES = 0.5  # seconds between two looks at the progress files for the live view


def run_here(console: Console, project: Project, now: Snapshot, difference: Difference) -> int:
    """Run a difference to its end; returns the exit code."""
    assert isinstance(project.backend, Local)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell has it ignored
    live = Live(console=console, auto_refresh=False, transient=True)
    units, drawn = [s.unit for s in now.units], 0.0

    def tell(event: Event) -> None:
        live.console.print(time.strftime("%H:%M:%S "), event_line(event), sep="")

    def draw() -> None:
        nonlocal drawn
        if console.is_terminal and time.monotonic() - drawn > FRAMES:
            drawn = time.monotonic()
            live.update(live_view(units, run.done, run.running), refresh=True)

    cores = len(os.sched_getaffinity(0))
    run = Foreground(project.backend, project.ledger, cores, visible_gpus(), tell, draw)
    try:
        with live:
            run.run(now, difference)
    except KeyboardInterrupt:
        hurried = threading.Event()
        signal.signal(signal.SIGINT, lambda *_: hurried.set())
        console.print("what runs saves what it has; Ctrl-C again does not wait for it")
        run.cancel(hurried)
        console.print("stopped; what was finished stays, and 'sor submit' goes on from there")
        return 130
    for seen in run.failures:
        failed = f"{seen.unit.stage} {seen.unit.name}: {seen.reason}"
        console.print(f"\nfailed: {failed}", style="red", soft_wrap=True)
        for log in logs_of(seen, project.root)[:1]:
            console.print(f"  log: {log}", soft_wrap=True)
    if run.failures:
        blocked = f", {len(run.blocked)} left out because of that" if run.blocked else ""
        console.print(f"\n{len(run.failures)} failed{blocked}; 'sor submit' tries again")
        return 1
    console.print(f"all done: {project.root.path}", soft_wrap=True)
    return 0
