"""The frontier against its definition, means over benchmarks, and order and words of configurations."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_results import at, benchmark, each_row, evaluation, results_table

from analysis.results.collect import DataWarning, collect
from analysis.statistics.bootstrap import Resampled, intervals, quantile, resample
from analysis.statistics.frontier import (
    average,
    both_orders,
    frontier_table,
    over_seeds,
    pareto,
    redrawn,
    size_order,
    standing,
    supervision,
    unbeaten,
    with_configuration,
)  # fmt: skip

# Few values, so that ties are common; and missing ones.
VALUE = st.sampled_from([0.0, 1.0, 2.0, 3.0, 4.5, 1e24, math.nan, -math.inf])


@given(st.lists(st.tuples(VALUE, VALUE), max_size=12), st.randoms())
def test_pareto_is_its_definition(points: list[tuple[float, float]], random: object) -> None:
    def beaten(x: float, y: float) -> bool:
        return any(p <= x and q >= y and (p < x or q > y) for p, q in points)

    expected = [not (math.isnan(x) or math.isnan(y) or beaten(x, y)) for x, y in points]
    index = [f"row {i}" for i in range(len(points))]
    table = pd.DataFrame(points, columns=["x", "y"], index=index)
    found = pareto(table, "x", "y")
    assert found.tolist() == expected
    assert found.dtype == bool
    assert list(found.index) == index


@given(st.lists(st.tuples(VALUE, VALUE, VALUE), min_size=1, max_size=12))
def test_pareto_of_one_cost_and_of_two_is_that_of_an_independent_package(
    points: list[tuple[float, ...]],
) -> None:
    moocore = pytest.importorskip("moocore")
    table = pd.DataFrame(points, columns=["x", "z", "y"]).replace(-math.inf, -1e9).dropna()
    if len(table):
        for costs in (["x"], ["x", "z"]):
            wanted = table[[*costs, "y"]].assign(y=-table["y"]).to_numpy()
            expected = moocore.is_nondominated(wanted, keep_weakly=True)
            assert pareto(table, costs, "y").tolist() == expected.tolist()


def test_known_frontier_with_ties_and_gaps() -> None:
    table = pd.DataFrame({"cost": [1, 1, 2, 2, 3, None, 4], "y": [0.1, 0.1, 0.1, 0.3, 0.2, 0.9, None]})
    assert pareto(table, "cost", "y").tolist() == [True, True, False, True, False, False, False]


def test_many_sets_of_heights_at_once_are_each_of_them_alone() -> None:
    rng = np.random.default_rng(3)
    costs, heights = rng.integers(0, 3, (6, 2)).astype(float), rng.integers(0, 3, (2, 20, 6)).astype(float)
    costs[0, 1] = heights[0, :5, 3] = math.nan
    together = unbeaten(costs, heights)
    alone = [[unbeaten(costs, own).tolist() for own in half] for half in heights]
    assert together.tolist() == alone


def test_means_weigh_benchmarks_alike_and_carry_their_errors(tmp_path: Path) -> None:
    easy = benchmark("easy", 0.9, stderr=0.03, n=1000, flops_per_item=1e9, output_tokens=10.0)
    hard = benchmark("hard", 0.1, stderr=0.04, n=10, flops_per_item=3e9, reasoning_tokens=6.0)
    evaluation(tmp_path, "a", 10, [easy, hard])
    (row,) = each_row(average(over_seeds(collect(tmp_path))))
    assert row.accuracy == pytest.approx(0.5)
    assert row.stderr == pytest.approx(0.025)  # √(0.03² + 0.04²) / 2
    assert (row.inference_flops, row.n, row.benchmarks, row.training_flops) == (2e9, 1010, 2, 10)
    assert (row.output_tokens, row.reasoning_tokens) == (15.0, 5.5)
    assert (row.size, row.share, row.order, row.seed, row.seeds) == ("1B", 0.0, "sequential", 0, 1)


def test_a_student_that_lacks_a_benchmark_is_left_out_of_the_mean_only(tmp_path: Path) -> None:
    evaluation(tmp_path, "whole", 10, [benchmark("s", 0.5), benchmark("t", 0.5)])
    evaluation(tmp_path, "part", 5, [benchmark("s", 0.9)])
    results = collect(tmp_path)
    with pytest.warns(
        DataWarning, match=r"Left out of means: part lacks t \(all benchmarks, general, open-ended\)"
    ):
        table = frontier_table(results)
    students = table.groupby("scope")["student"].agg(set)
    assert students["all benchmarks"] == students["general, open-ended"] == students["t"] == {"whole"}
    assert students["benchmarks of all students"] == {"whole", "part"}
    assert students["s"] == {"whole", "part"}
    kinds = table.drop_duplicates("scope").set_index("scope")["kind"].to_dict()
    assert kinds == {
        "all benchmarks": "average", "benchmarks of all students": "average",
        "general, open-ended": "group", "s": "benchmark", "t": "benchmark",
    }  # fmt: skip


def test_of_many_missing_benchmarks_the_first_four_are_named() -> None:
    rows = [rows_of("whole", 10, 0.5, benchmark=name) for name in "abcdef"]
    words = r"part lacks b, c, d, e and 1 more \(all benchmarks, general, open-ended\)"
    with pytest.warns(DataWarning, match=words):
        frontier_table(results_table([*rows, rows_of("part", 5, 0.5, benchmark="a")]))


def test_means_are_of_accuracies_and_count_no_item_twice() -> None:
    rows = [
        rows_of("a", 10, accuracy, benchmark=name, metric=metric, within=within)
        for name, accuracy, metric, within in (
            ("whole", 0.5, "acc,none", None), ("a part of it", 0.9, "acc,none", "whole"),
            ("translation", 0.3, "bleu,none", None), ("other", 0.7, "acc,none", None),
        )
    ]  # fmt: skip
    words = r"No shares of items, hence in no mean of accuracies: translation \(bleu,none\)\."
    with pytest.warns(DataWarning, match=words):
        table = frontier_table(results_table(rows)).set_index("scope")
    expected = {
        "all benchmarks": 0.6, "general, open-ended": 0.6,
        "a part of it": 0.9, "other": 0.7, "translation": 0.3, "whole": 0.5,
    }  # fmt: skip
    assert table["accuracy"].to_dict() == pytest.approx(expected)
    assert list(table["kind"]) == ["average", "group"] + ["benchmark"] * 4


def test_scores_that_are_no_accuracies_have_no_mean() -> None:
    with pytest.warns(DataWarning, match="No shares of items"):
        table = frontier_table(results_table([rows_of("a", 10, 0.3, metric="bleu,none")]))
    assert list(table["scope"]) == ["s"]


def test_accuracies_that_are_all_missing_have_no_mean_over_what_all_have() -> None:
    table = frontier_table(results_table([rows_of("a", 10, math.nan)]))
    assert not (table["scope"] == "benchmarks of all students").any()


def test_every_scope_has_its_own_frontier(tmp_path: Path) -> None:
    def both(sums: float, facts: float, flops: float) -> list[dict[str, object]]:
        maths = benchmark("sums", sums, domain="math", flops_per_item=flops)
        return [maths, benchmark("facts", facts, format="multiple-choice", flops_per_item=flops)]

    evaluation(tmp_path, "cheap", 10, both(0.1, 0.5, 7e9))
    evaluation(tmp_path, "dear", 20, both(0.7, 0.4, 6e9), share=1.0)
    table = frontier_table(collect(tmp_path))
    assert list(table)[:4] == ["kind", "scope", "student", "size"]
    assert list(table.index) == list(range(10))
    table = table.set_index(["scope", "student"])
    names = ["all benchmarks", "general, multiple-choice", "math, open-ended", "facts", "sums"]
    assert list(dict.fromkeys(table.index.get_level_values("scope"))) == names
    assert list(table.loc["facts"].index) == ["cheap", "dear"]
    training, inference = table["on_training_frontier"], table["on_inference_frontier"]
    assert training["all benchmarks"].to_dict() == {"cheap": True, "dear": True}
    assert training["facts"].to_dict() == {"cheap": True, "dear": False}
    assert inference["facts"].to_dict() == {"cheap": True, "dear": True}
    assert inference["sums"].to_dict() == {"cheap": False, "dear": True}


def test_a_missing_error_or_cost_stays_missing(tmp_path: Path) -> None:
    evaluation(
        tmp_path,
        "a",
        10,
        [benchmark("s", 0.5, stderr=None), benchmark("t", 0.5, flops_per_item=None, n=None)],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        (row,) = each_row(average(over_seeds(collect(tmp_path))))
    assert math.isnan(row.stderr)
    assert math.isnan(row.inference_flops)
    assert pd.isna(row.n)
    assert row.accuracy == 0.5


def test_sizes_in_order_and_supervision_in_words() -> None:
    sizes = ["7B", "0.5B", "135M", "14B", "1.5B"]
    assert size_order(pd.DataFrame({"size": sizes, "training_flops": 1.0})) == [
        "135M",
        "0.5B",
        "1.5B",
        "7B",
        "14B",
    ]
    letters = ["1T", "2 b", "900K", "3m", "3000"]
    assert size_order(pd.DataFrame({"size": letters[:4], "training_flops": 1.0})) == [
        "900K",
        "3m",
        "2 b",
        "1T",
    ]
    even = ["1000K", "1M", "1000M", "1B", "1000B", "1T"]
    assert size_order(pd.DataFrame({"size": even[::-1], "training_flops": 1.0})) == even
    assert size_order(pd.DataFrame({"size": ["1.2.3B", "7B"], "training_flops": [2.0, 1.0]})) == [
        "7B",
        "1.2.3B",
    ]
    assert size_order(pd.DataFrame({"size": [None], "training_flops": [1.0]})) == []
    unlike = pd.DataFrame({"size": letters, "training_flops": [2.0, 1.0, 3.0, 1.0, 4.0]})
    assert size_order(unlike) == ["2 b", "3m", "1T", "900K", "3000"]
    named = pd.DataFrame({"size": ["big", "tiny", "mid", None], "training_flops": [3.0, 1.0, 2.0, 0.0]})
    assert size_order(named) == ["tiny", "mid", "big"]
    words = [supervision(0.0, "shuffled"), supervision(1.0), supervision(0.25), supervision(0.5, "shuffled")]
    assert words == ["plain answers", "reasoning", "25 % reasoning", "50 % reasoning, shuffled"]
    assert supervision(math.nan) == "unknown"


def test_only_mixtures_have_orders_to_be_told_apart() -> None:
    def orders(*made: tuple[float, str]) -> bool:
        return both_orders(pd.DataFrame(made, columns=["share", "order"]))

    assert orders((0.5, "shuffled"), (0.25, "sequential"))
    assert not orders((0.5, "shuffled"), (0.25, "shuffled"))
    assert not orders((0.5, "shuffled"), (0.0, "sequential"), (1.0, "sequential"))


def rows_of(student: str, flops: float, accuracy: float, **other: object) -> dict[str, object]:
    row = {"student": student, "benchmark": "s", "accuracy": accuracy, "stderr": 0.01, "n": 2500}
    return row | {"training_flops": flops, "inference_flops": 1e9} | other


def tables_of(rows: list[dict[str, object]]) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Points and redrawn accuracies of students without scores of items."""
    results = results_table(rows)
    points = frontier_table(results)
    return points, redrawn(results, points, resample(with_configuration(results), {}))


