from __future__ import annotations

import logging
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import tiny
from small_study import wait_for

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")  # read at import, and this process has one

from jobs.core.unit import Input, Unit
from jobs.data.filters.overlap import Index
from jobs.engines.load import load
from jobs.evaluation.items import write_index
from jobs.evaluation.local_tasks import write_task
from jobs.evaluation.tasks import load_tasks, prepare_environment, task_manager
from jobs.runtime.context import Context
from jobs.runtime.signals import Interrupted
from jobs.stages import evaluate
from jobs.store.progress import Progress
from jobs.store.rundir import StudyDir, read_json, read_jsonl, write_json
from jobs.text.encoding import encode

STUDENT = {"name": "tiny ift", "size": "tiny", "share": 0.0, "order": "sequential", "seed": 0}
SAYS = "<think>\n2+5</think>7.89"
CHOICE = """\
task: choose
custom_dataset: !function local_items.load
dataset_kwargs: {items: easy.jsonl}
test_split: test
output_type: multiple_choice
doc_to_text: "{{prompt}}"
doc_to_choice: ["7", "3"]
doc_to_target: "{{'7 3'.split().index(answer)}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 2.0}
"""


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Items whose answer is 7 in three cases of ten."""
    folder = tmp_path_factory.mktemp("benchmarks")
    items = [{"prompt": f"{i}+?", "answer": "7" if i in (1, 4, 8) else "3"} for i in range(10)]
    write_task(folder, "easy", items, source="made here")
    write_task(folder, "digit", items, source="made here", extract="([0-9])")
    write_task(folder, "stops", items, source="made here")
    stops = folder / "stops.yaml"
    stops.write_text(
        stops.read_text(encoding="utf-8").replace("until: []", 'until: ["+", "."]'), encoding="utf-8"
    )
    (folder / "choose.yaml").write_text(CHOICE, encoding="utf-8")
    return folder


def tasks(
    *names: str, metric: str = "exact_match", filter: str = "none", **more: Any
) -> list[dict[str, Any]]:
    return [
        {"task": n, "metric": metric, "filter": filter, "fewshot": None, "limit": None, **more} for n in names
    ]


def prepare(
    root: Path,
    says: str,
    include: Path | None,
    wanted: list[dict[str, Any]],
    engine: str = "auto",
    **tokenizer: Any,
) -> Any:
    trained = Input("train", "train", "tiny ift", "1" * 12)
    out = StudyDir(root).unit(trained).out
    tiny.save(out / "model", says=says, **tokenizer)
    write_json(out / "result.json", {"flops": 123, "tokens": 45, "loss": 0.1})
    group = {
        "name": "easy", "domain": "math", "format": "open-ended", "max_tokens": 20, "tasks": wanted,
    } | ({"include": str(include)} if include else {})  # fmt: skip
    config = {
        "student": STUDENT,
        "group": group,
        "sampling": {"temperature": 0.0, "top_p": 1.0, "top_k": 0},
        "thinking": {"open": "<think>", "close": "</think>"},
    }
    execution = {"engine": engine, "max_model_len": None}
    return tiny.context(root, Unit("evaluate", "tiny ift easy", config, (trained,), execution))


def loaded(ctx: Context, include: Path) -> tuple[Any, Any]:
    return load(str(ctx.input("train") / "model"), None, ctx.unit.execution), task_manager(include)


@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_a_model_whose_answer_is_known_scores_as_known(
    engine: str, benchmarks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [
        *tasks("stops"), *tasks("easy"), *tasks("digit", filter="answer"), *tasks("choose", metric="acc"),
    ]  # fmt: skip
    ctx = prepare(tmp_path / "s", SAYS, benchmarks, wanted, engine)
    written = tiny.progress_written(monkeypatch)
    evaluate.run(ctx)
    named = "vLLM" if engine == "vllm" else engine
    starting = [f"importing {named}", "loading the model", "importing lm-eval"]
    each = [("loading the benchmark", False), ("answering", False)]
    assert tiny.phases(written) == [*((phase, True) for phase in starting), *each * 4]
    assert (written[0]["done"], written[0]["total"], written[0]["unit"]) == (0, 4, "benchmarks")
    result = read_json(ctx.folder.result)
    assert result["student"] == STUDENT
    assert result["training"] == {"flops": 123, "tokens": 45}
    found = {b["task"]: b for b in result["benchmarks"]}
    # It says 7.89: that is 7 to who stops at the point, and its last digit is 9.
    assert {name: b["accuracy"] for name, b in found.items()} == {
        "stops": 0.3, "easy": 0.0, "digit": 0.0, "choose": 0.3,
    }  # fmt: skip
    assert found["stops"]["stderr"] == pytest.approx((0.3 * 0.7 / 9) ** 0.5)
    assert all(b["n"] == 10 for b in found.values())
    assert all(b["domain"] == "math" and b["format"] == "open-ended" for b in found.values())
    # <think> \n 2 + 5 </think> and then 7 . 8 9 end, of which the stop string leaves 7 and the point
    assert (found["easy"]["reasoning_tokens"], found["easy"]["output_tokens"]) == (6, 11)
    assert (found["stops"]["reasoning_tokens"], found["stops"]["output_tokens"]) == (6, 8)
    assert (found["choose"]["output_tokens"], found["choose"]["task_version"]) == (0, 2.0)
    model, prompt = ctx.input("train") / "model", 6  # <|user|> i + ? <|end|> <|assistant|>
    assert found["easy"]["prompt_tokens"] == found["stops"]["prompt_tokens"] == prompt
    assert found["easy"]["flops_per_item"] == tiny.generation_flops(model, prompt, 11)
    assert found["stops"]["flops_per_item"] == tiny.generation_flops(model, prompt, 8)
    choice = prompt + 1  # a digit behind the prompt, and two of them
    assert found["choose"]["prompt_tokens"] == 2 * choice
    assert found["choose"]["flops_per_item"] == 2 * tiny.flops(model, [(choice, choice, choice)])
    items = list(read_jsonl(ctx.folder.out / "items.jsonl"))
    assert [i["correct"] for i in items if i["task"] == "stops"] == [float(i in (1, 4, 8)) for i in range(10)]
    assert [i["item"] for i in items if i["task"] == "stops"] == [str(i) for i in range(10)]
    files = sorted(p.name for p in (ctx.folder.out / "lm_eval").iterdir())
    assert [f.split("_20")[0] for f in files] == ["results"] * 4 + [
        f"samples_{n}" for n in ("choose", "digit", "easy", "stops")
    ]
    samples = list(read_jsonl(ctx.folder.out / "lm_eval" / files[-1]))
    assert samples[0]["resps"] == [["7"]]
    results = [read_json(ctx.folder.out / "lm_eval" / name) for name in files[:4]]
    assert {name: r["results"][name]["alias"] for r in results for name in r["results"]} == {
        name: name for name in found
    }
    for own in results:
        assert own["config"]["model_args"] == {"pretrained": str(model)}
        assert own["chat_template"] == tiny.TEMPLATE
        assert list(own["task_hashes"]) == list(own["results"]), "saved without the samples"


@pytest.mark.parametrize(("says", "thought"), [("2+5</think>7.89", 4), ("</think>7.89", 1)])
def test_behind_a_template_that_opens_the_thinking_the_answer_after_it_is_scored(
    says: str, thought: int, benchmarks: Path, tmp_path: Path
) -> None:
    opening = {"template": tiny.OPENING, "after": "\n"}
    wanted = [*tasks("stops"), *tasks("easy")]
    ctx = prepare(tmp_path / "s", says, benchmarks, wanted, "transformers", **opening)
    evaluate.run(ctx)
    stops, easy = read_json(ctx.folder.result)["benchmarks"]
    assert (stops["accuracy"], easy["accuracy"]) == (0.3, 0.0)  # 7 to who stops at the point, and 7.89
    assert (easy["reasoning_tokens"], easy["output_tokens"]) == (thought, thought + 5)  # 7 . 8 9 and the end
    assert (stops["reasoning_tokens"], stops["output_tokens"]) == (thought, thought + 2)


def test_a_choice_is_scored_after_the_thinking_that_a_template_opens(
    benchmarks: Path, tmp_path: Path
) -> None:
    from jobs.evaluation.lm_eval_model import EngineLM

    ctx = prepare(
        tmp_path / "s", "7", benchmarks, tasks("choose", metric="acc"), "transformers", template=tiny.OPENING
    )
    engine, _ = loaded(ctx, benchmarks)
    lm = EngineLM(engine, ctx.unit.config, lambda done, total: None)
    prompt = lm.apply_chat_template([{"role": "user", "content": "5?"}])
    context, choice = lm._pair(prompt, " 7")
    assert engine.tokenizer.decode(context) == "<|user|>5?<|end|><|assistant|><think>\n\n</think>\n\n"
    assert engine.tokenizer.decode(choice) == " 7"
    row = next(encode(engine.tokenizer, lm._chat, ["5?"], [""], [" 7"]))
    assert context + choice == [*row.prompt, *row.answer[:-1]], "scored otherwise than it was trained"
    evaluate.run(ctx)
    (found,) = read_json(ctx.folder.result)["benchmarks"]
    assert found["n"] == 10


def test_a_finished_benchmark_is_not_run_again(
    benchmarks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = [*tasks("easy"), *tasks("digit", metric="acc", filter="answer")]
    ctx = prepare(tmp_path / "s", "7", benchmarks, broken, "transformers")
    with pytest.raises(ValueError, match=r"no metric 'acc' with filter 'answer'.*exact_match,answer"):
        evaluate.run(ctx)
    assert not ctx.folder.done
    kept = ctx.folder.work / "easy" / "benchmark.json"
    write_json(kept, {**read_json(kept), "marked": True})
    capsys.readouterr()
    done = prepare(tmp_path / "s", "7", benchmarks, tasks("easy"), "transformers")
    ctx.folder.work.rename(done.folder.work)
    evaluate.run(done)
    (benchmark,) = read_json(done.folder.result)["benchmarks"]
    assert benchmark["marked"]
    assert benchmark["accuracy"] == 0.3
    assert "s to load" not in capsys.readouterr().out  # nothing was left that needs the model


def test_progress_names_the_benchmark_and_counts_those_that_are_kept(
    benchmarks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = list[tuple[Any, ...]]()

    def update(_: Progress, *what: Any, **more: Any) -> None:
        told.append((*what, more))

    monkeypatch.setattr(Progress, "update", update)
    wanted = [*tasks("easy", "stops"), *tasks("choose", metric="acc")]
    ctx = prepare(tmp_path / "s", "7", benchmarks, wanted, "transformers")
    evaluate.run(ctx)
    started = [what for what in told if what[:2] == (0, 1)]
    assert started == [
        (0, 1, "requests", {"kept": kept, "phase": "loading the benchmark", "benchmark": title})
        for kept, title in enumerate(("easy (1 of 3)", "stops (2 of 3)", "choose (3 of 3)"))
    ]
    assert {more["phase"] for what in told if what not in started for more in what[3:]} == {"answering"}
    asked = {(total, unit, more["benchmark"]) for _, total, unit, more in told if total != 1}
    assert asked == {
        (10, "requests", "easy (1 of 3)"), (10, "requests", "stops (2 of 3)"),
        (20, "requests", "choose (3 of 3)"),
    }  # fmt: skip


def test_what_a_killed_process_of_the_same_number_left_is_thrown_away(
    benchmarks: Path, tmp_path: Path
) -> None:
    ctx = prepare(tmp_path / "s", "7", benchmarks, tasks("easy"), "transformers")
    left = ctx.folder.work / f".easy.0.0.{os.getpid()}" / "lm_eval" / "samples_easy_2000.jsonl"
    left.parent.mkdir(parents=True)
    left.touch()
    evaluate.run(ctx)
    assert not list(ctx.folder.work.rglob(left.name))
    assert not list(ctx.folder.out.rglob(left.name))


def test_a_group_of_lm_evals_own_tasks_has_no_folder(tmp_path: Path) -> None:
    ctx = prepare(tmp_path / "s", SAYS, None, tasks("gsm8k", filter="flexible-extract"))
    kept = ctx.folder.work / "gsm8k"  # so that nothing is fetched
    (kept / "lm_eval").mkdir(parents=True)
    (kept / "items.jsonl").touch()
    write_json(kept / "benchmark.json", {"task": "gsm8k", "accuracy": 0.25})
    evaluate.run(ctx)
    assert read_json(ctx.folder.result)["benchmarks"] == [{"task": "gsm8k", "accuracy": 0.25}]


def test_lm_evals_own_tasks_are_found_without_a_folder() -> None:
    assert "gsm8k" in task_manager(None).all_tasks


def test_told_to_stop_it_keeps_the_benchmarks_that_are_finished(benchmarks: Path, tmp_path: Path) -> None:
    wanted = [*tasks("easy", "stops"), *tasks("digit", filter="answer")]
    ctx = prepare(tmp_path / "s", SAYS, benchmarks, wanted, "transformers")

    def tell() -> None:
        wait_for(lambda: list(ctx.folder.work.glob(".stops.*")), "the second benchmark")
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=tell)
    thread.start()
    with pytest.raises(Interrupted):
        evaluate.run(ctx)
    thread.join()
    assert ctx.progress.kept == 1
    assert [p.name for p in ctx.folder.work.glob("[!.]*")] == ["easy"]
    kept = ctx.folder.work / "easy" / "benchmark.json"
    write_json(kept, {**read_json(kept), "marked": True})
    evaluate.run(Context(ctx.unit, ctx.folder, restart=1))
    assert [b.get("marked") for b in read_json(ctx.folder.result)["benchmarks"]] == [True, None, None]


def test_a_benchmark_that_another_copy_of_the_job_has_finished_stays(
    benchmarks: Path, tmp_path: Path
) -> None:
    ctx = prepare(tmp_path / "s", "7", benchmarks, tasks("easy"), "transformers")
    evaluate.run(ctx)
    kept = ctx.folder.work / "easy" / "benchmark.json"
    write_json(kept, {**read_json(kept), "marked": True})
    config = ctx.unit.config["group"]["tasks"][0]
    evaluate._run_task(ctx, *loaded(ctx, benchmarks), config, "easy (1 of 1)")
    assert read_json(kept)["marked"]
    assert [p.name for p in ctx.folder.work.iterdir()] == ["easy"]
    assert sorted(p.name for p in kept.parent.iterdir()) == ["benchmark.json", "items.jsonl", "lm_eval"]


def test_limit_and_examples_reach_lm_eval(benchmarks: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shots"
    items = [{"prompt": f"{i}+?", "answer": "7"} for i in range(8)]
    write_task(folder, "shots", items, source="made here")
    path = folder / "shots.yaml"
    path.write_text(
        path.read_text(encoding="utf-8") + "fewshot_split: test\nnum_fewshot: 0\n", encoding="utf-8"
    )
    both = {}
    for shots in (0, 2):
        wanted = tasks("shots", fewshot=shots, limit=3)
        ctx = prepare(tmp_path / f"s{shots}", "7", folder, wanted, "transformers")
        evaluate.run(ctx)
        (both[shots],) = read_json(ctx.folder.result)["benchmarks"]
    assert [both[s]["n"] for s in (0, 2)] == [3, 3]
    assert both[2]["prompt_tokens"] > 2 * both[0]["prompt_tokens"]


def test_a_group_of_tasks_is_one_benchmark(benchmarks: Path, tmp_path: Path) -> None:
    (benchmarks / "both.yaml").write_text(
        "group: both\ntask: [easy, stops]\n"
        "aggregate_metric_list: [{metric: exact_match, aggregation: mean, weight_by_size: true}]\n"
        "metadata: {version: 3.0}\n",
        encoding="utf-8",
    )
    ctx = prepare(tmp_path / "s", SAYS, benchmarks, tasks("both"), "transformers")
    evaluate.run(ctx)
    (benchmark,) = read_json(ctx.folder.result)["benchmarks"]
    assert (benchmark["accuracy"], benchmark["n"]) == (pytest.approx(0.15), 20)
    assert benchmark["stderr"] > 0
    items = list(read_jsonl(ctx.folder.out / "items.jsonl"))
    assert {i["task"] for i in items} == {"both"}
    assert {i["item"] for i in items} == {f"{leaf}/{i}" for leaf in ("easy", "stops") for i in range(10)}
    assert sum(i["correct"] for i in items) == 3


def test_a_task_that_runs_code_needs_the_users_word(
    benchmarks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "unsafe"
    write_task(folder, "unsafe", [{"prompt": "1+?", "answer": "7"}], source="made here")
    with (folder / "unsafe.yaml").open("a", encoding="utf-8") as file:
        file.write("unsafe_code: true\n")
    ctx = prepare(tmp_path / "s", "7", folder, tasks("unsafe"), "transformers")
    for word in ("", "0"):
        monkeypatch.setenv("HF_ALLOW_CODE_EVAL", word)
        with pytest.raises(ValueError, match="unsafe"):
            evaluate.run(ctx)
    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "1")
    evaluate.run(ctx)
    assert ctx.folder.done


def test_a_folder_of_tasks_replaces_lm_evals_own(benchmarks: Path, tmp_path: Path) -> None:
    logger = logging.getLogger("lm_eval")
    logger.setLevel(logging.NOTSET)
    folder = tmp_path / "own"
    write_task(folder, "own", [{"prompt": "1+?", "answer": "7"}], source="made here")
    assert task_manager(folder).all_tasks == ["own"]
    assert logger.level == logging.ERROR


def test_lm_evals_own_tasks_are_not_read_for_a_folder(
    benchmarks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def index(**_: Any) -> None:
        raise AssertionError("lm-eval builds an index of its own")

    monkeypatch.setattr("lm_eval.evaluator.TaskManager", index)
    ctx = prepare(tmp_path / "s", "7", benchmarks, tasks("easy"), "transformers")
    evaluate.run(ctx)
    assert ctx.folder.done


def test_a_task_is_loaded_with_the_studys_examples_or_its_own(tmp_path: Path) -> None:
    write_task(tmp_path, "shots", [{"prompt": "1+?", "answer": "7"}], source="made here")
    with (tmp_path / "shots.yaml").open("a", encoding="utf-8") as file:
        file.write("num_fewshot: 3\n")
    for given, used in ((None, 3), (0, 0), (2, 2)):
        (leaf,) = load_tasks(task_manager(tmp_path), tasks("shots", fewshot=given)[0])
        assert leaf.get_config("num_fewshot") == used
    (leaf,) = load_tasks(task_manager(tmp_path), {**tasks("shots")[0], "fewshot": 1})
    assert leaf.task_name == "shots"


def test_a_task_that_lm_eval_does_not_report_so_is_refused_before_it_runs(tmp_path: Path) -> None:
    items = [{"prompt": "1+?", "answer": "7"}]
    for number in range(12):
        write_task(tmp_path, f"task{number:02d}", items, source="made here", extract="([0-9])")
    with (tmp_path / "task00.yaml").open("a", encoding="utf-8") as file:
        file.write("tag: many\n")
    manager = task_manager(tmp_path)

    def refused(name: str, **given: Any) -> str:
        with pytest.raises(ValueError, match=name) as caught:
            load_tasks(manager, tasks(name, **given)[0])
        return str(caught.value)

    close = ", ".join(f"task{number:02d}" for number in (10, 9, 8, 7, 6))
    assert refused("task0") == f"lm-eval has no task 'task0'; close to it: {close}"
    first = ", ".join(["many", *(f"task{number:02d}" for number in range(9))])
    assert refused("gsm8k") == f"lm-eval has no task 'gsm8k'; close to it: {first}"
    assert refused("many") == "'many' is lm-eval's tag for task00: name these one by one"
    assert refused("task01", metric="acc") == (
        "benchmark task01: lm-eval reports no metric 'acc' with filter 'none'; as metric,filter it reports "
        "exact_match,answer"
    )


def test_a_summary_counts_the_wanted_metric_and_filter_of_all_leaves(tmp_path: Path) -> None:
    from jobs.evaluation.lm_eval_model import Usage

    model = tiny.save(tmp_path / "model")
    first = [
        {"doc_id": 0, "filter": "answer", "acc": True},
        {"doc_id": 0, "filter": "none", "acc": False},
        {"doc_id": 3, "filter": "answer", "acc": [True, False, False, True]},
    ]
    second = [{"doc_id": 3, "filter": "answer", "acc": 1.0}, {"doc_id": 4, "filter": "answer", "f1": 1.0}]
    results: dict[str, Any] = {
        "results": {
            "both": {
                "alias": "both", "acc,answer": 0.75, "acc_stderr,answer": 0.2, "acc,none": 0.0,
                "acc_stderr,none": 0.1, "f1,answer": 1.0,
            },
            "first": {"acc,answer": 0.5},
        },
        "versions": {"both": 2.0, "first": 3.0},
        "samples": {"both": first, "leaf": second},
    }  # fmt: skip
    usage = {
        ("both", 0): Usage(prompts=[10, 20], outputs=[4, 5], reasoning=[1, 2]),
        ("both", 3): Usage(prompts=[30], outputs=[6], reasoning=[3], scored=[7, 8]),
        ("leaf", 3): Usage(scored=[9]),
    }
    task = {"task": "both", "metric": "acc", "filter": "answer"}
    benchmark, items = evaluate.summarise(results, usage, task, model)
    assert items == [
        {"task": "both", "item": "0", "correct": 1.0, "prompt_tokens": 30, "output_tokens": 9,
         "reasoning_tokens": 3},
        {"task": "both", "item": "3", "correct": 0.5, "prompt_tokens": 45, "output_tokens": 6,
         "reasoning_tokens": 3},
        {"task": "both", "item": "leaf/3", "correct": 1.0, "prompt_tokens": 9, "output_tokens": 0,
         "reasoning_tokens": 0},
    ]  # fmt: skip
    flops = sum(tiny.generation_flops(model, prompt, new) for prompt, new in ((10, 4), (20, 5), (30, 6)))
    flops += tiny.flops(model, [(n, n, n) for n in (7, 8, 9)])
    assert benchmark == {
        "metric": "acc", "filter": "answer", "accuracy": 0.75, "stderr": 0.2, "n": 3, "task_version": 2.0,
        "prompt_tokens": 28.0, "output_tokens": 5.0, "reasoning_tokens": 2.0, "flops_per_item": flops / 3,
    }  # fmt: skip
    results["results"]["both"]["acc_stderr,answer"] = "N/A"
    assert evaluate.summarise(results, usage, task, model)[0]["stderr"] is None
    with pytest.raises(ValueError, match="exact_match") as caught:
        evaluate.summarise(results, usage, {**task, "metric": "exact_match"}, model)
    assert str(caught.value) == (
        "benchmark both: lm-eval reports no metric 'exact_match' with filter 'answer'; as metric,filter it "
        "reports acc,answer; acc,none; f1,answer"
    )
    with pytest.raises(ValueError, match=r"benchmark other: .* it reports $"):
        evaluate.summarise(results, usage, {**task, "task": "other"}, model)


def test_files_that_lm_eval_could_not_write_are_an_error(
    benchmarks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.loggers import EvaluationTracker

    monkeypatch.setattr(EvaluationTracker, "save_results_samples", lambda *_, **__: None)
    ctx = prepare(tmp_path / "s", "7", benchmarks, tasks("easy"), "transformers")
    with pytest.raises(RuntimeError, match=r"could not write all .*lm_eval holds \['results'\] only"):
        evaluate.run(ctx)
    assert not ctx.folder.done


def test_mistakes_are_named(benchmarks: Path, tmp_path: Path) -> None:
    ctx = prepare(tmp_path / "a", "7", benchmarks, tasks("eazy"), "transformers")
    with pytest.raises(ValueError, match="no task 'eazy'; close to it: easy"):
        evaluate.run(ctx)
    ctx = prepare(tmp_path / "b", "7", tmp_path / "nowhere", tasks("easy"), "transformers")
    with pytest.raises(ValueError, match=r"there is no folder .*nowhere"):
        evaluate.run(ctx)


def test_the_hub_is_left_alone_where_all_data_are_local(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    (tmp_path / "a.yaml").write_text("task: a\ndataset_path: json\n", encoding="utf-8")
    (tmp_path / "b.yaml").write_text("task: b\ndataset_path: openai/gsm8k\n", encoding="utf-8")
    prepare_environment(tmp_path)
    assert "HF_HUB_OFFLINE" not in os.environ
    (tmp_path / "b.yaml").unlink()
    prepare_environment(tmp_path)
    assert os.environ["HF_HUB_OFFLINE"] == os.environ["HF_DATASETS_OFFLINE"] == "1"
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    prepare_environment(tmp_path)
    assert os.environ["HF_HUB_OFFLINE"] == "0", "what the user has set stays"


def test_a_folder_that_reads_from_the_hub_is_found_however_the_task_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    (tmp_path / "deep").mkdir()
    for text in ("openai/gsm8k", "'openai/gsm8k'", '"jsonl"', "  gsm8k  # not json"):
        (tmp_path / "deep" / "a.yaml").write_text(f"task: a\ndataset_path: {text}\n", encoding="utf-8")
        prepare_environment(tmp_path)
        assert "HF_HUB_OFFLINE" not in os.environ
        assert "HF_DATASETS_OFFLINE" not in os.environ
    builders = ("json", "csv", "parquet", "text", "arrow")
    lines = "".join(f"- dataset_path: no\n  x:\ndataset_path: '{name}'\n" for name in builders)
    (tmp_path / "deep" / "a.yaml").write_text(lines, encoding="utf-8")
    prepare_environment(tmp_path)
    assert os.environ["HF_HUB_OFFLINE"] == os.environ["HF_DATASETS_OFFLINE"] == "1"


def test_items_of_benchmarks_are_rendered_as_they_are_asked(
    benchmarks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    file = tmp_path / "items.npz"
    assert write_index(13, file, [(benchmarks, ["easy", "choose"])]) == {"easy": 10, "choose": 10}
    found = Index.load(file).found(["8+?", "90+?", "3"])
    assert found == [{"easy", "choose"}, set(), set()], "an answer identifies no item"
    with pytest.raises(ValueError, match="there is no folder"):
        write_index(13, file, [(tmp_path / "gone", ["easy"])])
    own = tmp_path / "own"
    write_task(own, "own", [{"prompt": "1+?", "answer": "7"}], source="made here")
    (own / "own.jsonl").unlink()
    with pytest.raises(ValueError, match=r"of own.*FileNotFoundError.*sor prefetch STUDY"):
        write_index(13, file, [(own, ["own"])])
    with pytest.raises(ValueError, match=r"items of none, which cannot be loaded here .*'none'"):
        write_index(13, file, [(own, ["none"])])
