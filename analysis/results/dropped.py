"""Prompts dropped from training and why, as counted by collate and by trainings that packed their rows.

A row dropped from one mode is dropped from the other, too, so students of one tokenizer differ only in their
supervision. The report states the losses.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.results.collect import lineage
from analysis.results.files import Unreadable, read_object, section
from jobs.store.rundir import StudyDir, UnitDir

DROPPED = {
    "stage": "str",
    "rows": "str",  # "all", or the tokenizer and block size for which rows were packed
    "prompts": "int64",  # input prompts
    "kept": "int64",  # in both modes
    "reason": "str",
    "dropped": "int64",  # prompts, each under one reason
}


def dropped(path: str | Path, results: pd.DataFrame) -> pd.DataFrame:
    """Return what was dropped on the way to the students of a results table, one row per stage and reason.

    Args:
        path: The collected folder.
        results: Its table from `analysis.results.collect.collect`.

    Returns:
        The columns of DROPPED. Trainings of one tokenizer and block size dropped the same prompts and share
        a row, of stage "pack".
    """
    rows = {}
    for stage, result, config in published(path, results, ("collate", "train", "pack")):
        whose = "all"
        if stage == "train":
            stage, result, config = "pack", section(result, "packed"), {**section(config, "model"), **config}
        if not (counts := section(result, "dropped")):  # from a version with other counts
            continue
        if stage == "pack":
            whose = f"{config['tokenizer']}, {config['block_size']}"
        total = result["prompts"] + sum(counts.values())
        for reason, count in counts.items():
            rows[stage, whose, reason] = (stage, whose, total, result["prompts"], reason, count)
    return pd.DataFrame(sorted(rows.values()), columns=list(DROPPED)).astype(DROPPED)


def published(
    path: str | Path, results: pd.DataFrame, stages: Container[str]
) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yield stage, result and config of the units of some stages from which a results table was made."""
    study = StudyDir(Path(path))
    sources = sorted(set(results["source"].dropna()))
    evaluated = (UnitDir((study.path / s).parent.parent) for s in sources if Path(s).name == "result.json")
    for folder in lineage(study, evaluated):
        stage = folder.path.parent.name
        if stage in stages and folder.done:
            with suppress(Unreadable, ValueError, KeyError):  # unreadable units are skipped
                found = stage, read_object(folder.result), folder.unit().config
                yield found


def dropped_line(table: pd.DataFrame) -> str:
    """Format the table of `dropped` in one line; empty if nothing is known."""
    if len(table) and not table["dropped"].any():
        return f"dropped: none of the {table['prompts'].max():,} prompts, in either mode"
    parts = []
    for (stage, whose), own in table.groupby(["stage", "rows"], sort=False):
        counts = own[own["dropped"] > 0].sort_values("dropped", ascending=False)
        why = ", ".join(
            f"{n:,} {reason.replace('_', ' ')}" for reason, n in counts[["reason", "dropped"]].values
        )
        of = f" for {whose} tokens" if stage == "pack" else ""
        first = own.iloc[0]
        parts.append(f"{stage}{of} kept {first['kept']:,} of {first['prompts']:,} prompts ({why or 'all'})")
    return f"in both modes alike: {'; '.join(parts)}" if parts else ""
