"""Results of this project's runs and of lm-eval."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from made_results import at, benchmark, evaluation

from analysis.results.collect import COLUMNS, DataWarning, by_rule_of_thumb, charge_teacher, collect
from analysis.results.items import item_scores
from analysis.statistics.frontier import frontier_table
from jobs.core.unit import Unit
from jobs.store.rundir import StudyDir, write_json

# Evaluates lm-eval's own dummy model on three tiny tasks, one of them a group, and saves as its command does.
LM_EVAL = r"""
import json, sys
from pathlib import Path
import lm_eval
from lm_eval.loggers import EvaluationTracker
from lm_eval.tasks import TaskManager

folder = Path(sys.argv[1])
tasks = folder / "tasks"
tasks.mkdir()
rows = [{"q": f"{i}+1=", "c": ["lol", "x"], "g": i % 2} for i in range(6)]
(tasks / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
def task(name, more):
    (tasks / f"{name}.yaml").write_text(
        f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {tasks}/d.jsonl}}}}\n"
        "test_split: test\ndoc_to_text: '{{q}}'\n" + more)
task("gsm_toy", '''output_type: generate_until
doc_to_target: "{{c[0]}}"
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
filter_list:
  - {name: strict, filter: [{function: regex, regex_pattern: "(l.l)"}, {function: take_first}]}
  - {name: flexible, filter: [{function: regex, regex_pattern: "(zzz)"}, {function: take_first}]}
metadata: {version: 3.0}
''')
for name in ("mc_a", "mc_b"):
    task(name, '''output_type: multiple_choice
doc_to_choice: "{{c}}"
doc_to_target: g
metric_list: [{metric: acc}, {metric: acc_norm}]
metadata: {version: 1.0}
''')
(tasks / "mc.yaml").write_text('''group: mc
task: [mc_a, mc_b]
aggregate_metric_list: [{metric: acc, aggregation: mean, weight_by_size: true}]
metadata: {version: 2}
''')
manager = TaskManager(include_defaults=False, include_path=str(tasks))
made = lm_eval.simple_evaluate(
    "dummy", model_args="pretrained=org/model", tasks=["gsm_toy", "mc"], task_manager=manager, limit=5,
    bootstrap_iters=10)
tracker = EvaluationTracker(output_path=str(folder / "out"))
tracker.general_config_tracker.log_experiment_args("dummy", "pretrained=org/model", None, None, False)
samples = made.pop("samples")
tracker.save_results_aggregated(made, samples)
for name, rows in samples.items():
    tracker.save_results_samples(name, rows)
"""


@pytest.fixture(scope="module")
def lm_eval_output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("lm_eval")
    folder = tmp_path_factory.mktemp("lm_eval")
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    subprocess.run([sys.executable, "-c", LM_EVAL, folder], env=os.environ | offline, check=True, cwd=folder)
    return folder / "out"


def said(path: Path, **arguments: Any) -> tuple[Any, list[str]]:
    """The table, and the warnings given on the way."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DataWarning)
        table = collect(path, **arguments)
    return table, [str(w.message) for w in caught if issubclass(w.category, DataWarning)]


