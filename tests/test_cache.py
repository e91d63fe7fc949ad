"""A poll with what others found before it, held against one without."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from small_study import publish, unit

from jobs.core.causes import Cause
from jobs.store import journal
from jobs.store.progress import Progress
from jobs.store.rundir import StudyDir
from launch.slurm import backend, parse
from launch.slurm.backend import Slurm
from launch.slurm.client import SlurmClient
from launch.slurm.parse import PastJob, QueuedJob
from launch.slurm.text import SEPARATOR, Table
from launch.state.cache import StatusCache
from launch.state.ledger import Attempt, Job, Ledger, Started
from launch.state.reconcile import reconcile
from launch.state.states import State
from launch.state.status import StudyStatus, UnitStatus, poll
from launch.submit.steps import set_aside

NAMES = "abcdefgh"


class Sent(SlurmClient):
    """A Slurm that says what it was told to say, in Slurm's words."""

    def __init__(self) -> None:
        super().__init__()
        self.queued: dict[str, str] = {}  # lines by the ids of jobs
        self.past: dict[str, str] = {}
        self.asked = 0  # for the past

    def queue(self) -> Table[QueuedJob]:
        return parse.parse_queue("\n".join(self.queued.values()))

    def history(self, since: int) -> Table[PastJob]:
        self.asked += 1
        return parse.parse_history("\n".join(self.past.values()))


class World:
    """A study of units made by hand, two of which read two others, and what happens to it."""

    def __init__(self, folder: Path) -> None:
        a, b = unit(folder, "a"), unit(folder, "b")
        c, d = unit(folder, "c", a), unit(folder, "d", a, b)
        rest = [unit(folder, name, c) if name in "ef" else unit(folder, name) for name in NAMES[4:]]
        self.units = [a, b, c, d, *rest]
        self.root = StudyDir(folder / "runs" / "study")
        self.ledger = Ledger(self.root.ledger, "made.yaml")
        self.client = Sent()
        self.warm, self.cache = Slurm(self.client), StatusCache()
        self.submissions = 0

    def poll(self) -> StudyStatus:
        return poll(self.units, self.root, self.warm, self.cache)

    def cold(self) -> StudyStatus:
        return poll(self.units, self.root, Slurm(self.client))

    def seen(self, name: str) -> UnitStatus:
        return next(seen for seen in self.cold().units if seen.unit.name == name)

    def submit(self, name: str, written: bool = True) -> None:
        seen = self.seen(name)
        self.submissions += 1
        submission, id = f"prepare-small-{self.submissions}", str(100 + self.submissions)
        started = Started(seen.unit.id, seen.attempt.number + 1 if seen.attempt else 1, 0)
        self.ledger.intent(submission, [started])
        if written:
            self.ledger.submitted(submission, id)
        self._line(f"{id}_0", submission, "PENDING", "Priority")

    def unwritten(self, name: str) -> None:
        self.submit(name, written=False)

    def start(self, name: str) -> None:
        self._turn(name, (State.QUEUED, State.PREEMPTED), "RUNNING", "None", "n[1-2]")

    def preempt(self, name: str) -> None:
        self._turn(name, (State.RUNNING,), "PENDING", "BeginTime")

    def wait_in_vain(self, name: str) -> None:
        self._turn(name, (State.QUEUED,), "PENDING", "DependencyNeverSatisfied")

    def progress(self, name: str) -> None:
        seen = self.seen(name)
        seen.folder.path.mkdir(parents=True, exist_ok=True)
        number = seen.attempt.number if seen.attempt else 0
        Progress(seen.folder.progress, number).update(random.randrange(9), 9, "steps", force=True)

    def stand_still(self, name: str) -> None:
        self.progress(name)
        seen = self.seen(name)
        Progress(seen.folder.progress, seen.attempt.number if seen.attempt else 0).stalled("stands still")

    def publish(self, name: str) -> None:
        seen = self.seen(name)
        if not seen.published:
            publish(self.root, seen.unit)
        self._turn(name, tuple(State), "COMPLETED", "None", seen=seen)

    def fail(self, name: str) -> None:
        seen = self.seen(name)
        if seen.attempt:
            seen.folder.path.mkdir(parents=True, exist_ok=True)
            ended(seen, seen.attempt.number, "ValueError: no")
            self._turn(name, tuple(State), "FAILED", "NonZeroExitCode", seen=seen)

    def kill(self, name: str) -> None:
        """Its job is gone, and only the accounts know why."""
        seen = self.seen(name)
        for job in seen.live.jobs if seen.live else ():
            if job.id:
                fields = (job.id, "OUT_OF_MEMORY", "0:125", "1", job.submission)
                self.client.past[job.id] = SEPARATOR.join(fields)
                del self.client.queued[job.id]

    def forget(self, name: str) -> None:
        """The queue forgets jobs that have ended."""
        for id, line in list(self.client.queued.items()):
            _, state, *_, submission = line.split(SEPARATOR)
            if state in parse.ENDED:
                fields = (id, state, "1:0", "1", submission)
                self.client.past[id] = SEPARATOR.join(fields)
                del self.client.queued[id]

    def cancel(self, name: str) -> None:
        seen = self.seen(name)
        if seen.attempt:
            self.ledger.ended("cancelled", [(seen.unit.id, seen.attempt.number, "cancelled")])
            self._turn(name, tuple(State), "CANCELLED", "None", seen=seen)

    def outdate(self, name: str) -> None:
        seen = self.seen(name)
        if seen.published and seen.attempt and seen.attempt.ended != "outdated":
            set_aside(seen, self.ledger)

    def _turn(
        self, name: str, states: tuple[State, ...], to: str, reason: str, nodes: str = "",
        seen: UnitStatus | None = None,
    ) -> None:  # fmt: skip
        """Have the jobs of a unit that is in one of these states be in another."""
        seen = seen or self.seen(name)
        for job in seen.live.jobs if seen.live and seen.state in states else ():
            if job.id:
                self._line(job.id, job.submission, to, reason, nodes)

    def _line(self, id: str, submission: str, state: str, reason: str, nodes: str = "") -> None:
        start = "N/A" if state == "PENDING" else str(int(time.time()))
        fields = (id, state, reason, start, nodes, "main", "", "", submission)
        self.client.queued[id] = SEPARATOR.join(fields)


