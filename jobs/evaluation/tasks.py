"""Load lm-eval's tasks, its own or those of a folder. Asking and scoring them is in the stages."""

from __future__ import annotations

import difflib
import logging
import os
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from jobs.core.task_files import hub_datasets
from jobs.engines.load import quiet


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


def import_lm_eval() -> None:
    """Import lm-eval, and run its `pip list`, which takes seconds, once instead of for each benchmark."""
    from torch.utils import collect_env

    import jobs.evaluation.lm_eval_model  # noqa: F401

    if not hasattr(collect_env.get_pretty_env_info, "cache_info"):
        collect_env.get_pretty_env_info = cache(collect_env.get_pretty_env_info)
    collect_env.get_pretty_env_info()


def task_manager(include: Path | None) -> Any:
    """Return lm-eval's TaskManager for the tasks of a folder; None: lm-eval's own tasks."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    import_lm_eval()
    from lm_eval.tasks import TaskManager

    # Indexing lm-eval's own tasks takes 12 s; a group with its own folder does not need them.
    return TaskManager(include_path=include, include_defaults=include is None)


def load_tasks(manager: Any, task: dict[str, Any]) -> list[Any]:
    """Return lm-eval's task objects, with the study's number of few-shot examples.

    Without a metric, that of an evaluation is not checked.
    """
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
    for leaf in loaded["tasks"].values() if "metric" in task else ():
        result_key(task, [f"{metric},{f.name}" for metric in leaf.aggregation() for f in leaf._filters])
    return list(loaded["tasks"].values())


def result_key(task: dict[str, Any], reported: Iterable[str]) -> str:
    """Return lm-eval's key for the study's metric and filter; ValueError if it is not in `reported`."""
    key, reported = f"{task['metric']},{task['filter']}", sorted(reported)
    if key not in reported:
        raise ValueError(
            f"benchmark {task['task']}: lm-eval reports no metric {task['metric']!r} with filter "
            f"{task['filter']!r}; as metric,filter it reports {'; '.join(reported)}"
        )
    return key
