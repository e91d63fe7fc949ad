"""Budgets of training FLOPs: the steps that reach one, and the plan of a study with several."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_blocks import made_blocks, row
from made_results import benchmark, evaluation
from small_study import publish, student, write_study
from test_usage import ran

from analysis.report import analyse
from analysis.results.collect import DataWarning, collect, lineage
from analysis.results.usage import usage
from analysis.statistics.questions import _costs
from jobs.core.budget import TOLERANCE, compared_flops
from jobs.core.flops import train_flops
from jobs.core.unit import CONTINUES, Unit
from jobs.core.wording import about
from jobs.data.blocks import Blocks
from jobs.store.rundir import StudyDir, write_json
from jobs.text.encoding import Row
from jobs.training.schedule import Recipe, Schedule, block_flops, scheduled, within
from launch.local.backend import Local
from launch.state.reconcile import reconcile
from launch.state.states import State
from launch.state.status import poll
from launch.study.budgets import notes, repeated
from launch.study.cluster import load_cluster
from launch.study.estimate import Lengths
from launch.study.plan import plan, settings_varied, variants
from launch.study.presets import StudyError
from launch.study.recipes import suffix
from launch.study.schema import Study, load_study
from launch.study.yamlfile import parse_yaml
from launch.submit.array_jobs import _readers
from launch.views import plan_view

ARCHITECTURE = {
    "model_type": "qwen3", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1,
    "num_key_value_heads": 1, "head_dim": 16, "intermediate_size": 16, "vocab_size": 41,
    "tie_word_embeddings": True, "max_position_embeddings": 64,
}  # fmt: skip
RECIPE: dict[str, Any] = {
    "batch": 4, "learning_rate": 1.0, "schedule": "wsd", "weight_decay": 0.0, "betas": (0.9, 0.95),
    "clip": 1.0, "dtype": "fp32", "seed": 0, "cooldown": 0.2,
}  # fmt: skip
WSD = {"schedule": "wsd", "warmup": 0.1}


def blocks(*phases: int, seed: int = 0) -> Blocks:
    """Made-up blocks of 32 tokens; the rows of later phases are longer."""
    rng, size = np.random.default_rng(seed), 32
    made = list[list[Row]]()
    for phase in np.repeat(np.arange(len(phases)), phases):
        made.append([])
        left = size
        while (length := int(rng.integers(3, 8 * (phase + 1)))) <= left:
            made[-1].append(row(length, answer=length - 1))
            left -= length
    return made_blocks(made, size, phases)


def of_budget(rows: Blocks, passes: float, **recipe: Any) -> Schedule:
    """The steps of a training that reads some rows so many times."""
    budget = passes * block_flops(rows, ARCHITECTURE).sum()
    return scheduled(rows, Recipe(**{**RECIPE, "flops": budget, **recipe}), ARCHITECTURE)


def spent(rows: Blocks, made: Schedule) -> int:
    return sum(train_flops(ARCHITECTURE, rows.lengths(made.blocks(step))) for step in range(made.steps))


# The steps of a budget


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=3),
    st.floats(0.05, 5.5),
    st.integers(0, 3),
)
def test_a_budget_is_reached_to_the_nearest_block_and_each_phase_keeps_its_part(
    phases: list[int], passes: float, seed: int
) -> None:
    rows = blocks(*phases, seed=seed)
    costs = block_flops(rows, ARCHITECTURE)
    order = within(tuple(phases), costs, passes * costs.sum(), seed)
    assert abs(costs[order].sum() - passes * costs.sum()) <= costs.max() / 2 * (1 + 1e-9)
    where = np.repeat(np.arange(len(phases)), phases)
    assert np.all(np.diff(where[order]) >= 0), "phase by phase"
    for phase in range(len(phases)):
        own = costs[order[where[order] == phase]].sum()
        assert abs(own - passes * costs[where == phase].sum()) <= costs.max() * (1 + 1e-9)
    for phase, number in enumerate(phases):  # whole passes before the last, cut one
        mine = order[where[order] == phase]
        for start in range(0, len(mine), number):
            part = mine[start : start + number]
            assert len(set(part.tolist())) == len(part)


def test_the_flops_of_blocks_are_those_of_their_rows() -> None:
    rows = blocks(700, 600)  # more than are counted at once
    costs = block_flops(rows, ARCHITECTURE)
    for number in (0, 699, 700, 1023, 1024, 1299):
        assert costs[number] == train_flops(ARCHITECTURE, rows.lengths(np.array([number])))
    assert len(set(costs)) > 100


@pytest.mark.parametrize("phases", [(900,), (700, 500)])
@pytest.mark.parametrize("passes", [0.72, 1.0, 3.4])
def test_the_count_is_within_a_thousandth_and_the_last_step_may_be_smaller(
    phases: tuple[int, ...], passes: float
) -> None:
    rows = blocks(*phases)
    made = of_budget(rows, passes)
    assert made.recipe.flops is not None
    assert spent(rows, made) == pytest.approx(made.recipe.flops, rel=TOLERANCE)
    sizes = [len(made.blocks(step)) for step in range(made.steps)]
    assert set(sizes[:-1]) == {4}
    assert 1 <= sizes[-1] <= 4
    assert sum(sizes) == len(made.order)
    assert made.passes == pytest.approx(passes)


def test_a_smaller_budget_of_one_phase_begins_a_larger_one_and_of_two_it_does_not() -> None:
    for phases, shared in (((500,), True), ((300, 200), False)):
        rows = blocks(*phases)
        whole = block_flops(rows, ARCHITECTURE).sum()
        orders = [of_budget(rows, passes, warmup_flops=0.05 * whole) for passes in (0.5, 0.9, 2.3)]
        for small, large in itertools.pairwise(orders):
            same = small.order.tolist() == large.order[: len(small.order)].tolist()
            assert same == shared
            assert small.stable <= large.stable
            assert small.warmup == large.warmup > 0
            if shared:
                rates = [[made.rate(step) for step in range(small.stable)] for made in (small, large)]
                assert rates[0] == rates[1]
                assert len(small.blocks(small.stable - 1)) == 4, "the part that is shared has whole steps"


def test_a_budget_of_less_than_a_step_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"training\.flops is .*, and a step of 4 blocks takes about .*: raise"
    ):
        of_budget(blocks(100), 0.02)


# The plan of a study


def study(folder: Path, **changes: Any) -> Study:
    return load_study(str(write_study(folder, **{"students": {"s": student()}, **changes})))


def trainings(found: Study, rows: Lengths | None = None) -> dict[str, Unit]:
    return {u.name: u for u in plan(found, load_cluster("local"), rows) if u.stage == "train"}


def test_budgets_are_names_and_identities_and_what_there_was_stays(tmp_path: Path) -> None:
    before = trainings(study(tmp_path))
    grid = [{}, {"flops": [1e12, 2.5e12]}]
    after = trainings(study(tmp_path, training=grid))
    assert {name: after[name].id for name in before} == {name: unit.id for name, unit in before.items()}
    assert set(after) - set(before) == {
        "s-r0-flops1e12", "s-r50-flops1e12", "s-r0-flops2.5e12", "s-r50-flops2.5e12",
    }  # fmt: skip
    recipe = after["s-r0-flops2.5e12"].config["recipe"]
    assert (recipe["flops"], "epochs" in recipe, "cooldown" in recipe) == (2.5e12, False, False)
    assert after["s-r0-flops2.5e12"].flops == 25 * 10**11
    assert not set(before["s-r0"].config["recipe"]) & {"flops", "cooldown", "warmup_flops"}
    assert Recipe(**recipe).flops == 2.5e12, "what the training makes of it"


def test_what_budgets_add_to_names(tmp_path: Path) -> None:
    plain, budget, wsd, other = study(
        tmp_path,
        training=[
            {},
            {"flops": 2e19},
            {"flops": 2e19, "schedule": "wsd"},
            {"schedule": "wsd", "cooldown": 0.1},
        ],
    ).recipes
    assert suffix(budget, plain) == "-flops2e19"
    assert suffix(wsd, plain) == "-flops2e19-wsd-cooldown0.2"
    assert suffix(other, wsd) == "-epochs1-cooldown0.1"
    assert suffix(plain, wsd) == "-epochs1-cosine"


def test_trainings_with_wsd_continue_from_the_next_smaller_budget(tmp_path: Path) -> None:
    grid = {"flops": [4e12, 1e12, 2e12], **WSD}  # in any order
    mixtures = [{"shares": [0, 0.5]}, {"shares": 0.5, "order": "shuffled"}]
    found = study(tmp_path, training=grid, mixtures=mixtures, seeds=[0, 1])
    units = plan(found, load_cluster("local"))
    seen = set[str]()
    for unit in units:
        assert {given.id for given in unit.inputs} <= seen, "inputs come first"
        seen.add(unit.id)
    trained = trainings(found)
    for start, end in (("s-r0", ""), ("s-r50-shuffled", ""), ("s-r0", "-s1")):
        chain = [trained[f"{start}{flops}{end}"] for flops in ("-flops1e12", "-flops2e12", "")]
        before = [[i for i in unit.inputs if i.role == CONTINUES] for unit in chain]
        assert before[0] == []
        assert [i.id for (i,) in before[1:]] == [unit.id for unit in chain[:-1]]
        after = [unit.execution.get("continued_by") for unit in chain]
        assert [given and given["id"] for given in after] == [chain[1].id, chain[2].id, None]
        assert {unit.config["recipe"]["warmup_flops"] for unit in chain} == {1e11}
        # A fifth of each budget is its cooldown.
        assert [unit.flops for unit in chain] == [10**12, 12 * 10**11, 24 * 10**11]
    for flops in ("-flops1e12", "-flops2e12", ""):
        apart = trained[f"s-r50{flops}"]  # the phase of plain answers ends elsewhere
        assert [i.role for i in apart.inputs] == [i.role for i in trained["s-r0-flops1e12"].inputs]
        assert "continued_by" not in apart.execution
    assert settings_varied(units) == {"flops": [1e12, 2e12, 4e12]}
    assert not [i for unit in trainings(study(tmp_path, training={"flops": [1e12, 2e12]})).values()
                for i in unit.inputs if i.role == CONTINUES]  # fmt: skip


def test_a_larger_budget_changes_no_training_and_a_budget_between_neither(tmp_path: Path) -> None:
    kinds = [
        {name.removeprefix("s-r0").removeprefix("-flops") or "1e12": unit.id
         for name, unit in trainings(study(tmp_path, mixtures={"shares": 0}, training=grid)).items()}
        for grid in ({"flops": f, **WSD} for f in (1e12, [1e12, 4e12], [1e12, 2e12, 4e12]))
    ]  # fmt: skip
    assert kinds[0].items() <= kinds[1].items() <= kinds[2].items()
    assert len(kinds[2]) == 3


def test_the_plan_says_how_often_rows_are_read_and_what_is_shared(tmp_path: Path) -> None:
    from rich.console import Console

    rows = Lengths(1000, 10, 5, 50)
    found = study(tmp_path, training={"flops": [1e9, 1e10], **WSD})
    units = plan(found, load_cluster("local"), rows)
    said = notes(units)
    each = {name: unit.execution["passes"] for name, unit in trainings(found, rows).items()}
    one = trainings(study(tmp_path, training={}), rows)
    assert each["s-r0"] == pytest.approx(1e9 / (one["s-r0"].flops or 0), rel=1e-3)
    assert each["s-r50"] < each["s-r0"] < 4 < each["s-r0-flops1e10"]
    least, most = (about(each[name]) for name in ("s-r50", "s-r0-flops1e10"))
    assert said == [
        f"budgets: {least} to {most} passes over the rows (estimate)",
        "of 4 trainings, 1 continue from a smaller budget's",
        "2 trainings of sequential mixtures start anew for each budget",
    ]
    assert repeated(units) == f"rows are read more than 4 times: s-r0-flops1e10 ({most})"
    root = StudyDir(tmp_path / "run")
    console = Console(width=200, record=True)
    console.print(plan_view(poll(units, root, Local(root))))
    text = console.export_text()
    assert all(line in text for line in (*said, repeated(units)))
    assert "trained with FLOPs 1e9, 1e10" in text
    without = plan(study(tmp_path, training={}), load_cluster("local"), rows)
    assert (notes(without), repeated(without)) == ([], "")


def test_the_example_of_the_docs_costs_what_they_say(tmp_path: Path) -> None:
    page = Path(__file__).parent.parent.joinpath("docs/models-and-data.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(training: \{flops: .*)\n```", page)
    training = parse_yaml(example.partition("#")[0]).data["training"]
    chain = trainings(study(tmp_path, training=training, mixtures={"shares": 1})).values()
    assert len(chain) == 3
    assert sum(unit.flops or 0 for unit in chain) == pytest.approx(1.08e20)
    assert sum(unit.config["recipe"]["flops"] for unit in chain) == pytest.approx(1.4e20)
    assert "cost 1.08e20 FLOPs in all, not 1.4e20" in page


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ({"flops": 1e19, "epochs": 1}, "leave out 'epochs' or 'flops'"),
        ({"flops": [1e19, 1e19]}, "named more than once: 1e"),
        ({"flops": 0}, "found 0"),
        ({"cooldown": 0.1}, "'cooldown' is that of 'schedule: wsd'"),
        ({**WSD, "cooldown": 0.95}, "more than all steps together"),
        ({**WSD, "cooldown": 0}, "found 0"),
    ],
)
def test_mistakes(tmp_path: Path, training: dict[str, Any], words: str) -> None:
    with pytest.raises(StudyError, match=words):
        study(tmp_path, training=training)


def test_a_study_is_read_again_as_it_was_recorded(tmp_path: Path) -> None:
    found = study(tmp_path, training=[{"flops": [1e12, 2e12], **WSD}, {"epochs": [1, 2]}])
    again = Study.model_validate(found.model_dump(mode="json"))
    assert [v.name for v in variants(again)] == [v.name for v in variants(found)]
    assert len(again.recipes) == 4


def test_a_result_stays_whatever_becomes_of_what_it_continued_from(tmp_path: Path) -> None:
    units = plan(study(tmp_path, mixtures={"shares": 0}, training={"flops": [1e12, 2e12], **WSD}),
                 load_cluster("local"))  # fmt: skip
    root, trained = StudyDir(tmp_path / "run"), [u for u in units if u.stage == "train"]
    for unit in units:
        if unit.stage in ("prepare", "collate", "tokenize") or unit is trained[1]:
            publish(root, unit)
    now = poll(units, root, Local(root))
    states = {seen.unit.name: seen.state for seen in now.units if seen.unit.stage == "train"}
    assert list(states.values()) == [State.WAITING, State.DONE]
    difference = reconcile(now)
    assert difference.outdated == ()
    assert [seen.unit.id for seen in difference.submit if seen.unit.stage == "train"] == [trained[0].id]
    read = _readers(units)[trained[0].id]  # what scripts submitted by hand set aside
    assert {path.partition("/")[0] for path in read} == {"evaluate", "report"}
    assert not [path for path in read if trained[1].name in path]


# Its results


def test_a_training_counts_as_its_budget_if_only_rounding_differs() -> None:
    assert compared_flops({"flops": 10**12}) == 10**12
    assert compared_flops({"flops": 10**12 + 10**9, "budget": 1e12}) == 1e12
    assert compared_flops({"flops": 10**12 - 10**9, "budget": 1e12}) == 1e12
    assert compared_flops({"flops": 10**12 + 2 * 10**9, "budget": 1e12}) == 10**12 + 2 * 10**9


def made(root: Path, name: str, budget: float, flops: int, accuracy: float, **other: Any) -> Unit:
    """Publish a made-up evaluation of a student with a budget."""
    recipe = {"flops": budget, "learning_rate": 1e-3, "seed": 0}
    asked = benchmark("b", accuracy, flops_per_item=1e9 * (1 + other["share"]))
    unit = evaluation(root, name, flops, [asked], trained={"recipe": recipe, "block_size": 64}, **other)
    result = StudyDir(root).unit(unit).result
    found = StudyDir(root).unit(unit).read_result()
    found["training"] |= {"budget": budget, "passes": budget / 1e18}
    write_json(result, found)
    return unit


def test_students_of_one_budget_are_compared_at_equal_compute(tmp_path: Path) -> None:
    for budget, plain, reasoning in ((1e18, 0.3, 0.2), (5e18, 0.4, 0.6)):
        for share, accuracy, off in ((0.0, plain, -1), (1.0, reasoning, 1)):  # reasoning: a little more
            name, flops = f"s-r{100 * share:.0f}-{budget:g}", int(budget * (1 + off * 5e-4))
            made(tmp_path, name, budget, flops, accuracy, share=share)
    with pytest.warns(DataWarning, match=r"rows were read more than 4 times: s-r0-5e\+18 \(5\), s-r100"):
        table = collect(tmp_path)
    assert sorted(set(table["training_flops"])) == [1e18, 5e18]
    assert set(table["recipe"]) == {"FLOPs 1e18", "FLOPs 5e18"}
    tables = analyse(tmp_path).tables
    compared = tables["matched"].query("axis == 'training_flops' and kind == 'benchmark'").set_index("flops")
    assert compared["extrapolated"].tolist() == ["", ""]
    assert compared["plain"].to_dict() == pytest.approx({1e18: 0.3, 5e18: 0.4})
    (times,) = tables["answers"].loc[tables["answers"]["axis"] == "training_flops", "times"]
    assert _costs({"training_flops": times, "inference_flops": 3.9}) == (
        "At the same size, reasoning takes the same training compute as plain answers, and 3.9 times their "
        "inference compute."
    )
    points = tables["frontier"].query("kind == 'benchmark'").set_index("student")["on_training_frontier"]
    assert points.to_dict() == {
        "s-r0-1e+18": True, "s-r100-1e+18": False, "s-r0-5e+18": False, "s-r100-5e+18": True,
    }  # fmt: skip


def test_what_was_shared_counts_once_and_is_not_what_a_student_was_made_from(tmp_path: Path) -> None:
    small = Unit("train", "small", {"flops": 1})
    large = Unit("train", "large", {"flops": 2}, (small.as_input(CONTINUES),))
    root = StudyDir(tmp_path)
    for unit, result in ((small, {"flops": 100}), (large, {"flops": 300, "shared_flops": 80})):
        publish(root, unit, result)
        ran(tmp_path, unit, [(1, 0, 0, 0, 60.0, None)])
    assert usage(tmp_path).set_index("stage")["flops"].to_dict() == {"train": 100 + 300 - 80}
    assert [folder.id for folder in lineage(root, [root.unit(large)])] == [large.id]
    assert large.id == replace(large, inputs=()).id
