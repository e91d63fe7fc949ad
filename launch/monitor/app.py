"""The monitor's loop: it draws when something has changed, and sleeps until then.

Nothing is waited for here but the terminal: Slurm and files are asked in threads (poller.py, background.py).
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

PULSE = 10.0  # seconds between two frames when nothing happens: ages are shown
LOG_PULSE = 1.0  # seconds between two looks into the log that is shown
WIDE, LONG = 200, 50  # what is printed into a file
DOING = {"cancel": "cancelling", "submit": "submitting"}


def monitor(projects: Sequence[Project], interval: float | None, once: bool, said: Sequence[str] = ()) -> int:
    """Show studies on the whole screen until a person has seen enough; returns the exit code.

    Args:
        interval: seconds between two looks; None: 5, or 30 where Slurm is asked.
        once: print them once instead, as also where a terminal, or none, leaves no other way.
        said: what there is to say first.
    """
    full = sys.stdin.isatty() and sys.stdout.isatty() and not PlainConsole().is_dumb_terminal
    watcher, stray = Watcher(projects, interval, boards(projects)), io.StringIO()
    try:
        if once or not full:
            for line in said:
                say(f"sor: {line}", error=True)
            return _print(watcher)
        # What a thread may have to complain of is not for the screen.
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
    """What makes the boards of these studies, and remembers what the files of their units said."""
    known = {project.root.path: Facts(project.root) for project in projects}

    def work_out(project: Project, now: Snapshot, nodes: Verdict, before: Board | None, at: float) -> Board:
        if before and before.outline.units is not project.units:  # it was edited
            known[project.root.path] = Facts(project.root)
        facts = known[project.root.path]
        facts.update(now)
        return make_board(project, now, nodes, facts, before, at)

    return work_out


def _print(watcher: Watcher) -> int:
    """Print what is known after one look at each."""
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
    """One person at one terminal, looking at studies.

    Raises:
        SecretsError: the file of secrets, which may name whom to tell of news, cannot be used.
    """

    def __init__(
        self, projects: Sequence[Project], watcher: Watcher, terminal: Terminal, message: str = ""
    ) -> None:
        self._projects, self._watcher, self._terminal = projects, watcher, terminal
        self._opened = time.time()
        self._stream = sys.stdout  # for its encoding; what is done meanwhile prints elsewhere
        self._screen = Screen(message=message)
        self._doing = Errand[str](terminal.wake)
        self._reading = Errand[Inside](terminal.wake)
        self._inside = Inside()
        self._complaints = deque[str]()
        self._notifiers = [Notifier(project.root, self._complaints.append) for project in projects]
        self._told = [0.0 for _ in projects]  # which look at each its notifier knows
        self._changed = True  # since the last frame
        self._drawn = self._read = 0.0  # when, as time.monotonic tells

    def run(self) -> int:
        """Until a person quits, which is 0, or a signal ends it: 128 and its number.

        Raises:
            Gone: the terminal is no more.
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
                    break  # what was typed before the question could be read does not answer it

    def finish(self) -> int:
        """Wait for what is being done, now that the terminal is given back; returns the exit code."""
        if self._doing.busy:
            print(f"{self._screen.busy} …", file=self._stream, flush=True)
            print(self._doing.take(wait=True), file=self._stream)
        for notifier in self._notifiers:
            notifier.close()
        return 0

    @property
    def _open(self) -> Seen | None:
        """The unit that is open."""
        return self._screen.seen() if self._screen.page == Page.UNIT else None

    def _forward(self) -> None:
        """Tell of news, and wake the loop, after each look."""
        while self._watcher.changed.wait():
            self._watcher.changed.clear()
            self._tell()
            self._changed = True
            self._terminal.wake()

    def _tell(self) -> None:
        """Have it told what is new, or that nothing was heard for long."""
        sights = self._watcher.sights()
        for number, sight in enumerate(sights):
            if sight.now and sight.taken != self._told[number]:
                self._told[number] = sight.taken
                self._notifiers[number].tell(sight.now, sight.nodes)
        if silent := next((sight for sight in sights if sight.trouble), None):  # most often it is so of all
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
        """Have the unit that is open read again, once a second while it is followed."""
        seen, gpu = self._open, self._projects[self._screen.study].cluster.gpu
        if seen is None or self._reading.busy:
            return
        due = self._screen.follow and time.monotonic() - self._read >= LOG_PULSE
        if due or seen.unit.id != self._inside.unit:
            self._read = time.monotonic()
            self._reading.start(lambda: _read(seen, gpu))

    def _press(self, key: str) -> bool:
        """Have a key do what it does; returns whether it is to be the last one."""
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
        """Take what came of what was done, or was read, beside the loop."""
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
    """Read the end of a unit's log and what else its files say."""
    try:
        return Inside(seen.unit.id, tuple(words_of(seen, LOG_LINES) or ()), read_story(seen, gpu))
    except Exception as error:  # what one unit wrote must not end the monitor
        return Inside(seen.unit.id, (f"its files cannot be read: {named(error)}",))
