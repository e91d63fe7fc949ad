"""What each key makes of the monitor's screen. No terminal: units made by hand, as they were seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_projects import made_project
from small_study import unit, write_study

from jobs.core.unit import Unit
from launch.monitor.data.study_view import StudyView
from launch.monitor.data.unit_list import Sort, listing
from launch.monitor.questions import Action
from launch.monitor.screen import KEYS, LOG_LINES, MOVES, Page, Screen, press, settled
from launch.state.backend import LiveJobs
from launch.state.ledger import Attempt, Job
from launch.state.lock import Held
from launch.state.states import ACTIVE, State
from launch.state.status import Keeper, StudyStatus, UnitStatus
from launch.study_run import Project, open_project
from launch.submit.bad_nodes import Verdict

NAMES = ("a", "b", "c", "d", "e")
STATES = (State.DONE, State.RUNNING, State.FAILED, State.QUEUED, State.WAITING)
BUSY = Attempt(1, 0.0, "made", (Job("sub", "7", "host", 0),))


def seen(project: Project, one: Unit, state: State, workers: int = 1, **more: Any) -> UnitStatus:
    """A unit in a state, with as many jobs as it has workers if it is in hand."""
    jobs = tuple(Job("sub", "7", "host", index) for index in range(workers))
    live = (
        LiveJobs(State.QUEUED if state == State.QUEUED else State.RUNNING, jobs) if state in ACTIVE else None
    )
    values: dict[str, Any] = {
        "reason": None, "attempt": BUSY if live else None, "live": live, "in_vain": False, "progress": None,
        "published": state == State.DONE,
    } | more  # fmt: skip
    return UnitStatus(one, project.root, state, **values)


def view(project: Project, states: Sequence[State] = STATES, **more: Any) -> StudyView:
    units = [seen(project, one, state) for one, state in zip(project.units, states, strict=True)]
    return shown(project, units, **more)


def shown(project: Project, units: Sequence[UnitStatus], **more: Any) -> StudyView:
    now = StudyStatus(project.root, tuple(units), **more)
    return StudyView(project, now, Verdict(), None, 0.0, None, None, 30.0)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return made_project(tmp_path, [unit(tmp_path, name) for name in NAMES])


@pytest.fixture
def views(project: Project) -> list[StudyView]:
    return [view(project)]


def after(views: Sequence[StudyView], *keys: str, screen: Screen | None = None) -> Screen:
    """The screen after these keys, none of which is to ask for an action."""
    at = screen or Screen()
    for key in keys:
        at, action = press(at, key, views)
        assert action is None, key
    return at


def named(screen: Screen) -> list[str]:
    return [row.unit.name for row in screen.rows]


def asked(screen: Screen) -> str:
    assert screen.question is not None
    return screen.question.text


def ids(project: Project, *names: str) -> tuple[str, ...]:
    return tuple(one.id for name in names for one in project.units if one.name == name)


def test_from_studies_to_a_unit_and_back(views: list[StudyView]) -> None:
    screen = after(views, "enter")
    assert (screen.page, named(screen)) == (Page.UNITS, ["c", "b", "d", "e", "a"])  # problems first
    screen = after(views, "down", "enter", screen=screen)
    assert screen.page == Page.UNIT
    chosen = screen.seen()
    assert chosen is not None
    assert chosen.unit.name == "b"
    assert replace(after(views, "enter", screen=screen), message="") == screen
    assert after(views, "esc", screen=screen).page == Page.UNITS
    assert after(views, "esc", "backspace", screen=screen).page == Page.STUDIES
    assert after(views, "esc", "esc", "esc", screen=screen).page == Page.STUDIES


def test_moving_stops_at_both_ends(views: list[StudyView]) -> None:
    screen = after(views, "enter")
    for keys, row in [
        ("k", 0), ("j", 1), ("down", 1), ("pagedown", 4), ("end", 4), ("end down", 4), ("end pageup", 0),
        ("j j up", 1), ("end home", 0),
    ]:  # fmt: skip
        assert after(views, *keys.split(), screen=screen).at == row, keys
    short = replace(screen, height=4)
    assert after(views, "pagedown", screen=short).at == 2  # half of the terminal


def test_the_selected_unit_stays_so_when_its_row_goes_elsewhere(
    project: Project, views: list[StudyView]
) -> None:
    screen = after(views, "enter", "j")  # b, which runs
    later = [view(project, (State.DONE, State.DONE, State.FAILED, State.FAILED, State.RUNNING))]
    screen = settled(screen, later)
    assert (named(screen)[screen.at], screen.unit) == ("b", *ids(project, "b"))
    assert settled(screen, later) is screen  # no list is made twice


def test_a_selected_unit_that_is_listed_no_more_gives_way_to_its_neighbour(
    project: Project, views: list[StudyView]
) -> None:
    running = after(views, "/", *"running", "enter")
    assert named(running) == ["b"]
    later = [view(project, (State.RUNNING, State.DONE, State.FAILED, State.QUEUED, State.RUNNING))]
    screen = settled(running, later)
    assert (named(screen), screen.at, screen.unit) == (["a", "e"], 0, *ids(project, "a"))
    opened = settled(after(views, "enter", screen=running), later)  # but stays open once it is
    assert opened.unit == ids(project, "b")[0]
    left = opened.seen()
    assert left is not None
    assert (left.unit.name, left.state) == ("b", State.DONE)


def test_filtering_while_one_types(views: list[StudyView]) -> None:
    screen = after(views, "/", *"FAI")
    assert (screen.page, screen.typing, named(screen)) == (Page.UNITS, True, ["c"])
    assert after(views, "j", screen=screen).wanted == "FAIj"  # letters are text
    assert named(after(views, *"xyz", screen=screen)) == []
    cleared = after(views, "backspace", "backspace", "backspace", screen=screen)
    assert (len(cleared.rows), cleared.typing) == (5, True)
    assert not after(views, "backspace", screen=cleared).typing
    kept = after(views, "enter", screen=screen)
    assert (kept.typing, kept.wanted, named(kept)) == (False, "FAI", ["c"])
    back = after(views, "esc", screen=kept)  # first without the filter, then back
    assert (back.page, len(back.rows)) == (Page.UNITS, 5)
    given_up = after(views, "esc", screen=screen)
    assert (given_up.typing, len(given_up.rows), given_up.page) == (False, 5, Page.UNITS)
    assert after(views, "down", screen=after(views, "/", "a")).at == 1  # arrows move meanwhile


def test_the_filter_knows_stage_name_state_cause_and_node(project: Project) -> None:
    units = list(view(project).now.units)  # type: ignore[union-attr]
    units[2] = units[2]._replace(written={"cause": "out of GPU memory"})
    units[1] = units[1]._replace(live=LiveJobs(State.RUNNING, BUSY.jobs, nodes="gpu[07-08]"))
    now = StudyStatus(project.root, tuple(units))

    def found(wanted: str) -> list[str]:
        return [row.unit.name for row in listing(now, wanted, Sort.PLAN).rows]

    assert found("prepare") == list(NAMES)
    assert found("gpu") == ["b", "c"]
    assert found("gpu failed") == ["c"]  # every word
    assert found("memory") == ["c"]
    assert found("gpu[07") == ["b"]
    assert found("waiting") == ["e"]
    assert found(units[3].unit.id) == ["d"]
    assert found("none such") == []


def test_the_orders_of_a_table(project: Project) -> None:
    def progress(done: int, updated: float) -> dict[str, Any]:
        return {"progress": {"done": done, "total": 10, "unit": "steps", "updated": updated}}

    a, b, c, d, e = project.units
    units = (
        seen(project, e, State.DONE),
        seen(project, d, State.RUNNING, **progress(9, 50.0)),
        seen(project, c, State.STALLED, **progress(3, 40.0), attempt=BUSY._replace(number=3)),
        seen(project, b, State.FAILED),
        seen(project, a, State.RUNNING, live=LiveJobs(State.RUNNING, BUSY.jobs, nodes="n1")),
    )
    now = StudyStatus(project.root, units)
    orders = {
        sort: "".join(row.unit.name for row in listing(now, "", sort).rows)
        for sort in Sort
    }  # fmt: skip
    assert orders == {
        Sort.STATE: "bcdae", Sort.PLAN: "edcba", Sort.NAME: "abcde", Sort.PROGRESS: "bacde",
        Sort.HEARD: "cdeba", Sort.ATTEMPTS: "cdaeb", Sort.NODE: "aedcb",
    }  # fmt: skip


def test_sorting_goes_through_all_orders(views: list[StudyView]) -> None:
    screen = after(views, "enter")
    orders = []
    for _ in Sort:
        screen = after(views, "s", screen=screen)
        orders.append(screen.sort)
        assert str(screen.sort) in screen.message
    assert set(orders) == set(Sort)
    assert screen.sort == Sort.STATE
    assert after(views, "s").sort == Sort.STATE  # on another page it is no key


def test_the_log_is_followed_until_one_reads_back(views: list[StudyView]) -> None:
    screen = after(views, "enter", "enter")
    assert (screen.follow, screen.back) == (True, 0)
    up = after(views, "up", "k", screen=screen)
    assert (up.follow, up.back) == (False, 2)
    assert after(views, "home", screen=up).back == LOG_LINES
    assert after(views, "j", "j", "j", screen=up).back == 0
    again = after(views, "f", screen=up)
    assert (again.follow, again.back) == (True, 0)
    assert not after(views, "f", screen=again).follow


@pytest.mark.parametrize("keys", ["esc", "tab enter", "/ esc", "/ a enter"])
@pytest.mark.parametrize("log", ["up", "f"])
def test_beside_the_table_the_log_is_followed_however_its_page_was_left(
    views: list[StudyView], log: str, keys: str
) -> None:
    wide = Screen(width=200, height=60)
    opened = after(views, "enter", "enter", log, screen=wide)
    assert not opened.follow
    left = after(views, *keys.split(), screen=opened)
    assert (left.page, left.beside, left.follow, left.back) == (Page.UNITS, True, True, 0)


def test_from_a_unit_to_the_next(views: list[StudyView]) -> None:
    screen = after(views, "enter", "enter", "up", "right")
    assert (screen.page, screen.at, screen.follow, screen.back) == (Page.UNIT, 1, True, 0)
    assert after(views, "left", "left", screen=screen).at == 0
    assert after(views, "right").page == Page.STUDIES


def test_several_studies(tmp_path: Path, project: Project) -> None:
    other = made_project(tmp_path / "other", [unit(tmp_path, name) for name in "xy"], "other")
    both = [view(project), view(other, (State.DONE, State.RUNNING))]
    assert after(both, "j", "j").study == 1
    assert after(both, "j", "k").study == 0
    screen = after(both, "/", *"done", "enter", "enter", "tab")
    assert (screen.study, screen.page, screen.wanted, named(screen)) == (1, Page.UNITS, "", ["y", "x"])
    assert after(both, "tab", screen=screen).study == 0
    assert after(both, "backtab").study == 1


def test_tab_with_one_study_turns_the_page(views: list[StudyView]) -> None:
    assert after(views, "tab").page == Page.UNITS
    assert after(views, "tab", "tab").page == Page.STUDIES


def test_help_and_the_key_that_ends_it(views: list[StudyView]) -> None:
    screen = after(views, "?")
    assert screen.help
    assert after(views, "q", screen=screen) == Screen()


@pytest.mark.parametrize("keys", ["", "enter", "enter enter"])
def test_q_quits_from_every_page(views: list[StudyView], keys: str) -> None:
    assert press(after(views, *keys.split()), "q", views)[1] == Action("quit")


@pytest.mark.parametrize("keys", ["", "?", "/ a", "c"])
def test_ctrl_c_quits_whatever_is_asked(views: list[StudyView], keys: str) -> None:
    assert press(after(views, *keys.split()), "ctrl-c", views)[1] == Action("quit")


def test_looking_now(views: list[StudyView]) -> None:
    assert press(Screen(), "r", views)[1] == Action("refresh")


def test_cancelling_a_unit_asks_first(project: Project, views: list[StudyView]) -> None:
    screen = after(views, "enter", "j", "c")
    assert asked(screen) == "Cancel 1 job of 1 unit (prepare b) of small?\ny: yes, n: no"
    assert after(views, "x", "enter", screen=screen).question == screen.question  # no key means yes by chance
    for no in ("n", "esc"):
        left = after(views, no, screen=screen)
        assert (left.question, left.message) == (None, "nothing changed")
    done, action = press(screen, "y", views)
    assert (done.question, action) == (None, Action("cancel", 0, ids(project, "b")))


def test_what_is_cancelled_is_what_was_asked_whatever_moved_meanwhile(
    project: Project, views: list[StudyView]
) -> None:
    screen = after(views, "enter", "j", "c")
    later = [view(project, (State.FAILED, State.DONE, State.FAILED, State.RUNNING, State.RUNNING))]
    assert press(settled(screen, later), "y", later)[1] == Action("cancel", 0, ids(project, "b"))


def test_cancelling_all_that_the_filter_leaves(project: Project) -> None:
    views = [view(project, (State.RUNNING, State.DONE, State.RUNNING, State.FAILED, State.RUNNING))]
    screen = after(views, "/", *"running", "enter", "c")
    assert asked(screen) == (
        "Cancel 1 job of 1 unit (prepare a) of small?\ny: yes, a: all listed, "
        "3 jobs of 3 units (prepare a, prepare c, prepare e), n: no"
    )
    assert press(screen, "a", views)[1] == Action("cancel", 0, ids(project, "a", "c", "e"))
    without = after(views, "enter", "down", "c")  # nobody means all by a key too much
    assert press(without, "a", views)[1] is None


def test_cancelling_a_study(project: Project) -> None:
    keeper = Keeper(BUSY, LiveJobs(State.QUEUED, BUSY.jobs))
    units = [seen(project, one, State.RUNNING, workers=2) for one in project.units]
    screen = after([shown(project, units, keeper=keeper, former=BUSY.jobs)], "c")
    assert asked(screen) == (
        "Cancel the study small: 10 jobs of 5 units (prepare a, prepare b, prepare c, prepare d and 1 more), "
        "its keeper, 1 job of units that it no longer has?\ny: yes, n: no"
    )
    assert press(screen, "y", [view(project)])[1] == Action("cancel", 0)


def test_nothing_to_cancel(project: Project, views: list[StudyView]) -> None:
    screen = after(views, "enter", "c")  # c, which failed
    assert (screen.question, screen.message) == (None, "neither queued nor running: nothing to cancel")
    idle = [view(project, (State.DONE,) * 5)]
    assert after(idle, "c").message == "no job of small is queued or running: nothing to cancel"
    assert after(idle, "/", *"zzz", "enter", "c").message == "neither queued nor running: nothing to cancel"


def test_submitting_again_asks_first(project: Project) -> None:
    units = list(view(project).now.units)  # type: ignore[union-attr]
    units[3] = units[3]._replace(in_vain=True, state=State.WAITING)
    screen = after([shown(project, units)], "u")
    assert asked(screen) == (
        "Submit small: 3 jobs for 3 units (prepare c, prepare d, prepare e), cancel 1 that would wait "
        "forever?\ny: yes, n: no"
    )
    assert press(screen, "y", [shown(project, units)])[1] == Action("submit", 0)


def test_nothing_to_submit(project: Project) -> None:
    states = (State.DONE, State.DONE, State.RUNNING, State.QUEUED, State.PREEMPTED)
    assert after([view(project, states)], "u").message == "nothing to submit: 2 done, 3 queued or running"


def test_a_study_on_this_machine_is_submitted_elsewhere(tmp_path: Path) -> None:
    local = open_project(str(write_study(tmp_path / "study")), None, tmp_path / "runs")
    screen = after([shown(local, [])], "u")
    assert screen.question is None
    assert "in another terminal: sor submit" in screen.message


@pytest.mark.parametrize("key", ["c", "u"])
def test_one_thing_at_a_time(views: list[StudyView], key: str) -> None:
    screen = after(views, key, screen=Screen(busy="cancelling small"))
    assert (screen.question, screen.message) == (None, "still cancelling small")


@pytest.mark.parametrize(
    "keys", ["c", "u", "enter", "enter enter", "enter c", "enter u", "enter s", "/ a enter", "enter end j f"]
)
def test_before_the_first_answer(views: list[StudyView], keys: str) -> None:
    nothing = [replace(views[0], now=None)]
    screen = after(nothing, *keys.split())
    assert screen.rows == ()
    assert screen.seen() is None
    assert screen.page != Page.UNIT
    found = settled(screen, views)  # and once it is there
    assert (screen.page == Page.UNITS) == bool(found.listed)


def test_a_message_stays_until_the_next_key(views: list[StudyView]) -> None:
    screen = Screen(message="done")
    assert settled(screen, views).message == "done"
    assert after(views, "enter", screen=screen).message == ""


@pytest.mark.parametrize("page", ["", "enter", "enter enter", "/ zzz enter", "enter end", "enter enter end"])
@pytest.mark.parametrize("key", [*KEYS, *MOVES, "x", "é"])
def test_a_key_that_does_nothing_says_why(views: list[StudyView], page: str, key: str) -> None:
    keys = [letter for word in page.split() for letter in (word if word == "zzz" else [word])]
    screen = replace(after(views, *keys), message="")
    pressed, action = press(screen, key, views)
    if replace(pressed, message="", question=None) == screen and not action:
        assert pressed.message or pressed.question


def test_a_study_that_is_being_submitted_is_not_submitted_twice_but_may_be_canceled(
    project: Project,
) -> None:
    held = Held(0.0, "ada on login1 (process 4711)")
    waits = [seen(project, one, State.WAITING) for one in project.units]
    submitting = [shown(project, waits, submitting=held)]
    refused = after(submitting, "u")
    assert refused.message == "small is being submitted already, by ada on login1 (process 4711)"
    screen = after(submitting, "c")
    assert asked(screen) == (
        "Cancel the study small: the submit of ada on login1 (process 4711)?\ny: yes, n: no"
    )
    assert press(screen, "y", submitting)[1] == Action("cancel", 0)
