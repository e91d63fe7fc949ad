"""Job arrays: few, exact in what they wait for, within all limits; in a made-up Slurm and in a real one."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster
from hypothesis import given, settings
from hypothesis import strategies as st
from small_study import wait_for

from jobs.core.unit import STAGES, Resources, Unit
from launch.study.cluster import load_cluster
from launch.study.plan import plan
from launch.study.schema import load_study
from launch.submit.array_options import array_spec, dependency
from launch.submit.arrays import FEW, Array, ArrayPlan, Pool, Rules, plan_arrays
from launch.submit.throttles import LATER

SHORT = {stage: stage[0] for stage in STAGES} | {"tokenize": "k"}
FREE = Rules(max_array_size=100_001, room=None, max_jobs=None, max_gpus=None)


def unit(stage: str, name: object, *inputs: Unit, **resources: Any) -> Unit:
    read = tuple(i.as_input(f"{i.stage} {i.name}") for i in inputs)
    return Unit(stage, str(name), {"name": str(name)}, read, resources=Resources(**resources))


def many(stage: str, count: int, *inputs: Unit, **resources: Any) -> list[Unit]:
    return [unit(stage, n, *inputs, **resources) for n in range(count)]


def each(stage: str, inputs: Iterable[Unit], *shared: Unit, tag: str = "", **resources: Any) -> list[Unit]:
    """A unit for each of these, which reads it and the shared ones."""
    return [unit(stage, f"{i.name}{tag}", i, *shared, **resources) for i in inputs]


def planned(
    units: Sequence[Unit], rules: Rules = FREE, live: dict[str, tuple[str, ...]] | None = None
) -> ArrayPlan:
    """The plan for all units that are not live."""
    return plan_arrays(units, [u.id for u in units if u.id not in (live or {})], live or {}, rules)


def texts(arrays: Iterable[Array]) -> list[str]:
    """Each array in a line, with a letter for its stage and numbers for the ids of arrays."""
    ids = [f"{n}" for n in range(1000)]
    return [f"{SHORT[a.stage]} {array_spec(a)} {dependency(a, ids) or ''}".strip() for a in arrays]


def lines(units: Sequence[Unit], rules: Rules = FREE, /, **live: tuple[str, ...]) -> list[str]:
    """The plan in short; the live units come by their names."""
    ids = {u.id: live[u.name] for u in units if u.name in live}
    return texts(planned(units, rules, ids).arrays)


# Shapes


def test_many_units_of_one_shape_are_one_array() -> None:
    units = many("tokenize", 10_000)
    arrays = planned(units).arrays
    assert texts(arrays) == ["k 0-9999"]
    assert [e.unit for e in arrays[0].elements] == units
    assert texts(planned(units, replace(FREE, max_array_size=4001)).arrays) == [
        "k 0-4000", "k 0-4000", "k 0-1997",
    ]  # fmt: skip


def test_a_large_study_becomes_few_arrays() -> None:
    collate = unit("collate", "c")
    packs = many("tokenize", 100, collate)
    trains = [unit("train", n, packs[n % 100], gpus_per_node=1, hours=5 + n % 3) for n in range(1_800)]
    evaluations = [e for group in "abcd" for e in each("evaluate", trains, tag=group)]
    units = [collate, *packs, *trains, *evaluations, unit("report", "r", *evaluations)]
    assert len({u.id for u in units}) == 9_102
    arrays = planned(units, replace(FREE, max_jobs=200, max_gpus=100)).arrays
    assert len(arrays) == 93
    assert Counter(a.stage for a in arrays)["train"] == 18  # as many as units that read the same pack


def test_stages_that_go_element_by_element() -> None:
    prepare = unit("prepare", "x")
    packs = many("tokenize", 5, prepare)
    trains = each("train", packs, prepare)  # what a pack waits for is waited for already
    evaluations = [e for group in ("", "hard") for e in each("evaluate", trains, tag=group)]
    units = [prepare, *packs, *trains, *evaluations, unit("report", "r", *trains, *evaluations)]
    assert lines(units) == [
        "p 0", "k 0-4 afterok:0", "t 0-4 aftercorr:1", "e 0-4 aftercorr:2", "e 0-4 aftercorr:2",
        "r 0 afterok:3:4",
    ]  # fmt: skip
    done = units[2:]  # without the first pack, too: what is done needs no condition
    assert lines(done)[:3] == ["k 0-3", "t 0", "t 0-3 aftercorr:0"]


def test_the_index_comes_from_the_input() -> None:
    packs = many("tokenize", 6)
    trains = each("train", [packs[4], packs[1], packs[5]])
    (_, array) = planned([*packs, *trains]).arrays
    assert [(e.index, e.unit.name) for e in array.elements] == [(1, "1"), (4, "4"), (5, "5")]
    assert texts([array]) == ["t 1,4-5 aftercorr:0"]


def test_units_that_read_one_input_are_one_array_if_that_makes_fewer() -> None:
    packs = many("tokenize", 2)
    few = [unit("train", f"{p.name}{n}", p) for p in packs for n in range(5)]
    assert lines([*packs, *few]) == ["k 0-1", "t 0-4 afterok:0_0", "t 0-4 afterok:0_1"]
    packs = many("tokenize", 3)
    even = [unit("train", f"{p.name}{n}", p) for p in packs for n in range(3)]
    assert lines([*packs, *even]) == ["k 0-2", *["t 0-2 aftercorr:0"] * 3]
    packs = many("tokenize", 5)
    uneven = [*each("train", packs), *(unit("train", f"more{n}", packs[3]) for n in range(9))]
    assert lines([*packs, *uneven]) == ["k 0-4", "t 0-4 aftercorr:0", "t 0-8 afterok:0_3"]


def test_shared_and_own_inputs_together() -> None:
    packs, other, half = many("tokenize", 4), unit("collate", "c"), many("generate", 4)
    trains = each("train", packs, other, half[0], half[1])
    assert lines([*packs, other, *half, *trains])[3:] == ["t 0-3 afterok:1:2_0:2_1,aftercorr:0"]


def test_the_index_is_that_of_the_input_with_the_fewest_readers() -> None:
    halves, packs = many("generate", 2), many("tokenize", 3)
    trains = each("train", packs, halves[0])
    assert lines([*halves, *packs, *trains]) == ["g 0-1", "k 0-2", "t 0-2 afterok:0_0,aftercorr:1"]


def test_arrays_of_two_go_element_by_element_too_and_jobs_without_arrays_cannot() -> None:
    packs = many("tokenize", 2)
    units = [*packs, *each("train", packs)]
    assert lines(units, replace(FREE, max_array_size=2)) == ["k 0-1", "t 0-1 aftercorr:0"]
    alone = ["k None", "k None", "t None afterok:0", "t None afterok:1"]
    assert lines(units, replace(FREE, max_array_size=0)) == alone


def test_what_cannot_be_said_together_becomes_more_arrays() -> None:
    a, b = many("tokenize", 3), many("collate", 3)
    crossed = [unit("train", n, a[n], b[2 - n]) for n in range(3)]
    assert lines([*a, *b, *crossed])[2:] == [
        "t 0 afterok:0_0:1_2", "t 0 afterok:0_1:1_1", "t 0 afterok:0_2:1_0",
    ]  # fmt: skip


def test_what_a_job_has_in_hand_is_waited_for_by_its_id() -> None:
    packs = many("tokenize", 4)
    trains = each("train", packs, tag="t")
    units = [*packs, *trains, unit("report", "r", *trains)]
    live = {"1": ("77_8",), "3": ("77_3",), "2t": ("78_2",)}
    assert lines([u for u in units if u.name != "2"], **live) == [
        "k 0", "t 3,8 aftercorr:77", "t 0 afterok:0", "r 0 afterok:2:1:78_2",
    ]  # fmt: skip


def test_a_live_unit_does_not_wait_for_what_is_submitted_now() -> None:
    pack = unit("tokenize", "p")
    train = unit("train", "t", pack)  # was started when there was another result of the pack
    assert lines([pack, train, unit("report", "r", pack, train)], t=("5_0",))[1] == "r 0 afterok:0:5_0"


def test_workers() -> None:
    generate = unit("generate", "g", workers=3, gpus_per_node=4, hours=7)
    collate, other = unit("collate", "c", generate), unit("tokenize", "p")
    units = [generate, other, collate, unit("train", "t", generate, other), *many("report", 2, collate)]
    assert lines(units) == [
        "g 0-2", "k 0", "c 0 afterok:0_0?afterok:0_1?afterok:0_2", "t 0 afterany:0,afterok:1",
        "r 0-1 afterok:2",
    ]  # fmt: skip
    array = planned(units).arrays[0]
    assert [(e.unit.name, e.worker) for e in array.elements] == [("g", 0), ("g", 1), ("g", 2)]
    assert lines(units, g=("9_0", "9_2"))[1:3] == [
        "c 0 afterok:9_0?afterok:9_2", "t 0 afterany:9_0:9_2,afterok:0",
    ]  # fmt: skip
    assert lines(units, g=("9_2",))[1:3] == ["c 0 afterok:9_2", "t 0 afterok:9_2:0"]
    assert lines([generate, *many("tokenize", 2), *each("train", many("tokenize", 2), generate)]) == [
        "g 0-2", "k 0-1", "t 0-1 afterany:0,aftercorr:1",
    ]  # fmt: skip
    both = many("collate", 2, workers=2)
    assert lines([*both, *each("report", both, tag="r")], **{"0": ("9_0", "9_1"), "1": ("9_2", "9_3")}) == [
        "r 0 afterok:9_0?afterok:9_1", "r 0 afterok:9_2?afterok:9_3",
    ]  # fmt: skip
    assert lines(units, replace(FREE, max_array_size=2))[0] == "g 0-1"
    alone = planned(units, replace(FREE, room=1))
    assert (texts(alone.arrays), alone.arrays[0].resources.workers) == (["g 0"], 1)


def test_an_array_of_one_units_workers_says_how_many_and_holds_no_other_unit() -> None:
    pair = many("generate", 2, workers=2)
    found = planned([unit("generate", "g", workers=3), *pair, *many("tokenize", 2)]).arrays
    assert texts(found) == ["g 0-2", "g 0-1", "g 0-1", "k 0-1"]
    assert [array.resources.workers for array in found] == [3, 2, 2, 1]


def test_under_caps_all_workers_end_before_what_comes_next() -> None:
    generate = unit("generate", "g", workers=3, gpus_per_node=4)
    units = [generate, unit("collate", "c", generate)]
    assert lines(units, replace(FREE, max_jobs=2)) == ["g 0-2%2", "c 0 afterany:0"]
    assert lines(units, replace(FREE, max_gpus=4)) == ["g 0-2%1", "c 0 afterany:0"]


def test_shapes_and_hours() -> None:
    short, long = (
        many("tokenize", FEW, hours=1.0),
        [unit("tokenize", f"long{n}", hours=5 + n) for n in range(3)],
    )
    large = unit("tokenize", "large", nodes=2)
    arrays = planned([*long, *short, large]).arrays
    assert [(len(a.elements), a.resources.hours) for a in arrays] == [(FEW, 1), (3, 7), (1, 1)]
    together = planned([*long, *short[1:]]).arrays  # too few for an array of their own
    assert [(len(a.elements), a.resources.hours) for a in together] == [(FEW + 2, 7)]
    assert [e.unit for e in together[0].elements] == [*long, *short[1:]]


def test_hours_are_shared_up_to_the_next_power_of_two() -> None:
    hours = [4.0, 4.1, 2.1, 8.0]
    units = [unit("tokenize", f"{n}-{h}", hours=h) for n in range(FEW) for h in hours]
    arrays = planned(units).arrays
    assert [(len(a.elements), a.resources.hours) for a in arrays] == [(2 * FEW, 4), (2 * FEW, 8)]


def test_memory_is_shared_up_to_twice_of_what_the_smallest_needs() -> None:
    needs = [2001, 1000, 4500, 2000, 4002, 1500]
    units = [unit("tokenize", n, memory=n, raised=3 * n) for n in needs]
    arrays = planned(units).arrays
    assert [[int(e.unit.name) for e in a.elements] for a in arrays] == [
        [1000, 2000, 1500],
        [2001, 4002],
        [4500],
    ]
    assert [(a.resources.memory, a.resources.raised) for a in arrays] == [
        (2000, 6000), (4002, 12_006), (4500, 13_500),
    ]  # fmt: skip


# Limits


def test_what_the_queue_has_no_room_for_is_held() -> None:
    packs = many("tokenize", 4)
    found = planned([*packs, *each("train", packs)], replace(FREE, room=6))
    assert texts(found.arrays) == ["k 0-3", "t 0-1 aftercorr:0"]
    assert [(u.stage, u.name) for u, _ in found.held] == [("train", "2"), ("train", "3")]
    assert {why for _, why in found.held} == {
        "the queue has room for 6 more of your jobs: submitted later, by a keeper or the next submit"
    }
    assert planned(packs, replace(FREE, room=0)).arrays == ()


def test_a_stage_without_room_holds_back_no_other_stage() -> None:
    trains = many("train", 2)
    pool = Pool("QOS t", 1, frozenset(unit.id for unit in trains))
    found = planned([*trains, *many("tokenize", 3)], replace(FREE, pools=(pool,)))
    assert texts(found.arrays) == ["t 0", "k 0-2"]
    assert [(u.name, why) for u, why in found.held] == [
        ("1", f"QOS t has room for 1 more of your jobs: {LATER}")
    ]


def test_arrays_that_may_run_together_share_the_caps() -> None:
    small, large = many("tokenize", 30), many("train", 10, gpus_per_node=2)
    assert lines([*small, *large], replace(FREE, max_jobs=20)) == ["k 0-29%15", "t 0-9%5"]
    assert lines([*small, *large], replace(FREE, max_gpus=7)) == ["k 0-29", "t 0-9%3"]
    assert lines([*small, *large], replace(FREE, max_jobs=50, max_gpus=50)) == ["k 0-29", "t 0-9"]
    after = [unit("collate", "c", *small), *many("evaluate", 40, *small, *large)]
    assert lines([*small, *large, *after], replace(FREE, max_jobs=20)) == [
        "k 0-29%7", "t 0-9%2", "c 0 afterok:0", "e 0-39%10 afterok:0:1",
    ]  # fmt: skip
    uneven = [*many("tokenize", 10, gpus_per_node=2), *many("train", 10, gpus_per_node=3)]
    assert lines(uneven, replace(FREE, max_gpus=13)) == ["k 0-9%3", "t 0-9%2"]
    assert lines([*small, *large, *after[1:]], replace(FREE, max_jobs=20)) == [
        "k 0-29%15", "t 0-9%5", "e 0-39%20 afterok:0:1",
    ]  # fmt: skip


def test_an_array_that_needs_a_part_may_run_beside_the_rest() -> None:
    packs = many("tokenize", 4)
    units = [*packs, unit("collate", "c", *packs), unit("train", "t", packs[0])]
    assert lines(units[:-1], replace(FREE, max_jobs=4)) == ["k 0-3", "c 0 afterok:0"]
    assert lines(units, replace(FREE, max_jobs=4)) == ["k 0-3%2", "c 0 afterok:0", "t 0 afterok:0_0"]
    units += many("evaluate", 4, units[-1])
    assert lines(units, replace(FREE, max_jobs=6))[0::3] == ["k 0-3%2", "e 0-3%2 afterok:2"]


def test_live_jobs_count_unless_all_wait_for_them() -> None:
    live, packs = unit("collate", "c", gpus_per_node=3, workers=2), many("tokenize", 9, gpus_per_node=1)
    two = {"c": ("7_0", "7_1")}
    assert lines([live, *packs], replace(FREE, max_jobs=6), **two) == ["k 0-8%4"]
    assert lines([live, *packs], replace(FREE, max_gpus=8), **two) == ["k 0-8%2"]
    assert lines([live, *packs], replace(FREE, max_gpus=6), **two) == []
    assert lines([live, *many("evaluate", 2)], replace(FREE, max_gpus=2), **two) == ["e 0-1"]
    after = many("train", 9, live, gpus_per_node=1)
    rules = replace(FREE, max_jobs=6, max_gpus=8)
    assert lines([live, *after], rules, **two) == ["t 0-8%6 afterany:7_0:7_1"]
    assert lines([live, *packs, *after], rules, **two) == ["k 0-8%1", "t 0-8%1 afterany:7_0:7_1"]


def test_what_the_caps_have_no_room_for_is_held_with_all_that_needs_it() -> None:
    first, second = many("tokenize", 3), many("collate", 3, gpus_per_node=2)
    huge = unit("evaluate", "huge", gpus_per_node=9)
    units = [*first, *second, huge, *each("train", second), unit("report", "r", huge)]
    found = planned(units, replace(FREE, max_jobs=1, max_gpus=8))
    assert texts(found.arrays) == ["k 0-2%1"]
    reasons = {f"{u.stage} {u.name}": why for u, why in found.held}
    assert reasons["collate 0"] == (
        f"this study may run 1 jobs at once (max_jobs), and others come first: {LATER}"
    )
    assert reasons["evaluate huge"] == "one job needs 9 GPUs, and this study may use 8 at once (max_gpus)"
    for n in range(3):
        assert reasons[f"train {n}"] == f"it needs collate {n}, which cannot be submitted yet"
    assert reasons["report r"] == "it needs evaluate huge, which cannot be submitted yet"
    by_gpus = planned([*second, *many("train", 2, gpus_per_node=1)], replace(FREE, max_gpus=2))
    assert by_gpus.held[0][1].startswith(
        "this study may use 2 GPUs at once (max_gpus), and others come first"
    )


@pytest.mark.parametrize(
    ("name", "most", "stages"),
    [
        ("demo", 8, {"prepare": 1, "generate": 1, "collate": 1, "tokenize": 1, "train": 2, "evaluate": 2}),
        ("scale-or-reason", 64, {"generate": 1, "collate": 1, "tokenize": 1, "train": 4, "evaluate": 19}),
    ],
)
def test_arrays_of_the_studies(name: str, most: int, stages: dict[str, int]) -> None:
    units = plan(load_study(name), load_cluster("local"))
    for rules in (FREE, replace(FREE, max_jobs=most, max_gpus=256)):
        found = planned(units, rules)
        assert Counter(a.stage for a in found.arrays) == {**stages, "report": 1}
        assert found.held == ()
    evaluations = [a for a in found.arrays if a.stage == "evaluate"]
    assert {c.kind for a in evaluations for c in a.after} == {"aftercorr"}


# In a made-up Slurm

LIVE = ("PENDING", "RUNNING")


class Queue:
    """What the queue of a Slurm does with arrays, by its documentation; chance decides what happens next.

    Args:
        failures: how many jobs fail at most.
    """

    def __init__(self, units: Sequence[Unit], rules: Rules, failures: int, chance: random.Random) -> None:
        self.units = {u.id: u for u in units}
        self.rules, self.failures, self.chance = rules, failures, chance
        self.arrays: dict[
            str, tuple[Array, str, int]
        ] = {}  # with the text of its dependency and its throttle
        self.jobs: dict[str, tuple[str, Unit]] = {}  # array and unit of each job
        self.states: dict[str, str] = {}
        self.done: set[str] = set()

    def submit(self, found: ArrayPlan) -> None:
        ids: list[str] = []
        for array in found.arrays:
            ids.append(str(100 + len(self.arrays)))
            text = array_spec(array)
            assert text is not None
            spec, _, throttle = text.partition("%")
            self.arrays[ids[-1]] = array, dependency(array, ids) or "", int(throttle or len(array.elements))
            indices = [i for part in spec.split(",") for i in numbers(part)]
            assert indices == [e.index for e in array.elements]
            for element in array.elements:
                job = f"{ids[-1]}_{element.index}"
                self.jobs[job], self.states[job] = (ids[-1], element.unit), "PENDING"

    def of(self, unit: str, *states: str) -> list[str]:
        """The jobs of a unit in these states."""
        return [job for job, (_, u) in self.jobs.items() if u.id == unit and self.states[job] in states]

    @property
    def live(self) -> dict[str, tuple[str, ...]]:
        found = {id: tuple(self.of(id, *LIVE)) for id in self.units if id not in self.done}
        return {id: jobs for id, jobs in found.items() if jobs}

    def count(self, *states: str) -> int:
        return sum(state in states for state in self.states.values())

    def satisfied(self, job: str) -> bool:
        """Whether a job's dependency is fulfilled."""
        text = self.arrays[self.jobs[job][0]][1]
        if not text:
            return True
        either, conditions = "?" in text, re.split("[?,]", text)
        return (any if either else all)(self._condition(job, *c.split(":")) for c in conditions)

    def _condition(self, job: str, kind: str, *targets: str) -> bool:
        if kind == "aftercorr":
            return all(self.states[f"{t}_{job.partition('_')[2]}"] == "COMPLETED" for t in targets)
        jobs = [
            j for t in targets for j in ([t] if "_" in t else self.jobs) if j == t or j.startswith(f"{t}_")
        ]
        assert jobs
        return all(
            self.states[j] not in LIVE if kind == "afterany" else self.states[j] == "COMPLETED" for j in jobs
        )

    def step(self) -> bool:
        """Let one job start or end; False if nothing can."""
        running = Counter(self.jobs[j][0] for j, state in self.states.items() if state == "RUNNING")
        options = [j for j, state in self.states.items() if state == "RUNNING"]
        for job in (j for j, state in self.states.items() if state == "PENDING"):
            array, unit = self.jobs[job]
            ready, text = {i.id for i in unit.inputs} <= self.done, self.arrays[array][1]
            satisfied = self.satisfied(job)
            assert satisfied == ready or "afterany" in text  # no earlier and no later
            if satisfied and not ready:  # all workers of an input have ended, and none did it
                assert any(not self.of(i.id, *LIVE, "COMPLETED") for i in unit.inputs)
            if satisfied and running[array] < self.arrays[array][2]:
                options.append(job)
        if options:
            self._go_on(self.chance.choice(options))
        return bool(options)

    def _go_on(self, job: str) -> None:
        unit = self.jobs[job][1]
        if self.states[job] == "PENDING":
            self.states[job] = "RUNNING"
            gpus = [
                u.resources.nodes * u.resources.gpus_per_node
                for j, (_, u) in self.jobs.items()
                if self.states[j] == "RUNNING"
            ]
            assert len(gpus) <= (self.rules.max_jobs or len(gpus))
            assert sum(gpus) <= (self.rules.max_gpus or sum(gpus))
            return
        fails = self.failures > 0 and self.chance.random() < 0.2
        self.failures -= fails
        ok = not fails and {i.id for i in unit.inputs} <= self.done
        self.states[job] = "COMPLETED" if ok else "FAILED"
        self.done |= {unit.id} if ok else set()

    def clear(self) -> None:
        """Cancel what waits for what no job will do any more."""
        lost: set[str] = set()
        for unit in self.units.values():
            if unit.id not in self.done and any(i.id in lost for i in unit.inputs):
                for job in self.of(unit.id, *LIVE):
                    self.states[job] = "CANCELLED"
            if unit.id not in self.done and not self.of(unit.id, *LIVE):
                lost.add(unit.id)


