"""Load benchmarks as evaluations do, so that their data is in the hub's cache: a program for `sor prefetch`.

Its arguments are a folder of task files (empty: lm-eval's own tasks), and tasks as JSON. Each task is asked
one item by a model that answers nothing, since some download what their metric needs only then. A line of
JSON is printed for each: its name, the folders of its data, and why it failed, empty if it did not.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from lm_eval import simple_evaluate
from lm_eval.api.group import Group
from lm_eval.api.model import LM

from jobs.evaluation.tasks import load_tasks, prepare_environment, task_manager


class Silent(LM):
    """A model that answers nothing."""

    def loglikelihood(self, requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
        return [(0.0, False)] * len(requests)

    def loglikelihood_rolling(self, requests: list[Any], **_: Any) -> list[float]:
        return [0.0] * len(requests)

    def generate_until(self, requests: list[Any], **_: Any) -> list[str]:
        return [""] * len(requests)


def fetch(manager: Any, task: dict[str, Any]) -> list[str]:
    """Load a task, ask it one item, and return the folders of its data.

    Raises:
        Exception: as the task, lm-eval, datasets or huggingface_hub.
    """
    loaded = load_tasks(manager, task)
    simple_evaluate(
        Silent(),
        tasks=loaded,
        limit=1,
        bootstrap_iters=0,
        task_manager=manager,
        confirm_run_unsafe_code=os.environ.get("HF_ALLOW_CODE_EVAL") == "1",
    )
    found = set[str]()
    for each in loaded:
        for leaf in each.get_all_tasks() if isinstance(each, Group) else [each]:
            found |= _folders(leaf.dataset)
    return sorted(found)


def _folders(dataset: Any) -> set[str]:
    """Return the folders of a dataset's tables; empty for one that a task makes in memory."""
    files = (file for split in (dataset or {}).values() for file in getattr(split, "cache_files", ()))
    return {os.path.dirname(file["filename"]) for file in files}


def main() -> None:
    """Fetch the tasks that the arguments name."""
    folder = Path(sys.argv[1]) if sys.argv[1] else None
    prepare_environment(folder)
    manager = task_manager(folder)
    for task in json.loads(sys.argv[2]):
        folders, why = list[str](), ""
        try:
            folders = fetch(manager, task)
        except Exception as error:  # of many libraries; the caller shows it
            why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        print(json.dumps({"task": task["task"], "folders": folders, "why": why}), flush=True)


if __name__ == "__main__":
    main()
