"""The pages of the monitor in terminals of all sizes, with color and without."""

from __future__ import annotations

import io
import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import made_status as made
import pytest
from made_status import HOUR, NOW
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.text import Text

from jobs.core.causes import Cause, Run
from jobs.core.plain import ESCAPES
from jobs.store.rundir import append_jsonl
from launch.monitor.data.eta import Span
from launch.monitor.data.problems import Problem
from launch.monitor.data.problems import problems as found_problems
from launch.monitor.data.students import Cell, Grid
from launch.monitor.data.study_view import StudyView
from launch.monitor.data.unit_files import Story, read_story
from launch.monitor.views import text
from launch.monitor.views.frontier import plot
from launch.monitor.views.overview import overview as first_page
from launch.monitor.views.unit import detail
from launch.monitor.views.unit_table import unit_table
from launch.state.ledger import Attempt, Job
from launch.state.lock import Held
from launch.state.states import State
from launch.state.status import Keeper, StudyStatus, UnitStatus
from launch.submit.bad_nodes import BadNode, Verdict
from launch.views import status_view

SIZES = [(80, 24), (120, 40), (200, 60), (40, 15), (100, 30), (20, 5)]


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pages say how old what they show is."""
    monkeypatch.setattr(time, "time", lambda: NOW + 12)


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> StudyView:
    return made.in_the_middle(tmp_path_factory.mktemp("study"))


def screen(
    shown: RenderableType, width: int, height: int, color: bool = False, ascii: bool = False
) -> list[str]:
    """The lines that a terminal of this size would show; they fit, and color changes none of them."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii" if ascii else "utf-8")
    Console(
        file=file, width=width, height=height, force_terminal=True, color_system="256" if color else None,
        legacy_windows=False,
    ).print(shown)  # fmt: skip
    file.flush()
    text = raw.getvalue().decode()
    assert color or "\x1b" not in text
    lines = ESCAPES.sub("", text).rstrip("\n").split("\n")
    assert len(lines) <= height
    assert all(cell_len(line) <= width for line in lines)
    return lines


def pages(view: StudyView) -> dict[str, Callable[[int, int], RenderableType]]:
    assert view.now is not None
    units = view.now.units
    busy, failed = (next(u for u in units if u.state == s) for s in (State.RUNNING, State.FAILED))
    run = Run(Cause.KILLED, "E: \x1b[31mx", 0, seconds=60.0, host="g1", ended=NOW)
    story = Story([run], [2.0, 1.0], [9e4, 1e5], 0.4)
    return {
        "overview": lambda w, h: first_page([view], 0, w, h),
        "several": lambda w, h: first_page([view] * 30, 17, w, h),
        "table": lambda w, h: unit_table(view, units, 40, w, h),
        "empty": lambda w, h: unit_table(view, [], 0, w, h),
        "detail": lambda w, h: detail(
            view, busy, ["a line \x1b]0;title\x07 of the log" * 9] * 99, w, h, story
        ),
        "failed": lambda w, h: detail(view, failed, [], w, h),
    }


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_every_page_fits_and_needs_no_color(view: StudyView, width: int, height: int) -> None:
    for page in pages(view).values():
        plain = screen(page(width, height), width, height)
        assert screen(page(width, height), width, height, color=True) == plain
        screen(page(width, height), width, height, ascii=True)


# --- problems


def problems(view: StudyView) -> Sequence[Problem]:
    assert view.summary is not None
    return view.summary.problems


def made_view(tmp_path: Path, states: list[State], **more: Any) -> StudyView:
    project = made.paper(tmp_path)
    states += [State.WAITING] * (len(project.units) - len(states))
    units = [made.seen(project.root, u, s) for u, s in zip(project.units, states, strict=True)]
    if vain := more.pop("vain", False):
        units[1] = units[1]._replace(in_vain=bool(vain))
    return made.view(project, units, **more)