@st.composite
def studies(draw: st.DrawFn) -> list[Unit]:
    """Layers of units; each goes on from the one or two before it in one of several ways."""
    resources = st.builds(
        Resources, nodes=st.sampled_from((1, 1, 2)), gpus_per_node=st.sampled_from((0, 0, 1, 2)),
        workers=st.sampled_from((1, 1, 1, 3)), hours=st.sampled_from((0.5, 3, 10)),
    )  # fmt: skip
    units: list[Unit] = []
    before: list[Unit] = []
    layer: list[Unit] = []
    for depth in range(draw(st.integers(1, 6))):
        ways: list[list[list[Unit]]] = [
            [[u] for u in layer],
            [[u] for u in layer] * 2,
            [[u] for u in before],
            [[u, v] for u, v in zip(layer, before, strict=False)],
            [layer] * draw(st.integers(1, 3)),
        ]
        reads = draw(st.sampled_from([way for way in ways if way] if layer else [[[]] * 4, [[]]]))[:8]
        shared = draw(st.lists(st.sampled_from(units), max_size=2)) if units else []
        alike, mixed, before, layer = draw(resources), draw(st.integers(0, 4)) == 0, layer, []
        for n, read in enumerate(reads):
            some = shared[: draw(st.integers(0, 2))] if mixed else shared
            inputs = {u.id: u for u in (*read, *some)}.values()
            new = unit(STAGES[depth], n, *inputs)
            layer.append(replace(new, resources=draw(resources) if mixed else alike))
        units += layer
    return units