def ended(seen: UnitStatus, attempt: int, error: str) -> None:
    """The only process of an attempt writes down how it ended."""
    line = {"attempt": attempt, "worker": 0, "restart": 0, "rank": 0, "host": "n1", "seconds": 1.0, "kept": 0}
    journal.append(seen.folder.attempts, {**line, "micro_batch": None, "error": error, "cause": Cause.CODE})


def late(world: World, name: str) -> None:
    """A copy of a job that nobody knows of any more publishes, or says how it ended."""
    seen = world.seen(name)
    if random.random() < 0.5 and not seen.published:
        publish(world.root, seen.unit)
    else:
        world.progress(name)
        number = seen.attempt.number if seen.attempt else 1
        ended(seen, number, "OSError: late")


def by_hand(world: World, name: str) -> None:
    """What a person does to a result."""
    folder = world.seen(name).folder
    shutil.rmtree(folder.out if random.random() < 0.7 else folder.path, ignore_errors=True)


HAD = (State.QUEUED, State.RUNNING, State.PREEMPTED, State.STALLED)
# What may happen to a unit, and in which of its states.
EVENTS: dict[Callable[[World, str], object], tuple[State, ...]] = {
    World.submit: (State.WAITING, State.FAILED),
    World.unwritten: (State.WAITING,),
    World.start: (State.QUEUED, State.PREEMPTED),
    World.progress: (State.RUNNING, State.STALLED),
    World.stand_still: (State.RUNNING,),
    World.preempt: (State.RUNNING, State.STALLED),
    World.wait_in_vain: (State.QUEUED,),
    World.publish: (State.RUNNING, State.STALLED),
    World.fail: (State.RUNNING, State.STALLED),
    World.kill: HAD,
    World.forget: (State.DONE, State.FAILED),
    World.cancel: HAD,
    World.outdate: (State.DONE,),
    by_hand: (State.DONE, State.FAILED, State.BLOCKED),
    late: (State.FAILED, State.WAITING),
}


