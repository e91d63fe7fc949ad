"""Which prompts no student learned from, and why: what the collate and pack stages counted.

A row that is dropped from one mode takes its twin in the other with it. So students of one tokenizer differ
in their supervision only, and what was lost stands in the report.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from analysis.results.collect import lineage
from analysis.results.files import Unreadable, read_object, section
from jobs.store.rundir import StudyDir, UnitDir

DROPPED = {
    "stage": "str",
    "rows": "str",  # whose: the study's, or those that a tokenizer makes, with the tokens of a block
    "prompts": "int64",  # that came in
    "kept": "int64",  # in both modes
    "reason": "str",
    "dropped": "int64",  # prompts, each under one reason
}


def dropped(path: str | Path, results: pd.DataFrame) -> pd.DataFrame:
    """What was dropped on the way to the students of a table of results, a row for each stage and reason.

    Args:
        path: the folder that was collected.
        results: the table that `analysis.results.collect.collect` made of it.

    Returns:
        The columns of DROPPED. Packs that differ in their mixture only dropped the same prompts and are one.
    """
    study = StudyDir(Path(path))
    sources = sorted(set(results["source"].dropna()))
    evaluated = (UnitDir((study.path / s).parent.parent) for s in sources if Path(s).name == "result.json")
    rows = {}
    for folder in lineage(study, evaluated):
        stage = folder.path.parent.name
        if stage not in ("collate", "pack") or not folder.done:
            continue
        try:
            result, config = read_object(folder.result), folder.unit().config
        except (Unreadable, ValueError, KeyError):  # what cannot be read tells of nothing
            continue
        if not (counts := section(result, "dropped")):  # of a version that counted otherwise
            continue
        whose = f"{config['tokenizer']}, {config['block_size']}" if stage == "pack" else "all"
        total = result["prompts"] + sum(counts.values())
        for reason, count in counts.items():
            rows[stage, whose, reason] = (stage, whose, total, result["prompts"], reason, count)
    return pd.DataFrame(sorted(rows.values()), columns=list(DROPPED)).astype(DROPPED)


def dropped_line(table: pd.DataFrame) -> str:
    """The table of `dropped` in one line; empty where nothing is known."""
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
