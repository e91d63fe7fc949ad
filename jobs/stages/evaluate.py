"""Evaluate a student on the benchmarks of one group: lm-eval asks and scores, our engine answers.

Each finished benchmark stays in work/TASK, so that a later attempt continues with the next one; all are
published together. lm-eval's own files are kept unchanged, next to the cost of each item.
"""

from __future__ import annotations

import os
import shutil
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.core.flops import architecture, forward_flops, generate_flops
from jobs.core.paths import DATA
from jobs.engines.base import Engine
from jobs.engines.load import follow, follows, import_engines, load, quiet
from jobs.evaluation.tasks import import_lm_eval, load_tasks, prepare_environment, result_key, task_manager
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
    if follows(ctx.rank, ctx.unit.execution):
        ctx.preemption.listen()
        model = ctx.input("train") / "model"
        follow(str(model), None, ctx.unit.execution, ctx.waits, ctx.progress.beat)
        return
    left = [t for t in tasks if not (_finished(ctx, t) / BENCHMARK).is_file()]
    if left:
        ctx.preemption.listen()
        model = ctx.input("train") / "model"

        def starts(phase: str) -> None:
            ctx.progress.outside(phase, len(tasks) - len(left), len(tasks), "benchmarks")

        with closing(load(str(model), None, ctx.unit.execution, starts)) as engine:
            starts("importing lm-eval")
            manager = task_manager(folder)
            for task in left:
                title = f"{task['task']} ({tasks.index(task) + 1} of {len(tasks)})"
                _run_task(ctx, engine, manager, task, title)
    _publish(ctx, tasks)


def _finished(ctx: Context, task: dict[str, Any]) -> Path:
    return ctx.folder.work / str(task["task"])


def imports() -> None:
    """Import what every evaluation needs."""
    quiet()
    import_engines()
    import_lm_eval()


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

    loaded = load_tasks(manager, task)
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
    key = result_key(task, [k for k in values if "," in k and "_stderr," not in k])
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
