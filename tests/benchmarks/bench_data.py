"""Memory and time of collate and tokenize: `python tests/benchmarks/bench_data.py 10000 100000` (pairs).

The pairs are made up: words drawn at random, of the paper's mean lengths divided by five. Memory is the peak
of the process, and of the largest of those that it started.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny import context

from jobs import toy
from jobs.core.unit import Resources, Unit
from jobs.stages import collate, tokenize

MEANS = {"prompt": 30, "ift": 130, "reasoning": 690}  # characters of the toy tokenizer are its tokens
WORDS = np.array(["0+1=1;", "1+2=3;", "3+4=7;", "7+5=2;"])
TAGS = {"open": toy.OPEN, "close": toy.CLOSE}


def batches(pairs: int) -> Iterator[pa.RecordBatch]:
    """Yield made-up pairs, a thousand at a time."""
    rng = np.random.default_rng(0)
    for start in range(0, pairs, 1000):
        numbers = range(start, min(start + 1000, pairs))
        columns: dict[str, list[str]] = {}
        for name, mean in MEANS.items():
            counts = 1 + rng.poisson(mean / 6, len(numbers))
            columns[name] = ["".join(rng.choice(WORDS, count)) for count in counts]
        columns["prompt"] = [
            f"a:{number}{text}" for number, text in zip(numbers, columns["prompt"], strict=True)
        ]
        columns["reasoning"] = [f"<think>\n{text}\n</think>\n\n7" for text in columns["reasoning"]]
        yield pa.record_batch(columns)


def write(folder: Path, pairs: int) -> Path:
    """Write a published dataset of pairs."""
    file, rows = folder / "pairs.parquet", batches(pairs)
    first = next(rows)
    with pq.ParquetWriter(file, first.schema) as writer:
        writer.write_batch(first)
        for batch in rows:
            writer.write_batch(batch)
    toy.tokenizer().save_pretrained(folder / "tokenizer")
    return file


def collated(folder: Path, cpus: int) -> None:
    """Run the collate stage."""
    collate.run(context(folder, _units(folder, cpus)[0]))


def tokenized(folder: Path, cpus: int) -> None:
    """Run the tokenize stage."""
    tokenize.run(context(folder, _units(folder, cpus)[1]))


def _units(folder: Path, cpus: int) -> tuple[Unit, Unit]:
    needs = Resources(cpus_per_task=cpus)
    source = {"path": str(folder / "pairs.parquet"), "count": None, "seed": 0}
    config: dict[str, Any] = {"pairs": [source], "thinking": TAGS}
    first = Unit("collate", "rows", config, resources=needs)
    about = {"tokenizer": str(folder / "tokenizer"), "revision": None, "thinking": TAGS}
    return first, Unit("tokenize", "toy", about, (first.as_input(),), resources=needs)


def _measured(stage: Any, folder: Path, cpus: int, answer: Any) -> None:
    start = time.monotonic()
    stage(folder, cpus)
    # Unlike getrusage's, this peak is not that of the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    own = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    answer.send((time.monotonic() - start, own, child))


def measure(stage: Any, folder: Path, cpus: int) -> tuple[float, float, float]:
    """Return the seconds of a stage in a process of its own, its peak MiB, and that of its largest child."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_measured, args=(stage, folder, cpus, theirs))
    process.start()
    theirs.close()
    found: tuple[float, float, float] = ours.recv()
    process.join()
    return found


def main() -> None:
    """Print a line for each stage and number of pairs."""
    cpus = len(os.sched_getaffinity(0))
    for pairs in map(int, sys.argv[1:]):
        with tempfile.TemporaryDirectory() as name:
            size = write(Path(name), pairs).stat().st_size / 2**20
            for stage in (collated, tokenized):
                seconds, own, child = measure(stage, Path(name), cpus)
                what = f"{stage.__name__} {pairs:,} pairs ({size:.0f} MiB on disk) on {cpus} cores"
                print(
                    f"{what}: {seconds:.1f} s, {own:.0f} MiB, {child:.0f} MiB the largest other", flush=True
                )


if __name__ == "__main__":
    main()
