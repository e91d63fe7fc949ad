"""A whole trial: the undisturbed run, and the study under faults, again until there were enough of them."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from cluster import Cluster
from small_study import SOR, environment

from chaos import study, verify
from chaos.driver import STUCK, Driver, Struck, Stuck
from chaos.faults import KINDS
from chaos.lab import Lab
from chaos.watch import Watch, losses, shared_out
from jobs.store.rundir import StudyDir

DISK = 256  # MiB for run directories; the study needs about ten


@dataclass(frozen=True)
class Plan:
    """What a trial is to be.

    Args:
        seed: decides about all that is random.
        faults: how many strike.
        work: what each run of the study has to do.
    """

    seed: int
    faults: int
    work: study.Work


@dataclass(frozen=True)
class Round:
    """One run of the study under faults.

    Args:
        lost: seconds of work that each fault cost.
        more: jobs beyond those of an undisturbed run: submitted, started again by Slurm.
        released, resumed: see `Driver`.
        wrong: what is wrong with the results.
    """

    struck: list[Struck]
    lost: list[float]
    submits: int
    more: tuple[int, int]
    released: int
    resumed: int
    wrong: list[str]


def trial(plan: Plan, say: Callable[[str], None]) -> list[str]:
    """Run it, and print what it came to; returns what is wrong."""
    began = time.monotonic()

    def tell(line: str) -> None:
        say(f"{time.monotonic() - began:6.0f} s  {line}")

    faults = drawn(plan)
    say(f"seed {plan.seed}, {plan.faults} faults")
    with _folder() as folder, _disk(folder) as disk:
        undisturbed = folder / "undisturbed"
        with (
            Cluster(nodes=3, cpus=2, gpus=0, networks=True) as cluster,
            _alone(study.on_this_machine(folder / "alone", plan.work), undisturbed) as alone,
        ):
            demo = study.on_slurm(folder / "study", plan.work)
            units = demo.units()
            model = Watch(StudyDir(undisturbed / "demo"), units)
            rounds = []
            for number in itertools.count(1):
                root = StudyDir(disk / str(number) / "demo")
                tell(f"round {number}: the study begins")
                driver = Driver(Lab(cluster, disk, root), demo, [Watch(root, units), model], tell)
                wrong = _wrong(driver, faults, alone, model)
                rounds.append(_round(driver, model, wrong))
                told = (
                    f"something is wrong; its run directory is kept in {_kept(root)}"
                    if wrong
                    else "all is well"
                )
                tell(f"round {number}: {told}")
                if wrong or not faults:
                    break
    _print(rounds, say)
    return [word for r in rounds for word in r.wrong]


def drawn(plan: Plan) -> deque[tuple[str, Random]]:
    """The faults of a plan in their order: each kind once, then each kind again in another order."""
    rng, names = Random(plan.seed), list[str]()
    while len(names) < plan.faults:
        names += rng.sample([kind.__name__ for kind in KINDS], len(KINDS))
    return deque((name, Random(f"{plan.seed}.{i}")) for i, name in enumerate(names[: plan.faults]))


def _wrong(
    driver: Driver, faults: deque[tuple[str, Random]], alone: subprocess.Popen[bytes], model: Watch
) -> list[str]:
    """Bring one study to its end, and compare it; returns what is wrong."""
    try:
        driver.run(faults)
    except Stuck as stuck:
        return [str(stuck)]
    if alone.wait(timeout=STUCK) != 0:
        return [f"the undisturbed run failed: {model.root.path}"]
    return verify.problems(driver.lab.root, model.root, driver.watches[0])


def _round(driver: Driver, model: Watch, wrong: list[str]) -> Round:
    watch = driver.watches[0]
    root, least = watch.root, sum(unit.resources.workers for unit in watch.units)
    return Round(
        driver.struck,
        shared_out(losses(watch, model), [s.ended for s in driver.struck]),
        driver.submits,
        (verify.submitted(root) - least, sum(driver.restarts.values())),
        driver.released,
        driver.resumed,
        wrong,
    )


def _kept(root: StudyDir) -> Path:
    """A copy of a run directory that outlives the trial."""
    return Path(shutil.copytree(root.path, tempfile.mkdtemp(prefix="chaos-wrong-"), dirs_exist_ok=True))


def _print(rounds: list[Round], say: Callable[[str], None]) -> None:
    lost: dict[str, list[float]] = {kind.__name__: [] for kind in KINDS}
    for r in rounds:
        for fault, seconds in zip(r.struck, r.lost, strict=True):
            lost[fault.kind].append(seconds)
    say(f"\n{'fault':<20} {'times':>5}  work lost, in seconds: all, by one (median), by one (most)")
    for kind, found in [*lost.items(), ("all", [s for some in lost.values() for s in some])]:
        if found:
            figures = (sum(found), statistics.median(found), max(found))
            say(f"{kind:<20} {len(found):>5}" + "".join(f"{seconds:>9.1f}" for seconds in figures))
    submits, released, resumed = (
        sum(getattr(r, name) for r in rounds) for name in ("submits", "released", "resumed")
    )
    more = [sum(r.more[i] for r in rounds) for i in range(2)]
    say(f"'sor submit' was called {submits} times for {len(rounds)} runs")
    say(f"let go or taken back by hand: {released} jobs that Slurm held, {resumed} nodes that it had drained")
    say(f"jobs beyond those of undisturbed studies: {more[0]} submitted, {more[1]} started again by Slurm")
    for number, r in enumerate(rounds, 1):
        for word in r.wrong:
            say(f"WRONG in round {number}: {word}")
    if not any(r.wrong for r in rounds):
        say("rows, losses and accuracies are those of an undisturbed run; nothing was run after it was done")


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def _disk(folder: Path) -> Iterator[Path]:
    """A small disk of its own."""
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}m", "chaos", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


@contextmanager
def _alone(demo: study.Demo, runs: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The same study, undisturbed, in the foreground of this machine, while the faults strike elsewhere."""
    with (runs.with_name("undisturbed.out")).open("wb") as log:
        process = subprocess.Popen(
            [SOR, *demo.submit(runs)],
            env=environment(),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            process.wait()