def test_seeds_are_one_configuration_whose_error_has_both_parts() -> None:
    results = results_table(
        [rows_of("a", 10, 0.4), rows_of("a-s1", 10, 0.6, seed=1), rows_of("b-s2", 20, 0.5, seed=1)]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        table = over_seeds(results).set_index("student")
    assert table["seeds"].to_dict() == {"a": 2, "b-s2": 1}  # its seed is not 2: that is its name
    assert table.loc["a", "accuracy"] == pytest.approx(0.5)
    assert table.loc["a", "stderr"] == pytest.approx(math.sqrt(0.01**2 + 0.02 / 2))
    assert table.loc["b-s2", "stderr"] == pytest.approx(0.01)
    with pytest.warns(DataWarning, match=r"means over different numbers of seeds: a \(1 and 2\)"):
        over_seeds(pd.concat([results, results.iloc[[0]].assign(benchmark="t")]))


def test_what_seeds_cost_is_their_mean_and_an_unknown_error_makes_that_of_all_unknown() -> None:
    rows = [
        rows_of("a" + (f"-s{seed}" if seed else ""), 10 + seed, 0.5, seed=seed, stderr=stderr,
                inference_flops=1.0 + seed, output_tokens=20.0 + seed, reasoning_tokens=30.0 + seed)
        for seed, stderr in enumerate([0.01, None, 0.02])
    ]  # fmt: skip
    (row,) = each_row(over_seeds(results_table(rows)))
    costs = (row.training_flops, row.inference_flops, row.output_tokens, row.reasoning_tokens)
    assert (row.student, row.configuration, costs) == ("a", "a", (11, 2, 21, 31))
    assert math.isnan(row.stderr)


# Deviations of four resamples; of any two columns the covariance is 0, and the largest is reached.
APART = 0.01 * np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])


