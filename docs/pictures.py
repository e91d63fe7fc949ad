"""Make the README's pictures of the monitor (`make pictures`) from a demo run that is half done."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

from launch.commands.logs import words_of
from launch.monitor.app import summaries
from launch.monitor.data.study_view import StudyView
from launch.monitor.data.unit_files import read_story
from launch.monitor.frame import Inside, frame
from launch.monitor.poller import Poller
from launch.monitor.screen import LOG_LINES, Page, Screen, settled
from launch.state.states import State
from launch.state.status import UnitStatus
from launch.study_run import open_project

HERE = Path(__file__).parent
SOR = Path(sys.executable).with_name("sor")
OVERVIEW, UNIT = (100, 24), (100, 30)  # cells
FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)  # which rich would have fetched from elsewhere


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder, "runs")
        run = subprocess.Popen([SOR, "submit", "demo", "--yes", "--runs", runs], stdout=subprocess.DEVNULL)
        try:
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
        finally:
            run.terminate()
            run.wait()


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


if __name__ == "__main__":
    main()
