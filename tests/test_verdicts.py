"""Questions and answers from tables whose numbers are given, and from studies whose truth is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_results import at, each_row, results_table

from analysis.report import derive
from analysis.statistics.bootstrap import MIN_ITEMS, intervals, resample
from analysis.statistics.claims import (
    NEAR_FRONTIER,
    NO,
    OPEN,
    REACHES,
    YES,
    claims,
    nothing_to_compare,
    verdict,
)  # fmt: skip
from analysis.statistics.frontier import FEW, frontier_table, redrawn, standing, with_configuration
from analysis.statistics.matched import matched

SIZES = ("0.5B", "1.5B", "3B", "7B", "14B")
OF_PLAIN, OF_ALL = REACHES
SCOPE = "math, open-ended"
NOTHING = pd.DataFrame()
WORSE, SAME, AHEAD = (0.02, 0.01, 0.03), (0.0, -0.01, 0.01), (-0.02, -0.03, -0.01)  # a gap and its interval
FAR = (0.5, 0.4, 0.6)


def points(shares: dict[str, tuple[float, ...]]) -> pd.DataFrame:
    """A student of each size and share; all accuracies differ."""
    made = [(size, share) for size, own in shares.items() for share in own]
    return pd.DataFrame(
        [
            {"kind": "group", "scope": SCOPE, "student": f"{size}-{share}", "size": size, "share": share,
             "order": "sequential", "accuracy": 0.2 + i / 100, "training_flops": 1e20 * (i + 1)}
            for i, (size, share) in enumerate(made)
        ]
    )  # fmt: skip


def stood(table: pd.DataFrame, **gaps: dict[str, tuple[float, float, float]]) -> pd.DataFrame:
    """`standing` of these points; `gaps` are by column and student, by default far below."""
    rows = table[["kind", "scope", "student"]].assign(axis="training_flops", probability=0.5)
    for name in ("gap", "plain_gap"):
        values = [gaps.get(name, {}).get(student, FAR) for student in rows["student"]]
        rows[[name, f"{name}_low", f"{name}_high"]] = values
    return rows


def answer(found: pd.DataFrame, question: str) -> tuple[str, str]:
    """The answer and the evidence."""
    (row,) = each_row(found[(found["question"] == question) & (found["axis"] == "training")])
    return row.answer, row.evidence


def test_the_interval_that_is_shown_is_the_one_that_decided() -> None:
    table = points({"1B": (0.0, 0.5, 1.0)})
    kept = pd.DataFrame(
        [
            {"kind": "group", "scope": SCOPE, "share": 0.5, "order": None, "gain": 0.2, "gain_low_all": 0.11,
             "gain_high_all": 0.29, "kept": 0.7, "kept_low": 0.4, "kept_high": 0.9, "over_half": 0.04,
             "over_half_low_all": 0.013, "over_half_high_all": 0.067, "training": 0.5, "inference": 0.5}
        ]
    )  # fmt: skip
    gaps = {"1B-1.0": (0.02, 0.011, 0.032)}
    made = claims(table, stood(table, gap=gaps, plain_gap=gaps), kept)
    assert "1B below it, 2 points behind (1.1 to 3.2)" in answer(made, OF_PLAIN)[1]
    (mixture,) = each_row(made[made["question"].str.contains("keep most")])
    assert mixture.answer == YES
    assert (
        "keeps 70 % of reasoning's gain of 20 points (11.0 to 29.0); "
        "against half of it, 4 points ahead (1.3 to 6.7)" in mixture.evidence
    )


@pytest.mark.parametrize(
    ("gaps", "expected"),
    [
        ([WORSE] * 3, NO),
        ([AHEAD] * 3, "yes, from 0.5B"),
        ([WORSE, WORSE, AHEAD], "yes, from 3B"),
        ([WORSE, SAME, AHEAD], "yes, from 3B or earlier"),
        ([AHEAD, AHEAD, SAME], OPEN),
        ([AHEAD, AHEAD, WORSE], OPEN),  # not at all larger ones
        ([WORSE, WORSE, (0.02, math.nan, math.nan)], OPEN),
        ([(-math.inf,) * 3, WORSE, WORSE], OPEN),
        ([(-math.inf,) * 3] * 3, OPEN),  # nothing costs as little: nobody to be compared with
    ],
)
@pytest.mark.parametrize("column", ["gap", "plain_gap"])
def test_reasoning_reaches_each_frontier_from_a_size_on(
    gaps: list[tuple[float, float, float]], expected: str, column: str
) -> None:
    table = points(dict.fromkeys(SIZES[:3], (0.0, 0.5, 1.0)))
    by_student = {f"{size}-1.0": gap for size, gap in zip(SIZES, gaps, strict=False)}
    found = claims(table, stood(table, **{column: by_student}), NOTHING)
    asked = {"gap": OF_ALL, "plain_gap": OF_PLAIN}
    assert answer(found, asked.pop(column))[0] == expected
    (other,) = asked.values()
    assert answer(found, other)[0] == NO


def test_only_frontiers_that_there_are_are_asked_for() -> None:
    for shares, expected in (((0.0, 1.0), {OF_PLAIN}), ((0.5, 1.0), {OF_ALL}), ((0.0, 0.5, 1.0), {*REACHES})):
        table = points(dict.fromkeys(SIZES, shares))
        found = claims(table, stood(table), NOTHING)
        assert set(found["question"]) & {*REACHES} == expected


@pytest.mark.parametrize(
    ("gaps", "expected"),
    [
        ([(0.0, -0.01, 0.01)] * 3, YES),
        ([(0.01, 0.0, 0.02)] * 3, OPEN),
        ([(0.05, 0.02, 0.08)] * 3, NO),
        ([(0.0, -0.01, 0.01)] * 2 + [(0.05, 0.02, 0.08)], YES),
        ([(0.05, 0.02, 0.08)] * 2 + [(0.0, -0.01, 0.01)], NO),
        ([(-math.inf,) * 3] * 3, OPEN),
    ],
)
def test_plain_answers_near_the_frontier(gaps: list[tuple[float, float, float]], expected: str) -> None:
    table = points(dict.fromkeys(SIZES[:3], (0.0, 1.0)))
    by_student = {f"{size}-0.0": gap for size, gap in zip(SIZES, gaps, strict=False)}
    assert answer(claims(table, stood(table, gap=by_student), NOTHING), NEAR_FRONTIER)[0] == expected


def test_an_interval_is_wholly_at_most_a_value_or_wholly_above_it_or_neither() -> None:
    low = pd.Series([0.1, 0.2, 0.3, 0.1, math.nan], index=list("abcde"))
    high = pd.Series([0.2, 0.3, 0.4, 0.3, math.nan], index=list("abcde"))
    assert verdict(low, high, 0.2).to_dict() == {"a": YES, "b": OPEN, "c": NO, "d": OPEN, "e": OPEN}


@pytest.mark.parametrize(
    ("students", "why"),
    [
        ([], "no student can be compared"),
        ([(0.0, 0.5)], "there is one student only"),
        ([(0.0, 0.5), (0.0, 0.6)], "all students had one kind of supervision"),
        ([(1.0, 0.5), (1.0, 0.6)], "all students had one kind of supervision"),
        ([(0.25, 0.5), (0.5, 0.6)], "all students had one kind of supervision"),
        ([(0.0, 0.5), (math.nan, 0.6)], "all students had one kind of supervision"),
        ([(0.0, 0.5), (1.0, 0.5)], "all accuracies are equal"),
        ([(0.0, 0.5), (0.5, 0.6)], ""),
        ([(0.5, 0.5), (1.0, 0.6)], ""),
        ([(0.0, 0.5), (1.0, 0.5), (1.0, 0.6)], ""),
    ],
)
def test_what_allows_no_comparison_is_said(students: list[tuple[float, float]], why: str) -> None:
    assert nothing_to_compare(pd.DataFrame(students, columns=["share", "accuracy"])) == why


def test_plain_answers_are_counted_over_all_groups_but_not_where_all_are_equal() -> None:
    table = points(dict.fromkeys(SIZES[:4], (0.0, 1.0)))
    every = pd.concat(
        [table.assign(scope="equal", accuracy=0.5), table]
        + [table.assign(scope=f"b{i}", kind="benchmark") for i in range(FEW + 1)]
    )
    values = [(0.01, 0.0, 0.01), (0.03, 0.02, 0.04), (0.005, -0.01, 0.02), (0.02, 0.011, 0.04)]
    gaps = {f"{size}-0.0": gap for size, gap in zip(SIZES, values, strict=False)}
    found = claims(every, stood(every, gap=gaps), NOTHING)
    counts = "1 surely at most 1 point below the frontier, 2 surely further below, 5 unclear"
    assert answer(found, NEAR_FRONTIER) == (
        OPEN, f"of 8 cases (a plain student on a group), {counts}; by the estimates alone, 4 near",
    )  # fmt: skip
    assert found.loc[found["question"] == NEAR_FRONTIER, "scope"].tolist() == ["all groups"]


def test_without_groups_the_questions_are_about_benchmarks() -> None:
    table = points({"1B": (0.0, 1.0)}).assign(kind="benchmark")
    for gap, found, counted in ((SAME, YES, (1, 0)), (FAR, NO, (0, 1))):
        made = claims(table, stood(table, gap={"1B-0.0": gap}), NOTHING)
        assert made["scope"].tolist() == ["all benchmarks", SCOPE]
        near, below = counted
        assert answer(made, NEAR_FRONTIER) == (
            found,
            f"of 1 case (a plain student on a benchmark), {near} surely at most 1 point below the frontier, "
            f"{below} surely further below, 0 unclear; by the estimates alone, {near} near",
        )


@pytest.mark.parametrize(
    ("shares", "why"),
    [((0.0,), "there is one student only"), ((0.0, 1.0), "no other student costs as little")],
)
def test_plain_answers_that_nobody_is_compared_with_are_open(shares: tuple[float, ...], why: str) -> None:
    table = points({"1B": shares})
    gaps = {"1B-0.0": (-math.inf,) * 3}
    found, evidence = answer(claims(table, stood(table, gap=gaps), NOTHING), NEAR_FRONTIER)
    assert (found, evidence.split("; ")[0]) == (OPEN, why)


def test_why_plain_answers_are_open_is_told_of_the_first_scope() -> None:
    both = points({"1B": (0.0,), "3B": (0.0,)})
    table = pd.concat([both, both[:1].assign(scope="a")])
    evidence = answer(claims(table, stood(table), NOTHING), NEAR_FRONTIER)[1]
    assert evidence.startswith("all students had one kind of supervision; of 3 ")


def test_each_axis_scope_and_share_is_answered_from_its_own_rows() -> None:
    table = points({"1B": (0.0, 0.5, 1.0)})
    every = pd.concat([table, table.assign(scope="a")])
    behind = stood(every, gap={"1B-1.0": WORSE})
    ahead = stood(every, plain_gap={"1B-1.0": AHEAD}).assign(axis="inference_flops")
    found = claims(every, pd.concat([behind, ahead]), NOTHING)
    assert list(found) == ["question", "axis", "scope", "answer", "evidence"]
    assert found["scope"].drop_duplicates().tolist() == ["all groups", SCOPE, "a"]  # as in the points
    by_axis = found.set_index(["question", "axis", "scope"])["answer"].to_dict()
    assert by_axis == {
        (NEAR_FRONTIER, "training", "all groups"): NO, (NEAR_FRONTIER, "inference", "all groups"): NO,
        (OF_PLAIN, "training", SCOPE): NO, (OF_PLAIN, "training", "a"): NO,
        (OF_PLAIN, "inference", SCOPE): "yes, from 1B", (OF_PLAIN, "inference", "a"): "yes, from 1B",
        (OF_ALL, "training", SCOPE): NO, (OF_ALL, "training", "a"): NO,
        (OF_ALL, "inference", SCOPE): NO, (OF_ALL, "inference", "a"): NO,
    }  # fmt: skip


def test_sizes_that_were_not_trained_on_reasoning_are_not_asked_about() -> None:
    table = points({"1B": (0.0, 1.0), "3B": (0.0, 0.5), "7B": (0.0,)})
    found = claims(table, stood(table, plain_gap={"1B-1.0": AHEAD}), NOTHING)
    assert answer(found, OF_PLAIN)[0] == "yes, from 1B"


def test_the_evidence_on_a_frontier_says_for_each_size_how_far_below_it_is() -> None:
    """A size of two students is on the frontier if one of them is; one without known compute is open."""
    table = points(dict.fromkeys(SIZES, (0.0, 1.0)))
    twin = table[table["student"] == "14B-1.0"].assign(student="twin")
    every = pd.concat([table, twin])
    gaps = {"0.5B-1.0": (-math.inf,) * 3, "1.5B-1.0": WORSE, "3B-1.0": SAME, "14B-1.0": WORSE, "twin": AHEAD}
    rows = stood(every, plain_gap=gaps)
    found = claims(every, rows[rows["student"] != "7B-1.0"], NOTHING)
    assert answer(found, OF_PLAIN) == (
        "yes, from 14B or earlier",
        "0.5B on it, no other costs as little; 1.5B below it, 2 points behind (1.0 to 3.0); "
        "3B unclear, 0 points ahead (-1.0 to 1.0); 7B unclear, compute not known; "
        "14B on it, 2 points behind (1.0 to 3.0), 2 points ahead (1.0 to 3.0)",
    )


def test_what_is_on_the_frontier_from_the_second_size_on_may_be_so_earlier() -> None:
    table = points(dict.fromkeys(SIZES[:2], (0.0, 1.0)))
    for first, expected in ((SAME, "yes, from 1.5B or earlier"), (WORSE, "yes, from 1.5B")):
        gaps = {"0.5B-1.0": first, "1.5B-1.0": AHEAD}
        found = claims(table, stood(table, plain_gap=gaps), NOTHING)
        assert answer(found, OF_PLAIN)[0] == expected


def test_mixtures_count_for_the_frontier_of_all_and_not_for_that_of_plain_answers() -> None:
    """Plain answers are as good as reasoning, the mixture is not: only the second question has an answer."""
    table = points({"1B": (0.0, 0.5, 1.0)}).assign(accuracy=[0.5, 0.6, 0.5])
    found = claims(table, stood(table), NOTHING)
    below = "1B below it, 50 points behind (40.0 to 60.0)"
    assert answer(found, OF_PLAIN) == (OPEN, f"all accuracies are equal; {below}")
    assert answer(found, OF_ALL) == (NO, below)
    free = stood(table, plain_gap={"1B-1.0": (-math.inf,) * 3}).assign(axis="inference_flops")
    alone = claims(table.assign(accuracy=[0.4, 0.5, 0.5]), free, NOTHING).set_index("question")
    assert alone.loc[[OF_PLAIN, OF_ALL], "answer"].tolist() == [OPEN, NO]
    assert alone.loc[OF_PLAIN, "evidence"] == (
        "no other student costs as little; 1B on it, no other costs as little"
    )


def keeping(**other: Any) -> dict[str, Any]:
    """A row of `kept` of a gain that is sure, of which surely more than half is kept."""
    row = {"kind": "group", "scope": SCOPE, "share": 0.25, "order": "shuffled", "gain": 0.2, "kept": 0.7}
    row |= {"gain_low_all": 0.1, "gain_high_all": 0.3, "training": 0.55, "inference": 0.45}
    row |= {"over_half": 0.04, "over_half_low_all": 0.01, "over_half_high_all": 0.07}
    return row | other


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (keeping(), YES),
        (keeping(over_half_low_all=0.0), OPEN),
        (keeping(over_half=-0.1, over_half_low_all=-0.2, over_half_high_all=-0.01), NO),
        (keeping(over_half=-0.1, over_half_low_all=-0.2, over_half_high_all=0.0), OPEN),
        (keeping(gain_low_all=0.0), OPEN),
        (keeping(gain_low_all=math.nan), OPEN),
    ],
)
def test_a_mixture_keeps_most_of_a_gain_that_is_sure(row: dict[str, Any], expected: str) -> None:
    table = points({"1B": (0.0, 1.0)})
    found = claims(table, stood(table), pd.DataFrame([row, keeping(kind="benchmark")]))
    question = "Does the mixture of 25 % reasoning, shuffled keep most of reasoning's gain?"
    (claim,) = each_row(found[found["axis"] == ""])
    assert (claim.question, claim.scope, claim.answer) == (question, SCOPE, expected)


def test_the_evidence_on_a_mixture_tells_the_gain_and_the_compute() -> None:
    table = points({"1B": (0.0, 1.0)})
    rows = pd.DataFrame([keeping(), keeping(gain_low_all=-0.1), keeping(training=math.nan)])
    found = claims(table, stood(table), rows)
    compute = "at 55 % of its training and 45 % of its inference compute"
    unknown = compute.replace("55 %", "an unknown part")
    half = "against half of it, 4 points ahead (1.0 to 7.0)"
    assert found.loc[found["axis"] == "", "evidence"].tolist() == [
        f"keeps 70 % of reasoning's gain of 20 points (10.0 to 30.0); {half}; {compute}",
        f"reasoning has no sure gain of which to keep a part: 20 points (-10.0 to 30.0); {compute}",
        f"keeps 70 % of reasoning's gain of 20 points (10.0 to 30.0); {half}; {unknown}",
    ]


def made_study(shares: tuple[float, ...], accuracy: Any, items: int = 2000, sizes: int = 3) -> pd.DataFrame:
    """Results of two benchmarks; accuracy is a function of size (from 0) and share."""
    return results_table(
        [
            {"student": f"{size}-{share}", "size": size, "share": share, "benchmark": f"b{b}", "n": items,
             "accuracy": accuracy(i, share), "training_flops": 1e20 * 2**i * (1 + share / 2),
             "inference_flops": 1e9 * 2**i * (1 + share / 2)}
            for i, size in enumerate(SIZES[:sizes]) for share in shares for b in range(2)
        ]
    )  # fmt: skip


def rising(size: int, share: float) -> float:
    return 0.2 + 0.1 * size + 0.3 * share


@pytest.mark.filterwarnings("ignore::analysis.results.collect.DataWarning")
@pytest.mark.parametrize(
    "results",
    [
        made_study((0.0, 1.0), lambda size, share: 0.5),  # all are equal
        made_study((0.0, 0.5, 1.0), lambda size, share: 0.0),
        made_study((0.0, 0.5, 1.0), lambda size, share: 1.0),
        made_study((0.0,), rising),  # one kind of supervision
        made_study((1.0,), rising),
        made_study((0.25, 0.5), rising),
        made_study((0.0,), rising, sizes=1),  # one student
        made_study((1.0,), rising, sizes=1),
        made_study((0.0, 0.5, 1.0), rising, items=MIN_ITEMS // 2 - 1),  # two benchmarks: 18 items
    ],
)
def test_nothing_is_answered_where_nothing_can_be_known(results: pd.DataFrame) -> None:
    assert set(derive(results, {})["claims"]["answer"]) <= {OPEN}


@pytest.mark.filterwarnings("ignore::analysis.results.collect.DataWarning")
def test_enough_items_are_evidence() -> None:
    found = derive(made_study((0.0, 0.5, 1.0), rising), {})["claims"].query("scope != 'b1'")
    assert answer(found, OF_PLAIN)[0] == answer(found, OF_ALL)[0] == "yes, from 0.5B"


def test_the_plain_gap_is_that_to_the_best_plain_student_that_costs_no_more() -> None:
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = [
        {"student": f"s{i}", "share": float(rng.choice([0.0, 0.5, 1.0])), "benchmark": "b", "n": 500,
         "accuracy": float(rng.random()), "training_flops": float(rng.integers(1, 9)), "inference_flops": 1.0}
        for i in range(20)
    ]  # fmt: skip
    table = frontier_table(results_table(rows))
    drawn = redrawn(results_table(rows), table, resample(with_configuration(results_table(rows)), {}, 200))
    found = standing(table, drawn).query("scope == 'b' and axis == 'training_flops'").set_index("student")
    for row in rows:
        rivals = [
            other["accuracy"] for other in rows
            if other["share"] == 0 and other is not row and other["training_flops"] <= row["training_flops"]
        ]  # fmt: skip
        expected = max(rivals) - row["accuracy"] if rivals else -math.inf
        assert found.loc[row["student"], "plain_gap"] == pytest.approx(expected)
        low, high = at(found, row["student"], ["plain_gap_low", "plain_gap_high"])
        assert (low < expected < high) or not rivals


def test_no_difference_and_no_error_are_no_evidence() -> None:
    draws = np.random.default_rng(0).normal(size=(500, 1))
    found = intervals(np.array([0.0, 1e-17, 0.5]), np.hstack([np.zeros((500, 2)), 0.5 + 0.01 * draws]))
    assert found["p_all"].tolist()[:2] == [1.0, 1.0]
    assert found["p_all"][2] < 0.01
    assert at(found, 0, ["low", "high", "low_all", "high_all"]).tolist() == [0.0] * 4


TASKS = 8


def equal_students(rng: np.random.Generator, items: int, tasks: int, count: int) -> tuple[pd.DataFrame, Any]:
    """Results and scores of students that are equally good: every sure difference is false."""
    rows, scores = [], {}
    for task in (f"t{t}" for t in range(tasks)):
        right = pd.DataFrame(
            (rng.random((count, items)) < 0.5).astype(float), [f"s{i}" for i in range(count)]
        )
        scores[task] = right
        rows += [
            {"student": f"s{i}", "size": f"{1 + i // 2}B", "share": float(i % 2), "benchmark": task,
             "n": items, "accuracy": right.iloc[i].mean(), "training_flops": 1e20 * (1 + i // 2),
             "inference_flops": 1e9}
            for i in range(count)
        ]  # fmt: skip
    return results_table(rows), scores


def falsely_sure(rng: np.random.Generator, items: int, tasks: int, count: int) -> dict[str, bool]:
    """Whether any difference or gap of one study is falsely sure, each for itself or all tasks together."""
    results, scores = equal_students(rng, items, tasks, count)
    table = frontier_table(results)
    drawn = redrawn(
        results, table, resample(with_configuration(results), scores, 200, int(rng.integers(10**9)))
    )
    pairs = matched(table, drawn).query(
        "kind == 'benchmark' and axis == 'training_flops' and extrapolated == ''"
    )
    gaps = standing(table, drawn).query("kind == 'benchmark' and axis == 'training_flops'")
    return {
        "each": bool(((pairs["low"] > 0) | (pairs["high"] < 0)).any()),
        "together": bool(((pairs["low_all"] > 0) | (pairs["high_all"] < 0)).any()),
        "gaps": bool((gaps["gap_low"] > 0).any()),
    }


@pytest.mark.slow
def test_all_tasks_are_one_family() -> None:
    """Of equal students, one task in twenty looks different; all tasks together, one study in twenty does."""
    rng = np.random.default_rng(4)
    rates = pd.DataFrame([falsely_sure(rng, 200, TASKS, 2) for _ in range(40)]).mean()
    assert rates["each"] > 0.2  # 1 - 0.95⁸ is a third
    assert rates["together"] <= 0.10


@pytest.mark.slow
def test_at_the_fewest_items_that_count_few_answers_are_false() -> None:
    rng = np.random.default_rng(5)
    rates = pd.DataFrame([falsely_sure(rng, MIN_ITEMS, 1, 6) for _ in range(60)]).mean()
    assert rates[["together", "gaps"]].max() <= 0.12, rates


def test_intervals_of_all_tasks_have_one_width_in_standard_errors() -> None:
    widths = []
    for tasks in (1, TASKS):
        results, scores = equal_students(np.random.default_rng(6), 300, tasks, 2)
        table = frontier_table(results)
        drawn = redrawn(results, table, resample(with_configuration(results), scores))
        rows = matched(table, drawn).query("kind == 'benchmark' and axis == 'training_flops'")
        width = ((rows["high_all"] - rows["low_all"]) / (2 * rows["stderr"])).round(9).unique()
        assert len(width) == 1
        widths.append(width[0])
    assert widths[0] == pytest.approx(1.96, abs=0.12)
    assert widths[1] == pytest.approx(2.73, abs=0.2)  # Šidák's for eight