def check(found: ArrayPlan, submit: list[str], rules: Rules) -> None:
    """Nothing is lost or doubled, and sizes and indices are within limits."""
    elements = [(e, array) for array in found.arrays for e in array.elements]
    workers = Counter((e.unit.id, e.worker) for e, _ in elements)
    assert set(workers.values()) <= {1}
    ids = [*{e.unit.id: None for e, _ in elements}, *(u.id for u, _ in found.held)]
    assert Counter(ids) == Counter(submit)
    assert len(elements) <= (len(elements) if rules.room is None else rules.room)
    for array in found.arrays:
        indices = [e.index for e in array.elements]
        assert len(set(indices)) == len(indices) <= rules.max_array_size
        assert max(indices) < rules.max_array_size
        assert 1 <= array.throttle <= len(indices)
        units = {e.unit.id: e.unit for e in array.elements}
        several = len(array.elements) > len(units)  # workers of one unit
        assert not several or [e.worker for e in array.elements] == list(range(len(indices)))
        assert len(units) == 1 or not several
        hours = max(u.resources.hours for u in units.values())
        assert {(u.stage, replace(u.resources, hours=hours, workers=1)) for u in units.values()} == {
            (array.stage, replace(array.resources, workers=1))
        }


@settings(max_examples=3 * settings().max_examples // 2, deadline=None)
@given(studies(), st.integers(1, 6), st.integers(0, 2**32))
def test_a_study_submitted_at_once_completes(units: list[Unit], size: int, seed: int) -> None:
    rules = replace(FREE, max_array_size=size)
    found, queue = planned(units, rules), Queue(units, rules, 0, random.Random(seed))
    check(found, [u.id for u in units], rules)
    assert found.held == ()
    queue.submit(found)
    while queue.step():
        pass
    assert set(queue.states.values()) == {"COMPLETED"}
    assert queue.done == {u.id for u in units}


@settings(max_examples=3 * settings().max_examples, deadline=None)
@given(
    studies(),
    st.builds(
        Rules, max_array_size=st.integers(1, 6), room=st.integers(1, 12) | st.just(1000),
        max_jobs=st.none() | st.integers(1, 6), max_gpus=st.none() | st.integers(4, 9),
    ),
    st.integers(0, 5),
    st.integers(0, 2**32),
)  # fmt: skip
def test_repeated_submits_complete_a_study_within_all_limits(
    units: list[Unit], rules: Rules, failures: int, seed: int
) -> None:
    chance = random.Random(seed)
    queue = Queue(units, rules, failures, chance)
    for _ in range(500):
        queue.clear()
        live = queue.live
        submit = [u.id for u in units if u.id not in queue.done and u.id not in live]
        assert rules.room is not None
        now = replace(rules, room=rules.room - queue.count(*LIVE))
        found = plan_arrays(units, submit, live, now)
        check(found, submit, now)
        queue.submit(found)
        assert queue.count(*LIVE) <= rules.room
        for _ in range(chance.randint(1, 20)):
            queue.step()
        while any(queue.of(id, *LIVE) for id in queue.done):  # workers that came too late are soon over
            assert queue.step()
        if len(queue.done) == len(units):
            return
    pytest.fail(f"not done: {queue.states}")


def numbers(part: str) -> range:
    """The indices of `4-7` or `4`."""
    first, _, last = part.partition("-")
    return range(int(first), int(last or first) + 1)


# In a real Slurm


def test_a_real_slurm_reads_dependencies_as_they_are_meant(slurm: Cluster, tmp_path: Path) -> None:
    """Of each unit with two workers the second fails, and so does the second pack."""
    generate, prepare = unit("generate", "g", workers=2), unit("prepare", "p", workers=2)
    collate, packs = unit("collate", "c", generate), many("tokenize", 3)
    trains = each("train", packs, collate)
    evaluations = each("evaluate", trains, prepare)
    first, last = unit("report", "first", *evaluations[::2]), unit("report", "last", collate, *evaluations)
    arrays = planned([generate, prepare, collate, *packs, *trains, *evaluations, first, last]).arrays
    assert texts(arrays)[2:] == [
        "k 0-2", "c 0 afterok:0_0?afterok:0_1", "t 0-2 afterok:3,aftercorr:2",
        "e 0-2 afterany:1,aftercorr:4", "r 0 afterok:5_0:5_2", "r 0 afterok:5",
    ]  # fmt: skip
    ids: list[str] = []
    for array in arrays:
        depends = dependency(array, ids)
        fails = array.stage == "tokenize" or len(array.elements) == 2
        ids.append(slurm.run(
            "sbatch", "--parsable", "--output=/dev/null", f"--array={array_spec(array)}",
            *([f"--dependency={depends}"] if depends else ["--hold"]),
            f"--wrap=echo {len(ids)}_$SLURM_ARRAY_TASK_ID >> '{tmp_path}/log'; "
            + ("exit $((SLURM_ARRAY_TASK_ID == 1))" if fails else ""),
        ))  # fmt: skip
    slurm.run("scontrol", "release", *ids[:3])

    queued = ("squeue", "--noheader", "--array", "--format=%i", f"--jobs={','.join(ids)}")
    stuck = {f"{ids[4]}_1", f"{ids[5]}_1", f"{ids[7]}_0"}
    wait_for(lambda: set(slurm.run(*queued).split()) == stuck, "all but three jobs")
    ran = (tmp_path / "log").read_text(encoding="utf-8").split()
    assert sorted(ran) == [
        "0_0", "0_1", "1_0", "1_1", "2_0", "2_1", "2_2", "3_0", "4_0", "4_2", "5_0", "5_2", "6_0",
    ]  # fmt: skip
    before = [("0_0", "3_0")]
    before += [(f"2_{i}", f"4_{i}") for i in (0, 2)] + [("3_0", f"4_{i}") for i in (0, 2)]
    before += [(f"4_{i}", f"5_{i}") for i in (0, 2)] + [(f"1_{w}", f"5_{i}") for w in (0, 1) for i in (0, 2)]
    before += [(f"5_{i}", "6_0") for i in (0, 2)]
    assert all(ran.index(a) < ran.index(b) for a, b in before)
    slurm.run("scancel", *ids)


def test_without_arrays_each_worker_is_a_job_of_its_own() -> None:
    first, parted = Unit("generate", "g", {}, resources=Resources(workers=2)), Unit("tokenize", "p", {"p": 1})
    second = Unit("train", "t", {}, (first.as_input("g"), parted.as_input("p")))
    last = Unit("evaluate", "e", {}, (second.as_input("t"), parted.as_input("p")))
    units = [first, parted, second, last]
    for size, plain in ((0, True), (1, False)):
        found = plan_arrays(units, {u.id for u in units}, {}, replace(FREE, max_array_size=size))
        assert [len(a.elements) for a in found.arrays] == [1] * len(found.arrays)
        assert [array_spec(a) for a in found.arrays] == [None if plain else "0"] * len(found.arrays)
        ids = [str(10 + i) for i in range(len(found.arrays))]
        stages = [a.stage for a in found.arrays]
        after = {a.stage: dependency(a, ids) for a in found.arrays}
        assert after["tokenize"] is None
        assert after["evaluate"] == f"afterok:{ids[stages.index('train')]}"
    live = {first.id: ("7",), parted.id: ("8",)}  # submitted before, without arrays
    for size in (0, 1, 1001):
        found = plan_arrays(units, {second.id, last.id}, live, replace(FREE, max_array_size=size))
        assert [dependency(a, ["11", "12"]) for a in found.arrays] == ["afterok:7:8", "afterok:11"]
