"""Write custom benchmarks as folders that lm-eval reads offline: items, a task file, a loader.

lm-eval resolves a task's data files against the working directory, and a stage's folder is renamed when it
is published. So the task file contains no path: it calls the loader next to it, which finds the items next to
itself. evaluate.py runs the benchmarks; the caller decides what the items are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from jobs.store.rundir import write_jsonl

LOADER = '''\
"""Items of the tasks in this folder, found beside this file wherever the folder lies."""

import json
from pathlib import Path


def load(items, **_):
    import datasets

    lines = Path(__file__).with_name(items).read_text(encoding="utf-8").splitlines()
    return datasets.DatasetDict({"test": datasets.Dataset.from_list([json.loads(line) for line in lines])})
'''


EXACT_MATCH = {
    "metric": "exact_match",
    "aggregation": "mean",
    "higher_is_better": True,
    "regexes_to_ignore": [r"^\s+|\s+$"],
}


def write_task(
    folder: Path,
    name: str,
    items: list[dict[str, Any]],
    *,
    source: str,
    extract: str | None = None,
    ignore_case: bool = False,
) -> None:
    """Write a task with free-form answers that must equal the item's answer.

    Loads with `TaskManager(include_path=folder, include_defaults=False)`; several tasks may share a folder.
    The metric is `exact_match`. Without `extract` the filter is `none` and the whole answer counts, except
    for surrounding whitespace; with it the filter is `answer`.

    Args:
        items: Mappings with the same keys, string or number values, and at least a prompt and an answer.
        source: Origin and license of the items, kept in the task's metadata.
        extract: Regular expression; the last match of its first group in an answer is scored.

    Raises:
        ValueError: There are no items, or their keys differ.
    """
    if not items or any(item.keys() != items[0].keys() for item in items):
        raise ValueError(f"task {name}: needs items that all have the same keys")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "local_items.py").write_text(LOADER, encoding="utf-8")
    write_jsonl(folder / f"{name}.jsonl", items)
    task: dict[str, Any] = {
        "task": name,
        "dataset_kwargs": {"items": f"{name}.jsonl"},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": [], "do_sample": False},
        "metric_list": [{**EXACT_MATCH, "ignore_case": ignore_case}],
        "metadata": {"version": 1.0, "source": source},
    }
    if extract is not None:
        last = {"function": "regex", "regex_pattern": extract, "group_select": -1}
        task["filter_list"] = [{"name": "answer", "filter": [last, {"function": "take_first"}]}]
    loaded = "custom_dataset: !function local_items.load\n"  # lm-eval's own tag, which safe_dump cannot write
    (folder / f"{name}.yaml").write_text(loaded + yaml.safe_dump(task, sort_keys=False), encoding="utf-8")
