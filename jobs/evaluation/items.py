"""The texts of benchmarks' items, as lm-eval renders them, for the decontamination of prompts.

lm-eval and its libraries take most of a GiB and read variables at import: call `write_index` in a process
of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.core.task_files import hub_datasets
from jobs.data.filters.overlap import Index, Item
from jobs.evaluation.tasks import prepare_environment, task_manager


def write_index(size: int, file: Path, groups: Sequence[tuple[Path | None, Sequence[str]]]) -> dict[str, int]:
    """Write the index of some benchmarks, all their items, to a file.

    Args:
        size: Words of a run.
        file: An .npz file to write.
        groups: Folders of task files (None: lm-eval's own tasks), with the names of their benchmarks.

    Returns:
        The number of items of each benchmark.

    Raises:
        ValueError: A benchmark does not exist, or its data cannot be loaded.
    """
    local = [folder for folder, _ in groups if folder and not hub_datasets(folder)]
    for folder, _ in groups:  # one group that reads the hub keeps it open for all
        prepare_environment(folder if len(local) == len(groups) else None)
    found = {name: tasks for folder, names in groups for name, tasks in _benchmarks(folder, names)}
    Index.of(found, size).save(file)
    return {name: sum(map(len, tasks)) for name, tasks in found.items()}


def _benchmarks(folder: Path | None, names: Sequence[str]) -> Iterator[tuple[str, list[list[Item]]]]:
    """Yield benchmarks, each with the items of its tasks, of which a group of lm-eval's has several."""
    if folder is not None and not folder.is_dir():
        raise ValueError(f"benchmarks: there is no folder {folder} (include)")
    manager = task_manager(folder)
    for name in names:
        try:
            tasks = manager.load([name])["tasks"]
            yield name, [[_item(task, doc) for doc in task.eval_docs] for task in tasks.values()]
        except Exception as error:  # of many libraries: no network, gated, no such task, a faulty template
            raise ValueError(
                f"filters.decontaminate compares prompts with the items of {name}, which cannot be loaded "
                f"here ({type(error).__name__}: {' '.join(str(error).split())[:300]}). If this machine "
                "cannot reach the hub, run 'sor prefetch STUDY' on one that can"
            ) from error


def _item(task: Any, doc: Mapping[str, Any]) -> Item:
    """Return the texts of an item; where choices are asked about one by one, they are the question."""
    asked = task.doc_to_text(doc)
    choices = task.doc_to_choice(doc) if getattr(task.config, "doc_to_choice", None) is not None else []
    more = [*_texts(choices), *_texts(task.doc_to_target(doc))]
    return Item(asked if isinstance(asked, str) else " ".join(_texts(choices)), tuple(more))


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list | tuple) else [value]
    return [each for each in values if isinstance(each, str)]