def placed(scope: str, students: dict[str, tuple[float, float, float, float]]) -> pd.DataFrame:
    """Points of a scope: share, training and inference FLOPs and accuracy of each student."""
    columns = ["share", "training_flops", "inference_flops", "accuracy"]
    table = pd.DataFrame.from_dict(students, orient="index", columns=columns)
    return table.rename_axis("student").reset_index().assign(kind="group", scope=scope)


def test_gaps_and_bands_are_those_worked_out_by_hand() -> None:
    """With four resamples the 95 % quantile is the largest distance: 0.02 of a pair, 0.01 of a student."""
    points = placed("s", {"a": (0.0, 1, 2, 0.5), "b": (1.0, 2, 1, 0.4), "fixed": (0.5, math.nan, 3, 0.45)})
    drawn = points["accuracy"].to_numpy() + APART * [1, 1, 0]
    table = standing(points, {"s": drawn}).set_index(["axis", "student"])
    none = [-math.inf] * 3
    of_one = (
        math.sqrt(1.5) * 0.01 * math.sqrt(4 / 3)
    )  # the widest pair's distance, of a difference with a's error
    expected = {
        ("training_flops", "a"): [1, *none, *none, 0.49, 0.51],
        ("training_flops", "b"): [0, *[0.1, 0.08, 0.12] * 2, 0.49, 0.51],
        ("inference_flops", "a"): [1, -0.1, -0.12, -0.08, *none, 0.49, 0.51],
        ("inference_flops", "b"): [1, *none, *none, 0.39, 0.41],
        ("inference_flops", "fixed"): [0, *[0.05, 0.05 - of_one, 0.05 + of_one] * 2, 0.49, 0.51],
        ("both", "a"): [1, *none, *none, 0.49, 0.51],
        ("both", "b"): [1, *none, *none, 0.39, 0.41],
    }
    assert list(table.index) == list(expected)
    assert table["probability"].dtype == "float64"
    for key, values in expected.items():
        assert at(table, key, slice("probability", None)).tolist() == pytest.approx(values), key