def made_elsewhere(folder: Path, task: str, values: dict[str, Any], **other: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    data = {"results": {task: values}, "versions": {task: 0}, "model_name": folder.name}
    file = folder / "results.json"
    file.write_text(json.dumps(data | other), encoding="utf-8")
    return file


def test_an_evaluation_of_this_project(tmp_path: Path) -> None:
    made = benchmark("sums", 0.75, domain="math", output_tokens=40.5, flops_per_item=123_456)
    evaluation(tmp_path, "1B-half", 6 * 10**22, [made, benchmark("facts", 0.5)], share=0.5, seed=3)
    table, warned = said(tmp_path)
    assert not warned
    assert list(table.columns) == list(COLUMNS)
    row = table.set_index("benchmark").loc["sums"]
    assert (row.student, row["size"], row.share, row.order, row.seed) == (
        "1B-half",
        "1B",
        0.5,
        "sequential",
        3,
    )
    assert (row.domain, row["format"], row.metric) == ("math", "open-ended", "exact_match,strict")
    assert (row.accuracy, row.n, row.training_flops, row.inference_flops) == (0.75, 100, 6e22, 123_456)
    assert (row.output_tokens, row.task_version) == (40.5, "1")
    assert (tmp_path / row.source).name == "result.json"


def test_only_the_units_asked_for_and_the_newest_of_several(tmp_path: Path) -> None:
    old = evaluation(tmp_path, "a", 10, [benchmark("sums", 0.25)])
    new = evaluation(tmp_path, "a", 10, [benchmark("sums", 0.75)])
    for unit, time in ((old, 1e9), (new, 2e9)):
        os.utime(next(tmp_path.glob(f"evaluate/*-{unit.id}/out/result.json")), (time, time))
    assert said(tmp_path, units={old.id})[0].accuracy.tolist() == [0.25]
    table, warned = said(tmp_path)
    assert table.accuracy.tolist() == [0.75]
    assert len(warned) == 1
    assert "The newest of several results is taken: a, sums (2 results; not " in warned[0]
    assert old.id in warned[0]
    with pytest.raises(ValueError, match="no evaluation has been published"):
        collect(tmp_path, units=set())


def test_unlike_measurements_are_said(tmp_path: Path) -> None:
    evaluation(tmp_path, "a", 10, [benchmark("sums", 0.5, n=100, task_version="1")])
    evaluation(tmp_path, "b", None, [benchmark("sums", 0.5, n=99, task_version="2", filter="flexible")])
    evaluation(tmp_path, "c", 0, [benchmark("sums", 0.5)])
    text = " ".join(said(tmp_path)[1])
    for words in ("different task versions", "different numbers of items", "different metrics"):
        assert f"Results of {words} are compared: sums (" in text
    assert "training FLOPs of b are not known" in text
    assert "training FLOPs of c are 0" in text


def test_broken_results_of_this_project_are_named(tmp_path: Path) -> None:
    evaluation(tmp_path, "a", 10, [benchmark("sums", 1.5)])
    with pytest.raises(ValueError, match=r"result\.json: accuracy of sums is 1\.5"):
        collect(tmp_path)
    file = next(tmp_path.glob("evaluate/*/out/result.json"))
    result = json.loads(file.read_text(encoding="utf-8"))
    del result["benchmarks"][0]["accuracy"]
    file.write_text(json.dumps(result), encoding="utf-8")
    with pytest.raises(ValueError, match=r"result\.json: the key 'accuracy' is missing"):
        collect(tmp_path)
    file.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"result\.json: not JSON"):
        collect(tmp_path)


def test_what_lm_eval_writes_now(lm_eval_output: Path) -> None:
    table, warned = said(lm_eval_output)
    table = table.set_index("benchmark")
    assert sorted(table.index) == ["gsm_toy", "mc"]  # the group stands for its parts
    toy, group = table.loc["gsm_toy"], table.loc["mc"]
    assert (toy.student, toy.metric, toy.accuracy, toy.n) == ("org/model", "exact_match,strict", 1.0, 5)
    assert (toy.domain, toy["format"], toy.task_version) == ("math", "open-ended", "3.0")
    raw = json.loads(next(lm_eval_output.rglob("results_*.json")).read_text(encoding="utf-8"))["results"][
        "mc"
    ]
    assert (group.metric, group.accuracy, group.stderr) == (
        "acc,none",
        raw["acc,none"],
        raw["acc_stderr,none"],
    )
    assert (group.n, group["format"], group.task_version) == (10, "multiple-choice", "2")
    assert table.training_flops.isna().all()
    assert any("gsm_toy by exact_match,strict (also exact_match,flexible)" in w for w in warned)
    assert any("compute.csv" in w for w in warned)


def test_the_newest_of_several_lm_eval_runs(lm_eval_output: Path, tmp_path: Path) -> None:
    shutil.copytree(lm_eval_output, tmp_path / "out")
    first = next((tmp_path / "out").rglob("results_*.json"))
    data = json.loads(first.read_text(encoding="utf-8"))
    data["results"]["gsm_toy"]["exact_match,strict"] = 0.25
    data["date"] += 60
    first.with_name("results_2099-01-01T00-00-00.000000.json").write_text(json.dumps(data), encoding="utf-8")
    table, warned = said(tmp_path / "out")
    assert table.set_index("benchmark").accuracy["gsm_toy"] == 0.25
    assert any("newest of several results is taken: org/model, gsm_toy (2 results" in w for w in warned)


def test_a_task_without_a_number_of_items_or_an_error(tmp_path: Path) -> None:
    config = {"model_num_parameters": 494032768}
    values = {"acc,none": 0.25, "acc_stderr,none": "N/A", "alias": "t"}
    made_elsewhere(tmp_path / "a", "t", values, model_name="/models/mine/", config=config)
    (row,) = said(tmp_path)[0].itertuples()
    assert (row.student, row.size, row.accuracy, row.task_version) == ("mine", "494M", 0.25, "0")
    assert math.isnan(row.stderr)
    assert row.n is pd.NA


