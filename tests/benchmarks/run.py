"""Run all benchmarks and write results.json beside this file, with the versions and the hardware.

The demo is not run: its seconds are read from its run directory.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["PYTHONPATH"] = str(Path(__file__).parent.parent)  # where the studies' own functions are

import bench_analysis
import bench_demo
import bench_generation
import bench_jobs
import bench_launch
import bench_monitor
import bench_resume
import bench_slurm
import bench_training

from jobs.store.provenance import provenance

RESULTS = Path(__file__).with_name("results.json")


def main() -> None:
    """Print each ratio as it is known, and write them all."""
    found = []
    files = (
        bench_launch, bench_jobs, bench_generation, bench_training, bench_resume, bench_analysis, bench_slurm,
        bench_monitor,
    )  # fmt: skip
    for file in files:
        for ratio in file.ratios():
            print(ratio, flush=True)
            found.append(ratio.to_json())
    where = provenance()
    before = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    kept = {key: where[key] for key in ("python", "code", "packages", "hardware")} | {"ratios": found}
    kept |= {"demo": before["demo"]} if "demo" in before else {}  # has its own versions and hardware
    bench_demo.update(kept)
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    print(f"written to {RESULTS}")


if __name__ == "__main__":
    main()
