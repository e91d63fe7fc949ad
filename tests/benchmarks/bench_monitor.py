"""What a monitor that is left open costs, on a real Slurm with 50,000 units of a study in its queue."""

from __future__ import annotations

import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from bench_slurm import HELD, WATCHED, empty, new, processor, submitted, units
from cluster import Cluster, packages
from made_projects import made_project
from measure import Ratio, seconds

from launch.cli import GARBAGE
from launch.monitor.app import boards
from launch.monitor.looking import Watcher

LOOKS = 5
LOOP = 2.0  # seconds between two calls of what `watch` repeats


def ratios() -> Iterator[Ratio]:
    """All measurements of this file; none where there is no Slurm to be had."""
    if why := packages.install():
        print(why)
        return
    with tempfile.TemporaryDirectory() as folder, Cluster(nodes=2, gpus=0) as cluster:
        os.environ["SLURM_CONF"] = str(cluster.conf)
        submitted(new(Path(folder, "watched"), WATCHED))
        # In a process of its own, whose memory it is.
        done = subprocess.run([sys.executable, __file__, folder], capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)
        cost, took = processor(squeue, resource.RUSAGE_CHILDREN), seconds(squeue)
        empty(cluster)
    what, other = f"monitor of {WATCHED} units in the queue", "squeue --noheader --array"
    yield Ratio(f"{what}: a look's own processor time", other, found["cost"], cost, "s")
    share = 100 * found["cost"] / found["interval"]
    every = f"at its interval of {found['interval']:.0f} s"
    yield Ratio(f"{what}, {every}", f"watch {other}", share, 100 * cost / LOOP, "% of a core")
    yield Ratio(f"{what}: from its plan to the first sight", other, found["first"], took, "s")
    yield Ratio(f"{what}: memory", "the same program with its plan", found["memory"], found["plan"], "MB")


def squeue() -> None:
    subprocess.run(["squeue", "--noheader", "--array"], stdout=subprocess.DEVNULL, check=True)


def watched(folder: Path) -> dict[str, float]:
    """Watch the study in a folder: seconds that looks take, megabytes that this process has at most."""
    gc.set_threshold(GARBAGE)  # as `sor` does
    project = made_project(folder / "watched", units(WATCHED), sbatch=HELD)
    assert len({unit.id for unit in project.units}) == WATCHED
    plan, began, costs = memory(), time.perf_counter(), []
    watcher = Watcher([project], None, boards([project]))
    taken = seen_after(watcher, 0.0)
    first = time.perf_counter() - began
    for _ in range(LOOKS):
        before = time.process_time()
        watcher.look_now()
        taken = seen_after(watcher, taken)
        costs.append(time.process_time() - before)
    (sight,) = watcher.sights()
    return {
        "first": first, "cost": median(costs), "interval": sight.interval, "plan": plan, "memory": memory(),
    }  # fmt: skip


def seen_after(watcher: Watcher, time: float) -> float:
    """Wait for a look after another one; returns when it was."""
    while watcher.sights()[0].taken <= time:
        watcher.changed.wait()
        watcher.changed.clear()
    return watcher.sights()[0].taken


def memory() -> float:
    """The most that this process had; getrusage would tell that of who started it, if that is more."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1000


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(watched(Path(sys.argv[1]))))
    else:
        for ratio in ratios():
            print(ratio, flush=True)
