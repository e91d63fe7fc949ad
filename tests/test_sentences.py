"""The study's question: answers from tables whose numbers are given, and the sentences that say no more."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from made_results import at, results_table

from analysis.report import derive
from analysis.statistics.answers import BY_SIZE, CLOSE, NONE, OPEN, PLAIN, REASONING, answers, joined
from analysis.statistics.bootstrap import MIN_ITEMS
from analysis.statistics.claims import Claim
from analysis.statistics.frontier import AXES, FEW, asked_level, asked_scopes, distinct, frontier_table
from analysis.statistics.questions import FIRST, questions
from analysis.statistics.sentences import ORDER, findings, sentences

SURE, UNSURE, LOSS, UNKNOWN = (
    (0.1, 0.05, 0.15),
    (0.1, -0.01, 0.2),
    (-0.1, -0.15, -0.05),
    (0.1, math.nan, math.nan),
)
TRAINING, INFERENCE = AXES
GROUP = "general, open-ended"
Tables = tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]  # frontier, standing, matched
AHEAD_OF_ALL, BEHIND_ONE, BESIDE = (
    (-0.3, -0.4, -0.2),
    (0.3, 0.2, 0.4),
    (0.0, -0.1, 0.1),
)  # gaps to plain students


def tables(
    scope: str = "easy",
    axis: str = TRAINING,
    places: dict[str, tuple[Any, ...]] | None = None,
    gaps: dict[str, tuple[float, float, float]] | None = None,
) -> Tables:
    """Frontier, standing and matched of one scope: two plain students, and reasoning of some sizes.

    Args:
        places: By size the difference to plain answers with its interval, and where it is extrapolated to.
        gaps: By student its distance to the best plain student that costs no more, with its interval.
    """
    places = {"1B": (*SURE, "")} if places is None else places
    rows = [("plain-1B", "1B", 0.0, 0.40, 1.0), ("plain-3B", "3B", 0.0, 0.60, 3.0)]
    rows += [(f"full-{size}", size, 1.0, 0.7, 2.0 + i) for i, size in enumerate(places)]
    points = pd.DataFrame(rows, columns=["student", "size", "share", "accuracy", axis])
    points = points.assign(
        kind="benchmark",
        scope=scope,
        order="",
        recipe="",
        **{other: math.nan for other in AXES if other != axis},
    )
    standing = points[["kind", "scope", "student"]].assign(axis=axis)
    for name in ("gap", "plain_gap"):
        standing[[name, f"{name}_low", f"{name}_high"]] = [
            (gaps or {}).get(s, BESIDE) for s in standing["student"]
        ]
    matched = pd.DataFrame(
        [
            {"kind": "benchmark", "scope": scope, "axis": axis, "student": f"full-{size}", "size": size,
             "share": 1.0,
             "accuracy": 0.7, "plain": 0.7 - value, "difference": value, "low_all": low, "high_all": high,
             "extrapolated": beyond}
            for size, (value, low, high, beyond) in places.items()
        ]
    )  # fmt: skip
    return points, standing, matched


@pytest.mark.parametrize(
    ("places", "gaps", "expected"),
    [
        ({"1B": (*SURE, "")}, {}, REASONING),
        ({"1B": (*SURE, ""), "3B": (*UNSURE, "")}, {}, REASONING),
        ({"1B": (*LOSS, "")}, {}, PLAIN),
        ({"1B": (*LOSS, ""), "3B": (*SURE, "")}, {}, BY_SIZE),
        ({"1B": (*UNSURE, "")}, {}, CLOSE),
        ({"1B": (0.1, 0.0, 0.2, "")}, {}, CLOSE),
        ({"1B": (0.0, 0.0, 0.0, "")}, {}, CLOSE),
        ({"1B": (*UNKNOWN, "")}, {}, OPEN),
        ({"1B": (*UNKNOWN, ""), "3B": (*UNSURE, "")}, {}, CLOSE),
        ({"1B": (*SURE, "above")}, {}, NONE),  # beyond all plain students, nothing is evidence for reasoning
        ({"1B": (*SURE, "above")}, {"full-1B": AHEAD_OF_ALL}, NONE),
        ({"1B": (*SURE, "above")}, {"full-1B": BEHIND_ONE}, PLAIN),  # a cheaper plain student is better
        ({"1B": (*LOSS, "below")}, {}, NONE),
        ({"1B": (*LOSS, ""), "3B": (*SURE, "above")}, {"full-3B": AHEAD_OF_ALL}, BY_SIZE),
        ({"1B": (*LOSS, ""), "3B": (*SURE, "above")}, {}, PLAIN),
    ],
)
def test_an_answer_needs_an_interval(
    places: dict[str, tuple[Any, ...]], gaps: dict[str, tuple[float, float, float]], expected: str
) -> None:
    (found,) = answers(*tables(places=places, gaps=gaps)).to_dict("records")
    assert (found["answer"], found["scope"], found["axis"]) == (expected, "easy", TRAINING)


def test_the_detail_names_every_size_with_what_is_known_of_it() -> None:
    places = {"1B": (*SURE, ""), "3B": (*LOSS, ""), "7B": (*UNSURE, ""), "8B": (*UNKNOWN, "")}
    places |= {"9B": (*SURE, "above"), "10B": (*SURE, "above"), "11B": (*SURE, "below")}
    points, standing, matched = tables(places=places, gaps={"full-9B": AHEAD_OF_ALL})
    alone = points[points["student"] == "full-1B"].assign(student="full-12B", size="12B")
    (found,) = answers(pd.concat([points, alone]), standing, matched).to_dict("records")
    assert found["detail"] == (
        "1B 10 points ahead (5.0 to 15.0); 3B 10 points behind (5.0 to 15.0); "
        "7B too close: 10 points ahead (-1.0 to 20.0); 8B: the error is not known; "
        "9B: no plain student costs as much, and none is as accurate; 10B: no plain student costs as much; "
        "11B: no plain student costs as little; 12B: the compute is not known"
    )
    assert (found["ahead"], found["behind"], found["further"]) == ("1B", "3B", "9B")


def test_the_example_is_the_clearest_comparison() -> None:
    places = {"1B": (*SURE, ""), "3B": (0.3, 0.2, 0.4, ""), "7B": (0.4, 0.1, 0.7, "")}
    (found,) = answers(*tables(places=places)).to_dict("records")
    assert (found["size"], found["plain"], found["best_plain"]) == ("3B", pytest.approx(0.4), 0.6)
    (found,) = answers(*tables(places={"1B": (*SURE, "above")}, gaps={"full-1B": BEHIND_ONE})).to_dict(
        "records"
    )
    assert found["plain"] == pytest.approx(1.0)  # of the plain student that decides, at less compute


def test_students_of_one_size_go_by_their_names() -> None:
    points, standing, matched = tables(places={"1B": (*SURE, ""), "3B": (*LOSS, "")})
    points.loc[points["student"] == "full-3B", "size"] = "1B"
    (found,) = answers(points, standing, matched).to_dict("records")
    assert (found["ahead"], found["behind"]) == ("full-1B", "full-3B")


def together(made: Iterable[Tables]) -> Tables:
    """Join tables of several scopes and axes; the students of a scope are the same on both axes."""
    points, standing, matched = (pd.concat(parts, ignore_index=True) for parts in zip(*made, strict=True))
    same = ["kind", "scope", "student", "size", "share", "order", "accuracy"]
    return points.groupby(same, sort=False, as_index=False).first(), standing, matched


def said(*made: Tables) -> list[str]:
    points, standing, matched = together(made)
    return sentences(answers(points, standing, matched), points)


def test_what_is_sure_comes_first_with_its_numbers() -> None:
    assert said(tables("short", places={"1B": (*UNSURE, "")}), tables("long")) == [
        "At the same training compute, reasoning beats plain answers on long: 70.0 % with reasoning in the "
        "1B student against about 60.0 % with plain answers; no plain student exceeds 60.0 %.",
        "On short the two are too close to call: 70.0 % with reasoning in the 1B student against about "
        "60.0 % with plain answers.",
    ]


@pytest.mark.parametrize("sure", [SURE, LOSS])
def test_sizes_that_are_too_close_are_not_claimed(sure: tuple[float, float, float]) -> None:
    places = {"1B": (*sure, ""), "3B": (*UNSURE, ""), "7B": (*UNSURE, ""), "9B": (*SURE, "above")}
    assert said(tables(places=places))[0].endswith("; at 3B and 7B it is too close to call.")
    assert "too close" not in said(tables(places={"1B": (*sure, "")}))[0]


def test_a_plain_student_that_surely_leads_at_less_compute_is_named() -> None:
    leads = tables(places={"1B": (*UNSURE, "")}, gaps={"plain-1B": (-0.2, -0.3, -0.1)})
    assert said(leads)[0].endswith("; the plain 1B student reaches 40.0 % with 50 % of that compute.")
    for gap in ((-0.2, -0.4, 0.0), (-math.inf,) * 3):  # not surely; nobody is as cheap
        made = said(tables(places={"1B": (*UNSURE, "")}, gaps={"plain-1B": gap}))
        assert "of that compute" not in made[0]


@pytest.mark.parametrize(
    ("places", "gaps", "sentence"),
    [
        ({"1B": (*LOSS, "")}, {},
         "plain answers beat reasoning on easy: 70.0 % with reasoning in the 1B student against "
         "about 80.0 % with plain answers."),
        ({"1B": (*LOSS, ""), "3B": (*SURE, ""), "7B": (*SURE, "above")}, {"full-7B": AHEAD_OF_ALL},
         "it depends on the size on easy: reasoning is behind at 1B, ahead at 3B and better than every plain "
         "student at 7B."),
        ({"1B": (*UNKNOWN, "")}, {},
         "on easy there is not enough evidence: the error of the accuracies is not known."),
        ({"1B": (*SURE, "above")}, {}, "on easy nothing can be compared: no plain student costs as much."),
        ({"1B": (*SURE, "above")}, {"full-1B": AHEAD_OF_ALL},
         "on easy nothing can be compared: no plain student costs as much, but none is as "
         "accurate as reasoning at 1B."),
    ],
)  # fmt: skip
def test_each_answer_has_a_sentence(
    places: dict[str, tuple[Any, ...]], gaps: dict[str, tuple[float, float, float]], sentence: str
) -> None:
    assert said(tables(places=places, gaps=gaps)) == [f"At the same training compute, {sentence}"]


def test_inference_compute_is_said_to_be_alike_or_what_differs_is() -> None:
    short, long = tables("short"), tables("long")
    alike = said(short, long, tables("short", INFERENCE), tables("long", INFERENCE))
    assert alike[-1] == "At the same inference compute, the answers are the same."
    other = said(short, long, tables("short", INFERENCE), tables("long", INFERENCE, {"1B": (*LOSS, "")}))
    assert other[-1].startswith("At the same inference compute, plain answers beat reasoning on long: ")
    assert other[-1].endswith("; elsewhere as above.")
    both = [tables(name, INFERENCE, {"1B": (*LOSS, "")}) for name in ("short", "long")]
    assert "elsewhere" not in said(short, long, *both)[-1]


def test_all_are_only_all_of_a_study() -> None:
    names = [f"b{i}" for i in range(FEW)]
    training = [tables(name) for name in names]
    inference = [
        tables(name, INFERENCE, {"1B": (*(LOSS if i < FEW // 2 else SURE), "")})
        for i, name in enumerate(names)
    ]
    *_, last = said(*training, *inference)
    assert last.startswith("At the same inference compute, plain answers beat reasoning on b0, b1 and b2: ")
    assert last.endswith("; elsewhere as above.")


def test_scopes_whose_inference_compute_is_not_known_are_not_the_same_there() -> None:
    training = [tables(name) for name in ("a, b", "c", "d")]
    same, loss = tables("c", INFERENCE), tables("c", INFERENCE, {"1B": (*LOSS, "")})
    unknown = "; on a b and d the inference compute is not known"
    assert said(*training, same)[-1] == f"At the same inference compute, the answers are the same{unknown}."
    assert said(*training, loss)[-1].endswith(f" with plain answers{unknown}.")
    both = said(*training, loss, tables("d", INFERENCE))[-1]
    assert both.endswith("; on a b the inference compute is not known; elsewhere as above.")
    assert said(tables("c"), same, tables("e", INFERENCE))[0].endswith(
        "; on e the training compute is not known."
    )


@pytest.mark.parametrize(
    ("beyond", "why"),
    [
        (("above",), "no plain student costs as much"),
        (("below",), "no plain student costs as little"),
        (("above", "below", "below"), "no plain student costs as much or as little"),
        (("above", None), "no plain student costs as much, or the compute is not known"),
        ((None,), "the compute is not known"),
    ],
)
def test_why_nothing_can_be_compared_is_said_whatever_the_students_names(
    beyond: tuple[str | None, ...], why: str
) -> None:
    names = [f"a: b{i}, c" for i in range(len(beyond))]
    places = {name: (*SURE, place) for name, place in zip(names, beyond, strict=True)}
    points, standing, matched = tables(places=places)
    matched = matched[matched["extrapolated"].notna()].assign(scope="easy")
    standing = standing[standing["student"].isin({"plain-1B", "plain-3B", *matched["student"]})]
    other = tables("other", places={"1B": (*SURE, "above")})[2]  # so that there is something to compare
    found = answers(points, standing, pd.concat([matched, other]))
    assert found[["answer", "why"]].to_numpy().tolist() == [[NONE, why]]
    assert sentences(found, points) == [
        f"At the same training compute, on easy nothing can be compared: {why}."
    ]
    assert findings(found) == [why]


def test_one_answer_for_many_scopes_counts_them() -> None:
    made = said(*(tables(f"b{i}") for i in range(FEW)))
    assert made[0].startswith(
        f"At the same training compute, reasoning beats plain answers on all {FEW} benchmarks: "
    )


def test_groups_are_named_without_the_comma_of_a_list() -> None:
    assert (
        "on math open-ended and math multiple-choice"
        in said(tables("math, open-ended"), tables("math, multiple-choice"))[0]
    )


@pytest.mark.parametrize(
    ("names", "text"),
    [([], ""), (["A"], "A"), (["A", "B"], "A and B"), (list("ABCDE"), "A, B, C, D and E"),
     (list("ABCDEF"), "A, B, C, D and 2 more")],
)  # fmt: skip
def test_lists_in_a_sentence_are_short(names: list[str], text: str) -> None:
    assert joined(names) == text


def students(
    shares: tuple[float | None, ...], accuracy: float | None = None, **other: Any
) -> list[dict[str, Any]]:
    """Rows of two sizes on one benchmark."""
    return [
        {"student": f"{size}-{share}", "size": f"{size}B", "share": share, "benchmark": "b", "n": 500,
         "accuracy": accuracy or 0.2 + size / 10, "training_flops": 1e20 * size,
         "inference_flops": 1e9 * size}
        | other
        for size in (1, 3) for share in shares
    ]  # fmt: skip


def made_study(*given: Any, **other: Any) -> pd.DataFrame:
    return results_table(students(*given, **other))


@pytest.mark.filterwarnings("ignore::analysis.results.collect.DataWarning")
@pytest.mark.parametrize(
    ("results", "why"),
    [
        (made_study((None,)), "it is not known what the students were trained on (no column share)"),
        (made_study((0.5, 1.0)), "no student was trained on plain answers alone"),
        (made_study((0.0, 0.5)), "no student was trained on reasoning alone"),
        (
            made_study((0.0, 1.0), training_flops=None, inference_flops=None),
            "the compute of the students is not known",
        ),
    ],
)
def test_a_study_that_cannot_answer_says_why_and_what_it_has(results: pd.DataFrame, why: str) -> None:
    found = derive(results, {})
    assert found["answers"].empty
    first, best = sentences(found["answers"], found["frontier"])
    assert first == f"Reasoning and plain answers cannot be compared at the same compute: {why}."
    assert best.startswith("The highest accuracy over all benchmarks is 50.0 % (3-")


@pytest.mark.filterwarnings("ignore::analysis.results.collect.DataWarning")
def test_students_without_a_common_benchmark_cannot_be_compared() -> None:
    made = made_study((0.0, 1.0))
    found = derive(made.assign(benchmark=made["share"].map({0.0: "b1", 1.0: "b2"})), {})
    (sentence,) = sentences(found["answers"], found["frontier"])
    assert sentence.endswith("cannot be compared at the same compute: no benchmark has results of both.")


@pytest.mark.filterwarnings("ignore::analysis.results.collect.DataWarning")
@pytest.mark.parametrize(
    "results",
    [
        made_study((0.0, 1.0), accuracy=0.5),
        made_study((0.0, 1.0), n=MIN_ITEMS - 1),
        made_study((0.0, 1.0), n=None),
    ],
)
def test_no_sentence_claims_what_cannot_be_known(results: pd.DataFrame) -> None:
    found = derive(results, {})
    assert set(found["answers"]["answer"]) <= {CLOSE, OPEN, NONE}
    assert "beat" not in " ".join(sentences(found["answers"], found["frontier"]))


def test_few_benchmarks_are_asked_about_one_by_one_and_many_in_groups() -> None:
    for count, level in ((1, "benchmark"), (FEW, "benchmark"), (FEW + 1, "group")):
        rows = [row | {"benchmark": f"b{i}"} for i in range(count) for row in students((0.0, 1.0))]
        assert asked_level(frontier_table(results_table(rows))) == level


def test_a_scope_that_repeats_another_is_not_shown_beside_it() -> None:
    def shown(rows: list[dict[str, Any]]) -> list[str]:
        results = results_table(rows)
        return distinct(results, frontier_table(results))

    rows = students((0.0, 1.0))
    assert shown(rows) == ["all benchmarks"]
    twice = [
        row | {"benchmark": name, "accuracy": row["accuracy"] + shift}
        for row in rows
        for name, shift in (("a", 0), ("b", 0.1))
    ]
    assert shown(twice) == ["all benchmarks", "a", "b"]  # not the only group
    apart = [row | {"domain": row["benchmark"]} for row in twice]
    assert shown(apart) == ["all benchmarks", "a", "b"]  # not groups of one
    mixed = [
        *apart,
        *(
            row | {"benchmark": "c", "accuracy": row["accuracy"] + 0.2}
            for row in apart
            if row["domain"] == "a"
        ),
    ]
    assert "a, open-ended" in shown(mixed)


@pytest.mark.filterwarnings("ignore::analysis.results.collect.DataWarning")
def test_a_scope_that_every_student_lacks_a_part_of_is_not_shown() -> None:
    plain, full = (students((share,)) for share in (0.0, 1.0))
    results = results_table([*plain, *(row | {"benchmark": "r"} for row in full)])
    assert distinct(results, frontier_table(results)) == ["b", "r"]


def test_an_answer_holds_for_every_scope_of_the_same_benchmarks_and_no_other() -> None:
    for count, expected in (
        (1, dict.fromkeys(("all benchmarks", GROUP, "b0"), "b0")),
        (FEW, {f"b{i}": f"b{i}" for i in range(FEW)}),
        (FEW + 1, dict.fromkeys(("all benchmarks", GROUP), GROUP)),
    ):
        rows = [row | {"benchmark": f"b{i}"} for i in range(count) for row in students((0.0, 1.0))]
        results = results_table(rows)
        assert asked_scopes(results, frontier_table(results)) == expected


def test_questions_have_their_answers_side_by_side_and_the_reason_where_they_differ() -> None:
    made = [
        tables("easy"), tables("easy", INFERENCE, {"1B": (*LOSS, "")}),
        tables("hard"), tables("hard", INFERENCE),
    ]  # fmt: skip
    points, standing, matched = together(made)
    points.loc[points["share"] == 1, INFERENCE] = 5.0
    claimed = pd.DataFrame(
        [
            Claim("Is it?", "training", "all", "yes", "e1"), Claim("Is it?", "inference", "all", "no", "e2"),
            Claim("Does a mixture?", "", "easy", "no", "e3"),
            Claim("Only one?", "inference", "easy", "yes", "e4"),
        ]
    )  # fmt: skip
    found = questions(answers(points, standing, matched), claimed).set_index(["question", "scope"])
    assert found[["training", "inference"]].apply(tuple, axis=1).to_dict() == {
        (FIRST, "easy"): (REASONING, PLAIN), (FIRST, "hard"): (REASONING, REASONING),
        ("Is it?", "all"): ("yes", "no"),
        ("Does a mixture?", "easy"): ("no", "no"), ("Only one?", "easy"): ("", "yes"),
    }  # fmt: skip
    assert at(found, ("Is it?", "all"), ["training_evidence", "inference_evidence"]).tolist() == ["e1", "e2"]
    differ = found[found["why"] != ""]
    assert list(differ.index) == [(FIRST, "easy")]
    assert at(found, (FIRST, "easy"), "why") == (
        "At the same size, reasoning takes 2 times the training compute and 5 times the inference compute of "
        "plain answers, so plain students of other sizes are compared with it."
    )
    points.loc[points["share"] == 1, INFERENCE] = 2.04  # shown as 2, as at training: no reason
    assert set(questions(answers(points, standing, matched), claimed)["why"]) == {""}


def test_a_difference_that_rounds_to_zero_has_no_sign() -> None:
    places = {"1B": (-0.0004, -0.0004, 0.0003, ""), "3B": (-0.0004, -0.0005, -0.0003, "")}
    (found,) = answers(*tables(places=places)).to_dict("records")
    assert found["detail"] == ("3B 0 points behind (0.0 to 0.1); 1B too close: 0 points ahead (0.0 to 0.0)")


def test_the_documentation_lists_every_answer_and_what_to_do_about_it() -> None:
    text = (Path(__file__).parent.parent / "docs" / "statistics.md").read_text(encoding="utf-8")
    listed, advice = text.split("## If there is no clear answer")
    assert set(re.findall(r"^- \*(.+?)\*:", listed, re.MULTILINE)) == set(ORDER)
    assert set(re.findall(r"^- \*(.+?)\*", advice, re.MULTILINE)) == {*ORDER} - {REASONING, PLAIN}
