"""Make the README's pictures (`make pictures`) from one run of the demo: the monitor when most students are
trained, then the report. Needs Chromium for the picture of the report's page.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

from launch.monitor.app import summaries
from launch.monitor.data.study_view import StudyView
from launch.monitor.data.unit_files import read_story
from launch.monitor.frame import Inside, frame
from launch.monitor.poller import Poller
from launch.monitor.screen import LOG_LINES, Page, Screen, settled
from launch.state.log_files import words_of
from launch.state.states import State
from launch.state.status import UnitStatus
from launch.study_run import open_project

HERE = Path(__file__).parent
SOR = Path(sys.executable).with_name("sor")
OVERVIEW, UNIT, WIDE = (100, 24), (100, 30), (200, 50)  # cells
PAGE = "1100,1000"  # pixels
BROWSERS = "chromium", "chromium-browser", "google-chrome"
FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)  # which rich would have fetched from elsewhere


def main(runs: Path) -> None:
    """Run the demo, which must be new to the run folder, and draw it."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"the report's picture needs a browser: none of {', '.join(BROWSERS)} is installed")
    if (runs / "demo").exists():
        sys.exit(f"{runs / 'demo'} exists, and pictures are made while the demo runs: move it away")
    run = subprocess.Popen([SOR, "submit", "demo", "--yes", "--runs", runs], stdout=subprocess.DEVNULL)
    try:
        draw_monitor(run, runs)
        if run.wait():
            sys.exit(f"the demo failed: sor status demo --runs {runs}")
    finally:
        run.terminate()
        run.wait()
    subprocess.run([SOR, "report", "demo", "--runs", runs], check=True, stdout=subprocess.DEVNULL)
    draw_report(browser, runs / "demo/report/latest")


def draw_monitor(run: subprocess.Popen[bytes], runs: Path) -> None:
    """Draw the overview and the page of a student, once most students are trained."""
    project = open_project("demo", "local", runs)
    poller = Poller([project], 1.0, summaries([project]))
    while not (half := halfway(poller.views()[0])):
        assert run.poll() is None, "the demo ended before it was half done"
        poller.changed.wait()
        poller.changed.clear()
    view, unit = half
    poller.close()
    draw(Screen(), view, Inside(), OVERVIEW, HERE / "monitor.svg")
    log = tuple(words_of(unit, LOG_LINES) or ())
    inside = Inside(unit.unit.id, log, read_story(unit, project.cluster.gpu))
    screen = settled(Screen(page=Page.UNIT, unit=unit.unit.id), [view])
    draw(screen, view, inside, UNIT, HERE / "unit.svg")
    units = settled(Screen(page=Page.UNITS, unit=unit.unit.id), [view])
    draw(units, view, inside, WIDE, HERE / "monitor-wide.svg")


def halfway(view: StudyView) -> tuple[StudyView, UnitStatus] | None:
    """Return the study and a half-trained student, once most students are trained; before that, None."""
    students = [seen for seen in view.now.units if seen.unit.stage == "train"] if view.now else []
    done = sum(seen.state == State.DONE for seen in students)
    far = [
        s for s in students if s.state == State.RUNNING and (p := s.progress) and 2 * p["done"] > p["total"]
    ]
    return (view, far[0]) if far and 2 * done > len(students) else None


def draw(screen: Screen, view: StudyView, inside: Inside, size: tuple[int, int], file: Path) -> None:
    """Write a screen of the monitor as an SVG."""

    def console(record: bool) -> Console:
        return Console(
            file=io.StringIO(), width=size[0], height=size[1], force_terminal=True,
            color_system="truecolor", legacy_windows=False, record=record,
        )  # fmt: skip

    picture = console(record=True)
    picture.print(Text.from_ansi("\n".join(frame(screen, [view], inside, console(record=False)))))
    file.write_text(FONTS.sub("", picture.export_svg(title="sor monitor")), encoding="utf-8")


def draw_report(browser: str, report: Path) -> None:
    """Copy the report's figure, and photograph the top of its page."""
    shutil.copy(report / "frontier-training-benchmarks.png", HERE / "frontier.png")
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
             f"--user-data-dir={profile}", f"--window-size={PAGE}", f"--screenshot={HERE / 'report.png'}",
             (report / "report.html").resolve().as_uri()],
            check=True, timeout=120, capture_output=True,
        )  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]))
