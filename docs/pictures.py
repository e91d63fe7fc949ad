"""Makes the README's pictures of the monitor (`make pictures`): runs the demo, and looks at it half done."""

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
from launch.monitor.app import boards
from launch.monitor.data.study_view import Sight
from launch.monitor.data.unit_files import read_story
from launch.monitor.frame import Inside, frame
from launch.monitor.poller import Watcher
from launch.monitor.screen import LOG_LINES, Page, Screen, settled
from launch.state.states import State
from launch.state.status import Seen
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
            watcher = Watcher([project], 1.0, boards([project]))
            while not (half := halfway(watcher.sights()[0])):
                assert run.poll() is None, "the demo ended before it was half done"
                watcher.changed.wait()
                watcher.changed.clear()
            sight, unit = half
            watcher.close()
            draw(Screen(), sight, Inside(), OVERVIEW, HERE / "monitor.svg")
            log = tuple(words_of(unit, LOG_LINES) or ())
            inside = Inside(unit.unit.id, log, read_story(unit, project.cluster.gpu))
            screen = settled(Screen(page=Page.UNIT, unit=unit.unit.id), [sight])
            draw(screen, sight, inside, UNIT, HERE / "unit.svg")
        finally:
            run.terminate()
            run.wait()


def halfway(sight: Sight) -> tuple[Sight, Seen] | None:
    """Once most students are trained, and another one is half trained: that one, with the sight of it."""
    students = [seen for seen in sight.now.units if seen.unit.stage == "train"] if sight.now else []
    done = sum(seen.state == State.DONE for seen in students)
    far = [
        s for s in students if s.state == State.RUNNING and (p := s.progress) and 2 * p["done"] > p["total"]
    ]
    return (sight, far[0]) if far and 2 * done > len(students) else None


def draw(screen: Screen, sight: Sight, inside: Inside, size: tuple[int, int], file: Path) -> None:
    """Write a screen of the monitor as an SVG."""

    def console(record: bool) -> Console:
        return Console(
            file=io.StringIO(), width=size[0], height=size[1], force_terminal=True,
            color_system="truecolor", legacy_windows=False, record=record,
        )  # fmt: skip

    picture = console(record=True)
    picture.print(Text.from_ansi("\n".join(frame(screen, [sight], inside, console(record=False)))))
    file.write_text(FONTS.sub("", picture.export_svg(title="sor monitor")), encoding="utf-8")


if __name__ == "__main__":
    main()
