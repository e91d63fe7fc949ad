"""Over random graphs and random facts: nothing twice, nothing without its inputs, nothing forgotten."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from jobs.core.unit import STAGES, Unit
from jobs.store.rundir import StudyDir
from launch.state.backend import LiveJobs
from launch.state.ledger import Job
from launch.state.reconcile import reconcile
from launch.state.states import ACTIVE, Facts, State, in_vain, state_of
from launch.state.status import StudyStatus, UnitStatus

ROOT = StudyDir(Path("runs/none"))


@st.composite
def snapshots(draw: st.DrawFn) -> StudyStatus:
    """A study of up to ten units in which each reads some of those before it."""
    units: list[Unit] = []
    seen: list[UnitStatus] = []
    for i in range(draw(st.integers(0, 10))):
        inputs = draw(st.lists(st.sampled_from(units), max_size=3, unique_by=lambda u: u.id)) if units else []
        unit = Unit(
            draw(st.sampled_from(STAGES)), str(i), {"i": i}, tuple(u.as_input(u.name) for u in inputs)
        )
        states = {s.unit.id: s.state for s in seen}
        facts = Facts(
            published=draw(st.booleans()),
            job=draw(st.sampled_from([None, None, State.QUEUED, State.RUNNING, State.PREEMPTED])),
            attempts=draw(st.integers(0, 2)),
            silence=draw(st.sampled_from([None, 1.0, 1e6])),
            put_off=draw(st.sampled_from([None, "cancelled"])),
            dead=draw(st.booleans()),
            missing=tuple((u.name, states[u.id]) for u in inputs if states[u.id] != State.DONE),
        )
        state, reason = state_of(facts)
        units.append(unit)
        live = LiveJobs(facts.job, (), dead=facts.dead) if facts.job else None
        vain = live is not None and in_vain(facts)
        seen.append(UnitStatus(unit, ROOT, state, reason, None, live, vain, facts.published, None))
    return StudyStatus(ROOT, tuple(seen))


def ancestors(now: StudyStatus, unit: Unit) -> set[str]:
    """Ids of all that a unit's result was made from."""
    by_id = {s.unit.id: s.unit for s in now.units}
    found: set[str] = set()
    for i in unit.inputs:
        found |= {i.id, *ancestors(now, by_id[i.id])}
    return found


@given(snapshots())
def test_submits_all_that_nobody_has_done_or_does_and_nothing_else(now: StudyStatus) -> None:
    difference = reconcile(now)
    at_rest = [s for s in now.units if s.state != State.DONE and s.state not in ACTIVE]
    assert list(difference.submit) == at_rest
    assert difference.nothing == (not at_rest and not difference.withdraw)
    assert {s.state for s in difference.active} <= set(ACTIVE)
    assert len(difference.submit) + len(difference.active) + difference.done == len(now.units)


@given(snapshots())
def test_inputs_are_done_or_at_work_or_submitted_before(now: StudyStatus) -> None:
    difference = reconcile(now)
    there = {s.unit.id for s in now.units if s.state == State.DONE or s.state in ACTIVE}
    for seen in difference.submit:
        assert {i.id for i in seen.unit.inputs} <= there
        there.add(seen.unit.id)


@given(snapshots())
def test_sets_aside_what_was_made_from_something_that_is_not_done(now: StudyStatus) -> None:
    published = {s.unit.id for s in now.units if s.published}
    stale = {u for s in now.units if (u := s.unit.id) in published and ancestors(now, s.unit) - published}
    outdated = reconcile(now).outdated
    assert {s.unit.id for s in outdated} == stale
    gone: set[str] = set()
    for seen in outdated:
        assert not ancestors(now, seen.unit) & gone, "an input was set aside before what reads it"
        gone.add(seen.unit.id)


@given(snapshots(), st.sampled_from(STAGES))
def test_only_one_stage(now: StudyStatus, stage: str) -> None:
    difference = reconcile(now, stage)
    done = {s.unit.id for s in now.of(State.DONE)}
    chosen = [s.unit.id for s in difference.submit]
    for seen in now.units:
        if seen.unit.id in chosen:
            assert seen.unit.stage == stage
            before = set(chosen[: chosen.index(seen.unit.id)])
            assert {i.id for i in seen.unit.inputs} <= done | before
        elif seen.unit.stage == stage and seen.state != State.DONE and seen.state not in ACTIVE:
            assert {i.id for i in seen.unit.inputs} - done - set(chosen), "left out, but it could be done"
    assert set(chosen) <= {s.unit.id for s in reconcile(now).submit}


@given(snapshots(), st.none() | st.sampled_from(STAGES))
def test_asking_again_asks_for_nothing(now: StudyStatus, only: str | None) -> None:
    started = {s.unit.id for s in reconcile(now, only).submit}
    units = tuple(
        s._replace(state=State.RUNNING if s.unit.id in started else s.state, in_vain=False) for s in now.units
    )
    assert reconcile(replace(now, units=units), only).nothing


@given(snapshots())
def test_a_job_that_waits_in_vain_is_withdrawn_and_its_unit_not_left_to_it(now: StudyStatus) -> None:
    difference = reconcile(now)
    lost = {s.unit.id for s in now.units if s.state != State.DONE and s.state not in ACTIVE}
    for seen in now.units:
        waits = seen.live is not None and seen.live.state == State.QUEUED
        if waits and any(i.id in lost for i in seen.unit.inputs):
            assert seen in difference.withdraw
            assert seen not in difference.active


def test_what_is_damaged_is_left_alone_with_all_made_from_it_and_the_rest_goes_on() -> None:
    damaged, other = Unit("train", "damaged", {}), Unit("train", "other", {"other": 1})
    reader = Unit("evaluate", "reader", {}, (damaged.as_input("it"),))
    last = Unit("report", "last", {}, (reader.as_input("it"),))
    blocked = ((reader, State.BLOCKED), (last, State.BLOCKED))
    states = ((damaged, State.DAMAGED), *blocked, (other, State.WAITING))
    units = [
        UnitStatus(u, ROOT, state, None, None, None, False, u is not damaged, None) for u, state in states
    ]
    former = (Job("s", "7", "here"),)
    difference = reconcile(StudyStatus(ROOT, tuple(units), former))
    assert [s.unit for s in difference.submit] == [s.unit for s in difference.outdated] == [other]
    assert [s.unit for s in difference.damaged] == [damaged]
    assert difference.former == former


def test_of_one_stage_what_reads_another_of_it_is_submitted_after_it_and_not_left_for_later() -> None:
    first, elsewhere = Unit("prepare", "first", {}), Unit("tokenize", "elsewhere", {})
    reader = Unit("prepare", "reader", {"reads": 1}, (first.as_input("it"),))
    later = Unit("prepare", "later", {"reads": 2}, (elsewhere.as_input("it"),))
    units = (first, elsewhere, reader, later)
    seen = tuple(UnitStatus(u, ROOT, State.WAITING, None, None, None, False, False, None) for u in units)
    assert [s.unit for s in reconcile(StudyStatus(ROOT, seen), "prepare").submit] == [first, reader]
