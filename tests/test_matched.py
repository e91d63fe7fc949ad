"""Known answers of the comparison at matched compute, and the abstract of the paper as a table of claims."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_results import each_row, results_table

from analysis.report import analyse, derive
from analysis.results.collect import DataWarning
from analysis.statistics.matched import at_compute, break_even, gains, kept, matched
from analysis.statistics.questions import FIRST

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


def test_the_nearest_segment_is_the_one_that_is_continued() -> None:
    found = at_compute(np.array([1.0, 10.0, 100.0]), np.array([0.3, 0.4, 0.7]), np.array([0.1, 0.01, 200.0]))
    assert found == pytest.approx([0.2, 0.1, 0.7 + 0.3 * math.log10(2)])


def test_after_the_best_plain_student_the_frontier_stays_level() -> None:
    found = at_compute(np.array([1.0, 10.0, 100.0]), np.array([0.1, 0.4, 0.3]), np.array([30.0, 100.0, 1e4]))
    assert found == pytest.approx([0.4, 0.4, 0.4])
    assert at_compute(np.array([5.0]), np.array([0.4]), np.array([1.0, 9.0])).tolist() == [0.4, 0.4]


def test_what_reaches_an_accuracy_is_unknown_where_either_is() -> None:
    unknown, wanted = np.array([0.1, math.nan]), np.array([0.3, math.nan, 0.05])
    for count in (1, 2):
        flops = np.array([1.0, 10.0])[:count]
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # though nothing is between students of equal accuracy
            assert np.isnan(break_even(flops, unknown[-count:], wanted)).all()
            known = break_even(flops, np.array([0.1, 0.5])[:count], wanted)
            level = break_even(flops, np.array([0.1, 0.1])[:count], np.array([0.1, 0.2]))
        assert level.tolist() == [0.0, math.inf]
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
    return table.reset_index().assign(kind=kind, scope=scope, order="sequential", recipe="")


def compared_by_hand() -> pd.DataFrame:
    """Plain answers rise from 0.2 at 1 FLOP to 0.6 at 100; in the other scope there is one plain student."""
    table = points("s", "group", {
        "low": (0.0, 1.0, 5.0, 0.2, "1B"), "high": (0.0, 100.0, math.nan, 0.6, "3B"),
        "inside": (0.5, 10.0, math.nan, 0.5, "1B"), "above": (1.0, 1000.0, 5.0, 0.7, "3B"),
        "below": (1.0, 0.1, 0.0, 0.1, "1B"), "lost": (1.0, 10.0, 5.0, math.nan, "1B"),
        "of no share": (math.nan, 10.0, 5.0, 0.5, "1B"),
    })  # fmt: skip
    other = {"low": (0.0, 10.0, 1.0, 0.2, "1B"), "inside": (0.5, 10.0, math.nan, 0.3, "1B")}
    alone = points("no plain", "group", {"inside": (0.5, 10.0, 1.0, 0.5, "1B")})
    both = pd.concat([alone, table, points("a", "benchmark", other)], ignore_index=True)
    off = np.zeros((4, 7))
    off[:, 2], off[:, 3], off[:, 4] = 0.1 * SIGNS[:, 0], 0.1 * SIGNS[:, 1], 0.01 * SIGNS[:, 2]
    drawn = {
        "no plain": np.full((4, 1), 0.5),
        "s": table["accuracy"].to_numpy() + off,
        "a": np.array([0.2, 0.3]) + 0.05 * SIGNS[:, [0, 1]],
    }
    return matched(both, drawn)


def test_comparisons_at_matched_compute_are_those_worked_out_by_hand() -> None:
    found = compared_by_hand()
    assert list(found) == [
        "kind", "scope", "student", "size", "share", "order", "recipe", "accuracy", "axis", "flops", "plain",
        "difference", "extrapolated", "break_even", "break_even_low", "break_even_high", "stderr", "low",
        "high", "low_all", "high_all", "p_all",
    ]  # fmt: skip
    assert list(found.index) == list(range(5))
    names = ["axis", "scope", "kind", "student", "size", "share", "extrapolated"]
    assert found[names].to_numpy().tolist() == [
        ["training_flops", "s", "group", "inside", "1B", 0.5, ""],
        ["training_flops", "s", "group", "above", "3B", 1.0, "above"],
        ["training_flops", "s", "group", "below", "1B", 1.0, "below"],
        ["training_flops", "a", "benchmark", "inside", "1B", 0.5, ""],
        ["inference_flops", "s", "group", "above", "3B", 1.0, ""],
    ]
    numbers = ["flops", "accuracy", "plain", "difference", "break_even", "break_even_low", "break_even_high"]
    expected = [
        [10, 0.5, 0.4, 0.1, 100**0.75, 10, 100],  # 0.4 and 0.6 in the resamples
        [1000, 0.7, 0.8, -0.1, math.inf, 100, math.inf],
        [0.1, 0.1, 0.0, 0.1, 0, 0, 0],
        [10, 0.3, 0.2, 0.1, math.inf, 0, math.inf],
        [5, 0.7, 0.2, 0.5, math.inf, math.inf, math.inf],
    ]
    assert found[numbers].to_numpy(dtype=float) == pytest.approx(np.array(expected))


def test_what_is_extrapolated_is_a_family_for_itself_in_each_kind_of_scope() -> None:
    """In its family the student below has the farthest deviation: 1.5 of its standard errors."""
    found = compared_by_hand()
    se = 0.1 * OF_SIGNS
    assert found["low"].tolist() == pytest.approx([0.0, -0.2, 0.07, 0.0, 0.4])
    assert found["high_all"].tolist() == pytest.approx([0.2, -0.1 + 1.5 * se, 0.13, 0.2, 0.6])
    assert found["low_all"].tolist() == pytest.approx([0.0, -0.1 - 1.5 * se, 0.07, 0.0, 0.4])


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ([0.0, 0.0, math.nan], r"all known students are trained on plain answers alone"),
        ([0.5, 1.0, math.nan], r"no student is known to be trained on plain answers alone"),
        ([math.nan] * 3, r"no student is known to be trained on plain answers alone"),
    ],
)
def test_one_kind_of_answers_is_not_compared(shares: list[float], words: str) -> None:
    table = points("s", "group", {str(i): (share, 1.0, 1.0, 0.5, "1B") for i, share in enumerate(shares)})
    with pytest.warns(DataWarning, match=words):
        assert matched(table, {"s": np.full((4, 3), 0.5)}).empty


def test_students_of_unknown_compute_are_not_compared() -> None:
    students = {"a": (0.0, math.nan, math.nan, 0.5, "1B"), "b": (1.0, 1.0, 1.0, 0.5, "1B")}
    assert matched(points("s", "group", students), {"s": np.full((4, 2), 0.5)}).empty


def mixtures(scope: str, kind: str, gain: float) -> pd.DataFrame:
    """Two sizes with all three kinds of answers, and two with two of them."""
    return points(scope, kind, {
        "plain 1": (0.0, 1.0, 10.0, 0.2, "1B"), "mixed 1": (0.25, 3.0, 25.0, 0.3, "1B"),
        "full 1": (1.0, 4.0, 40.0, 0.2 + gain, "1B"), "plain 3": (0.0, 2.0, 10.0, 0.3, "3B"),
        "mixed 3": (0.25, 5.0, 25.0, 0.45, "3B"), "full 3": (1.0, 6.0, 60.0, 0.3 + 2 * gain, "3B"),
        "plain 7": (0.0, 2.0, 10.0, 0.9, "7B"), "mixed 7": (0.25, 9.0, 90.0, 0.1, "7B"),
        "full 14": (1.0, 9.0, 90.0, 0.9, "14B"), "mixed 14": (0.25, 9.0, 90.0, 0.1, "14B"),
        "half 1": (0.5, 3.0, 25.0, 0.4, "1B"), "tenth 14": (0.1, 9.0, 90.0, 0.1, "14B"),
    })  # fmt: skip


def test_what_mixtures_keep_is_what_is_worked_out_by_hand() -> None:
    tables = [mixtures("u", "group", 0.2), mixtures("t", "group", 0.1), mixtures("s", "benchmark", 0.2)]
    off = np.zeros((4, 12))
    off[:, 1], off[:, 4] = 0.02 * SIGNS[:, 1], 0.04 * SIGNS[:, 1]  # of the mean: 0.03
    off[:, 2], off[:, 5] = 0.05 * SIGNS[:, 0], 0.05 * SIGNS[:, 0]
    far = np.zeros((4, 12))
    far[:, 2] = far[:, 5] = 0.01 * SIGNS[:, 2]
    drawn = {
        scope: table["accuracy"].to_numpy() + noise
        for scope, table, noise in zip("uts", tables, (off, far, off), strict=True)
    }
    found = kept(pd.concat(tables, ignore_index=True), drawn)
    assert list(found) == [
        "kind", "scope", "share", "order", "sizes", "gain", "kept", "kept_low", "kept_high", "training",
        "inference", "over_half", "gain_low_all", "gain_high_all", "over_half_stderr", "over_half_low",
        "over_half_high", "over_half_low_all", "over_half_high_all", "over_half_p_all",
    ]  # fmt: skip
    names = ["scope", "kind", "share", "order", "sizes"]
    assert found[names].to_numpy().tolist() == [
        [scope, kind, share, "sequential", sizes]
        for scope, kind in (("u", "group"), ("t", "group"), ("s", "benchmark"))
        for share, sizes in ((0.25, 2), (0.5, 1))
    ]
    quarter = found[found["share"] == 0.25].set_index("scope")
    assert quarter["gain"].tolist() == pytest.approx([0.3, 0.15, 0.3])
    assert quarter["kept"].tolist() == pytest.approx([0.125 / 0.3, 0.125 / 0.15, 0.125 / 0.3])
    assert quarter["kept_low"].tolist() == pytest.approx([0.095 / 0.35, 0.125 / 0.18, 0.095 / 0.35])
    assert quarter["kept_high"].tolist() == pytest.approx([0.155 / 0.25, 0.125 / 0.14, 0.155 / 0.25])
    assert quarter["training"].tolist() == pytest.approx([0.8] * 3)
    assert quarter["inference"].tolist() == pytest.approx([0.5] * 3)
    assert quarter["over_half"].tolist() == pytest.approx([-0.025, 0.05, -0.025])
    wide = 1.5 * 0.05 * OF_SIGNS  # among groups the other scope has the farthest deviation
    assert quarter["gain_low_all"].tolist() == pytest.approx([0.3 - wide, 0.12, 0.25])
    assert quarter["gain_high_all"].tolist() == pytest.approx([0.3 + wide, 0.18, 0.35])
    farthest = 0.03 + 0.05 / 2  # of the part less half of the gain
    assert quarter["over_half_low"].tolist() == pytest.approx([-0.025 - farthest, 0.035, -0.025 - farthest])
    wide = 1.5 * math.hypot(0.03, 0.05 / 2) * OF_SIGNS
    assert quarter["over_half_low_all"].tolist() == pytest.approx([-0.025 - wide, 0.035, -0.025 - farthest])


def test_the_bounds_of_a_part_leave_out_a_fortieth_of_the_resamples_on_each_side() -> None:
    students = {
        "a": (0.0, 1.0, 1.0, 0.2, "1B"),
        "b": (0.5, 1.0, 1.0, 0.4, "1B"),
        "c": (1.0, 1.0, 1.0, 0.6, "1B"),
    }
    drawn = np.array([0.2, 0.4, 0.6]) + 0.002 * np.arange(-40, 41)[:, None] * [0, 1, 0]
    found = kept(points("s", "group", students), {"s": drawn[::-1]})
    assert found[["kept", "kept_low", "kept_high"]].to_numpy()[0] == pytest.approx([0.5, 0.31, 0.69])


def test_of_a_gain_that_is_not_sure_no_part_is_told() -> None:
    table = mixtures("s", "group", 0.2)
    off = np.zeros((4, 12))
    off[:, 2] = off[:, 5] = 0.3 * SIGNS[:, 0]  # down to a gain of 0
    for scale, unknown in ((1.0, True), (0.99, False)):
        found = kept(table, {"s": table["accuracy"].to_numpy() + scale * off}).query("share == 0.25")
        assert found[["kept", "kept_low", "kept_high"]].isna().all(axis=None) == unknown
        assert found["gain"].tolist() == pytest.approx([0.3])


def test_of_no_gain_at_all_no_part_is_told() -> None:
    students = {
        "a": (0.0, 1.0, 1.0, 0.5, "1B"),
        "b": (0.5, 1.0, 1.0, 0.5, "1B"),
        "c": (1.0, 1.0, 1.0, 0.5, "1B"),
    }
    for better in (0.0, 0.1):
        table = points("s", "group", students).assign(accuracy=[0.5, 0.5 + better, 0.5])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = kept(table, {"s": np.tile(table["accuracy"].to_numpy(), (4, 1))})
        assert found[["kept", "kept_low", "kept_high"]].isna().all(axis=None)
        assert found[["gain", "gain_low_all", "gain_high_all"]].to_numpy().tolist() == [[0.0] * 3]


def test_mixtures_of_unknown_order_are_kept_apart_and_without_any_nothing_is() -> None:
    table = mixtures("s", "group", 0.2)
    drawn = {"s": table["accuracy"].to_numpy() + 0.01 * SIGNS[:, [0] * 12]}
    table.loc[table["student"] == "mixed 3", "order"] = None
    found = kept(table, drawn).query("share == 0.25")
    assert found[["order", "sizes"]].fillna("none").to_numpy().tolist() == [["sequential", 1], ["none", 1]]
    assert kept(table.assign(share=table["share"].round()), drawn).empty


def test_mixtures_are_compared_with_the_first_of_several_students_of_a_size() -> None:
    first = mixtures("s", "group", 0.2)
    again = first[first["student"].isin(["plain 3", "full 1"])].assign(accuracy=0.0, student="again")
    table = pd.concat([first, again], ignore_index=True)
    drawn = {"s": table["accuracy"].to_numpy() + 0.01 * SIGNS[:, [0] * 14]}
    words = r"one kind of answers, mixtures are compared with the first: 1B, 3B\.$"
    with pytest.warns(DataWarning, match=words):
        assert kept(table, drawn)["gain"].tolist() == pytest.approx([0.3, 0.2])


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
            points("a", "benchmark", students).drop(index=[2, 4]).assign(output_tokens=0.0),
        ],
        ignore_index=True,
    )
    results = results_table(
        [
            {"student": student, "benchmark": name, "domain": domain, "format": form}
            for name, domain, form in (("s", "math", "open-ended"), ("a", "general", "multiple-choice"))
            for student in ("plain", "full")
        ]
    )
    off, far = 0.01 * SIGNS[:, [0, 0, 1, 0, 0]], 0.01 * SIGNS[:, [0, 2, 0]]
    off[:, 0] = far[:, 0] = 0.0
    drawn = {"s": table.loc[5:9, "accuracy"].to_numpy() + off, "a": np.array([0.3, 0.5, 0.9]) + far}
    with pytest.warns(DataWarning, match="1B"):
        found = gains(results, table, drawn)
    columns = ["benchmark", "group", "size", "training_flops", "extra_tokens", "gain"]
    assert list(found)[:6] == columns
    made = [tuple(row[1:7]) for row in each_row(found.fillna({"extra_tokens": -1.0}))]
    assert made == [
        ("s", "math, open-ended", "1B", 2.0, 2.5, pytest.approx(0.2)),
        ("s", "math, open-ended", "1B", 3.0, 3.0, pytest.approx(0.3)),
        ("a", "general, multiple-choice", "1B", 2.0, -1.0, pytest.approx(0.2)),
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
    """The answers for a table that is given as a CSV; one row for each question, axis and scope."""
    results.drop(columns=["source", "stderr"]).to_csv(folder / "results.csv", index=False)
    found = analyse(folder)
    assert any("has no scores of single items" in text for text in found.warnings)
    first = found.tables["answers"].assign(question=FIRST)
    every = pd.concat([found.tables["claims"], first]).set_index(["question", "axis", "scope"])
    assert every.index.is_unique
    return every["answer"]


def about(found: pd.Series[Any], question: str, scope: str) -> set[str]:
    keys = found.index
    chosen = keys.get_level_values("question").str.contains(question, regex=False) & keys.get_level_values(
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
    assert about(found, FIRST, "-") == {"reasoning"}
    assert about(found, "of 25 %", "-") == about(found, "of 50 %", "-") == {"no"}


def test_few_items_are_not_enough_evidence(tmp_path: Path) -> None:
    found = answers(tmp_path, paper(pays=False).assign(n=10))
    assert about(found, "Is plain fine-tuning", "all groups") == {"not enough evidence"}
    assert about(found, FIRST, "open-ended") == {"too close to call"}  # 40 or 50 items in each group


def test_what_is_extrapolated_is_said_and_no_evidence() -> None:
    found = derive(paper(pays=True), {})
    rows = found["matched"].query("scope == 'all benchmarks' and axis == 'training_flops' and share == 1")
    assert rows.set_index("size")["extrapolated"].to_dict() == dict.fromkeys(SIZES, "") | {
        "3B": "above",
        "7B": "above",
        "14B": "above",
    }
    answered = found["answers"].query("axis == 'training_flops'")
    assert set(answered["ahead"]) == {"0.5B and 1.5B"}
    words = "; 3B, 7B and 14B: no plain student costs as much, and none is as accurate"
    assert answered["detail"].str.endswith(words).all()


def test_without_plain_answers_nothing_is_compared() -> None:
    rows = paper(pays=False).query("share > 0")
    with pytest.warns(UserWarning, match="no student is known to be trained on plain answers alone"):
        found = derive(rows, {})
    assert found["matched"].empty
    assert set(found["claims"]["question"]) == {
        "Does reasoning reach the frontier of all, mixtures included, and from which size?"
    }
