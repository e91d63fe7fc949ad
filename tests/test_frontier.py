"""The frontier against its definition, means over benchmarks, and order and words of configurations."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_results import benchmark, evaluation

from analysis.collect import DataWarning, collect
from analysis.frontier import average, frontier_table, pareto, size_order, supervision

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


def test_known_frontier_with_ties_and_gaps() -> None:
    table = pd.DataFrame({"x": [1, 1, 2, 2, 3, None, 4], "y": [0.1, 0.1, 0.1, 0.3, 0.2, 0.9, None]})
    assert pareto(table, "x", "y").tolist() == [True, True, False, True, False, False, False]


def test_means_weigh_benchmarks_alike_and_carry_their_errors(tmp_path: Path) -> None:
    easy = benchmark("easy", 0.9, stderr=0.03, n=1000, flops_per_item=1e9)
    hard = benchmark("hard", 0.1, stderr=0.04, n=10, flops_per_item=3e9)
    evaluation(tmp_path, "a", 10, [easy, hard])
    (row,) = average(collect(tmp_path), "both").itertuples()
    assert row.accuracy == pytest.approx(0.5)
    assert row.stderr == pytest.approx(0.025)  # √(0.03² + 0.04²) / 2
    assert (row.inference_flops, row.n, row.benchmarks, row.training_flops) == (2e9, 1010, 2, 10)


def test_a_student_that_lacks_a_benchmark_is_left_out_of_the_mean_only(tmp_path: Path) -> None:
    evaluation(tmp_path, "whole", 10, [benchmark("s", 0.5), benchmark("t", 0.5)])
    evaluation(tmp_path, "part", 5, [benchmark("s", 0.9)])
    results = collect(tmp_path)
    with pytest.warns(DataWarning, match="part has no result for t: it is left out of the mean of"):
        table = frontier_table(results)
    students = table.groupby("scope")["student"].agg(set)
    assert students["all benchmarks"] == students["general, open-ended"] == students["t"] == {"whole"}
    assert students["s"] == {"whole", "part"}


def test_every_scope_has_its_own_frontier(tmp_path: Path) -> None:
    def both(sums: float, facts: float, flops: float) -> list[dict[str, object]]:
        maths = benchmark("sums", sums, domain="math", flops_per_item=flops)
        return [maths, benchmark("facts", facts, format="multiple-choice", flops_per_item=flops)]

    evaluation(tmp_path, "cheap", 10, both(0.1, 0.5, 7e9))
    evaluation(tmp_path, "dear", 20, both(0.7, 0.4, 6e9), share=1.0)
    table = frontier_table(collect(tmp_path)).set_index(["scope", "student"])
    names = ["all benchmarks", "general, multiple-choice", "math, open-ended", "facts", "sums"]
    assert list(dict.fromkeys(table.index.get_level_values("scope"))) == names
    training, inference = table["on_training_frontier"], table["on_inference_frontier"]
    assert training["all benchmarks"].to_dict() == {"cheap": True, "dear": True}
    assert training["facts"].to_dict() == {"cheap": True, "dear": False}
    assert inference["facts"].to_dict() == {"cheap": True, "dear": True}
    assert inference["sums"].to_dict() == {"cheap": False, "dear": True}


def test_a_missing_error_or_cost_stays_missing(tmp_path: Path) -> None:
    evaluation(
        tmp_path, "a", 10, [benchmark("s", 0.5, stderr=None), benchmark("t", 0.5, flops_per_item=None)]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        (row,) = average(collect(tmp_path), "both").itertuples()
    assert math.isnan(row.stderr)
    assert math.isnan(row.inference_flops)
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
    named = pd.DataFrame({"size": ["big", "tiny", "mid", None], "training_flops": [3.0, 1.0, 2.0, 0.0]})
    assert size_order(named) == ["tiny", "mid", "big"]
    words = [supervision(0.0, "shuffled"), supervision(1.0), supervision(0.25), supervision(0.5, "shuffled")]
    assert words == ["plain answers", "reasoning", "25 % reasoning", "50 % reasoning, shuffled"]
    assert supervision(math.nan) == "unknown"
