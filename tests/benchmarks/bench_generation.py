"""Durable generation beside one bare `LLM.chat` over the same prompts, and what a seed for each answer costs.

Each teacher is measured in a process of its own (`generation_speeds.py`), where the ways take turns. Ours
includes claims, a write for each row, finished chunks and the published result. Goal: 0.97 of the bare call.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from measure import Ratio

from jobs import smollm, toy
from jobs.store.progress import Progress
from launch.study.schema import load_study

HERE = Path(__file__).parent
UNIT = "tokens a processor s"


def ratios() -> Iterator[Ratio]:
    """All measurements of this file."""
    with tempfile.TemporaryDirectory(prefix="sor-bench-") as folder:
        for name, study, turns in (("the toy teacher", "demo", 9), ("SmolLM2-135M", "smollm", 3)):
            speeds = measured(study, Path(folder) / study, turns)
            for at in ("0.0", "0.6", "0.6 seeded"):
                how = "greedy" if at == "0.0" else f"temperature {at}"
                yield Ratio(
                    f"generation, {name}, {how}: durable", "bare LLM.chat, the same way",
                    speeds[f"ours {at}"], speeds[f"bare {at}"], UNIT,
                )  # fmt: skip
            yield Ratio(
                f"generation, {name}: bare LLM.chat with a seed a request", "without seeds",
                speeds["bare 0.6 seeded"], speeds["bare 0.6"], UNIT,
            )  # fmt: skip


def measured(study: str, folder: Path, turns: int) -> dict[str, float]:
    """Return the median speed of each way with the teacher and the prompts of a shipped study."""
    loaded = load_study(study)
    assert loaded.prepare is not None
    assert loaded.modes is not None
    args: Any = loaded.prepare.args
    folder.mkdir()
    prepare: Any = toy.prepare if study == "demo" else smollm.prepare
    prepare(folder, args, Progress(None))
    most = [str(mode.max_tokens) for mode in (loaded.modes.ift, loaded.modes.reasoning)]
    files = (HERE / "generation_speeds.py", folder / "teacher", folder / "prompts.jsonl")
    done = subprocess.run(
        [sys.executable, *files, str(turns), *most], stdout=subprocess.PIPE, encoding="utf-8", check=True
    )
    found: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return {way: statistics.median(speeds) for way, speeds in found.items()}


if __name__ == "__main__":
    for ratio in ratios():
        print(ratio)