def test_each_problem_has_a_command(tmp_path: Path, view: StudyView) -> None:
    bad = BadNode("g7", "gpu", ("x", "y", "z"), "CUDA error", NOW + HOUR)
    keeper = Keeper(Attempt(1, NOW - HOUR, "roihu", (Job("keep", "99", "login1"),)), None)
    former = (Job("old", "77", "login1"),)
    states = [State.DONE, State.QUEUED]
    nodes = Verdict(avoid=(bad,))
    found = problems(made_view(tmp_path, states, vain=True, nodes=nodes, keeper=keeper, former=former))
    titles = [problem.title for problem in found]
    assert [title.split()[0] for title in titles] == ["1", "node", "1", "no"]
    assert "behind jobs that failed: scale-or-reason" in titles[0]
    assert "g7 is avoided until" in titles[1]
    assert "no longer has: 77" in titles[2]
    assert "no keeper any more: job 99 is gone" in titles[3]
    for problem in (*found, *problems(view)):
        assert any("sor " in line or "sinfo" in line for line in problem.advice)


def test_only_a_log_that_exists_is_named(tmp_path: Path) -> None:
    project = made.paper(tmp_path)
    failed = made.seen(project.root, project.units[0], State.FAILED, reason="E: x")
    now = StudyStatus(project.root, (failed,))
    for said, named in (((), False), (("a line",), True)):
        [problem] = found_problems(now, Verdict(), [failed], {failed.unit.id: said})
        assert ("sor logs" in "\n".join(problem.advice)) == named
        shown = "\n".join(screen(status_view(now, {failed.unit.id: list(said)}), 200, 60))
        assert ("sor logs" in shown) == named


@pytest.mark.parametrize("submitting", [None, Held(NOW, "ada")])
def test_below_a_stalled_unit_stand_the_commands_that_restart_it(
    tmp_path: Path, submitting: Held | None
) -> None:
    project = made.paper(tmp_path)
    units = [made.seen(project.root, unit, State.DONE) for unit in project.units]
    stalled = made.seen(project.root, project.units[0], State.STALLED, reason="no heartbeat")
    now = StudyStatus(project.root, (stalled, *units[1:]), submitting=submitting)
    lines = screen(status_view(now), 250, 60)
    at = next(number for number, line in enumerate(lines) if line.startswith("stalled: "))
    root, later = project.root.path, ", once the submit in progress has ended" if submitting else ""
    assert lines[at + 1 : at + 4] == [
        f"  sor logs {root} {stalled.unit.id}",
        f"  to restart it: sor cancel {root} {stalled.unit.id}",
        f"  then{later}: sor submit {root}",
    ]
    assert f"next: sor monitor {root}" in lines


def test_a_study_that_nothing_works_on_says_so(tmp_path: Path) -> None:
    [problem] = problems(made_view(tmp_path / "idle", [State.DONE]))
    assert problem.title == "nothing is queued or running, and 128 units are not done"
    assert problems(made_view(tmp_path / "queued", [State.DONE, State.QUEUED])) == []
    held = Held(NOW, "ada on login1 (process 4711)")
    submitting = made_view(tmp_path / "submitting", [State.DONE], submitting=held)
    assert problems(submitting) == []
    text = "\n".join(screen(first_page([submitting], 0, 80, 24), 80, 24))
    assert "being submitted by ada on login1 (process 4711)" in text
    over = made_view(tmp_path / "over", [State.DONE] * 129)
    assert problems(over) == []
    assert "all done" in "\n".join(screen(first_page([over], 0, 80, 24), 80, 24))


@pytest.mark.parametrize("width", [60, 80, 200])
def test_stages_whose_time_is_unknown_are_named(view: StudyView, width: int) -> None:
    assert view.summary is not None
    unknown = replace(view, summary=replace(view.summary, unknown=("generate", "tokenize")))
    lines = screen(first_page([unknown], 0, width, 24), width, 24)
    parts = [part for line in lines[:6] for part in line.split("   ")]
    assert "time for generate, tokenize unknown" in parts
    assert parts[parts.index("time for generate, tokenize unknown") - 1].endswith(" left")
    several = screen(first_page([unknown] * 2, 0, width, 24), width, 24)
    assert " over " in several[0]


