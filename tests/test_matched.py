"""Known answers of the comparison at matched compute, and the abstract of the paper as a table of claims."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_results import each_row, results_table

from analysis.report import analyse, derive
from analysis.results.collect import DataWarning
from analysis.statistics.matched import at_compute, break_even, gains

FLOPS = np.array([1e3, 1.0, 1e2, 10.0])  # in no order; the third dearest is beaten by a cheaper one
ACCURACY = np.array([0.7, 0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (1.0, 0.1), (10.0, 0.3), (1e3, 0.7),  # the students themselves
        (math.sqrt(10), 0.2),  # half-way in log FLOPs
        (100.0, 0.5),  # past the one that is beaten
        (1e4, 0.9), (0.1, 0.0), (1e6, 1.0),  # continued, within 0 and 1
    ],
)  # fmt: skip
def test_plain_answers_are_interpolated_along_their_frontier(at: float, expected: float) -> None:
    (found,) = at_compute(FLOPS, ACCURACY, np.array([at]))
    assert found == pytest.approx(expected)


def test_break_even_is_the_reverse_of_interpolation() -> None:
    wanted = np.array([0.2, 0.3, 0.5, 0.7, 0.05, 0.71])
    found = break_even(FLOPS, ACCURACY, wanted)
    assert found[:4] == pytest.approx([math.sqrt(10), 10, 100, 1e3])
    assert found[4:].tolist() == [0.0, math.inf]
    assert at_compute(FLOPS, ACCURACY, found[:4]) == pytest.approx(wanted[:4])


def test_many_redrawn_frontiers_at_once_are_each_of_them_alone() -> None:
    rng = np.random.default_rng(5)
    flops, at = np.array([1.0, 2.0, 2.0, 8.0, 30.0]), np.array([0.5, 2.0, 3.0, 30.0, 90.0])
    draws, wanted = rng.random((50, 5)).round(1), rng.random((50, 5))
    together, reached = at_compute(flops, draws, at), break_even(flops, draws, wanted)
    for i, own in enumerate(draws):
        steps = sorted({(x, max(own[flops <= x])) for x in flops})
        bends = [s for j, s in enumerate(steps) if j in (0, len(steps) - 1) or s[1] > steps[j - 1][1]]
        x, y = (np.array(column) for column in zip(*bends, strict=True))
        assert together[i, 1:4] == pytest.approx(np.interp(np.log(at[1:4]), np.log(x), y))
        for goal, found in zip(wanted[i], reached[i], strict=True):
            inside = y[0] < goal <= y[-1]
            assert (found in (0.0, math.inf)) != inside
            if inside:
                assert np.interp(np.log(found), np.log(x), y) == pytest.approx(goal)


def test_after_the_best_plain_student_the_frontier_stays_level() -> None:
    found = at_compute(np.array([1.0, 10.0, 100.0]), np.array([0.1, 0.4, 0.3]), np.array([30.0, 100.0, 1e4]))
    assert found == pytest.approx([0.4, 0.4, 0.4])
    assert at_compute(np.array([5.0]), np.array([0.4]), np.array([1.0, 9.0])).tolist() == [0.4, 0.4]


def test_what_reaches_an_accuracy_is_unknown_where_either_is() -> None:
    unknown, wanted = np.array([0.1, math.nan]), np.array([0.3, math.nan, 0.05])
    for count in (1, 2):
        flops = np.array([1.0, 10.0])[:count]
        assert np.isnan(break_even(flops, unknown[-count:], wanted)).all()
        known = break_even(flops, np.array([0.1, 0.5])[:count], wanted)
        assert np.isnan(known).tolist() == [False, True, False]
    together = break_even(np.array([5.0]), np.array([[0.1], [math.nan]]), np.array([[0.1, 0.2]] * 2))
    assert together[0].tolist() == [0.0, math.inf]
    assert np.isnan(together[1]).all()


SIGNS = np.array([[1, 1, 3], [1, -1, -1], [-1, 1, -1], [-1, -1, -1]])  # deviations in four resamples
OF_SIGNS = math.sqrt(4 / 3)  # the standard error of ±1 in four


def points(scope: str, kind: str, students: dict[str, tuple[Any, ...]]) -> pd.DataFrame:
    """Share, training and inference FLOPs, accuracy and size of each student."""
    columns = ["share", "training_flops", "inference_flops", "accuracy", "size"]
    table = pd.DataFrame.from_dict(students, orient="index", columns=columns).rename_axis("student")
    return table.reset_index().assign(kind=kind, scope=scope, order="sequential")


def test_gains_of_each_benchmark_and_size_are_one_family() -> None:
    """Two students of a size have two gains, and no extra tokens where answers are scored."""
    students = {
        "plain": (0.0, 1.0, 1.0, 0.3, "1B"), "full": (1.0, 2.0, 1.0, 0.5, "1B"),
        "again": (1.0, 3.0, 1.0, 0.6, "1B"), "mixed": (0.5, 2.0, 1.0, 0.9, "1B"),
        "other": (1.0, 3.0, 1.0, 0.6, "3B"),
    }  # fmt: skip
    tokens = pd.Series([20.0, 50.0, 60.0, 20.0, 70.0])
    table = pd.concat(
        [
            points("all", "average", students).assign(output_tokens=20.0),
            points("s", "benchmark", students).assign(output_tokens=tokens),
            points("scored", "benchmark", students).drop(index=[2, 4]).assign(output_tokens=0.0),
        ],
        ignore_index=True,
    )
    results = results_table(
        [
            {"student": "plain", "benchmark": name, "domain": domain, "format": form}
            for name, domain, form in (("s", "math", "open-ended"), ("scored", "general", "multiple-choice"))
        ]
    )
    off, far = 0.01 * SIGNS[:, [0, 0, 1, 0, 0]], 0.01 * SIGNS[:, [0, 2, 0]]
    off[:, 0] = far[:, 0] = 0.0
    drawn = {"s": table.loc[5:9, "accuracy"].to_numpy() + off, "scored": np.array([0.3, 0.5, 0.9]) + far}
    with pytest.warns(DataWarning, match="1B"):
        found = gains(results, table, drawn)
    columns = ["benchmark", "group", "size", "training_flops", "extra_tokens", "gain"]
    assert list(found)[:6] == columns
    made = [tuple(row[1:7]) for row in each_row(found.fillna({"extra_tokens": -1.0}))]
    assert made == [
        ("s", "math, open-ended", "1B", 2.0, 2.5, pytest.approx(0.2)),
        ("s", "math, open-ended", "1B", 3.0, 3.0, pytest.approx(0.3)),
        ("scored", "general, multiple-choice", "1B", 2.0, -1.0, pytest.approx(0.2)),
    ]
    assert found["stderr"].tolist() == pytest.approx([0.01 * OF_SIGNS, 0.01 * OF_SIGNS, 0.02])
    assert found["high"].tolist() == pytest.approx([0.21, 0.31, 0.23])
    wide = 1.5 * 0.01 * OF_SIGNS
    assert found["high_all"].tolist() == pytest.approx([0.2 + wide, 0.3 + wide, 0.23])


def test_without_reasoning_and_plain_answers_of_one_size_there_is_no_gain() -> None:
    table = points("s", "benchmark", {"a": (0.0, 1.0, 1.0, 0.3, "1B"), "b": (1.0, 1.0, 1.0, 0.3, "3B")})
    results = results_table([{"student": "a", "benchmark": "s"}])
    assert gains(results, table.assign(output_tokens=1.0), {"s": np.full((4, 2), 0.5)}).empty


SIZES = {"0.5B": 0.5, "1.5B": 1.5, "3B": 3.0, "7B": 7.0, "14B": 14.0}
GROUPS = [
    ("math", "open-ended"),
    ("general", "open-ended"),
    ("math", "multiple-choice"),
    ("general", "multiple-choice"),
]


def paper(pays: bool, longer: float = 8) -> pd.DataFrame:
    """A study of the abstract's shape: five sizes, 18 benchmarks, answers `longer` times as long, mixtures.

    The abstract names no accuracies; these are made up so that what it says is so: plain fine-tuning rises
    with size and reasoning is below that at its compute, but for open-ended tasks from 7B on, where mixtures
    keep most of it. Or so that all of it is otherwise (`pays` and mixtures that keep little).
    """
    rows = []
    for b in range(18):
        domain, form = GROUPS[b % 4]
        for i, (size, billions) in enumerate(SIZES.items()):
            for share in (0.0, 0.25, 0.5, 1.0):
                gain = 0.50 if pays else (0.04 + 0.30 * (i >= 3)) if form == "open-ended" else 0.0
                if form == "multiple-choice" and not pays:
                    gain = -0.05 * share
                part = share**2 if pays else {0.0: 0.0, 0.25: 0.62, 0.5: 0.72, 1.0: 1.0}[share]
                plain = 0.2 + (0.04 if pays else 0.09) * i
                cost = billions * (1 + (longer - 1) * share)
                rows.append(
                    {"student": f"{size}-{share}", "size": size, "share": share, "benchmark": f"b{b:02}",
                     "domain": domain, "format": form, "accuracy": plain + gain * part, "n": 2000,
                     "output_tokens": 100 * cost / billions, "training_flops": 1e20 * cost,
                     "inference_flops": 1e11 * cost}
                )  # fmt: skip
    return results_table(rows)


def answers(folder: Path, results: pd.DataFrame) -> pd.Series[Any]:
    """The claims about a table that is given as a CSV; one row for each question, axis and scope."""
    results.drop(columns=["source", "stderr"]).to_csv(folder / "results.csv", index=False)
    found = analyse(folder)
    assert any("has no scores of single items" in text for text in found.warnings)
    assert not found.tables["claims"].duplicated(["question", "axis", "scope"]).any()
    return found.tables["claims"].set_index(["question", "axis", "scope"])["answer"]


def about(found: pd.Series[Any], question: str, scope: str) -> set[str]:
    keys = found.index
    chosen = keys.get_level_values("question").str.contains(question) & keys.get_level_values(
        "scope"
    ).str.contains(scope)
    return set(found[chosen])


def test_the_claims_are_those_of_the_abstract(tmp_path: Path) -> None:
    found = answers(tmp_path, paper(pays=False))
    assert about(found, "Is plain fine-tuning", "all groups") == {"yes"}
    assert about(found, "Does reasoning reach", "open-ended") == {"yes, from 7B"}
    assert about(found, "Does reasoning reach", "multiple-choice") == {"no"}
    assert about(found, "of 25 %", "open-ended") == about(found, "of 50 %", "open-ended") == {"yes"}
    assert about(found, "of 25 %", "multiple-choice") == {"not enough evidence"}  # of no gain


def test_a_table_that_contradicts_the_abstract_gets_the_opposite_answers(tmp_path: Path) -> None:
    found = answers(tmp_path, paper(pays=True, longer=2))  # of five sizes, four can be compared
    assert about(found, "Is plain fine-tuning", "all groups") == {"no"}
    assert about(found, "Does reasoning reach", "-") == {"yes, from 0.5B"}
    assert about(found, "Is reasoning better", "-") == {"yes"}
    assert about(found, "of 25 %", "-") == about(found, "of 50 %", "-") == {"no"}


def test_few_items_are_not_enough_evidence(tmp_path: Path) -> None:
    found = answers(tmp_path, paper(pays=False).assign(n=10))
    assert about(found, "Is plain fine-tuning", "all groups") == {"not enough evidence"}
    assert about(found, "Is reasoning better", "open-ended") == {"not enough evidence"}


def test_what_is_extrapolated_is_said_and_no_evidence() -> None:
    found = derive(paper(pays=True), {})
    rows = found["matched"].query("scope == 'all benchmarks' and axis == 'training_flops' and share == 1")
    assert rows.set_index("size")["extrapolated"].to_dict() == dict.fromkeys(SIZES, "") | {
        "3B": "above",
        "7B": "above",
        "14B": "above",
    }
    claim = found["claims"].query("question.str.startswith('Is reasoning better') and axis == 'training'")
    assert set(claim["answer"]) == {"not enough evidence"}  # better at both sizes that can be compared
    words = "3 of 5 sizes not compared, 3 of them beyond plain students' compute"
    assert claim["evidence"].str.contains(words).all()


def test_without_plain_answers_nothing_is_compared() -> None:
    rows = paper(pays=False).query("share > 0")
    with pytest.warns(UserWarning, match="no student is known to be trained on plain answers alone"):
        found = derive(rows, {})
    assert found["matched"].empty
    assert set(found["claims"]["question"]) == {
        "Does reasoning reach the frontier of all, mixtures included, and from which size?"
    }
