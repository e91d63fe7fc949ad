"""Looking at studies in the background: what is seen, what is told when nothing comes, and whom it asks."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from made_projects import made_project
from small_study import TESTS, publish, unit, wait_for, write_study

from jobs.core.unit import Unit
from jobs.store import journal
from jobs.store.rundir import StudyDir, write_json
from launch.local.backend import Local
from launch.monitor import poller as polling
from launch.monitor.data.study_view import StudyView
from launch.monitor.poller import LONGEST, Poller, pace
from launch.state.backend import LiveJobs
from launch.state.ledger import Attempt, Started
from launch.state.states import State
from launch.state.status import StudyStatus
from launch.study.cluster import load_cluster
from launch.study.schema import load_study
from launch.study_run import Project, open_project


class Hanging(Local):
    """This machine, while it does not say which jobs live."""

    def __init__(self, root: StudyDir) -> None:
        super().__init__(root)
        self.answers = threading.Event()
        self.answers.set()

    def live(self, attempts: Mapping[str, Attempt]) -> dict[str, LiveJobs]:
        self.answers.wait()
        return super().live(attempts)


def local(folder: Path, *units: Unit) -> Project:
    """A project on this machine, which may be made to hang."""
    study = load_study(str(write_study(folder)))
    root = StudyDir(folder / "runs" / study.name)
    return Project(study, load_cluster("local"), root, list(units), Hanging(root))


@pytest.fixture
def watch() -> Iterator[Callable[..., Poller]]:
    """Makes watchers, which are closed after the test."""
    made: list[Poller] = []

    def make(*projects: Project, **more: Any) -> Poller:
        made.append(Poller(projects, **{"interval": 0.1, **more}))
        return made[-1]

    yield make
    for poller in made:
        poller.close()


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts a squeue into the path that does what the file says, and writes a line of `asked` each time."""
    folder = tmp_path / "programs"
    folder.mkdir()
    file, script = folder / "script", folder / "squeue"
    file.touch()
    script.write_text(f"#!/bin/sh\necho >> {folder}/asked\n. {file}\n", encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return file


def asked(squeue: Path) -> int:
    """How often squeue was called."""
    file = squeue.with_name("asked")
    return len(file.read_text(encoding="utf-8")) if file.exists() else 0


def snapshot(view: StudyView) -> StudyStatus:
    """What was seen, which has to be there."""
    assert view.now is not None
    return view.now


def states(view: StudyView) -> list[State]:
    return [seen.state for seen in view.now.units] if view.now else []


def test_a_study_is_followed_to_its_end(
    watch: Callable[..., Poller], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    a = unit(tmp_path, "a")
    (tmp_path / "a.hold").touch()
    project = local(tmp_path / "study", a)
    poller = watch(project)
    wait_for(lambda: states(poller.views()[0]) == [State.WAITING], "the first look")
    project.ledger.intent("prepare-a-1", [Started(a.id, 1)])
    assert isinstance(project.backend, Local)
    project.ledger.submitted("prepare-a-1", project.backend.submit(a, "prepare-a-1", 1, 0, ()))
    wait_for(lambda: states(poller.views()[0]) == [State.RUNNING], "the job to be seen")
    (seen,) = snapshot(poller.views()[0]).units
    assert seen.live is not None
    assert seen.attempt is not None
    assert (seen.live.nodes, seen.live.start) == (os.uname().nodename, int(seen.attempt.started))
    (tmp_path / "a.hold").unlink()
    wait_for(lambda: states(poller.views()[0]) == [State.DONE], "the result to be seen")
    (view,) = poller.views()
    assert (view.project, view.trouble) == (project, None)
    poller.changed.clear()
    assert poller.changed.wait(10)
    assert poller.views()[0].taken > view.taken


def test_nobody_waits_for_a_look_that_hangs(watch: Callable[..., Poller], tmp_path: Path) -> None:
    a = unit(tmp_path, "a")
    project = local(tmp_path, a)
    publish(project.root, a)
    b = unit(tmp_path, "b")
    project.units.append(b)
    project.ledger.intent("prepare-b-1", [Started(b.id, 1)])
    poller = watch(project)
    wait_for(lambda: states(poller.views()[0]), "the first look")
    assert isinstance(project.backend, Hanging)
    project.backend.answers.clear()
    began = time.time()
    wait_for(lambda: poller.views()[0].asked, "the next look")
    time.sleep(0.3)
    (view,) = poller.views()
    assert view.asked is not None
    assert began - 1 < view.asked < time.time() - 0.1
    assert view.taken < view.asked
    assert len(states(view)) == 2
    poller.close()
    project.backend.answers.set()


def test_the_program_may_end_while_a_look_hangs(tmp_path: Path) -> None:
    program = """
import sys, time
from pathlib import Path
import test_poller as t
from launch.state.ledger import Started
a = t.unit(Path(sys.argv[1]), "a")
project = t.local(Path(sys.argv[1]), a)
project.ledger.intent("prepare-a-1", [Started(a.id, 1)])
project.backend.answers.clear()
poller = t.Poller([project])
t.wait_for(lambda: poller.views()[0].asked, "the look")
poller.close()
print("ended")
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, encoding="utf-8", timeout=60,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "ended\n"), done.stderr


def test_trouble_is_told_and_what_was_seen_stays(
    watch: Callable[..., Poller], squeue: Path, tmp_path: Path
) -> None:
    a = unit(tmp_path, "a")
    project = made_project(tmp_path, [a])
    project.ledger.intent("prepare-small-1", [Started(a.id, 1)])
    poller = watch(project)
    wait_for(lambda: states(poller.views()[0]), "the first look")
    squeue.write_text(
        "echo slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1", encoding="utf-8"
    )
    wait_for(lambda: poller.views()[0].trouble, "the trouble")
    (view,) = poller.views()
    assert view.trouble is not None
    assert "Unable to contact slurm controller. Slurm's controller (slurmctld) is busy" in view.trouble
    assert states(view) == [State.QUEUED]
    assert poller.views()[0].taken == view.taken
    squeue.write_text("", encoding="utf-8")
    wait_for(lambda: poller.views()[0].trouble is None, "the trouble to be over")
    with journal.own(project.root.ledger).open("a", encoding="utf-8") as ledger:
        ledger.write("no JSON\n")
    wait_for(lambda: "line 2: not JSON" in str(snapshot(poller.views()[0]).harm), "the damage to be shown")
    assert poller.views()[0].trouble is None
    assert poller.views()[0].taken > view.taken


def test_an_error_of_ours_is_trouble_too(watch: Callable[..., Poller], tmp_path: Path) -> None:
    def broken(*told: object) -> None:
        raise KeyError("rate")

    poller = watch(local(tmp_path, unit(tmp_path, "a")), work_out=broken)
    wait_for(lambda: poller.views()[0].trouble, "the trouble")
    assert poller.views()[0].trouble == "KeyError: 'rate'"
    poller.changed.clear()
    assert poller.changed.wait(10), "it looks no more"


def test_the_board_is_worked_out_from_the_one_before(watch: Callable[..., Poller], tmp_path: Path) -> None:
    a = unit(tmp_path, "a")
    project = local(tmp_path, a)
    publish(project.root, a)

    def count(its: Project, now: Any, nodes: Any, before: int | None, at: float) -> int:
        assert (its, now.root) == (project, project.root)
        assert abs(at - time.time()) < 60
        return (before or 0) + 1

    def counted() -> int:
        summary: Any = poller.views()[0].summary
        return summary or 0

    poller = watch(project, work_out=count)
    wait_for(lambda: counted() > 2, "three looks")


def test_a_study_is_followed_when_it_is_edited_and_once_its_rows_are_counted(
    watch: Callable[..., Poller], tmp_path: Path
) -> None:
    def edit(**changes: Any) -> Project:
        return open_project(str(write_study(tmp_path / "study", **changes)), None, tmp_path / "runs")

    first = edit()
    first.root.path.mkdir(parents=True)
    write_json(first.root.study, first.study.model_dump(mode="json"))
    poller = watch(first)
    wait_for(lambda: states(poller.views()[0]), "the first look")
    write_json(first.root.study, first.study.model_dump(mode="json"))  # submitted again as it was
    taken = poller.views()[0].taken
    wait_for(lambda: poller.views()[0].taken > taken, "the next look")
    assert poller.views()[0].project.units is first.units
    grown = edit(seeds=[0, 1])
    taken = poller.views()[0].taken
    wait_for(lambda: poller.views()[0].taken > taken, "the next look")
    assert poller.views()[0].project.units is first.units  # it was not submitted yet
    write_json(first.root.study, grown.study.model_dump(mode="json"))
    wait_for(lambda: len(states(poller.views()[0])) == len(grown.units), "the new units to be seen")
    collate = next(unit for unit in grown.units if unit.stage == "collate")
    lengths = {"ift": {"mean": 700}, "reasoning": {"mean": 9000}}
    publish(first.root, collate, {"prompts": 5000, "lengths_in": "tokens", "lengths": lengths})
    wait_for(lambda: poller.views()[0].project.units[-2].flops != grown.units[-2].flops, "the new estimate")
    assert poller.views()[0].trouble is None
    first.root.study.write_text("{}", encoding="utf-8")
    wait_for(lambda: poller.views()[0].trouble, "what is wrong with it to be told")
    assert len(states(poller.views()[0])) == len(grown.units)


def test_all_studies_share_one_squeue(watch: Callable[..., Poller], squeue: Path, tmp_path: Path) -> None:
    made = []
    for name in ("one", "two", "three"):
        its = unit(tmp_path / name, "a")
        project = made_project(tmp_path / name, [its])
        project.ledger.intent(f"prepare-{name}-1", [Started(its.id, 1)])
        project.ledger.submitted(f"prepare-{name}-1", "7")
        made.append(project)
    rows = "".join(
        rf"7\037RUNNING\037None\0372\037n1\037main\037\037\037prepare-{name}-1\n"
        for name in ("one", "two", "three")
    )
    squeue.write_text(f"printf '{rows}'", encoding="utf-8")
    poller = watch(*made, interval=60)
    wait_for(lambda: all(map(states, poller.views())), "a look at each")
    assert [states(view) for view in poller.views()] == [[State.RUNNING]] * 3
    assert len({view.taken for view in poller.views()}) == 1
    assert asked(squeue) == 1
    squeue.write_text("exit 1", encoding="utf-8")
    poller.poll_now()
    wait_for(lambda: all(view.trouble for view in poller.views()), "the trouble")
    assert asked(squeue) == 2


def test_what_is_submitted_while_slurm_is_asked_has_not_ended(
    watch: Callable[..., Poller], squeue: Path, tmp_path: Path
) -> None:
    """The second study's job is written down after the answer that both studies share."""
    a, b = unit(tmp_path, "a"), unit(tmp_path, "b")
    first = made_project(tmp_path / "first", [a])
    first.ledger.intent("prepare-small-1", [Started(a.id, 1)])
    second = made_project(tmp_path / "second", [b])
    second.ledger.intent("prepare-small-2", [Started(b.id, 1)])
    second.ledger.submitted("prepare-small-2", "7")
    lines = journal.own(second.root.ledger).read_text(encoding="utf-8")
    journal.own(second.root.ledger).unlink()
    (tmp_path / "lines").write_text(lines, encoding="utf-8")
    squeue.write_text(f"cp {tmp_path}/lines {journal.own(second.root.ledger)}", encoding="utf-8")
    poller = watch(first, second, interval=60)
    wait_for(lambda: all(map(states, poller.views())), "a look at each")
    (seen,) = snapshot(poller.views()[1]).units
    assert (seen.state, seen.reason) == (State.WAITING, None)
    row = r"7\037PENDING\037None\0372\037\037main\037\037\037prepare-small-2\n"
    squeue.write_text(f"printf '{row}'", encoding="utf-8")
    poller.poll_now()
    wait_for(lambda: states(poller.views()[1]) == [State.QUEUED], "the job")


def test_who_asks_for_a_look_gets_one_but_not_at_once_again(
    watch: Callable[..., Poller], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "SOONEST", 0.5)
    poller = watch(local(tmp_path, unit(tmp_path, "a")), interval=600)
    wait_for(lambda: poller.views()[0].taken, "the first look")
    taken = [poller.views()[0].taken]
    for _ in range(2):
        poller.poll_now()
        wait_for(lambda: poller.views()[0].taken > taken[-1], "the next look")
        taken.append(poller.views()[0].taken)
    assert min(after - before for before, after in pairwise(taken)) >= 0.5


def test_an_interval_grows_with_what_looks_cost() -> None:
    assert pace(30, 0.01, 0.1) == 30
    assert pace(30, 0.5, 0.1) == 60
    assert pace(30, 0.01, 3.0) == 60
    assert pace(30, 0.01, 30.0) == LONGEST
    assert pace(600, 0.01, 30.0) == 600


def test_the_usual_interval_is_longer_where_slurm_is_asked(
    watch: Callable[..., Poller], squeue: Path, tmp_path: Path
) -> None:
    here = local(tmp_path / "here", unit(tmp_path, "a"))
    there = made_project(tmp_path / "there", [unit(tmp_path, "b")])
    assert watch(here, interval=None).views()[0].interval == 5
    assert [view.interval for view in watch(here, there, interval=None).views()] == [30, 30]