def test_models_in_folders_of_one_name_keep_their_paths(tmp_path: Path) -> None:
    for parent in ("x", "y"):
        made_elsewhere(tmp_path / parent, "t", {"acc": 0.5}, model_name=f"/runs/{parent}/model")
    assert sorted(said(tmp_path)[0].student) == ["/runs/x/model", "/runs/y/model"]


def test_a_score_that_is_no_fraction_is_left_out_and_said(tmp_path: Path) -> None:
    made_elsewhere(tmp_path / "a", "boolq", {"acc": 71.5})
    made_elsewhere(tmp_path / "b", "t", {"acc": 0.5})
    table, warned = said(tmp_path)
    assert table.benchmark.tolist() == ["t"]
    assert "Left out, no fraction of 1: boolq (acc = 71.5)." in warned


def test_compute_of_runs_made_elsewhere(tmp_path: Path) -> None:
    for name, size in (("a", 0), ("b", 3_000_000_000), ("c", 0)):
        config = {"model_num_parameters": size}
        made_elsewhere(tmp_path / name, "t", {"acc": 0.5}, model_name=name, config=config)
    (tmp_path / "compute.csv").write_text(
        "student,training_flops,size,share,inference_flops\na,1e21,0.5B,1,2e12\nb,3e21,,0,\nz,1,,,\n",
        encoding="utf-8",
    )
    table, warned = said(tmp_path)
    table = table.set_index("student")
    assert table.training_flops[["a", "b"]].tolist() == [1e21, 3e21]
    assert table["size"][["a", "b"]].tolist() == ["0.5B", "3B"]  # what the file leaves open stays as it was
    assert table.share[["a", "b"]].tolist() == [1.0, 0.0]
    assert table.inference_flops["a"] == 2e12
    assert any("no results of z" in w for w in warned)
    assert any("no training_flops of c" in w for w in warned)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,training_flops\na,1\n", "column 'student' is missing"),
        ("student,training_flop\na,1\n", "column 'training_flops' is missing"),
        ("student,training_flops,shares\na,1,0\n", "unknown column 'shares'; is it 'share'"),
        ("student,training_flops\na,1\na,2\n", "a stands in more than one line"),
        ("student,training_flops\na,lots\n", "training_flops is 'lots'; a number"),
        ("student,training_flops\na,-1\n", "training_flops of a is -1"),
    ],
)
def test_a_wrong_compute_file_is_named(tmp_path: Path, text: str, words: str) -> None:
    made_elsewhere(tmp_path / "x", "t", {"acc": 0.5}, model_name="a")
    (tmp_path / "compute.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"compute\.csv(, line 2)?: .*{words}"):
        collect(tmp_path)


def test_folders_without_results_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a folder"):
        collect(tmp_path / "nothing")
    with pytest.raises(ValueError, match="no results found"):
        collect(tmp_path)
    (tmp_path / "results.json").write_text('{"scores": 1}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"no results found.* Skipped: results\.json: no 'results'"):
        collect(tmp_path)
    evaluation(tmp_path / "demo", "a", 1, [benchmark("t", 0.5)])
    with pytest.raises(ValueError, match="holds the studies demo"):
        collect(tmp_path)


def test_a_table_that_a_report_wrote_can_be_read_again(tmp_path: Path) -> None:
    evaluation(tmp_path / "run", "a", 10, [benchmark("s", 0.25), benchmark("t", 0.5)])
    table = collect(tmp_path / "run")
    (tmp_path / "copy").mkdir()
    table.to_csv(tmp_path / "copy" / "results.csv", index=False)
    pd.testing.assert_frame_equal(
        collect(tmp_path / "copy").drop(columns="source"), table.drop(columns="source")
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("student,benchmark\na,t\n", "the column 'accuracy' is missing"),
        ("student,benchmark,accuracy\na,t,51.5\n", "accuracy of a, t is 51.5; a fraction"),
        ("student,benchmark,accuracy\na,t,\n", "accuracy of a, t is nan; a fraction"),
        ("student,benchmark,accuracy\na,t,0.5\na,t,0.6\n", "a, t stands in more than one line"),
        ("student,benchmark,accuracy,n\na,t,0.5,many\n", "n is 'many'; a number"),
    ],
)
def test_a_wrong_table_is_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "results.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"results\.csv(, line 2)?: {words}"):
        collect(tmp_path)


def test_no_number_is_made_of_nan(tmp_path: Path) -> None:
    made_elsewhere(tmp_path / "a", "t", {"acc,none": math.nan})
    made_elsewhere(tmp_path / "b", "t", {"acc,none": 0.5})
    table, warned = said(tmp_path)
    assert table.student.tolist() == ["b"]
    assert "Left out, no fraction of 1: t (acc,none = nan)." in warned
    evaluation(tmp_path / "run", "a", 10, [benchmark("sums", math.nan)])
    with pytest.raises(ValueError, match=r"accuracy of sums is nan"):
        collect(tmp_path / "run")


def test_the_teachers_cost_is_charged_by_what_is_used(tmp_path: Path) -> None:
    for name, share in (("plain", 0.0), ("half", 0.5), ("full", 1.0)):
        unit = evaluation(tmp_path, name, 10, [benchmark("s", 0.5)], share=share)
        study = StudyDir(tmp_path)
        made = Unit("generate", "teacher", {})
        out = study.unit(made).out
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "result.json", {"flops_by_mode": {"ift": 30, "reasoning": 600}})
        train = study.unit(unit.inputs[0])
        write_json(train.spec, Unit("train", name, {}, (made.as_input(),)).to_json())
    results = collect(tmp_path)
    alone, shared = (
        charge_teacher(results, shared).set_index("student")["training_flops"].to_dict()
        for shared in (False, True)
    )
    assert alone == {"plain": 10 + 30, "half": 10 + 15 + 300, "full": 10 + 600}
    assert shared == pytest.approx({"plain": 10 + 20, "half": 10 + 10 + 200, "full": 10 + 400})
    assert sum(shared.values()) == 3 * 10 + 630  # what generation cost, once


