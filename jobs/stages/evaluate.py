"""Evaluate a student on the benchmarks of one group: lm-eval asks and scores, our engine answers.

Each finished benchmark stays in work/TASK, so that a later attempt continues with the next one; all are
published together. lm-eval's own files are kept unchanged, next to the cost of each item.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Iterable
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.core.flops import architecture, forward_flops, generate_flops
from jobs.core.paths import DATA
from jobs.core.task_files import hub_datasets
from jobs.engines.base import Engine
from jobs.engines.load import import_engines, load, quiet
from jobs.runtime.context import Context
from jobs.store.rundir import fsync_tree, read_json, rename_once, write_json, write_jsonl

if TYPE_CHECKING:
    from jobs.evaluation.lm_eval_model import EngineLM, Usage

BENCHMARK = "benchmark.json"  # summary of a finished benchmark


def run(ctx: Context) -> None:
    """Run the group's remaining benchmarks, then publish all."""
    config = ctx.unit.config
    tasks = config["group"]["tasks"]
    include = config["group"].get("include")
    folder = DATA / ctx.resolve(include) if include else None  # relative paths are shipped with the code
    prepare_environment(folder)
    left = [t for t in tasks if not (_finished(ctx, t) / BENCHMARK).is_file()]
    if left:
        ctx.preemption.listen()
        model = ctx.input("train") / "model"

        def starts(phase: str) -> None:
            ctx.progress.outside(phase, len(tasks) - len(left), len(tasks), "benchmarks")

        with closing(load(str(model), None, ctx.unit.execution, starts)) as engine:
            starts("importing lm-eval")
            manager = _manager(folder)
            for task in left:
                title = f"{task['task']} ({tasks.index(task) + 1} of {len(tasks)})"
                _run_task(ctx, engine, manager, task, title)
    _publish(ctx, tasks)


def prepare_environment(include: Path | None) -> None:
    """Set what lm-eval, datasets and vLLM read at import.

    If every task of the group reads local files, the hub is never contacted.
    """
    quiet()
    if include is None:
        return
    if not include.is_dir():
        raise ValueError(f"benchmarks: there is no folder {include} (include)")
    if not hub_datasets(include):
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
            if name in os.environ:  # as the user has set it
                continue
            os.environ[name] = "1"
            for library in ("huggingface_hub.constants", "datasets.config"):
                if library in sys.modules:  # in a forked job, which has read the variables already
                    vars(sys.modules[library])[name] = True


def _finished(ctx: Context, task: dict[str, Any]) -> Path:
    return ctx.folder.work / str(task["task"])


def imports() -> None:
    """Import what every evaluation needs."""
    quiet()
    import_engines()
    _harness()


def _harness() -> None:
    """Import lm-eval, and run its `pip list`, which takes seconds, once instead of for each benchmark."""
    from torch.utils import collect_env

    import jobs.evaluation.lm_eval_model  # noqa: F401

    if not hasattr(collect_env.get_pretty_env_info, "cache_info"):
        collect_env.get_pretty_env_info = cache(collect_env.get_pretty_env_info)
    collect_env.get_pretty_env_info()


def _manager(include: Path | None) -> Any:
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    _harness()
    from lm_eval.tasks import TaskManager

    # Indexing lm-eval's own tasks takes 12 s; a group with its own folder does not need them.
    return TaskManager(include_path=include, include_defaults=include is None)


def _run_task(ctx: Context, engine: Engine, manager: Any, task: dict[str, Any], title: str) -> None:
    """Run one benchmark and write its files to work/TASK.

    Raises:
        Interrupted: The job was asked to stop; the benchmark starts over in the next run.
    """
    from jobs.evaluation.lm_eval_model import EngineLM

    kept = sum(_finished(ctx, each).is_dir() for each in ctx.unit.config["group"]["tasks"])

    def report(done: int, total: int, phase: str = "answering") -> None:
        ctx.progress.update(done, total, "requests", kept=kept, phase=phase, benchmark=title)
        ctx.preemption.check()

    lm = EngineLM(engine, ctx.unit.config, report)
    report(0, 1, "loading the benchmark")
    final = _finished(ctx, task)
    aside = final.with_name(f".{final.name}.{ctx.run}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    (aside / "lm_eval").mkdir(parents=True)
    results = _evaluate(lm, manager, task, aside / "lm_eval", str(ctx.input("train") / "model"))
    benchmark, items = summarise(results, lm.usage, task, ctx.input("train") / "model")
    group = ctx.unit.config["group"]
    labels = {"task": task["task"], "domain": group["domain"], "format": group["format"]}
    write_json(aside / BENCHMARK, {**labels, **benchmark})
    write_jsonl(aside / "items.jsonl", items)
    fsync_tree(aside)
    rename_once(aside, final, BENCHMARK)  # a concurrent copy of this job may have published first


def _evaluate(lm: EngineLM, manager: Any, task: dict[str, Any], folder: Path, model: str) -> dict[str, Any]:
    """Run one task (or group of tasks) through lm-eval, write lm-eval's own files, and return the results."""
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker

    loaded = _load(manager, task)
    # Given a file name, lm-eval creates no folder per model, but still chooses its own file names.
    tracker = EvaluationTracker(output_path=str(folder / "results.json"))
    results = simple_evaluate(
        lm,
        model_args={"pretrained": model},
        tasks=loaded,
        limit=task.get("limit"),
        evaluation_tracker=tracker,
        apply_chat_template=True,
        task_manager=manager,
        confirm_run_unsafe_code=os.environ.get("HF_ALLOW_CODE_EVAL") == "1",  # opt-in by the user
    )
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples)
    for name, rows in samples.items():
        tracker.save_results_samples(task_name=name, samples=rows)
    written = {p.name.rsplit("_", 1)[0] for p in folder.glob("[!.]*")}
    if written != {"results", *(f"samples_{name}" for name in samples)}:
        raise RuntimeError(f"lm-eval could not write all its files: {folder} holds {sorted(written)} only")
    return {**results, "samples": samples}


