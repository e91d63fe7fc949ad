"""The pairs of a study as a folder that `datasets.load_dataset` reads."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.core.plain import printable
from jobs.core.unit import MODES, Unit
from jobs.store.rundir import StudyDir, UnitDir
from launch.export.cards import CITATION, PAPER, as_yaml, front_matter, named, table, versions
from launch.export.folders import Facts, written

TEXTS = {
    "prompt": "the prompt",
    "reasoning": "an answer with its reasoning: the reasoning between its tags, then the answer",
    "ift": "a plain answer (for instruction fine-tuning)",
}
CUT = {"turns": "rows read, cut to their first turn", "system": "rows read, without their system message"}
SIZES = ("K", "M", "B", "T")


def export_pairs(root: StudyDir, collated: Unit, generated: Unit | None, folder: Path) -> str:
    """Write the pairs of a study, which are collated; see `folders.written`.

    Args:
        generated: The unit that answered the prompts; None for published pairs.

    Raises:
        ValueError: The pairs cannot be read or written, or something else has the folder's name.
    """
    unit = root.unit(collated)
    thinking = collated.config["thinking"]
    result = unit.read_result()

    def fill(staged: Path) -> Facts:
        (staged / "data").mkdir()
        wanted = [str(unit.out), str(staged / "data"), json.dumps(thinking)]
        # A process of its own: `sor` loads no pyarrow.
        command = [sys.executable, "-m", "jobs.data.export_pairs", *wanted]
        done = subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8", errors="replace")
        if done.returncode:
            raise ValueError(f"{unit.out}: not exported: {printable(done.stdout).strip() or done.returncode}")
        files = sum(path.stat().st_size for path in (staged / "data").iterdir())
        return {**json.loads(done.stdout), "download": files}

    source = json.dumps([collated.id, result])
    return written(folder, source, fill, lambda facts: card(root, unit, collated, generated, result, facts))


def card(
    root: StudyDir,
    unit: UnitDir,
    collated: Unit,
    generated: Unit | None,
    result: Mapping[str, Any],
    facts: Facts,
) -> str:
    """Return the dataset's card."""
    study, rows = root.path.name, facts["rows"]
    made = _generated(root.unit(generated), generated) if generated else _published(collated)
    counted = "in the teacher's tokens" if result["lengths_in"] == "tokens" else "in characters"
    return f"""{front_matter(_head(study, facts))}
# Pairs of the study {study}

{rows:,} prompts, each with a plain answer and with an answer that shows its reasoning, to distill either into
students.

{PAPER}

```python
from datasets import load_dataset

pairs = load_dataset("FOLDER-OR-REPOSITORY", split="train")
```

{table(("column", "holds"), _columns(result))}

{_tags(collated.config["thinking"])} These rows can be the `pairs` of a study.

## How they were made

{made}
- Collated with: {versions(unit)}

## What was kept

A prompt has a good answer in both modes or is left out of both.

{table(("prompts", ""), [("kept", f"{rows:,}"), *_dropped(result)])}

Lengths of the answers, {counted}:

{table(("mode", "mean", "median", "90th percentile", "longest", "all"), _lengths(result))}

{CITATION}"""


def _head(study: str, facts: Facts) -> dict[str, Any]:
    strings = [{"name": name, "dtype": "string"} for name in ("id", *TEXTS)]
    counts = [{"name": f"tokens_{name}", "dtype": "int64"} for name in TEXTS]
    split = {"name": "train", "num_bytes": facts["bytes"], "num_examples": facts["rows"]}
    return {
        "pretty_name": f"Pairs of the study {study}",
        "task_categories": ["text-generation"],
        "tags": ["distillation", "reasoning", "instruction-tuning", "scale-or-reason"],
        "size_categories": [size_category(facts["rows"])],
        "configs": [
            {"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}
        ],
        "dataset_info": {
            "features": strings + counts,
            "splits": [split],
            "download_size": facts["download"],
            "dataset_size": facts["bytes"],
        },
    }  # fmt: skip


def _tags(thinking: Mapping[str, str]) -> str:
    if not thinking["close"]:
        return "A blank line separates the reasoning from its answer."
    return f"The reasoning stands between `{thinking['open']}` and `{thinking['close']}`."


def size_category(rows: int) -> str:
    """Return the class of size in which the hub lists a dataset."""
    if rows < 1000:
        return "n<1K"
    exponent = len(str(rows)) - 1
    names = [f"{10 ** (power % 3)}{SIZES[power // 3 - 1]}" for power in (exponent, exponent + 1)]
    return f"{names[0]}<n<{names[1]}"


def _columns(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    known = result["lengths_in"] == "tokens"
    tokens = "tokens of the column, counted by the teacher's tokenizer" if known else "not known: null"
    return [
        ("`id`", "a hash of the prompt"),
        *((f"`{name}`", words) for name, words in TEXTS.items()),
        (", ".join(f"`tokens_{name}`" for name in TEXTS), tokens),
    ]


def _generated(unit: UnitDir, generated: Unit) -> str:
    config = generated.config
    lines = [
        f"- Teacher: {named(config['model'], config['revision'])}",
        *(f"- Prompts: {source_words(source)}" for source in config["prompts"]),
        f"- Seed: {config['seed']}",
        f"- Generated with: {versions(unit)}",
        f"- Modes and sampling:\n\n{as_yaml(config['modes'])}\n",
    ]
    return "\n".join(lines)


def _published(collated: Unit) -> str:
    return "\n".join(f"- Taken from: {source_words(source)}" for source in collated.config["pairs"])


def source_words(source: Mapping[str, Any]) -> str:
    """Return a source of rows in words, without a path of this machine."""
    drawn = f", {source['count']:,} rows drawn with seed {source['seed']}" if source.get("count") else ""
    if not source.get("dataset"):
        path = str(source["path"])  # a local file goes by its digest
        what = f"a local file ({path})" if path.startswith("sha256:") else named(path, None)
        return f"{what}{drawn}"
    parts = [source["subset"], source["split"]]
    where = named(source["dataset"], source["revision"], "datasets/")
    return f"{where} ({', '.join(part for part in parts if part)}){drawn}"


def _dropped(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    counts = {reason: number for reason, number in result["dropped"].items() if isinstance(number, int)}
    lines = [(f"dropped: {reason.replace('_', ' ')}", f"{number:,}") for reason, number in counts.items()]
    return lines + [(CUT[what], f"{number:,}") for what, number in result.get("cut", {}).items()]


def _lengths(result: Mapping[str, Any]) -> list[list[str]]:
    keys = ("mean", "p50", "p90", "max", "total")
    return [[mode, *(f"{result['lengths'][mode][key]:,.0f}" for key in keys)] for mode in MODES]