def test_too_many_problems_are_counted(tmp_path: Path) -> None:
    stalled = made_view(tmp_path, [State.DONE] * 8 + [State.STALLED] * 60)
    lines = screen(first_page([stalled], 0, 80, 24), 80, 24)
    assert any(re.fullmatch(r"! \d+ more need attention", line) for line in lines)
    assert any(line.startswith("evaluate") for line in lines)


# --- the table


def test_the_selected_unit_is_always_seen(view: StudyView) -> None:
    assert view.now is not None
    units = view.now.units
    for selected in (0, 1, 60, 127, 128):
        lines = screen(unit_table(view, units, selected, 80, 10), 80, 10)
        assert len(lines) == 10
        [marked] = [line for line in lines if line.startswith("> ")]
        assert marked.split()[1] == units[selected].state
        assert lines[-1].startswith(f"{units[selected].unit.stage} {units[selected].unit.name}: "[:79])


def test_a_table_of_very_many_units_draws_only_what_is_seen(view: StudyView) -> None:
    class Rows(list[UnitStatus]):
        """Counts what is taken."""

        taken = 0

        def __getitem__(self, key):  # type: ignore[no-untyped-def]
            found = super().__getitem__(key)
            self.taken += len(found) if isinstance(key, slice) else 1
            return found

    assert view.now is not None
    rows = Rows(list(view.now.units) * 400)
    assert len(rows) > 50_000
    screen(unit_table(view, rows, 30_000, 80, 24), 80, 24)
    assert rows.taken < 30


# --- one unit


def test_the_story_of_a_training_comes_from_its_own_files(tmp_path: Path) -> None:
    project = made.paper(tmp_path)
    unit = next(u for u in project.units if u.stage == "train")
    folder = project.root.unit(unit)
    folder.checkpoints.mkdir(parents=True)
    made.ended(project.root, unit, 60, "was preempted", cause="preempted")
    for run, losses in (("1.9", [9.0]), ("1.10", [2.0, 1.0])):
        for loss in losses:
            line = {"loss": loss, "tokens_per_second": 5e4, "flops": 10**15, "seconds": 10.0}
            append_jsonl(folder.checkpoints / f"metrics.jsonl.{run}.tmp", line)
    story = read_story(made.seen(project.root, unit, State.RUNNING), "h100")
    assert (list(story.losses), [run.cause for run in story.runs]) == ([2.0, 1.0], ["preempted"])
    assert story.utilisation == pytest.approx(1e14 / (989.4e12 * unit.resources.gpus))
    other = made.seen(project.root, next(u for u in project.units if u.stage == "tokenize"), State.RUNNING)
    assert read_story(other, "h100") == Story([], [], [])


# --- small parts


def test_the_plot_tells_sizes_by_letters_and_the_frontier_by_capitals() -> None:
    def cell(flops: float, accuracy: float, best: bool) -> Cell:
        return Cell(State.DONE, 1.0, 1, 1, accuracy, flops, best)

    grid = Grid(("S", "L"), ("0 %",), {(0, 0): cell(1e18, 0.2, True), (1, 0): cell(1e20, 0.1, False)})
    lines = [line.plain for line in plot(grid, 40, 10)]
    assert len(lines) == 10
    assert lines[1].split("┃")[1].rstrip().endswith("·" * 20)  # the height of the best reaches on
    assert sum(line.count("A") for line in lines) == 1
    assert lines[6].rstrip()[-3:].strip() == "b"
    assert lines[-1].strip() == "a S  b L"
    assert plot(grid, 25, 10) == plot(grid, 40, 7) == []
    assert plot(Grid((), (), {}), 40, 10) == []


def test_bars_fill_their_width_and_hide_nothing() -> None:
    shown = text.bar([(1000, "#", ""), (1, "x", ""), (0, "?", ""), (998, ".", "")], 10)
    assert (len(shown.plain), shown.plain.count("x"), shown.plain.count("?")) == (10, 1, 0)
    assert text.bar([(0, "#", "")], 4).plain == "####"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (89, "89 s"), (120, "2 min"), (5400, "1.5 h"), (HOUR * 47, "47 h"), (HOUR * 84, "3.5 d")],
)
def test_durations_are_short(seconds: float, words: str) -> None:
    assert text.duration(seconds) == words