@pytest.mark.parametrize(("kind", "widest"), [("group", 1.5), ("benchmark", math.sqrt(0.75))])
def test_gaps_of_all_scopes_of_a_kind_are_one_family(kind: str, widest: float) -> None:
    """The other scope's farthest difference is 1.5 of its standard errors off, this one's only √0.75."""
    pair: dict[str, tuple[float, float, float, float]] = {"a": (0.0, 1, 1, 0.5), "b": (1.0, 2, 2, 0.4)}
    points = [placed("this", pair), placed("other", pair).assign(kind=kind)]
    paired = np.stack([APART[:, 0], APART[:, 0] + APART[:, 1]], axis=1)
    far = 0.01 * np.array([[3.0, 0], [-1, 0], [-1, 0], [-1, 0]])
    drawn = {scope: np.array([0.5, 0.4]) + off for scope, off in (("this", paired), ("other", far))}
    table = standing(pd.concat(points, ignore_index=True), drawn)
    assert list(table.index) == list(range(12))
    assert table["scope"].tolist() == ["this", "this", "other", "other"] * 3
    margins = {"this": widest * 0.01 * math.sqrt(4 / 3), "other": 0.03}
    for row in each_row(table[table["student"] == "b"]):
        margin = margins[row.scope]
        assert [row.gap_low, row.gap_high] == pytest.approx([0.1 - margin, 0.1 + margin])


def test_a_single_far_resample_widens_no_gap() -> None:
    points = placed("s", {"a": (0.0, 1, 1, 0.5), "b": (1.0, 2, 2, 0.4)})
    steps = np.array([3.0] + [1.0] * 49 + [-1.0] * 50)  # their mean is 0.02
    drawn = np.stack([np.full(100, 0.5), 0.4 + 0.01 * steps], axis=1)
    table = standing(points, {"s": drawn}).set_index(["axis", "student"])
    row = at(table, ("training_flops", "b"))
    assert [row["gap_low"], row["gap_high"]] == pytest.approx([0.1 - 0.0102, 0.1 + 0.0102])


def test_students_of_unknown_compute_stand_nowhere() -> None:
    points = placed("s", {"a": (0.0, math.nan, 1, 0.5), "b": (1.0, math.nan, 2, 0.4)})
    table = standing(points, {"s": [0.5, 0.4] + APART[:, :2]})
    assert table["axis"].tolist() == ["inference_flops"] * 2