def test_it_sees_the_same(tmp_path: Path) -> None:
    met = set[State]()
    for seed in range(4):
        random.seed(seed)
        world = World(tmp_path / str(seed))
        now = world.poll()
        for _ in range(100):
            seen = random.choice(now.units)
            event = random.choice([event for event, states in EVENTS.items() if seen.state in states])
            event(world, seen.unit.name)
            now = world.poll()
            assert now == world.cold(), (seed, event.__name__, seen.unit.name)
            met |= {seen.state for seen in now.units}
    assert met == set(State) - {State.DAMAGED}


def test_the_accounts_are_asked_once_for_what_left_the_queue(tmp_path: Path) -> None:
    world = World(tmp_path)
    for name in "ab":
        world.submit(name)
        world.kill(name)
    world.client.asked = 0
    for _ in range(3):
        states = {seen.unit.name: seen.reason for seen in world.poll().units if seen.state == State.FAILED}
        assert states == {"a": "ran out of memory", "b": "ran out of memory"}
    assert world.client.asked == 1
    world.submit("e")
    world.kill("e")
    world.client.past.clear()  # the accounts are behind, or have forgotten it
    world.client.asked = 0
    for _ in range(3):
        world.poll()
    assert world.client.asked == 1


def test_what_the_accounts_say_later_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "AGAIN", 0.0)
    world = World(tmp_path)
    for name in "abe":
        world.submit(name)
        world.progress(name)
        world.kill(name)
    told = dict(world.client.past)
    world.client.past.clear()
    for _ in range(2):
        assert not any("memory" in (seen.reason or "") for seen in world.poll().units)
    world.client.past.update(told)
    assert world.poll() == world.cold()
    assert sum(seen.reason == "ran out of memory" for seen in world.poll().units) == 2


@pytest.mark.parametrize("reason", ["DependencyNeverSatisfied", "launch failed requeued held"])
def test_a_job_that_slurm_will_never_start_is_withdrawn(tmp_path: Path, reason: str) -> None:
    world = World(tmp_path)
    world.submit("a")
    assert reconcile(world.poll()).withdraw == ()
    world._turn("a", (State.QUEUED,), "PENDING", reason)
    difference = reconcile(world.poll())
    assert [s.unit.name for s in difference.withdraw] == ["a"]
    assert "a" in [s.unit.name for s in difference.submit]
    assert "it is canceled and resubmitted with the next submit" in str(world.seen("a").reason)


def test_places_are_counted_in_the_queue_of_the_last_poll() -> None:
    class Asked(Sent):
        queues = 0

        def queue(self) -> Table[QueuedJob]:
            self.queues += 1
            return super().queue()

    client, line = Asked(), ("7_[0-2]", "PENDING", "None", "N/A", "", "main", "ours", "normal", "name")
    client.queued["7"] = SEPARATOR.join(line)
    backend, attempt = Slurm(client), Attempt(1, 0.0, "made.yaml", (Job("name", "7", "here", 0),))
    assert backend.live({"a": attempt})
    assert [(p.array, list(p.elements or ()), p.account) for p in backend.places({"7_1"})] == [
        ("7", [0, 2], "ours")
    ]
    assert client.queues == 1
    client.queued.clear()
    assert (backend.places(()), client.queues) == ([], 2)  # something was submitted since the poll
    backend.live({"a": attempt})
    assert (backend.live({}), client.queues) == ({}, 3)  # a later poll that needed no queue
    assert (backend.places(()), client.queues) == ([], 4)


def test_a_job_that_has_ended_is_not_cancelled() -> None:
    class Cancelling(Sent):
        def __init__(self) -> None:
            super().__init__()
            self.cancelled: list[str] = []

        def cancel(self, jobs: Sequence[str]) -> None:
            self.cancelled += jobs

    client = Cancelling()
    for index, state in enumerate(("COMPLETED", "RUNNING", "PENDING")):
        fields = (f"7_{index}", state, "None", "N/A", "", "main", "", "", "name")
        client.queued[f"7_{index}"] = SEPARATOR.join(fields)
    Slurm(client).cancel([Job("name", "7", "here", index) for index in range(2)])
    assert client.cancelled == ["7_[1]"]