def test_numbers_are_short() -> None:
    assert text.around(Span(HOUR, 2 * HOUR, 3 * HOUR)) == "2.0 h (60 min–3.0 h)"
    assert text.around(Span(2 * HOUR, 2 * HOUR, 3 * HOUR)) == "2.0 h (2.0–3.0 h)"
    assert text.around(Span(60, 60, 60)) == "60 s"
    rates = {
        123456: "123k x/s",
        9999: "9999 x/s",
        5: "5.0 x/s",
        0.5: "30 x/min",
        0.005: "18 x/h",
        2e9: "2000M x/s",
    }
    assert {rate: text.rate_in_words(rate, "x") for rate in rates} == rates
    assert [text.percent(x) for x in (0, 0.001, 0.5, 0.999, 1)] == ["0 %", "1 %", "50 %", "99 %", "100 %"]
    assert text.around(Span(HOUR, 2 * HOUR, 3 * HOUR), words=True) == "2.0 hours (60 minutes to 3.0 hours)"
    assert text.in_words("1 s") == "1 second"
    assert text.sparkline([], 5) == ""
    assert text.sparkline([1, 1], 5) == "▁▁"
    assert text.sparkline(range(16), 8) == "▁▂▃▄▅▆▇█"
    assert text.shorten("qwen2.5-3b-r25.general-multiple-choice", 20) == "qwen2.5-3b-r2…choice"


def test_a_chart_fills_its_space_and_keeps_the_order_of_its_values() -> None:
    assert text.chart([0, 1, 2, 3], 4, 2) == ["  ▃█", "▁▆██"]
    assert text.chart([5, 1], 6, 3) == ["███   ", "███   ", "███▁▁▁"]  # few values are repeated
    assert text.chart([1.0] * 100, 3, 2) == ["   ", "▁▁▁"]


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("losses", "blocks", "top"),
    [
        ([1.0, NAN, 2.0], "▁ █", "   2.000 ┃"),
        ([INF, 1.0], " ▁", "   1.000 ┃"),
        ([2.0, -INF, 1.0, INF], "█ ▁ ", "   2.000 ┃"),
        ([NAN], " ", "         ┃"),
        ([NAN, NAN], "  ", "         ┃"),
    ],
)
def test_a_loss_that_is_no_number_leaves_its_column_blank(
    view: StudyView, losses: list[float], blocks: str, top: str
) -> None:
    assert text.sparkline(losses, 20) == blocks
    assert text.sparkline([-1.7e308, 1.7e308, 1.7e308], 3) == "▁██"
    assert text.sparkline([1.7e308, 1.7e308, 1.0], 1) == " "  # no number holds their sum
    assert text.chart(losses, 1, 1) == ["▁" if all(map(math.isfinite, losses)) else " "]
    assert view.now is not None
    seen = next(seen for seen in view.now.units if seen.state == State.RUNNING)
    for width, height in ((80, 20), (200, 60)):
        lines = screen(detail(view, seen, [], width, height, Story(losses=losses)), width, height)
        if height == 20 or len(losses) == 1:
            assert any(line.startswith(f"loss    {blocks}  {losses[0]:.3f} to ") for line in lines)
        else:
            title = f"loss from the first step to now: {losses[0]:.3f} to {losses[-1]:.3f}"
            at = next(number for number, line in enumerate(lines) if line.startswith(title))
            assert lines[at + 1].startswith(top)


def test_lines_flow_and_stand_beside_each_other() -> None:
    parts = [Text("one"), Text("two"), Text("three")]
    assert [line.plain for line in text.flow(parts, 10)] == ["one   two", "three"]
    assert [line.plain for line in text.beside([Text("a"), Text("bb")], [Text("c")])] == ["a    c", "bb"]