def test_rules_of_thumb_count_parameters_and_tokens(tmp_path: Path) -> None:
    shape = {"model_type": "qwen3", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
             "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 192, "vocab_size": 41,
             "tie_word_embeddings": True}  # fmt: skip
    parameters = 109_568  # as torch counts them in the demo's largest student
    evaluation(tmp_path, "a", 10, [benchmark("s", 0.5)], trained={"model": {"architecture": shape}})
    evaluation(
        tmp_path, "b", 10, [benchmark("s", 0.5)], trained={"model": {"architecture": {"model_type": "x"}}}
    )
    results = by_rule_of_thumb(collect(tmp_path)).set_index("student")
    assert results.loc["a", "training_flops"] == 6 * parameters * 1000
    assert results.loc["a", "inference_flops"] == 2 * parameters * 20
    assert results.loc["b", ["training_flops", "inference_flops"]].isna().all()
    assert len(frontier_table(results.reset_index()).query("on_inference_frontier"))


def test_items_of_this_project_and_what_is_said_of_them(tmp_path: Path) -> None:
    three = {"s": {"0": 1.0, "1": 0.0, "2": 1.0}}
    evaluation(tmp_path, "a", 10, [benchmark("s", 2 / 3, n=3)], three)
    evaluation(tmp_path, "b", 10, [benchmark("s", 0.5, n=2)], {"s": {"1": 0.0, "2": 1.0}})
    evaluation(tmp_path, "c", 10, [benchmark("s", 0.9)], {"s": {"0": 1.0}})
    evaluation(tmp_path, "d", 10, [benchmark("s", 0.9)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DataWarning)
        scores = item_scores(tmp_path, collect(tmp_path))
    text = " ".join(str(w.message) for w in caught)
    assert at(scores["s"], "a").tolist() == [1.0, 0.0, 1.0]
    assert at(scores["s"], "b", ["1", "2"]).tolist() == [0.0, 1.0]
    assert sorted(scores["s"].index) == ["a", "b"]
    for words in ("different numbers of items", "different items: s (2 and 3 of 3)", "d, s has no scores",
                  "c, s has items whose mean is not its accuracy"):  # fmt: skip
        assert words in text
    next(tmp_path.glob("evaluate/a*/out/items.jsonl")).write_text('{"task": "s"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"items\.jsonl, line 1: the key 'item' is missing"):
        item_scores(tmp_path, collect(tmp_path))


def test_items_that_lm_eval_logged(lm_eval_output: Path) -> None:
    results = said(lm_eval_output)[0]
    scores = item_scores(lm_eval_output, results)
    assert at(scores["gsm_toy"], "org/model").tolist() == [1.0] * 5  # by the filter that was chosen
    assert scores["mc"].shape == (1, 10)  # both of the group's parts
    assert scores["mc"].mean(axis=1).tolist() == pytest.approx(
        [results.set_index("benchmark").accuracy["mc"]]
    )