def _load(manager: Any, task: dict[str, Any]) -> list[Any]:
    """Return lm-eval's task objects, with the study's number of few-shot examples."""
    import difflib

    name = task["task"]
    if name not in manager.all_tasks:
        near = difflib.get_close_matches(name, manager.all_tasks, 5) or manager.all_tasks[:10]
        raise ValueError(f"lm-eval has no task {name!r}; close to it: {', '.join(near)}")
    loaded = manager.load([name])
    for leaf in loaded["tasks"].values():
        if task.get("fewshot") is not None:
            leaf.set_config("num_fewshot", task["fewshot"])
    if name in loaded["groups"]:  # groups have their own metrics
        return [loaded["groups"][name]]
    if name not in loaded["tasks"]:
        raise ValueError(f"{name!r} is lm-eval's tag for {', '.join(loaded['tasks'])}: name these one by one")
    for leaf in loaded["tasks"].values():
        _choose(task, [f"{metric},{f.name}" for metric in leaf.aggregation() for f in leaf._filters])
    return list(loaded["tasks"].values())


def _choose(task: dict[str, Any], reported: Iterable[str]) -> str:
    """Return lm-eval's key for the study's metric and filter; ValueError if it is not in `reported`."""
    key, reported = f"{task['metric']},{task['filter']}", sorted(reported)
    if key not in reported:
        raise ValueError(
            f"benchmark {task['task']}: lm-eval reports no metric {task['metric']!r} with filter "
            f"{task['filter']!r}; as metric,filter it reports {'; '.join(reported)}"
        )
    return key


def summarise(
    results: dict[str, Any], usage: dict[tuple[str, int], Usage], task: dict[str, Any], model: Path
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return one benchmark's summary and its items.

    Args:
        results: lm-eval's results, including samples.
        usage: Token usage by (lm-eval task, item).
    """
    name = task["task"]
    values = results["results"].get(name, {})
    key = _choose(task, [k for k in values if "," in k and "_stderr," not in k])
    stderr = values.get(f"{task['metric']}_stderr,{task['filter']}")
    items: list[dict[str, Any]] = []
    flops, shape = 0, architecture(model)
    for leaf, samples in results["samples"].items():
        for sample in samples:
            if sample["filter"] != task["filter"] or task["metric"] not in sample:
                continue
            used = usage[leaf, sample["doc_id"]]
            flops += generate_flops(shape, used.prompts, used.outputs) + forward_flops(shape, used.scored)
            items.append(
                {
                    "task": name,
                    "item": str(sample["doc_id"]) if leaf == name else f"{leaf}/{sample['doc_id']}",
                    "correct": float(np.mean(sample[task["metric"]])),  # some give one truth value per part
                    "prompt_tokens": sum(used.prompts) + sum(used.scored),
                    "output_tokens": sum(used.outputs),
                    "reasoning_tokens": sum(used.reasoning),
                }
            )
    kinds = ("prompt_tokens", "output_tokens", "reasoning_tokens")
    means = {kind: float(np.mean([item[kind] for item in items])) for kind in kinds}
    benchmark = {
        "metric": task["metric"],
        "filter": task["filter"],
        "accuracy": float(values[key]),
        "stderr": float(stderr) if isinstance(stderr, int | float) else None,
        "n": len(items),
        "task_version": results["versions"].get(name),
        **means,
        "flops_per_item": flops / len(items),
    }
    return benchmark, items


def _publish(ctx: Context, tasks: list[dict[str, Any]]) -> None:
    staged = ctx.staging()
    (staged / "lm_eval").mkdir()
    with (staged / "items.jsonl").open("w", encoding="utf-8") as items:
        for task in tasks:
            finished = _finished(ctx, task)
            items.write((finished / "items.jsonl").read_text(encoding="utf-8"))
            for path in (finished / "lm_eval").glob("[!.]*"):
                os.link(path, staged / "lm_eval" / path.name)
    trained = read_json(ctx.input("train") / "result.json")
    training = {key: trained[key] for key in ("flops", "tokens", "budget", "passes") if key in trained}
    result = {
        "student": ctx.unit.config["student"],
        "training": training,
        "benchmarks": [read_json(_finished(ctx, task) / BENCHMARK) for task in tasks],
    }
    ctx.publish(staged, result)
