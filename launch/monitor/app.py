"""The monitor's event loop: redraws when something changes, and sleeps otherwise.

The loop blocks on the terminal only: Slurm and files are read in threads (poller.py, background.py).
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import replace

from jobs.core.causes import named
from jobs.core.plain import PlainConsole, printable, say
from jobs.core.wording import count
from launch.commands.output import is_terminal
from launch.monitor.actions import carry_out
from launch.monitor.background import BackgroundCall
from launch.monitor.data.summary import Summary, summarize
from launch.monitor.data.unit_files import UnitFiles, read_story
from launch.monitor.frame import Inside, frame, scrolled
from launch.monitor.mouse import click
from launch.monitor.poller import Poller, WorkOut
from launch.monitor.questions import Action
from launch.monitor.screen import LOG_LINES, Page, Screen, press, settled
from launch.monitor.terminal import ENDS, Click, Gone, Key, Terminal
from launch.monitor.views.overview import overview
from launch.notify.hook import Notifier
from launch.state.log_files import words_of
from launch.state.status import StudyStatus, UnitStatus
from launch.study_run import Project
from launch.submit.bad_nodes import Verdict

PULSE = 10.0  # seconds between redraws when idle, to update the ages shown
LOG_PULSE = 1.0  # seconds between refreshes of the log on display
WIDE, LONG = 200, 50  # columns and rows of output to a file
DOING = {"cancel": "canceling", "submit": "submitting"}


def monitor(projects: Sequence[Project], interval: float | None, once: bool, said: Sequence[str] = ()) -> int:
    """Show studies full screen until the user quits, and return the exit code.

    Args:
        interval: seconds between polls; None: 5, or 30 with Slurm.
        once: print the studies once instead; implied without a capable terminal.
        said: messages to show first.
    """
    full = is_terminal(sys.stdin) and is_terminal(sys.stdout) and not PlainConsole().is_dumb_terminal
    poller, stray = Poller(projects, interval, summaries(projects)), io.StringIO()
    try:
        if once or not full:
            for line in said:
                say(f"sor: {line}", error=True)
            return _print(poller)
        # Errors printed by threads must not end up on the screen.
        with (
            redirect_stderr(stray),
            Terminal(sys.stdin.fileno(), sys.stdout.fileno(), sys.stdout.encoding) as terminal,
        ):
            app = App(projects, poller, terminal, "\n".join(said))
            code = app.run()
    except Gone:
        return 128 + signal.SIGHUP
    finally:
        poller.close()
        sys.stderr.write(printable(stray.getvalue()))
    return code or app.finish()


def summaries(projects: Sequence[Project]) -> WorkOut:
    """Return a function that summarizes these studies, and caches data from their units' files."""
    known = {project.root.path: UnitFiles(project.root) for project in projects}

    def work_out(
        project: Project, now: StudyStatus, nodes: Verdict, before: Summary | None, at: float
    ) -> Summary:
        if before and before.outline.units is not project.units:  # the study was edited
            known[project.root.path] = UnitFiles(project.root)
        facts = known[project.root.path]
        facts.update(now)
        return summarize(project, now, nodes, facts, before, at)

    return work_out


def _print(poller: Poller) -> int:
    """Print the studies after polling each once."""
    while not all(view.now or view.trouble for view in poller.views()):
        poller.changed.wait()
        poller.changed.clear()
    console, views = PlainConsole(highlight=False), poller.views()
    if not console.is_terminal:
        console.height = LONG
        console.width = console.width if "COLUMNS" in os.environ else WIDE
    for number in range(len(views)):
        console.print(overview(views[number : number + 1], 0, console.width, console.height - 1))
    return 0 if all(view.now for view in views) else 1


