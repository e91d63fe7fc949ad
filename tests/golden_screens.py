"""The screens that tests/golden holds: pages of the monitor, and what commands print, of made-up studies.

As a program (`make golden`), this file draws them again, and writes the scripts of golden_scripts.py.
"""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from functools import cache
from pathlib import Path
from unittest import mock

import made_status as made
from golden_scripts import write_all
from made_results import nine_students
from made_status import NOW

from analysis.report import Report, analyse, print_report
from jobs.core.causes import Cause, Run
from jobs.core.plain import ESCAPES, PlainConsole
from launch.monitor.data.study_view import StudyView
from launch.monitor.data.unit_files import Story, read_story
from launch.monitor.frame import Inside, frame
from launch.monitor.screen import LOG_LINES, Screen, press, settled
from launch.state.command_line import note_typed
from launch.state.lock import Held
from launch.state.log_files import last_words, words_of
from launch.state.reconcile import reconcile
from launch.state.status import UnitStatus
from launch.views import difference_view, plan_view, status_view

GOLDEN = Path(__file__).parent / "golden"
SIZES = ((60, 24), (80, 24), (120, 40), (200, 60))
PAGES = {  # the monitor's, and the keys that lead there
    "overview": "",
    "units": "enter",
    "training": "/ 3b-r50 enter enter",
    "loading": "/ 3b-r0.math-open enter enter",
    "failed": "enter enter",
    "queued": "/ 7b-r25 enter enter",
    "calm": "",
    "late": "",
    "help": "?",
    "cancel": "c",
    "several": "j",
    "submitting": "u",
}
NAMED = ("enter",)  # the words above that are not typed letter by letter
PRINTED = ("plan", "submit", "status", "report")
NAMES = [f"{page}-{width}x{height}" for page in PAGES for width, height in SIZES]
NAMES += [f"{page}-{width}" for page in PRINTED for width, _ in SIZES]
LOSSES = [2.0 / (1 + step / 8) + 0.03 * (step % 3) for step in range(60)]
RUNS = (Run(Cause.PREEMPTED, "was preempted", 900, 1, 1, 0, 0, 5400.0, 90_000, 155_648, "g3", NOW - 9000),)


Made = Mapping[bool, StudyView]  # with and without a submit in progress


@contextmanager
def drawing(folder: Path) -> Iterator[Made]:
    """A study in the middle of its run, at a fixed time and place."""
    where = {"TZ": "UTC", "SOR_RUNS": str(folder / "runs")}  # so that commands need not name it
    stopped = (
        mock.patch("time.time", return_value=NOW + 12),
        mock.patch("jobs.store.clock._ask", return_value=0.0),
    )
    with mock.patch.dict(os.environ, where), stopped[0], stopped[1]:
        time.tzset()
        note_typed(made.paper(folder).root, "scale-or-reason", None)
        view = made.in_the_middle(folder)
        assert view.now
        held = Held(NOW, "ada on login1 (process 4711)")
        yield {False: view, True: made.view(view.project, view.now.units, submitting=held)}
    time.tzset()


def drawn(name: str, made: Made) -> str:
    """Return a screen as text, without colors."""
    page, _, size = name.rpartition("-")
    width, _, height = size.partition("x")
    if page in PRINTED:
        return printed(page, int(width), made[False])
    views = _views(page, made)
    screen = settled(Screen(width=int(width), height=int(height)), views)
    for word in PAGES[page].split():
        for key in [word] if word in NAMED else word:
            screen, _ = press(screen, key, views)
    file = io.StringIO()
    console = PlainConsole(
        file=file, force_terminal=True, width=int(width), height=int(height), legacy_windows=False
    )
    rows = frame(screen, views, _inside(screen.seen(), page), console)
    return "".join(f"{ESCAPES.sub('', row).rstrip()}\n" for row in rows)


def _views(page: str, made: Made) -> list[StudyView]:
    view = made[page == "submitting"]
    assert view.summary
    if page == "several":
        return [view, replace(view, now=None, summary=None, taken=0.0, asked=NOW)]
    if page == "calm":
        return [replace(view, summary=replace(view.summary, problems=(), lively=[]))]
    if page == "late":
        trouble = "'squeue' got no answer within 30 s"
        return [replace(view, taken=NOW - 600, asked=NOW - 20, trouble=trouble)]
    return [view]


def _inside(seen: UnitStatus | None, page: str) -> Inside:
    """What the monitor would read of the unit; of the training, what its made-up files do not hold."""
    if seen is None:
        return Inside()
    if page == "training":
        log = tuple(f"step {step:,} of 4,000, loss {loss:.3f}" for step, loss in enumerate(LOSSES))
        return Inside(seen.unit.id, log, Story(RUNS, LOSSES, [1e5, 123456.0], 0.41))
    return Inside(seen.unit.id, tuple(words_of(seen, LOG_LINES) or ()), read_story(seen, "h100"))


def printed(command: str, width: int, view: StudyView) -> str:
    """Return what a command prints into a terminal of this width."""
    assert view.now
    file = io.StringIO()
    if command == "report":
        with redirect_stdout(file), mock.patch.dict(os.environ, {"COLUMNS": str(width)}):
            print_report(_report())
    else:
        shown = {
            "plan": lambda now: plan_view(replace(now, units=now.units[:40])),
            "submit": lambda now: difference_view(reconcile(now), "roihu"),
            "status": lambda now: status_view(now, last_words(now)),
        }[command](view.now)
        PlainConsole(file=file, width=width).print(shown, crop=False)
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())


@cache
def _report() -> Report:
    """The report of three sizes and mixtures on two benchmarks."""
    with tempfile.TemporaryDirectory() as folder:
        nine_students(Path(folder))
        return replace(analyse(folder), page=Path("runs/mine/report/latest/report.html"))


def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    for file in GOLDEN.glob("*.txt"):
        file.unlink()
    with tempfile.TemporaryDirectory() as folder, drawing(Path(folder)) as view:
        for name in NAMES:
            (GOLDEN / f"{name}.txt").write_text(drawn(name, view), encoding="utf-8")
    what = f"{len(NAMES)} screens, and the scripts of {write_all()} profiles,"
    print(f"{what} are in {GOLDEN}: git diff shows what has changed")


if __name__ == "__main__":
    main()
