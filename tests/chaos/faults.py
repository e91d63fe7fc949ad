"""What can go wrong, a function each, and how it is put right again.

A fault is given a job that runs. It does its harm, says so in its first `yield`, and lets the study go on for
a moment at each further one; whatever happens it puts right what it has done before it ends. What becomes of
the jobs that it hit is Slurm's business, and theirs.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from random import Random

from chaos.lab import LEAK, Job, Lab, send

Steps = Generator[str, None, None]
Fault = Callable[[Lab, Job, Random], Steps]
LONGEST = 90.0  # seconds that a fault waits for the job to be hit


def preempted(lab: Lab, job: Job, rng: Random) -> Steps:
    """A job of a higher partition takes one of its nodes for a few seconds."""
    node = rng.choice(job.nodes)
    wanted = ["--partition=high", "--exclusive", f"--nodelist={node}", "--time=1", "--output=/dev/null"]
    id = lab.cluster.run("sbatch", "--parsable", *wanted, "--wrap=sleep 3")
    try:
        yield f"{node} is wanted by a job of a higher partition"
        yield from _while(lambda: lab.runs(job), LONGEST)
        yield from _while(lambda: bool(lab.cluster.run("squeue", "--noheader", f"--jobs={id}")), LONGEST)
    finally:
        lab.tell("scancel", id)


def time_limit(lab: Lab, job: Job, rng: Random) -> Steps:
    """Its time limit turns out to be the next full minute; Slurm looks at limits twice a minute."""
    minutes = job.seconds // 60 + 1
    try:
        lab.tell("scontrol", "update", f"jobid={job.id}", f"timelimit={minutes}")
        yield f"it is to end within {minutes} min"
        yield from _while(lambda: lab.runs(job), LONGEST)
    finally:  # a job that is started again has the limit that it had last
        lab.tell("scontrol", "update", f"jobid={job.id}", f"timelimit={job.limit}")


def node_daemon_killed(lab: Lab, job: Job, rng: Random) -> Steps:
    """One of its nodes loses its daemon, for a moment or for long; its ranks run on."""
    node, briefly = rng.choice(job.nodes), rng.random() < 0.3
    lab.cluster.processes.end(node, sign=signal.SIGKILL)
    try:
        yield f"slurmd of {node} is killed{', for a moment' if briefly else ''}"
        yield from _lost(lab, job, briefly, rng)
    finally:
        lab.cluster.start_node(node)


def node_cut_off(lab: Lab, job: Job, rng: Random) -> Steps:
    """Nothing reaches one of its nodes, for a moment or for long; its ranks run on."""
    node, briefly = rng.choice(job.nodes), rng.random() < 0.3
    network = lab.cluster.network
    assert network, "the cluster has nodes with networks of their own"
    network.cut(node)
    try:
        yield f"{node} is cut off{', for a moment' if briefly else ''}"
        yield from _lost(lab, job, briefly, rng)
    finally:
        network.heal(node)


def rank_killed(lab: Lab, job: Job, rng: Random) -> Steps:
    """One of its processes is killed."""
    ranks = lab.ranks(job)
    if ranks:
        send(rng.choice(ranks), signal.SIGKILL)
    yield f"one of {len(ranks)} ranks is killed"
    yield from _while(lambda: lab.runs(job), LONGEST)


def memory_full(lab: Lab, job: Job, rng: Random) -> Steps:
    """One of its processes takes more memory than the job may have."""
    ranks = lab.ranks(job)
    if ranks:
        send(rng.choice(ranks), LEAK)
    yield f"one of {len(ranks)} ranks takes memory without end"
    yield from _while(lambda: lab.runs(job), LONGEST)


def disk_full(lab: Lab, job: Job, rng: Random) -> Steps:
    """The disk of the run directories is full for a while."""
    waste = lab.disk / "waste"
    try:
        with waste.open("wb", buffering=0) as file, suppress(OSError):
            while True:  # jobs write meanwhile, so that nobody knows how much it takes
                file.write(bytes(1 << 16))
        yield "the disk is full"
        yield from _while(lambda: True, rng.uniform(4, 10))
    finally:
        waste.unlink()


def controller_down(lab: Lab, job: Job, rng: Random) -> Steps:
    """Slurm's controller hangs, or is killed and comes back."""
    yield from _down(lab, "slurmctld", lab.cluster.start_slurmctld, rng)


def accounts_down(lab: Lab, job: Job, rng: Random) -> Steps:
    """Slurm's database daemon hangs, or is killed and comes back."""
    yield from _down(lab, "slurmdbd", lab.cluster.start_slurmdbd, rng)


KINDS: tuple[Fault, ...] = (
    preempted, time_limit, node_daemon_killed, node_cut_off, rank_killed, memory_full, disk_full,
    controller_down, accounts_down,
)  # fmt: skip


def _down(lab: Lab, name: str, start: Callable[[], None], rng: Random) -> Steps:
    hangs, seconds = rng.random() < 0.5, rng.uniform(5, 12)
    if hangs:
        lab.cluster.processes.send(name, signal.SIGSTOP)
    else:
        lab.cluster.processes.end(name, sign=signal.SIGKILL)
    try:
        yield f"{name} {'hangs' if hangs else 'is killed'}"
        yield from _while(lambda: True, seconds)
    finally:
        if hangs:
            lab.cluster.processes.send(name, signal.SIGCONT)
        else:
            start()


def _lost(lab: Lab, job: Job, briefly: bool, rng: Random) -> Steps:
    """Slurm does not see a node of a job: for a moment, or until a second copy of the job has run a while."""
    if briefly:
        yield from _while(lambda: True, 5)
        return
    yield from _while(lambda: lab.runs(job), LONGEST)
    yield from _while(lambda: not lab.waits(job), 3)
    yield from _while(lambda: lab.waits(job), LONGEST)
    if lab.restarted(job):
        yield from _while(lambda: True, rng.uniform(0, 20))


def _while(true: Callable[[], bool], seconds: float) -> Steps:
    """Let the study go on while a condition holds, and at most for some seconds."""
    until = time.monotonic() + seconds
    while true() and time.monotonic() < until:
        yield ""