def test_standing_of_constructed_points() -> None:
    points, drawn = tables_of(
        [rows_of("cheap", 1, 0.2), rows_of("tie", 1, 0.2), rows_of("worse", 2, 0.1), rows_of("best", 3, 0.5)]
    )
    table = standing(points, drawn)
    table = table[(table["scope"] == "s") & (table["axis"] == "training_flops")].set_index("student")
    assert table["gap"].to_dict() == pytest.approx({"cheap": 0, "tie": 0, "worse": 0.1, "best": -0.3})
    assert table["probability"].round(1).to_dict() == {"cheap": 0.5, "tie": 0.5, "worse": 0.0, "best": 1.0}
    surely = table["gap_low"] > 0
    assert surely[surely].index.tolist() == ["worse"]
    assert at(table, "best", "gap_high") < 0 < at(table, "cheap", "gap_high") < 0.06
    assert ((table["band_low"] < [0.2, 0.2, 0.2, 0.5]) & (table["band_high"] > [0.2, 0.2, 0.2, 0.5])).all()


def test_both_costs_count_together() -> None:
    rows = [rows_of("a", 1, 0.2), rows_of("b", 2, 0.2, inference_flops=5e8), rows_of("c", 2, 0.2)]
    points = frontier_table(results_table(rows)).groupby("student").first()
    assert points["on_both_frontier"].to_dict() == {"a": True, "b": True, "c": False}
    assert points["on_training_frontier"].to_dict() == {"a": True, "b": False, "c": False}
    assert points["on_inference_frontier"].to_dict() == {"a": False, "b": True, "c": False}


def test_an_unknown_error_leaves_all_that_needs_it_open() -> None:
    points, drawn = tables_of([rows_of("a", 1, 0.2), rows_of("b", 2, 0.4, stderr=None, n=None)])
    table = standing(points, drawn)
    table = table[(table["scope"] == "s") & (table["axis"] == "training_flops")].set_index("student")
    assert table.loc["b", "gap"] == pytest.approx(-0.2)
    assert table.loc["b", ["probability", "gap_low", "gap_high", "band_low"]].isna().all()
    assert at(table, "a", "band_low") < 0.2
    assert table.loc["a", "probability"] == 1


def test_all_right_is_not_known_for_certain() -> None:
    """Agresti and Coull's interval of 200 right out of 200 begins at 0.981; the exact one at 0.982."""
    results = results_table([rows_of("a", 1, 1.0, stderr=0.0, n=200)])
    items = {"s": pd.DataFrame(1.0, index=["a"], columns=range(200))}
    for scores in (items, {}):
        drawn = resample(with_configuration(results), scores, 4000).accuracy[:, 0, 0]
        assert 1 - 1.96 * drawn.std() == pytest.approx(0.986, abs=0.002)


def test_paired_differences_are_known_better_than_their_sides() -> None:
    rng = np.random.default_rng(0)
    first = rng.random(1000) < 0.5
    second = np.where(rng.random(1000) < 0.1, ~first, first)
    table = pd.DataFrame({"a": first, "b": second}).T.astype(float)
    results = results_table([rows_of(s, 1, at(table, s).mean(), n=1000) for s in "ab"])
    drawn = resample(with_configuration(results), {"s": table}, 2000).accuracy[:, :, 0]
    exact = (table.loc["a"] - table.loc["b"]).std() / math.sqrt(1000)
    assert (drawn[:, 0] - drawn[:, 1]).std() == pytest.approx(exact, rel=0.05)
    assert drawn[:, 0].std() == pytest.approx(0.5 / math.sqrt(1000), rel=0.05)


def test_seeds_are_resampled_with_their_whole_variance() -> None:
    accuracies = [0.40, 0.46, 0.52]
    results = results_table(
        [rows_of("a" + (f"-s{i}" if i else ""), 1, a, n=10**6, seed=i) for i, a in enumerate(accuracies)]
    )
    one = pd.DataFrame({student: [a] for student, a in zip(results["student"], accuracies, strict=True)}).T
    drawn = resample(with_configuration(results), {"s": one}, 4000).accuracy[:, 0, 0]
    assert drawn.std() == pytest.approx(np.std(accuracies, ddof=1) / math.sqrt(3), rel=0.05)


