"""What a monitor costs that is left open, on a real Slurm with 10,000 units of a study in its queue."""

from __future__ import annotations

import fcntl
import gc
import json
import os
import pty
import resource
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from statistics import median

from bench_launch import SOR, process
from bench_slurm import SQUEUE, empty, large, processor, squeue, submitted
from cluster import Cluster, packages
from made_large import large_study
from measure import Ratio

from launch.cli import GARBAGE
from launch.monitor.app import summaries
from launch.monitor.poller import Poller

POLLS = 5
LOOP = 2.0  # seconds between two calls of what `watch` repeats
OPEN = 60.0  # seconds for which turm is watched
TURM = "turm==0.17.0"


def ratios() -> Iterator[Ratio]:
    """All measurements of this file; none where there is no Slurm to be had."""
    if why := packages.install():
        print(why)
        return
    yield starting()
    with tempfile.TemporaryDirectory() as folder, Cluster(nodes=2, gpus=0) as cluster:
        os.environ["SLURM_CONF"] = str(cluster.conf)
        project, named = large(Path(folder))
        submitted(project)
        whole, listing = process([SOR, "monitor", *named, "--once"]), process(SQUEUE)
        # In a process of its own, whose memory it is.
        done = subprocess.run(
            [sys.executable, __file__, folder], capture_output=True, encoding="utf-8", check=True
        )
        found = json.loads(done.stdout)
        cost = processor(squeue, resource.RUSAGE_CHILDREN)
        other_monitor = turm(Path(folder))
        empty(cluster)
    what, other = f"monitor of {len(project.units)} units in the queue", " ".join(SQUEUE)
    yield Ratio(f"sor {what}, --once: the whole program", other, whole, listing, "s")
    yield Ratio(f"{what}: a look's own processor time", other, found["cost"], cost, "s")
    share = 100 * found["cost"] / found["interval"]
    every = f"at its interval of {found['interval']:.0f} s"
    yield Ratio(f"{what}, {every}", f"watch {other}", share, 100 * cost / LOOP, "% of a core")
    if other_monitor is not None:
        yield Ratio(f"{what}, {every}", "turm, which looks every 2 s", share, other_monitor, "% of a core")
    yield Ratio(f"{what}: from its plan to the first sight", other, found["first"], listing, "s")
    yield Ratio(f"{what}: memory", "the same program with its plan", found["memory"], found["plan"], "MB")


def starting() -> Ratio:
    """The whole program from its start to its end, for a study of which 20,000 units have a result."""
    with tempfile.TemporaryDirectory() as folder:
        large = large_study(Path(folder))
        command = [SOR, "monitor", str(large.study), "--once", "--runs", str(large.runs)]
        find = ["find", str(large.runs), "-name", "result.json"]
        ours, theirs = process(command), process(find)
    return Ratio(f"sor monitor --once of {large.total} units", "find -name result.json", ours, theirs, "s")


def turm(folder: Path) -> float | None:
    """Percent of a core that turm takes in a terminal, with its calls of squeue; None: there is no turm."""
    where: list[str | Path] = ["--target", folder / "turm"]
    install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", *where, TURM]
    if subprocess.run(install, stderr=subprocess.DEVNULL).returncode:
        print(f"{TURM} cannot be installed: the monitor is not compared with it")
        return None
    before = processor_of_children()
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    program = folder / "turm/bin/turm"
    with subprocess.Popen(program, stdin=its, stdout=its, start_new_session=True) as shown:
        os.close(its)
        threading.Thread(target=drain, args=(ours,), daemon=True).start()
        time.sleep(OPEN)
        shown.terminate()
    return 100 * (processor_of_children() - before) / OPEN


def drain(terminal: int) -> None:
    """Read what a program shows, until it has ended."""
    with suppress(OSError):
        while os.read(terminal, 1 << 16):
            pass


def processor_of_children() -> float:
    """Seconds of processor time of all programs that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def watched(folder: Path) -> dict[str, float]:
    """Watch the study in a folder: seconds that looks take, megabytes that this process has at most."""
    gc.set_threshold(GARBAGE)  # as `sor` does
    project, _ = large(folder)
    plan, began, costs = memory(), time.perf_counter(), []
    poller = Poller([project], None, summaries([project]))
    taken = seen_after(poller, 0.0)
    first = time.perf_counter() - began
    for _ in range(POLLS):
        before = time.process_time()
        poller.poll_now()
        taken = seen_after(poller, taken)
        costs.append(time.process_time() - before)
    (view,) = poller.views()
    return {
        "first": first, "cost": median(costs), "interval": view.interval, "plan": plan, "memory": memory(),
    }  # fmt: skip


def seen_after(poller: Poller, time: float) -> float:
    """Wait for a look after another one; returns when it was."""
    while poller.views()[0].taken <= time:
        poller.changed.wait()
        poller.changed.clear()
    return poller.views()[0].taken


def memory() -> float:
    """The most that this process had; getrusage would tell that of who started it, if that is more."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1000


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(watched(Path(sys.argv[1]))))
    else:
        for ratio in ratios():
            print(ratio, flush=True)