class App:
    """The interactive monitor: its state and its event loop.

    Raises:
        SecretsError: the secrets file, which may hold the notification hook, cannot be used.
    """

    def __init__(
        self, projects: Sequence[Project], poller: Poller, terminal: Terminal, message: str = ""
    ) -> None:
        self._projects, self._poller, self._terminal = projects, poller, terminal
        self._opened = time.time()
        self._stream = sys.stdout  # for its encoding; actions redirect sys.stdout
        self._screen = Screen(message=message)
        self._doing = BackgroundCall[str](terminal.wake)
        self._reading = BackgroundCall[Inside](terminal.wake)
        self._inside = Inside()
        self._complaints = deque[str]()
        self._notifiers = [Notifier(project.root, self._complaints.append) for project in projects]
        self._reported = [0.0 for _ in projects]  # time of the status last passed to each notifier
        self._changed = True  # since the last frame
        self._drawn = self._read = 0.0  # by time.monotonic()

    def run(self) -> int:
        """Run until the user quits or a signal ends the program.

        Returns:
            0 if the user quit, else 128 + the signal's number.

        Raises:
            Gone: the terminal was closed.
        """
        threading.Thread(target=self._forward, daemon=True).start()
        while True:
            if self._changed or time.monotonic() - self._drawn >= PULSE:
                self._draw()
            self._read_unit()
            followed = self._open and self._screen.follow
            keys, signals = self._terminal.wait(min(self._pulse, PULSE) if followed else PULSE)
            if ended := signals & ENDS:
                return 128 + min(ended)
            self._changed |= bool(keys or signals)
            if signals & {signal.SIGWINCH, signal.SIGCONT}:
                self._terminal.clear()
            if signal.SIGTSTP in signals:
                self._terminal.suspend()
            self._collect()
            for key in keys:
                asked = self._screen.question
                if self._press(key):
                    return 0
                if self._screen.question and not asked:
                    break  # keys typed before the question was shown must not answer it

    def finish(self) -> int:
        """Wait for a running action once the terminal is restored, and return the exit code."""
        if self._doing.busy:
            print(f"{self._screen.busy} …", file=self._stream, flush=True)
            print(self._doing.take(wait=True), file=self._stream)
        for notifier in self._notifiers:
            notifier.close()
        return 0

    @property
    def _open(self) -> UnitStatus | None:
        """The unit whose page is shown, if any."""
        screen = self._screen
        return screen.seen() if screen.page == Page.UNIT or screen.beside else None

    @property
    def _pulse(self) -> float:
        """Seconds between rereads of the unit that is shown: its page follows the log, a table the polls."""
        if self._screen.page == Page.UNIT:
            return LOG_PULSE
        return max(PULSE, self._poller.views()[self._screen.study].interval)

    def _forward(self) -> None:
        """Send notifications and wake the loop after each poll."""
        while self._poller.changed.wait():
            self._poller.changed.clear()
            self._report()
            self._changed = True
            self._terminal.wake()

    def _report(self) -> None:
        """Pass each new status to the notifiers, and report a long silence."""
        views = self._poller.views()
        for number, view in enumerate(views):
            if view.now and view.taken != self._reported[number]:
                self._reported[number] = view.taken
                self._notifiers[number].report(view.now, view.nodes)
        if silent := next((view for view in views if view.trouble), None):  # outages usually hit all
            self._notifiers[0].silent(silent.taken or self._opened)

    def _draw(self) -> None:
        self._changed, self._drawn = False, time.monotonic()
        views = self._poller.views()
        width, height = self._terminal.size
        screen = settled(replace(self._screen, width=width, height=height), views)
        inside = self._inside if screen.unit == self._inside.unit else Inside()
        self._screen = scrolled(replace(screen, back=min(screen.back, len(inside.log))), views)
        console = PlainConsole(
            file=self._stream, force_terminal=True, width=width, height=height, legacy_windows=False
        )
        self._terminal.show(frame(self._screen, views, inside, console))

    def _read_unit(self) -> None:
        """Reread the open unit's files while its log is followed."""
        seen, gpu = self._open, self._projects[self._screen.study].cluster.gpu
        if seen is None or self._reading.busy:
            return
        due = self._screen.follow and time.monotonic() - self._read >= self._pulse
        if due or seen.unit.id != self._inside.unit:
            self._read = time.monotonic()
            self._reading.start(lambda: _read(seen, gpu))

    def _press(self, key: Key) -> bool:
        """Handle a key or a click, and return whether to quit."""
        if key in ("ctrl-z", "ctrl-l"):
            if key == "ctrl-z":
                self._terminal.suspend()
            else:
                self._terminal.clear()
            return False
        views = self._poller.views()
        if isinstance(key, Click):
            self._screen, action = click(self._screen, key, views)
        else:
            self._screen, action = press(self._screen, key, views)
        if action is None:
            return False
        if action.kind == "refresh":
            self._poller.poll_now()
        elif action.kind in DOING:
            self._do(action)
        return action.kind == "quit"

    def _do(self, action: Action) -> None:
        project = self._poller.views()[action.study].project
        what = f"{count(len(action.units), 'unit')} of " if action.units else ""
        self._screen = replace(self._screen, busy=f"{DOING[action.kind]} {what}{project.study.name}")
        self._doing.start(lambda: carry_out(action, project, self._opened))

    def _collect(self) -> None:
        """Collect the results of background actions and reads."""
        if (read := self._reading.take()) is not None:
            self._changed |= read != self._inside
            self._inside = read
        if self._complaints:
            self._changed = True
            self._screen = replace(self._screen, message=self._complaints.popleft())
        if (said := self._doing.take()) is not None:
            self._changed = True
            self._screen = replace(self._screen, busy="", message=said)
            self._poller.poll_now()


def _read(seen: UnitStatus, gpu: str) -> Inside:
    """Read the end of a unit's log and its other files."""
    try:
        return Inside(seen.unit.id, tuple(words_of(seen, LOG_LINES) or ()), read_story(seen, gpu))
    except Exception as error:  # a unit's files must not crash the monitor
        return Inside(seen.unit.id, (f"its files cannot be read: {named(error)}",))
