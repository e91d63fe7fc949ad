"""One run of the study under faults: strikes at its jobs, and does what a person would.

That is to submit again where nothing moves any more. It also spares everybody the two minutes for which Slurm
lets a job wait that it has put back, lets go what Slurm has put on hold, and takes back into service, as an
administrator would, nodes that Slurm has drained.
"""

from __future__ import annotations

import subprocess
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from small_study import SOR, environment

from chaos.faults import KINDS
from chaos.lab import Job, Lab
from chaos.study import Demo
from chaos.watch import Watch

INSIDE = Path(__file__).with_name("inside")
BETWEEN_LOOKS = 0.5  # seconds
IDLE = 3.0  # seconds without a job that could move, after which a person submits again
OLD = 20.0  # seconds; jobs younger than half of that have not started with their work
EARLY = 0.3  # share of the faults that may strike before there is work to lose
STUCK = 600.0  # seconds without a fault or a finished unit, after which nobody waits any longer


class Stuck(RuntimeError):
    """The study does not come to its end; the message says where it stands."""


@dataclass(frozen=True)
class Struck:
    """A fault that there was; times in seconds since the epoch."""

    kind: str
    what: str
    started: float
    ended: float


@dataclass
class Driver:
    """Brings one study to its end.

    Args:
        watches: are looked through at each look: the study's own first.
        say: is told what happens.
        submits: how often the study was submitted.
        restarts: how often Slurm has started each job again.
        released: how often a job was let go that Slurm had put on hold.
        resumed: how often a node was taken back into service.
    """

    lab: Lab
    demo: Demo
    watches: list[Watch]
    say: Callable[[str], None]
    struck: list[Struck] = field(default_factory=list)
    submits: int = 0
    restarts: dict[str, int] = field(default_factory=dict)
    released: int = 0
    resumed: int = 0
    _striking: bool = False
    _submitting: subprocess.Popen[bytes] | None = None
    _idle_since: float | None = None
    _moved: float = field(default_factory=time.monotonic)
    _done: int = 0

    def run(self, faults: deque[tuple[str, Random]]) -> None:
        """Submit the study and wait for its end; strike with these faults as long as there are any.

        Args:
            faults: the kind of each, and what decides about all else of it; those that struck are taken out.

        Raises:
            Stuck: it does not end.
        """
        try:
            self._submit()
            while not self.done:
                if faults and self.lab.at_work():
                    self._strike(faults)
                self._look()
            while self.lab.jobs or self._submitting or self.lab.processes():
                self._look()
        finally:
            if self._submitting:
                self._submitting.kill()
                self._submitting.wait()

    @property
    def done(self) -> bool:
        """Whether every unit is published."""
        done = sum(self.lab.root.unit(unit).done for unit in self.watches[0].units)
        if done > self._done:
            self._done, self._moved = done, time.monotonic()
        return done == len(self.watches[0].units)

    def _strike(self, faults: deque[tuple[str, Random]]) -> None:
        """Strike at a job once it has run, or got on with its work, for a random while.

        Not at all, if the study ends before.
        """
        kind, rng = faults[0]
        age, early, until = rng.uniform(0, OLD), rng.random() < EARLY, time.monotonic() + 3 * OLD

        def old(job: Job) -> bool:
            return (job.seconds if early else self.watches[0].worked(job.unit)) >= age

        while not (jobs := [job for job in self.lab.at_work() if old(job)]) and not self.done:
            self._look()
            if time.monotonic() > until:  # all are shorter
                age = 0
        if not jobs:
            return
        faults.popleft()
        job, started, what = rng.choice(sorted(jobs, key=str)), time.time(), ""
        self._striking = True
        fault = next(f for f in KINDS if f.__name__ == kind)(self.lab, job, rng)
        try:
            for word in fault:
                if word:
                    what = f"{job} in {job.id}: {word}"
                    self.say(f"{kind:<20} {what}")
                self._look()
        finally:
            fault.close()  # puts right what it has done
            self._striking = False
        self.struck.append(Struck(kind, what, started, time.time()))
        self._moved = time.monotonic()

    def _look(self) -> None:
        """Look once, and do what a person would."""
        time.sleep(BETWEEN_LOOKS)
        for watch in self.watches:
            watch.poll()
        if self.lab.poll():
            for job in self.lab.jobs:
                self.restarts[job.id] = max(job.restarts, self.restarts.get(job.id, 0))
                if job.state == "PENDING":
                    self._let_go(job)
            if not self._striking and any("DRAINED" in job.reason for job in self.lab.jobs):
                self._take_back()
            self._submit_where_idle()
        if time.monotonic() - self._moved > STUCK:
            waiting = ", ".join(f"{job} {job.state} {job.reason}" for job in self.lab.jobs) or "nothing"
            left = len(self.lab.processes())
            raise Stuck(f"{self._done} units are done, {left} processes are there. In the queue: {waiting}")

    def _let_go(self, job: Job) -> None:
        if "held" in job.reason.lower():
            self.say(f"let go: {job} in {job.id}, which Slurm holds ({job.reason})")
            self.released += self.lab.tell("scontrol", "release", job.id)
        elif job.reason == "BeginTime" and (self._striking or not self.lab.copies(job)):
            # Not on a node that has just come back, where an earlier copy is about to be ended: a start there
            # now, which Slurm's two minutes are to prevent, would have the node drained.
            self.lab.tell("scontrol", "update", f"jobid={job.id}", "starttime=now")

    def _take_back(self) -> None:
        for node, why in self.lab.drained().items():
            self.say(f"taken back: {node}, which Slurm has drained ({why})")
            self.resumed += self.lab.tell("scontrol", "update", f"nodename={node}", "state=resume")

    def _submit_where_idle(self) -> None:
        if self._submitting:
            if self._submitting.poll() is None:
                return
            failed = "" if self._submitting.returncode == 0 else f", and failed: {self._last_words()}"
            self.say(f"submitted again{failed}" if self.submits > 1 else f"submitted{failed}")
            self._submitting = self._idle_since = None
        if any(not job.reason.startswith("Dependency") for job in self.lab.jobs) or self.done:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = time.monotonic()
        elif time.monotonic() - self._idle_since > IDLE:
            self._submit()

    def _submit(self) -> None:
        self.submits += 1
        command = self.lab.cluster.client(SOR, *self.demo.submit(self.lab.root.path.parent))
        variables = {**environment(), **self.lab.cluster.environment, "PYTHONPATH": str(INSIDE)}
        with self._log.open("wb") as log:
            self._submitting = subprocess.Popen(command, env=variables, stdout=log, stderr=log)

    @property
    def _log(self) -> Path:
        return self.lab.cluster.scratch / "log" / "sor.out"

    def _last_words(self) -> str:
        return " ".join(self._log.read_text(encoding="utf-8").splitlines()[-1:])
