"""Result files of other people, in the shapes that lm-eval, evalchemy and lighteval give them."""

from __future__ import annotations

import json
import math
import os
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.report import analyse, write_report
from analysis.results.collect import DataWarning, collect
from analysis.results.items import item_scores
from analysis.results.names import arguments

TIME = "2025-01-0{}T00-00-00.000000"


def said(path: Path) -> tuple[pd.DataFrame, str]:
    """The table by student and benchmark, and all warnings in one text."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DataWarning)
        table = collect(path)
    told = [str(w.message) for w in caught if issubclass(w.category, DataWarning)]
    return table.set_index(["student", "benchmark"]), "\n".join(told)


def write(folder: Path, results: dict[str, Any], day: int = 1, name: str = "results", **other: Any) -> Path:
    """A file of lm-eval of one day."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}_{TIME.format(day)}.json"
    data = {"results": results, "model_name": "org/m", "date": 1.7e9 + day} | other
    file.write_text(json.dumps(data), encoding="utf-8")
    return file


def samples(folder: Path, task: str, metric: str, values: list[Any], day: int = 1) -> None:
    lines = [{"doc_id": i, "filter": "none", metric: value} for i, value in enumerate(values)]
    file = folder / f"samples_{task}_{TIME.format(day)}.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


# One file of each tool and time, with what it says of (student, benchmark): accuracy, n, metric.
LM_EVAL_0_4_3 = {
    "results": {
        "arc_easy": {"acc,none": 0.61, "acc_stderr,none": 0.01, "acc_norm,none": 0.58, "alias": "arc_easy"}
    },
    "group_subtasks": {"arc_easy": []},
    "configs": {"arc_easy": {"output_type": "multiple_choice", "num_fewshot": 0}},
    "versions": {"arc_easy": 1.0}, "n-shot": {"arc_easy": 0},
    "n-samples": {"arc_easy": {"original": 2376, "effective": 2376}},
    "config": {"model": "hf", "model_args": "pretrained=org/old,dtype=half", "model_num_parameters": 494e6},
    "date": 1720000000.5, "model_source": "hf", "model_name": "org/old", "chat_template": None,
}  # fmt: skip
LM_EVAL_0_4_9 = {
    "results": {
        "mmlu": {"acc,none": 0.45, "acc_stderr,none": 0.004, "alias": "mmlu"},
        "mmlu_stem": {"acc,none": 0.4, "acc_stderr,none": 0.008, "alias": " - stem"},
        "mmlu_physics": {"acc,none": 0.4, "acc_stderr,none": 0.03, "alias": "  - physics"},
        "mmlu_law": {"acc,none": 0.5, "acc_stderr,none": 0.03, "alias": "  - law"},
        "ifeval": {"prompt_level_strict_acc,none": 0.3, "inst_level_loose_acc,none": 0.5, "alias": "ifeval"},
    },
    "group_subtasks": {"mmlu": ["mmlu_stem", "mmlu_law"], "mmlu_stem": ["mmlu_physics"], "ifeval": []},
    "n-samples": {
        "mmlu_physics": {"original": 100, "effective": 100}, "mmlu_law": {"original": 100, "effective": 100},
        "ifeval": {"original": 541, "effective": 541},
    },
    "config": {"model": "vllm", "model_args": {"pretrained": "org/new", "tensor_parallel_size": 2}},
    "date": 1750000000.0, "model_name": "org/new", "chat_template_sha": "ab" * 32,
}  # fmt: skip
LEADERBOARD = {
    "results": {
        "leaderboard": {"acc,none": 0.3, "acc_norm,none": 0.4, "exact_match,none": 0.1, "alias": "all"},
        "leaderboard_bbh": {"acc_norm,none": 0.44, "alias": " - leaderboard_bbh"},
        "leaderboard_bbh_snarks": {"acc_norm,none": 0.5, "alias": "  - snarks"},
        "leaderboard_bbh_navigate": {"acc_norm,none": 0.38, "alias": "  - navigate"},
        "leaderboard_mmlu_pro": {"acc,none": 0.3, "alias": " - leaderboard_mmlu_pro"},
        "leaderboard_math_hard": {"exact_match,none": 0.1, "alias": " - leaderboard_math_hard"},
    },
    "group_subtasks": {
        "leaderboard": ["leaderboard_bbh", "leaderboard_mmlu_pro", "leaderboard_math_hard"],
        "leaderboard_bbh": ["leaderboard_bbh_snarks", "leaderboard_bbh_navigate"],
    },
    "config": {"model": "hf", "model_args": "pretrained=org/board,revision=main", "model_sha": "c0ffee"},
    "date": 1730000000.0, "model_name": "org/board",
}  # fmt: skip
EVALCHEMY = {
    "results": {
        "AIME24": {
            "num_total": 30, "solved_avg": 5.0, "run_stats": [{"repetition": 1, "accuracy": 0.2}],
            "accuracy_avg": 0.1667, "accuracy_std_err": 0.01, "num_repeat": 10,
        },
        "MATH500": {"num_total": 500, "num_solved": 210, "accuracy": 0.42},
        "MMLUPro": {"accuracy_avg": 0.31, "accuracy_std_err": 0.004, "total_examples": 12032, "count_law": 9},
        "IFEval": {"prompt-level": 0.62, "instruction-level": 0.7, "num_examples": 541, "completion_rate": 1},
        "HumanEval": {"python_pass@1": 0.33},
        "MTBench": {"Turn 1": 7.1, "Turn 2": 6.4, "Average": 6.75},
    },
    "config": {"model": "vllm", "model_args": "pretrained=org/chem"}, "date": 1740000000.0,
    "model_name": "org/chem",
}  # fmt: skip
LIGHTEVAL = {
    "config_general": {
        "model_name": "org/light", "start_time": 12.5, "end_time": 99.0,
        "model_config": {"model_name": "org/light", "dtype": "bfloat16", "revision": "main"},
    },
    "results": {
        "lighteval|gsm8k|5": {"extractive_match": 0.37, "extractive_match_stderr": 0.013},
        "leaderboard|arc:challenge|25": {"acc": 0.41, "acc_stderr": 0.014, "acc_norm": 0.44},
        "all": {"extractive_match": 0.37, "acc": 0.41},
    },
    "versions": {"lighteval|gsm8k|5": 0},
    "config_tasks": {"lighteval|gsm8k": {"num_fewshots": 5, "effective_num_docs": 1319}},
}  # fmt: skip
SIDE_BY_SIDE = {
    ("org/old", "arc_easy"): (0.61, 2376, "acc,none"),
    ("org/new", "mmlu"): (0.45, 200, "acc,none"),  # the group stands for its parts
    ("org/new", "ifeval"): (0.3, 541, "prompt_level_strict_acc,none"),
    ("org/board", "leaderboard_bbh"): (0.44, None, "acc_norm,none"),
    ("org/board", "leaderboard_mmlu_pro"): (0.3, None, "acc,none"),
    ("org/board", "leaderboard_math_hard"): (0.1, None, "exact_match,none"),
    ("org/chem", "AIME24"): (0.1667, 30, "accuracy_avg"),
    ("org/chem", "MATH500"): (0.42, 500, "accuracy"),
    ("org/chem", "MMLUPro"): (0.31, 12032, "accuracy_avg"),
    ("org/chem", "IFEval"): (0.62, 541, "prompt-level"),
    ("org/chem", "HumanEval"): (0.33, None, "python_pass@1"),
    ("org/light", "lighteval|gsm8k|5"): (0.37, 1319, "extractive_match"),
    ("org/light", "leaderboard|arc:challenge|25"): (0.41, None, "acc"),
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files of all tools in one folder, with much that is no result beside them."""
    files = {
        "old/org__old/results_2024-07-03T10-00-00.123456.json": LM_EVAL_0_4_3,
        "new/org__new/results_2025-06-15T10-00-00.123456.json": LM_EVAL_0_4_9,
        "board/results_2024-10-27.json": LEADERBOARD,
        "chem/org__chem/results_2025-02-19T10-00-00.123456.json": EVALCHEMY,
        "light/results/org/light/results_2025-03-01T10-00-00.123456.json": LIGHTEVAL,
        "results_summary.json": {"gsm8k": 0.5},
        "results_list.json": [1, 2],
    }
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(data, indent=2), encoding="utf-8")
    (tmp_path / "results_cut.json").write_text('{"results": {', encoding="utf-8")
    return tmp_path


def test_files_of_all_tools_side_by_side_give_their_numbers(tree: Path) -> None:
    table, told = said(tree)
    found = {
        key: (row.accuracy, None if row.n is pd.NA else row.n, row.metric) for key, row in table.iterrows()
    }
    assert found == SIDE_BY_SIDE
    assert table["size"]["org/old", "arc_easy"] == "494M"
    assert "Left out, no metric that is known as an accuracy: MTBench." in told
    assert "results_list.json: not a JSON object but list" in told
    assert "results_summary.json: no 'results' of lm-eval" in told
    assert told.count("results_cut.json") == 1
    report = write_report(tree, tree / "out")
    assert len(report.results) == len(SIDE_BY_SIDE)


def test_mathematics_is_known_in_each_tools_names(tree: Path) -> None:
    domains = said(tree)[0]["domain"].droplevel("student")
    assert set(domains.index[domains == "math"]) == {"AIME24", "MATH500", "lighteval|gsm8k|5"}


def test_evalchemys_spread_of_runs_is_no_error_of_the_accuracy(tree: Path) -> None:
    stderr = said(tree)[0]["stderr"].droplevel("student")
    assert math.isnan(stderr["AIME24"])  # ten runs of the same 30 items
    assert stderr["MMLUPro"] == 0.004


def test_models_are_told_apart_by_all_that_makes_them_others(tmp_path: Path) -> None:
    given: list[Any] = [
        "pretrained=org/m,dtype=bfloat16,device=cuda:0",
        "pretrained=org/m,revision=step-100,dtype=float32",
        {"pretrained": "org/m", "peft": "adapters/a"},
        {"pretrained": "org/other", "peft": "adapters/a"},
        'pretrained=org/m,chat_template_args={"enable_thinking":false,"x":1},max_length=99',
        "pretrained=/runs/x/final", "pretrained=/runs/y/final",
        {"pretrained": "/runs/z/last", "load_in_4bit": True},
        {"model": "served", "base_url": "http://localhost:8000/v1"},
    ]  # fmt: skip
    for i, args in enumerate(given):
        write(tmp_path / str(i), {"t": {"acc,none": i / 10}}, model_name="", config={"model_args": args})
    write(tmp_path / "9", {"t": {"acc,none": 0.9}}, model_name="", config={})
    accuracies = said(tmp_path)[0]["accuracy"].droplevel("benchmark").to_dict()
    assert accuracies == {
        "org/m": 0.0,
        "org/m (revision=step-100)": 0.1,
        "adapters/a (pretrained=org/m)": 0.2,
        "adapters/a (pretrained=org/other)": 0.3,
        'org/m (chat_template_args={"enable_thinking":false,"x":1})': 0.4,
        "/runs/x/final": 0.5,
        "/runs/y/final": 0.6,
        "last": 0.7,
        "served": 0.8,
        "9": 0.9,  # nothing but its folder names it
    }


def test_commits_tell_models_apart_only_where_there_are_several(tmp_path: Path) -> None:
    for i, sha in enumerate(("", "a" * 40)):
        write(tmp_path / str(i), {f"t{i}": {"acc": 0.5}}, config={"model_sha": sha})
    assert set(said(tmp_path)[0].index.get_level_values("student")) == {"org/m"}
    write(tmp_path / "2", {"t1": {"acc": 0.5}}, config={"model_sha": "b" * 40})
    names = set(said(tmp_path)[0].index.get_level_values("student"))
    assert names == {"org/m", "org/m (commit aaaaaaaaaaaa)", "org/m (commit bbbbbbbbbbbb)"}


def test_arguments_are_read_as_text_and_as_object() -> None:
    assert arguments('pretrained=a/b,x={"c":1,"d":2},peft=p') == {
        "pretrained": "a/b", "x": '{"c":1,"d":2}', "peft": "p"
    }  # fmt: skip
    assert arguments({"pretrained": "a", "n": 2, "none": None}) == {"pretrained": "a", "n": "2"}
    assert arguments(None) == arguments(7) == arguments("") == {}


def test_one_model_with_and_without_a_chat_template_is_two_students(tmp_path: Path) -> None:
    write(tmp_path, {"t": {"acc": 0.4}}, 1, chat_template=None)
    write(tmp_path, {"t": {"acc": 0.6}, "u": {"acc": 0.5}}, 2, chat_template_sha="abcdef0123456789")
    accuracies = said(tmp_path)[0]["accuracy"].to_dict()
    assert accuracies == {
        ("org/m (no chat template)", "t"): 0.4,
        ("org/m (chat template abcdef01)", "t"): 0.6,
        ("org/m (chat template abcdef01)", "u"): 0.5,
    }


def test_students_that_were_asked_differently_are_said(tmp_path: Path) -> None:
    for i, (shots, template) in enumerate(((0, None), (5, "{{x}}"))):
        asked: dict[str, Any] = {"chat_template": template, "n-shot": {"s": shots, "t": shots}}
        write(tmp_path / str(i), {"s": {"acc": 0.5}, "t": {"acc": 0.5}}, model_name=f"m{i}", **asked)
    told = said(tmp_path)[1].splitlines()
    assert "Results of different numbers of shots are compared: s (0 and 5), t (0 and 5)." in told
    (line,) = [line for line in told if "different chat templates or system prompts" in line]
    assert "s (chat template and no chat template), t (" in line


def test_a_newest_value_that_is_left_out_is_not_replaced_by_an_older_one(tmp_path: Path) -> None:
    write(tmp_path, {"t": {"acc": 0.4}, "u": {"acc": 0.4}}, 1)
    write(tmp_path, {"t": {"acc": 4.2}, "u": {"acc": 0.5}}, 2)
    table, told = said(tmp_path)
    assert table["accuracy"].to_dict() == {("org/m", "u"): 0.5}
    assert "Left out, no fraction of 1: t (acc = 4.2)." in told


def test_a_correlation_below_zero_is_a_result_and_no_share_of_items(tmp_path: Path) -> None:
    write(tmp_path, {"cola": {"mcc,none": 0.3}}, 1)
    write(tmp_path, {"cola": {"mcc,none": -0.02}, "t": {"acc,none": 0.5}}, 2)
    report = analyse(tmp_path)
    points = report.tables["frontier"].set_index(["scope", "student"])["accuracy"]
    assert points["cola", "org/m"] == -0.02
    assert points["all benchmarks", "org/m"] == 0.5
    assert any("in no mean of accuracies: cola (mcc,none)" in text for text in report.warnings)


@pytest.mark.parametrize(
    ("task", "metric", "value", "accuracy"),
    [
        ("squadv2", "exact,none", 0.9, 0.009),  # 0.9 of 100
        ("squadv2", "f1,none", 71.5, 0.715),
        ("wmt16-en-de", "bleu,none", 25.0, 0.25),
        ("meddialog_raw", "bleu", 0.25, 0.25),  # another implementation of the same name
        ("eq_bench", "eqbench,none", 60.0, 0.6),
        ("drop", "f1,none", 0.9, 0.9),
        ("truthfulqa_gen", "bleu_acc,none", 0.4, 0.4),
    ],
)
def test_percentages_are_known_by_metric_and_task(
    tmp_path: Path, task: str, metric: str, value: float, accuracy: float
) -> None:
    name, comma, chosen = metric.partition(",")
    write(tmp_path, {task: {metric: value, f"{name}_stderr{comma}{chosen}": value / 10}})
    row = said(tmp_path)[0].iloc[0]
    assert (row.accuracy, row.stderr) == pytest.approx((accuracy, accuracy / 10))


def test_metrics_of_which_less_is_better_are_left_out_by_name(tmp_path: Path) -> None:
    worse = {"word_perplexity,none": 12.0, "bits_per_byte,none": 0.68}
    lambada = {"perplexity,none": 9.0, "acc,none": 0.5}
    bias = {"crows": {"pct_stereotype,none": 0.6}, "said": {"stereotyped,none": 0.6}}
    better = {"said": {"stereotyped": False}}
    write(tmp_path, {"wikitext": worse, "lambada": lambada, **bias}, higher_is_better=better)
    table, told = said(tmp_path)
    assert table.index.tolist() == [("org/m", "lambada")]
    assert (
        "Left out, lower is better: wikitext (word_perplexity,none, bits_per_byte,none), "
        "crows (pct_stereotype,none), said (stereotyped,none)."
    ) in told


def test_items_of_two_groups_are_counted_once(tmp_path: Path) -> None:
    tasks = {name: {"acc,none": value} for name, value in (("x", 0.2), ("y", 0.4), ("z", 0.9), ("w", 0.4))}
    groups = {"big": ["x", "y", "w"], "other": ["y", "z"]}
    scores = {"big": {"acc,none": 1 / 3}, "other": {"acc,none": 0.65}}
    write(tmp_path, tasks | scores, group_subtasks=groups)
    write(tmp_path / "later", {"x": {"acc,none": 0.2}}, 2)
    table, told = said(tmp_path)
    assert set(table.index.get_level_values("benchmark")) == {"big", "other", "z", "x"}
    assert table["within"].dropna().droplevel("student").to_dict() == {"other": "big", "x": "big"}
    points = analyse(tmp_path).tables["frontier"].set_index("scope")["accuracy"]
    assert points["all benchmarks"] == pytest.approx((1 / 3 + 0.9) / 2)
    assert points["other"] == 0.65
    assert "counted once in means, these are not added: other (within big), x (within big)." in told


def test_groups_that_hold_themselves_end(tmp_path: Path) -> None:
    groups = {"a": ["b"], "b": ["a", "t"]}
    results = {"a": {"acc": 0.5}, "b": {"acc": 0.5}, "t": {"acc": 0.5}}
    write(tmp_path, results, group_subtasks=groups)
    assert len(said(tmp_path)[0])


def test_warnings_of_one_kind_are_one_line(tmp_path: Path) -> None:
    for student in range(12):
        for day in (1, 2):
            results = {f"t{i:02}": {"acc,none": 0.5, "acc_norm,none": 0.6} for i in range(20)}
            write(tmp_path / str(student), results, day, model_name=f"m{student:02}")
    told = analyse(tmp_path).warnings
    kinds = (
        "newest of several",
        "one of several metrics",
        "training compute",
        "no scores of single",
        "at matched",
    )
    assert len(told) == len(kinds)
    assert all(sum(kind in line for line in told) == 1 for kind in kinds)
    assert max(map(len, told)) < 800


def test_samples_belong_to_the_results_of_their_moment(tmp_path: Path) -> None:
    # lm-eval --output_path m.json writes m_TIME.json, and all samples beside it.
    write(tmp_path, {"t": {"acc,none": 0.5}}, 1, name="a", model_name="a")
    write(tmp_path, {"t": {"acc,none": 0.5}}, 2, name="b", model_name="b")
    write(tmp_path, {"t": {"acc,none": 0.5}}, 3, name="c", model_name="c")
    samples(tmp_path, "t", "acc", [1.0, 0.0, 1.0, 0.0], 1)
    samples(tmp_path, "t", "acc", [0.0, 0.0, 1.0, 1.0], 2)
    scores = item_scores(tmp_path, collect(tmp_path))["t"]
    assert scores.index.tolist() == ["a", "b"]  # c has none, not the newest
    assert scores.to_numpy().tolist() == [[1, 0, 1, 0], [0, 0, 1, 1]]


def test_results_without_a_time_have_the_samples_beside_them_if_these_are_of_one_moment(
    tmp_path: Path,
) -> None:
    write(tmp_path, {"t": {"acc,none": 0.5}}).rename(tmp_path / "results.json")
    samples(tmp_path, "t", "acc", [1.0, 0.0], 1)
    assert item_scores(tmp_path, collect(tmp_path))["t"].shape == (1, 2)
    samples(tmp_path, "t", "acc", [0.0, 1.0], 2)
    assert not item_scores(tmp_path, collect(tmp_path))


@pytest.mark.parametrize(
    "values", [["ref", "pred"], [["DATE: x", ["per: y"]], ["a"]], [None, {}], [[0, 1], [1, 1]]]
)
def test_samples_that_are_no_numbers_are_no_item_scores(tmp_path: Path, values: list[Any]) -> None:
    write(tmp_path, {"t": {"acc,none": 0.5}})
    samples(tmp_path, "t", "acc", values)
    report = analyse(tmp_path)
    assert report.results["accuracy"].tolist() == [0.5]
    assert any("no scores of single items (their scores are not numbers)" in w for w in report.warnings)


def test_damaged_samples_are_no_item_scores(tmp_path: Path) -> None:
    write(tmp_path, {"t": {"acc,none": 0.5}})
    samples(tmp_path, "t", "acc", [1, 0])
    file = next(tmp_path.glob("samples*"))
    for text in ('{"doc_id": 1', "[]\n", "null\n1\n", '{"a": 1}\n', "[" * 100_000):
        file.write_text(text, encoding="utf-8")
        assert any("no scores of single items" in w for w in analyse(tmp_path).warnings)


def test_whatever_lies_in_the_folder_is_named_or_passed_over(tmp_path: Path) -> None:
    write(tmp_path, {"t": {"acc,none": 0.5}})
    contents: dict[str, bytes] = {
        "results_null.json": b"null", "results_list.json": b"[]", "results_empty.json": b"",
        "results_latin.json": '{"results": {}, "model_name": "x/é"}'.encode("latin-1"),
        "results_deep.json": b"[" * 200_000, "results_digits.json": b"1" * 5000,
        "results_nan.json": b'{"results": {"n": {"acc": NaN}, "i": {"acc": Infinity}}}',
        "results_huge.json": b'{"results": {"h": {"acc": 1' + b"0" * 400 + b'}}, "date": 1e400}',
        "results_types.json": json.dumps({
            "results": {"a": 0.5, "b": [], "c": None, "d": {"acc": True}, "e": {"acc,none": "0.5"}},
            "group_subtasks": {"a": "b", "c": [1, {}]}, "configs": [], "versions": 3, "n-shot": "x",
            "n-samples": {"a": 5}, "higher_is_better": {"d": 7}, "config": "x", "date": "yesterday",
            "model_name": {"a": 1}, "chat_template": 5, "chat_template_sha": [], "config_tasks": 4,
        }).encode(),
        "results_names.json": json.dumps({
            "results": {name: {"acc": 0.5} for name in ("[/red]\x1b[31m$\\frac\n", "=cmd()", "\ud800")},
            "model_name": "[bold]\x1b]0;x\x07" + "long" * 200,
        }).encode(),
        "._results.json": b"\x00\x05\x16\x07", "samples_t.jsonl": b"\xff",
    }  # fmt: skip
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    os.mkfifo(tmp_path / "results_fifo.json")
    (tmp_path / "results_link.json").symlink_to("nowhere")
    (tmp_path / "results_loop.json").symlink_to("results_loop.json")
    (tmp_path / "results_folder.json").mkdir()
    report = write_report(tmp_path, tmp_path / "out")
    skipped = next(w for w in report.warnings if w.startswith("Files without results"))
    for name in ("null", "list", "empty", "latin", "deep", "digits", "fifo", "link", "loop"):
        assert skipped.count(f"results_{name}.json") == 1
    assert "\x1b" not in " ".join(
        [*report.warnings, *report.results["student"], *report.results["benchmark"]]
    )
    assert report.results["accuracy"].tolist() == [0.5] * 4


@pytest.mark.parametrize("data", [b"null", b'{"results": {"a": 0.5}}', b'{"results": {}}', b"\xff"])
def test_a_folder_of_nothing_else_is_refused_in_words(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "results.json").write_bytes(data)
    with pytest.raises(ValueError, match=r"no results|none of the results"):
        collect(tmp_path)
