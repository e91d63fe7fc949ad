"""Estimates, the grid and the figures of a study, with answers that are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import made_status as made
import pytest
from made_status import HOUR, NOW
from small_study import publish, write_study

from jobs.core.unit import Resources, Unit
from jobs.store import journal
from jobs.store.rundir import StudyDir
from launch.local.backend import Local
from launch.monitor.data.eta import (
    POINTS,
    ZERO,
    Span,
    Track,
    count_rate,
    follow,
    own_left,
    ratio,
    share_done,
    speed,
    stage_left,
)
from launch.monitor.data.students import Cell
from launch.monitor.data.summary import Summary, summarize
from launch.monitor.data.unit_files import UnitFiles
from launch.state.states import State
from launch.state.status import StudyStatus, UnitStatus
from launch.study.cluster import load_cluster
from launch.study.plan import plan
from launch.study.schema import load_study
from launch.study_run import Project
from launch.submit.bad_nodes import Verdict

TRAIN = Unit("train", "a", {})
EVALUATE = Unit("evaluate", "a.x", {"group": {"tasks": [{"task": "one"}, {"task": "two"}]}})


def told(updated: float, done: int, total: int = 100, run: float = 0.0, **more: Any) -> dict[str, Any]:
    return {"started": run, "updated": updated, "done": done, "total": total, "unit": "steps", **more}


def near(low: float, mid: float, high: float) -> Span:
    return Span(*map(pytest.approx, (low, mid, high)))  # type: ignore[arg-type]


def test_estimates_are_corrected_by_the_median_of_what_is_done() -> None:
    assert ratio([]) is None
    assert ratio([3.0]) == Span(1.5, 3.0, 6.0)
    assert ratio([1.0, 9.0]) == Span(1.0, 5.0, 10.0)
    assert ratio([4.0, 1.0, 2.0]) == Span(1.0, 2.0, 4.0)
    many = ratio([1.0] * 9 + [2.0] * 82 + [50.0] * 9)
    assert many == Span(2.0, 2.0, 2.0)  # one in ten on either side is left out


def test_a_unit_at_work_is_judged_by_its_own_speed() -> None:
    track = follow(None, TRAIN, told(100, 10))
    assert own_left(track) == near(900, 900, 900)  # loading included, while nothing more is known
    track = follow(track, TRAIN, told(150, 20))
    assert own_left(track) == near(400, 400, 400)  # and left out once it is
    track = follow(follow(track, TRAIN, told(200, 40)), TRAIN, told(300, 40))
    assert speed(track) == near(0.0015 / 4, 0.0015, 0.003)  # it paused, which is not forever
    assert follow(track, TRAIN, told(300, 40)) is track  # the same word again
    assert own_left(follow(None, TRAIN, told(100, 0))) is None


def test_loading_a_model_is_not_in_the_speed() -> None:
    """600 s of loading, then a step a second, and the monitor polls every 10 s."""
    loading: dict[str, Any] = {"outside": True, "phase": "loading the model"}
    work: dict[str, Any] = {"working_since": 600.0, "phase": "training"}
    track = follow(None, TRAIN, told(5, 0, 1000, **loading))
    track = follow(track, TRAIN, told(300, 0, 1000, **loading))
    assert (own_left(track), count_rate(track), track.share) == (None, None, 0)
    track = follow(track, TRAIN, told(600, 0, 1000, **work))
    assert own_left(track) is None
    track = follow(track, TRAIN, told(610, 10, 1000, **work))
    assert own_left(track) == near(990, 990, 990)
    assert count_rate(track) == pytest.approx(1)
    for second in (620, 630, 640):
        track = follow(track, TRAIN, told(second, second - 600, 1000, **work))
    assert own_left(track) == near(960, 960, 960)
    late = follow(None, TRAIN, told(700, 100, 1000, **work))  # a monitor that was opened meanwhile
    assert own_left(late) == near(900, 900, 900)


def test_a_resumed_run_that_loads_has_what_was_kept() -> None:
    """Its first reports may not know how much there is, nor how much of it is done."""
    loading: dict[str, Any] = {"outside": True}
    track = follow(None, TRAIN, told(5, 0, 0, **loading), kept=500)
    track = follow(track, TRAIN, told(9, 0, 1000, **loading), kept=500)
    assert track.share == 0.5
    track = follow(track, TRAIN, told(610, 510, 1000, working_since=600.0), kept=500)
    assert own_left(track) == near(490, 490, 490)
    assert count_rate(track) == pytest.approx(1)


def test_waiting_for_others_after_the_work_has_started_counts() -> None:
    track = follow(None, TRAIN, told(10, 10, working_since=0.0))
    track = follow(track, TRAIN, told(20, 20, working_since=0.0, outside=True))
    assert track.share == 0.2


def test_a_run_that_goes_on_is_not_credited_with_what_was_there() -> None:
    first = follow(None, TRAIN, told(100, 60), kept=50)
    assert own_left(first) == near(400, 400, 400)
    again = follow(first, TRAIN, told(1100, 70, run=1000.0), kept=60)
    assert again.run == 1000.0
    assert own_left(again) == near(300, 300, 300)


def test_an_evaluation_counts_one_benchmark_after_the_other() -> None:
    assert share_done(EVALUATE, 5, 10, kept=1) == 0.75
    assert share_done(EVALUATE, 0, 0, kept=2) == 1.0
    track: Track | None = None
    for when, done, kept in ((10, 40, 0), (20, 90, 0), (30, 10, 1), (40, 30, 1)):
        track = follow(track, EVALUATE, told(when, done, kept=kept))
    assert track is not None
    assert count_rate(track) == 2.0  # in the second benchmark
    assert track.share == 0.65


def test_a_track_stays_small_and_keeps_its_ends() -> None:
    track: Track | None = None
    for second in range(1, 1000):
        track = follow(track, TRAIN, told(float(second), second, 1000))
    assert track is not None
    assert len(track.points) <= POINTS
    assert (track.points[0][0], track.points[-1][0]) == (0.0, 999.0)
    found = speed(track)
    assert found is not None
    assert found.mid == pytest.approx(0.001)


def test_the_time_of_a_stage_is_its_work_over_what_goes_on_at_once() -> None:
    own, twice = Span(3600, 3600, 3600), Span(1, 2, 4)
    assert stage_left([], [], None, None) == ZERO
    assert stage_left([own, own], [1.0, 1.0], twice, 2) == Span(7200, 10800, 18000)
    assert stage_left([own], [], None, 8) == own  # never less than the longest
    assert stage_left([own], [1.0], None, 1) is None  # nothing is done yet
    assert stage_left([], [1.0], twice, None) is None  # nothing is at work


# --- the board of a study


@pytest.fixture
def project(tmp_path: Path) -> Project:
    found = made.paper(tmp_path)
    found.root.path.mkdir(parents=True)
    started = {"submission": "prepare-1", "cluster": "generic", "host": "login", "elements": []}
    journal.append(found.root.ledger, {"event": "intent", "time": NOW - 10 * HOUR, **started})
    return found


def stage(project: Project, name: str) -> list[Unit]:
    return [unit for unit in project.units if unit.stage == name]


def summary(
    project: Project, changed: dict[str, UnitStatus], before: Summary | None = None, at: float = NOW
) -> Summary:
    """The board of the study where all units wait but the changed ones, by their ids."""
    units = [changed.get(u.id) or made.seen(project.root, u, State.WAITING) for u in project.units]
    found = made.view(project, units, before, at).summary
    assert found is not None
    return found


def test_nothing_is_promised_before_anything_is_done(project: Project) -> None:
    found = summary(project, {})
    assert found.left is None or found.left.mid == 0
    assert found.unknown == ("generate", "tokenize", "train", "evaluate")
    assert (found.measured, found.gpu_hours, found.flops) == (False, 0, 0)
    assert found.gpu_hours_left.mid == pytest.approx(found.gpu_hours_left.low * 2)  # by plan, and no better
    assert found.elapsed == 10 * HOUR


def test_hours_are_those_of_all_runs_and_of_those_at_work(project: Project) -> None:
    root, (first, second, *_) = project.root, stage(project, "train")
    made.ended(root, first, 600, "killed", cause="killed")
    made.ended(root, first, 590, "killed", cause="killed", rank=1)
    made.published(root, first, {}, HOUR)  # writes run 1.0 again, which its longest rank counts for
    made.ended(root, second, 1800, "preempted", cause="preempted")
    changed = {
        first.id: made.seen(root, first, State.DONE),
        second.id: made.seen(root, second, State.RUNNING, progress=made.progress(50, 100, "steps")),
    }
    found = summary(project, changed)
    each = [u.resources.nodes * u.resources.gpus_per_node for u in (first, second)]
    assert found.gpu_hours == pytest.approx(each[0] * 1 + each[1] * (0.5 + 2))
    assert found.flops == pytest.approx((first.flops or 0) + 0.5 * (second.flops or 0))
    assert found.flops_planned == sum(u.flops or 0 for u in project.units)
    assert found.took[second.id].runs == 1


def test_a_stage_is_timed_by_what_is_done_and_what_is_at_work(project: Project) -> None:
    root, (first, second, *rest) = project.root, stage(project, "train")
    made.published(root, first, {}, HOUR)
    changed = {
        first.id: made.seen(root, first, State.DONE),
        second.id: made.seen(root, second, State.RUNNING, progress=made.progress(50, 100, "steps")),
        **{unit.id: made.seen(root, unit, State.DONE) for unit in rest},
    }
    found = next(s for s in summary(project, changed).stages if s.name == "train")
    assert found.left is not None
    assert found.left.mid == pytest.approx(2 * HOUR, rel=0.01)  # half of it took two hours
    assert found.share == pytest.approx(24.5 / 25)
    changed[second.id] = made.seen(root, second, State.QUEUED)
    changed[rest[0].id] = made.seen(root, rest[0], State.RUNNING)  # without a word so far
    later = next(s for s in summary(project, changed).stages if s.name == "train")
    assert later.left is not None
    assert later.left.low < later.left.mid < later.left.high


def test_rates_of_units_at_work_add_up_where_they_count_the_same(project: Project) -> None:
    changed = {
        unit.id: made.seen(
            project.root, unit, State.RUNNING, progress=made.progress(5, 10, "steps", tokens_per_second=100.0)
        )
        for unit in stage(project, "train")[:3]
    }
    found = next(s for s in summary(project, changed).stages if s.name == "train")
    assert (found.rate, found.per, found.counts[State.RUNNING]) == (300.0, "tokens", 3)


def test_a_board_goes_on_from_the_one_before(project: Project) -> None:
    unit = stage(project, "generate")[0]

    def at(second: float, done: int) -> dict[str, UnitStatus]:
        said = made.progress(done, 1000, "rows", updated=NOW + second)
        return {unit.id: made.seen(project.root, unit, State.RUNNING, progress=said)}

    first = summary(project, at(0, 100))
    second = summary(project, at(10, 120), first, NOW + 10)
    third = summary(project, at(20, 140), second, NOW + 20)
    assert third.outline is first.outline
    assert third.work[unit.id].rate == 2.0
    left = third.work[unit.id].left
    assert left is not None
    assert left.mid == pytest.approx(430)


def test_a_study_that_is_over_is_over(project: Project) -> None:
    for unit in project.units:
        made.ended(project.root, unit, 60, time=NOW - 5 * HOUR)
    changed = {u.id: made.seen(project.root, u, State.DONE) for u in project.units}
    found = summary(project, changed)
    assert (found.left, found.unknown, found.elapsed) == (ZERO, (), 5 * HOUR)
    assert found.flops == found.flops_planned


# --- what files say


def test_files_are_read_a_few_at_a_look_and_once(project: Project) -> None:
    five = stage(project, "train")[:5]
    for unit in five:
        made.published(project.root, unit, {})
    units = [made.seen(project.root, u, State.DONE if u in five else State.WAITING) for u in project.units]
    facts, now = UnitFiles(project.root), StudyStatus(project.root, tuple(units))
    facts.update(now, budget=0)
    assert (facts.unread, len(facts.took)) == (5, 0)
    facts.update(now, budget=60)
    assert (facts.unread, len(facts.took)) == (0, 5)
    for unit in five:
        journal.own(project.root.unit(unit).attempts).unlink()
    facts.update(now, budget=60)
    assert len(facts.took) == 5


def test_the_last_word_of_a_run_may_come_after_its_result(project: Project) -> None:
    unit = stage(project, "tokenize")[0]
    publish(project.root, unit)
    made.ended(project.root, unit, 60, "killed", cause="killed")
    now = StudyStatus(project.root, (made.seen(project.root, unit, State.DONE),))
    facts = UnitFiles(project.root)
    facts.update(now)
    assert unit.id not in facts.finished["tokenize"]
    made.ended(project.root, unit, 90, restart=1)
    facts.update(now)
    assert facts.finished["tokenize"] == {unit.id: 150}
    facts.update(
        StudyStatus(project.root, (made.seen(project.root, unit, State.WAITING),))
    )  # it was set aside
    assert (facts.finished["tokenize"], facts.took[unit.id].seconds) == ({}, 150)


def test_the_last_words_are_those_of_the_first_of_each_cause(tmp_path: Path) -> None:
    view = made.in_the_middle(tmp_path)
    assert view.summary is not None
    [first] = [problem for problem in view.summary.problems if problem.words]
    assert first.title.startswith("2 failed, code error")
    assert first.words[-1].startswith("RuntimeError: shape")


# --- students by mixtures


def cells(tmp_path: Path, scores: dict[str, float], **study: Any) -> dict[tuple[str, str], Cell]:
    """The grid of a small study of which all is done that has a score, by titles."""
    file = write_study(tmp_path, **study)
    loaded, cluster, root = (
        load_study(str(file)),
        load_cluster("local"),
        StudyDir(tmp_path / "runs" / "small"),
    )
    project = Project(loaded, cluster, root, plan(loaded, cluster), Local(root))
    seen = []
    for unit in project.units:
        name = unit.config["student"]["name"] if unit.stage == "evaluate" else unit.name
        done = unit.stage not in ("train", "evaluate") or name in scores
        if unit.stage == "evaluate" and done:
            size = 2.0 if name.startswith("m") else 1.0
            made.evaluated(root, unit, size * 1e9, scores[name] + 0.1 * unit.name.endswith("hard"))
        seen.append(made.seen(root, unit, State.DONE if done else State.WAITING))
    found = UnitFiles(root)
    now = StudyStatus(root, tuple(seen))
    found.update(now, budget=60)
    grid = summarize(project, now, Verdict(), found, None, NOW).grid
    return {(grid.rows[row], grid.columns[column]): cell for (row, column), cell in grid.cells.items()}


def test_accuracies_are_means_over_benchmarks_and_the_best_are_marked(tmp_path: Path) -> None:
    found = cells(tmp_path, {"s-r0": 0.2, "s-r50": 0.4, "m-r0": 0.4})
    assert {at: cell.accuracy for at, cell in found.items()} == {
        ("s", "0 %"): pytest.approx(0.25),
        ("s", "50 %"): pytest.approx(0.45),
        ("m", "0 %"): pytest.approx(0.45),
        ("m", "50 %"): None,
    }
    assert [at for at, cell in found.items() if cell.best] == [("s", "50 %")]  # m is as good, and dearer
    assert found["m", "50 %"].state == State.WAITING


def test_seeds_are_averaged_and_orders_have_columns(tmp_path: Path) -> None:
    scores = {"s-r50": 0.2, "s-r50-s1": 0.4, "s-r50-shuffled": 0.3}
    order = {"shares": [0, 0.5], "order": ["sequential", "shuffled"]}
    found = cells(tmp_path, scores, mixtures=order, seeds=[0, 1])
    assert list(found)[:3] == [("s", "0 %"), ("s", "50 %"), ("s", "50 % shuffled")]
    whole, half = found["s", "50 %"], found["s", "50 % shuffled"]
    assert whole.accuracy == pytest.approx(0.35)
    assert half.accuracy == pytest.approx(0.35)
    assert (whole.flops, whole.trained) == (1e9, 1.0)
    assert (half.flops, half.trained) == (None, 0.5)  # one seed is missing
    assert (half.evaluated, half.groups, half.best) == (2, 4, False)


def test_gpus_of_all_workers_count(tmp_path: Path) -> None:
    root = StudyDir(tmp_path)
    unit = Unit("generate", "t", {}, resources=Resources(gpus_per_node=2, workers=2))
    made.ended(root, unit, 100)
    made.ended(root, unit, 50, worker=1)
    facts = UnitFiles(root)
    facts.update(StudyStatus(root, (made.seen(root, unit, State.DONE),)))
    assert (facts.gpu_seconds, facts.took[unit.id].seconds) == (300, 100)