def test_intervals_of_a_family_are_those_of_its_largest_distance() -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(20_000, 10))
    table = intervals(np.zeros(10), draws)
    assert table["high"].to_numpy() == pytest.approx(1.96, abs=0.08)
    assert table["high_all"].to_numpy() == pytest.approx(2.80, abs=0.1)  # Šidák, 1967
    same = intervals(np.zeros(10), np.repeat(draws[:, :1], 10, axis=1))
    assert same["high_all"].to_numpy() == pytest.approx(1.96, abs=0.08)  # one question, asked ten times
    far = np.array([0.0, 2.5])
    apart = intervals(far, far + draws[:, :2], np.array(["one", "two"]))
    assert apart["p_all"][1] == pytest.approx(0.0124, abs=0.003)
    assert math.isnan(intervals(np.array([0.1]), np.full((9, 1), math.nan))["low"][0])


def test_means_are_of_the_named_benchmarks_and_unknown_below_twenty_items() -> None:
    accuracy = np.arange(12.0).reshape(2, 3, 2) / 100
    items = np.array([[12.0, 8.0], [12.0, 7.0], [math.inf, 1.0]])
    resampled = Resampled(("a", "b", "c"), ("s", "t"), accuracy, items)
    found = resampled.mean(["c", "b", "a"], ["s", "t"])
    assert found == pytest.approx(np.array([[0.045, math.nan, 0.005], [0.105, math.nan, 0.065]]), nan_ok=True)
    (t,) = resampled.mean(["c"], ["s"]).T
    assert t.tolist() == [0.04, 0.10]
    assert np.isnan(resampled.mean(["a", "b", "c"], ["t"])).all()


def drawn_of(rows: list[dict[str, object]], scores: dict[str, pd.DataFrame] | None = None) -> Resampled:
    """So many resamples that the error of their standard deviation is half a percent."""
    return resample(with_configuration(results_table(rows)), scores or {}, 20_000)


def seeds_of(*accuracies: float, **other: object) -> list[dict[str, object]]:
    return [
        rows_of("a" + (f"-s{seed}" if seed else ""), 1, accuracy, seed=seed, **other)
        for seed, accuracy in enumerate(accuracies)
    ]


# Of 1 right among 50, p(1-p)/(n+4) at p = (1+2)/(50+4), minus p(1-p)/n at p = 1/50.
ADDED = 3 / 54 * 51 / 54 / 54 - 0.02 * 0.98 / 50
AS_T = {n: n / (n - 3) for n in (25, 50, 100)}  # the variance of Student's t of n-1, times n/(n-1)


@pytest.mark.parametrize(
    ("rows", "items", "variance"),
    [
        (seeds_of(0.4, stderr=0.06, n=100), 100, 0.06**2 * AS_T[100]),
        (seeds_of(0.4, stderr=None, n=100), 100, 0.4 * 0.6 / 100 * AS_T[100]),
        (seeds_of(0.4, stderr=0.0, n=100), 100, 0.4 * 0.6 / 100 * AS_T[100]),
        (seeds_of(0.2, stderr=0.08, n=None), 25, 0.08**2 * AS_T[25]),  # the error of 25 items
        (seeds_of(0.02, stderr=0.03, n=50), 50, (0.03**2 + ADDED) * AS_T[50]),
        (seeds_of(0.02, stderr=0.03, n=50, metric="bleu,none"), math.inf, 0.03**2),
        (seeds_of(1.0, stderr=None, n=1), 1, 0.6 * 0.4 / 5),  # (1+2)/(1+4) of Agresti and Coull
        (seeds_of(0.37, 0.43, stderr=0.03, n=100), 100, (0.03**2 + 0.0018 / 2) * AS_T[100]),
        (seeds_of(0.02, 0.02, stderr=0.03, n=50), 50, (0.03**2 + ADDED) * AS_T[50]),
    ],
)
def test_without_scores_of_items_errors_are_those_stated(
    rows: list[dict[str, object]], items: float, variance: float
) -> None:
    drawn = drawn_of(rows)
    accuracy = drawn.accuracy[:, 0, 0]
    assert drawn.items == pytest.approx(np.array([[items]]))
    assert accuracy.std() == pytest.approx(math.sqrt(variance), rel=0.02)
    assert accuracy.mean() == pytest.approx(
        np.mean([row["accuracy"] for row in rows]), abs=math.sqrt(variance) / 40
    )


