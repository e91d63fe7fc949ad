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
from launch.monitor.actions import Action, count
from launch.monitor.background import Errand
from launch.monitor.data.summary import Board, make_board
from launch.monitor.data.unit_files import Facts, read_story
from launch.monitor.deeds import carry_out
from launch.monitor.frame import Inside, frame
from launch.monitor.poller import Watcher, WorkOut
from launch.monitor.screen import LOG_LINES, Page, Screen, press, settled
from launch.monitor.terminal import ENDS, Gone, Terminal
from launch.monitor.views.overview import overview
from launch.notify.hook import Notifier
from launch.state.log_files import words_of
from launch.state.status import Seen, Snapshot
from launch.study_run import Project
from launch.submit.bad_nodes import Verdict

PULSE = 10.0  # seconds between redraws when idle, to update the ages shown
LOG_PULSE = 1.0  # seconds between refreshes of the log on display
WIDE, LONG = 200, 50  # columns and rows of output to a file
DOING = {"cancel": "cancelling", "submit": "submitting"}


def monitor(projects: Sequence[Project], interval: float | None, once: bool, said: Sequence[str] = ()) -> int:
    """Show studies full screen until the user quits, and return the exit code.

    Args:
        interval: seconds between polls; None: 5, or 30 with Slurm.
        once: print the studies once instead; implied without a capable terminal.
        said: messages to show first.
    """
    full = sys.stdin.isatty() and sys.stdout.isatty() and not PlainConsole().is_dumb_terminal
    watcher, stray = Watcher(projects, interval, boards(projects)), io.StringIO()
    try:
        if once or not full:
            for line in said:
                say(f"sor: {line}", error=True)
            return _print(watcher)
        # Errors printed by threads must not end up on the screen.
        with (
            redirect_stderr(stray),
            Terminal(sys.stdin.fileno(), sys.stdout.fileno(), sys.stdout.encoding) as terminal,
        ):
            app = App(projects, watcher, terminal, "\n".join(said))
            code = app.run()
    except Gone:
        return 128 + signal.SIGHUP
    finally:
        watcher.close()
        sys.stderr.write(printable(stray.getvalue()))
    return code or app.finish()


def boards(projects: Sequence[Project]) -> WorkOut:
    """Return a function that builds the boards of these studies, and caches data from their units' files."""
    known = {project.root.path: Facts(project.root) for project in projects}

    def work_out(project: Project, now: Snapshot, nodes: Verdict, before: Board | None, at: float) -> Board:
        if before and before.outline.units is not project.units:  # the study was edited
            known[project.root.path] = Facts(project.root)
        facts = known[project.root.path]
        facts.update(now)
        return make_board(project, now, nodes, facts, before, at)

    return work_out


def _print(watcher: Watcher) -> int:
    """Print the studies after polling each once."""
    while not all(sight.now or sight.trouble for sight in watcher.sights()):
        watcher.changed.wait()
        watcher.changed.clear()
    console, sights = PlainConsole(highlight=False), watcher.sights()
    if not console.is_terminal:
        console.height = LONG
        console.width = console.width if "COLUMNS" in os.environ else WIDE
    for number in range(len(sights)):
        console.print(overview(sights[number : number + 1], 0, console.width, console.height - 1))
    return 0 if all(sight.now for sight in sights) else 1


class App:
    """The interactive monitor: its state and its event loop.

    Raises:
        SecretsError: the secrets file, which may hold the notification hook, cannot be used.
    """

    def __init__(
        self, projects: Sequence[Project], watcher: Watcher, terminal: Terminal, message: str = ""
    ) -> None:
        self._projects, self._watcher, self._terminal = projects, watcher, terminal
        self._opened = time.time()
        self._stream = sys.stdout  # for its encoding; actions redirect sys.stdout
        self._screen = Screen(message=message)
        self._doing = Errand[str](terminal.wake)
        self._reading = Errand[Inside](terminal.wake)
        self._inside = Inside()
        self._complaints = deque[str]()
        self._notifiers = [Notifier(project.root, self._complaints.append) for project in projects]
        self._told = [0.0 for _ in projects]  # time of the snapshot last passed to each notifier
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
            self._look_inside()
            keys, signals = self._terminal.wait(LOG_PULSE if self._open and self._screen.follow else PULSE)
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
    def _open(self) -> Seen | None:
        """The unit whose page is open, if any."""
        return self._screen.seen() if self._screen.page == Page.UNIT else None

    def _forward(self) -> None:
        """Send notifications and wake the loop after each poll."""
        while self._watcher.changed.wait():
            self._watcher.changed.clear()
            self._tell()
            self._changed = True
            self._terminal.wake()

    def _tell(self) -> None:
        """Pass new snapshots to the notifiers, and report a long silence."""
        sights = self._watcher.sights()
        for number, sight in enumerate(sights):
            if sight.now and sight.taken != self._told[number]:
                self._told[number] = sight.taken
                self._notifiers[number].tell(sight.now, sight.nodes)
        if silent := next((sight for sight in sights if sight.trouble), None):  # outages usually hit all
            self._notifiers[0].silent(silent.taken or self._opened)

    def _draw(self) -> None:
        self._changed, self._drawn = False, time.monotonic()
        sights = self._watcher.sights()
        width, height = self._terminal.size
        screen = settled(replace(self._screen, height=height), sights)
        inside = self._inside if screen.page == Page.UNIT and screen.unit == self._inside.unit else Inside()
        self._screen = replace(screen, back=min(screen.back, len(inside.log)))
        console = PlainConsole(
            file=self._stream, force_terminal=True, width=width, height=height, legacy_windows=False
        )
        self._terminal.show(frame(self._screen, sights, inside, console))

    def _look_inside(self) -> None:
        """Reread the open unit's files, once a second while its log is followed."""
        seen, gpu = self._open, self._projects[self._screen.study].cluster.gpu
        if seen is None or self._reading.busy:
            return
        due = self._screen.follow and time.monotonic() - self._read >= LOG_PULSE
        if due or seen.unit.id != self._inside.unit:
            self._read = time.monotonic()
            self._reading.start(lambda: _read(seen, gpu))

    def _press(self, key: str) -> bool:
        """Handle a key, and return whether to quit."""
        if key == "ctrl-z":
            self._terminal.suspend()
        if key == "ctrl-l":
            self._terminal.clear()
        self._screen, action = press(self._screen, key, self._watcher.sights())
        if action is None:
            return False
        if action.kind == "look":
            self._watcher.look_now()
        elif action.kind in DOING:
            self._do(action)
        return action.kind == "quit"

    def _do(self, action: Action) -> None:
        project = self._watcher.sights()[action.study].project
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
            self._watcher.look_now()


def _read(seen: Seen, gpu: str) -> Inside:
    """Read the end of a unit's log and its other files."""
    try:
        return Inside(seen.unit.id, tuple(words_of(seen, LOG_LINES) or ()), read_story(seen, gpu))
    except Exception as error:  # a unit's files must not crash the monitor
        return Inside(seen.unit.id, (f"its files cannot be read: {named(error)}",))