@pytest.mark.parametrize(
    "other",
    [
        {"stderr": None, "n": None},
        {"stderr": 0.0, "n": None},
        {"stderr": None, "n": 0},
        {"accuracy": math.nan},
    ],
)
def test_what_has_no_error_is_unknown_in_each_resample(other: dict[str, object]) -> None:
    drawn = drawn_of([rows_of("a", 1, 0.5) | other, rows_of("b", 1, 0.5)])
    assert np.isnan(drawn.accuracy[:, :, 0]).all(axis=0).tolist() == [True, False]
    assert np.isnan(drawn.items).tolist() == [[True], [False]]


def test_few_items_have_the_tails_of_students_t() -> None:
    """Half of all t values with 1 degree of freedom are beyond 1, and √n times p's error is √(n-1) of t."""
    drawn = drawn_of(seeds_of(0.5, stderr=0.05, n=2))
    assert np.median(np.abs(drawn.accuracy[:, 0, 0] - 0.5)) == pytest.approx(0.05 * math.sqrt(2), rel=0.03)


def answers(*right: int, items: int) -> pd.DataFrame:
    """Scores of students a, b, …: the first items are the right ones."""
    return pd.DataFrame(
        [[float(i < r) for i in range(items)] for r in right], index=list("abcd"[: len(right)])
    )


@pytest.mark.parametrize(
    ("right", "extra"),
    [(10, 0.0), (1, 3 / 29 * 26 / 29 / 29 - 0.04 * 0.96 / 25), (25, 27 / 29 * 2 / 29 / 29)],
)
def test_scores_of_items_have_the_error_of_their_mean(right: int, extra: float) -> None:
    """The variance of p, stretched as that of Student's t, is p(1-p)/(n-3)."""
    p = right / 25
    drawn = drawn_of([rows_of("a", 1, p, n=25, stderr=0.3)], {"s": answers(right, items=25)}).accuracy
    assert drawn.mean() == pytest.approx(p, abs=0.003)
    assert drawn.std() == pytest.approx(math.sqrt(p * (1 - p) / 22 + extra), rel=0.02)


def test_resamples_of_few_right_answers_are_skewed_as_the_binomial_is() -> None:
    drawn = drawn_of([rows_of("a", 1, 0.2, n=25)], {"s": answers(5, items=25)}).accuracy
    assert ((drawn - 0.2) ** 3).mean() > 0.2 * 0.8 * 0.6 / 25**2 / 2  # half of the binomial one


def test_students_share_their_items_and_benchmarks_do_not() -> None:
    """Of two students one is right where the other is not; a third has the same score in each item."""
    table = pd.concat([answers(10, items=25), 1 - answers(10, items=25).rename({"a": "b"})])
    table.loc["c"] = 0.3
    rows = [
        rows_of(student, 1, accuracy, n=25, benchmark=name)
        for student, accuracy in (("a", 0.4), ("b", 0.6), ("c", 0.3)) for name in "st"
    ]  # fmt: skip
    drawn = drawn_of(rows, {"s": table, "t": table}).accuracy
    assert drawn[:, 0] + drawn[:, 1] == pytest.approx(1.0)
    assert drawn[:, 2] == pytest.approx(0.3)
    assert np.corrcoef(drawn[:, 0, 0], drawn[:, 0, 1])[0, 1] == pytest.approx(0, abs=0.03)


def test_of_items_with_missing_scores_the_rest_counts() -> None:
    """Of 40 items 20 are scored; of so many resampled ones, scored is 1/E(1/count) on average."""
    table = answers(8, 20, items=40)
    table.iloc[:, 20:] = math.nan
    drawn = drawn_of([rows_of("a", 1, 0.4, n=40), rows_of("b", 1, 1.0, n=40)], {"s": table}).accuracy[:, :, 0]
    chances = {k: math.comb(40, k) / 2**40 for k in range(1, 41)}
    variance = 0.4 * 0.6 * sum(chance / k for k, chance in chances.items()) * 40 / 37
    assert drawn.mean(axis=0) == pytest.approx([0.4, 1.0], abs=0.004)
    assert drawn.std(axis=0) == pytest.approx(
        [math.sqrt(variance), math.sqrt(42 / 44 * 2 / 44 / 44)], rel=0.02
    )


def test_seeds_are_drawn_once_for_all_benchmarks_and_equal_ones_do_not_matter() -> None:
    rows = [row for name in "stu" for row in seeds_of(0.5, 0.5, benchmark=name, n=10**6)]
    of_one = pd.DataFrame({"x": [0.4, 0.6]}, index=["a", "a-s1"])
    drawn = drawn_of(rows, {"s": of_one, "t": 1 - of_one, "u": 0 * of_one + 0.5}).accuracy[:, 0]
    assert drawn[:, 0] + drawn[:, 1] == pytest.approx(1.0)
    assert drawn[:, 2] == pytest.approx(0.5)
    # Both seeds are drawn as often as the same one twice: the mean is 0.5, or √2 · 0.1 off.
    shares = np.unique(drawn[:, 0].round(6), return_counts=True)
    assert shares[0].tolist() == pytest.approx([0.5 - math.sqrt(0.02), 0.5, 0.5 + math.sqrt(0.02)], abs=1e-6)
    assert shares[1] / 20_000 == pytest.approx([0.25, 0.5, 0.25], abs=0.02)


def test_the_weights_of_seeds_are_stretched_from_their_mean() -> None:
    """Of three draws of three seeds, all are the third one once in 27 times, and none is 8 times."""
    of_one = pd.DataFrame({"x": [0.4, 0.4, 0.7]}, index=["a", "a-s1", "a-s2"])
    drawn = drawn_of(seeds_of(0.4, 0.4, 0.7, n=10**6), {"s": of_one}).accuracy[:, 0, 0]
    values, counts = np.unique(drawn.round(4), return_counts=True)
    assert values.tolist() == pytest.approx(
        [0.5 + math.sqrt(1.5) * off for off in (-0.1, 0, 0.1, 0.2)], abs=1e-4
    )
    assert counts / 20_000 == pytest.approx(np.array([8, 12, 6, 1]) / 27, abs=0.015)


def test_the_same_seed_draws_the_same_resamples() -> None:
    results = with_configuration(results_table(seeds_of(0.4, 0.5)))
    first, again, other = (resample(results, {}, 5, seed).accuracy.tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_benchmarks_of_few_items_are_named() -> None:
    rows = [rows_of("a", 1, 0.5, benchmark=name, n=n) for name, n in (("s", 19), ("t", 20), ("u", 3))]
    with pytest.warns(DataWarning, match=r"Fewer than 20 items: .*: s, u\.$"):
        drawn_of(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        drawn_of(rows[1:2])


def test_intervals_worked_out_by_hand() -> None:
    """The largest of four distances is the 95 % quantile; deviations of ±1 have the standard error √(4/3)."""
    value = np.array([0.5, 0.18, 0.2, -0.1, 0.0])
    off = np.array([[1, 1, 0, math.nan, 1], [1, -1, 0, 0, -1], [-1, 2, 0, 0, 1], [-1, -2, 0, 0, -1]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # though the third one's error, by which distances are divided, is 0
        table = intervals(value, value + 0.1 * off, np.array(["x", "x", "x", "x", "y"]))
    two = math.sqrt(10 / 3)  # of the second one's deviations: its largest distance is 2/two of its errors
    wide = 2 / two * math.sqrt(4 / 3)  # as that is wider than the first one's 1/√(4/3), both have it
    expected = {
        "stderr": [0.1 * math.sqrt(4 / 3), 0.1 * two, 0.0, math.nan, 0.1 * math.sqrt(4 / 3)],
        "low": [0.4, -0.02, 0.2, math.nan, -0.1],
        "high": [0.6, 0.38, 0.2, math.nan, 0.1],
        "low_all": [0.5 - 0.1 * wide, -0.02, 0.2, math.nan, -0.1],
        "high_all": [0.5 + 0.1 * wide, 0.38, 0.2, math.nan, 0.1],
        "p_all": [0.2, 0.6, 0.2, math.nan, 1.0],
    }
    assert list(table) == list(expected)
    for name, values in expected.items():
        assert table[name].tolist() == pytest.approx(values, nan_ok=True), name


def test_a_distance_that_is_reached_counts_against_a_difference() -> None:
    """Of four resamples two are as far from the estimate as it is from 0: p is (1 + 2) / (1 + 4)."""
    off = np.array([[1.0], [-1.0], [0.25], [-0.25]])
    table = intervals(np.array([1.0]), 1 + off)
    assert table["p_all"].tolist() == [0.6]


def test_the_quantile_is_the_next_larger_of_the_resamples() -> None:
    table = np.stack([np.arange(100.0), np.arange(100.0)[::-1] ** 2], axis=1)
    assert quantile(table).tolist() == [95.0, 95.0**2]
