"""What a keeper does without a person and what it leaves alone, without a Slurm."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from small_slurm import write_cluster
from small_study import student, write_study

from jobs.core.causes import Cause
from jobs.core.unit import Resources, Unit
from jobs.store.rundir import StudyDir, write_json
from launch.state.backend import LiveJobs
from launch.state.ledger import KEEPER, Attempt, Job, Ledger, Started
from launch.state.reconcile import reconcile
from launch.state.states import State
from launch.state.status import REMOVED, StudyStatus, UnitStatus
from launch.study.cluster import load_cluster
from launch.study.presets import StudyError
from launch.study_run import Project, open_project, reopen_project
from launch.submit import next_keeper
from launch.submit.arrays import Array, Element
from launch.submit.next_keeper import MANY, first_end
from launch.submit.rounds import BUDGET, helpful
from launch.submit.throttles import LATER

A, B = Unit("train", "a", {}), Unit("train", "b", {"b": 1})
C = Unit("evaluate", "c", {}, (A.as_input("student"),))


@pytest.fixture
def root(tmp_path: Path) -> StudyDir:
    return StudyDir(tmp_path / "small")


def seen(root: StudyDir, unit: Unit, state: State, ended: str | None = None, **more: Any) -> UnitStatus:
    """A unit that was begun once, unless it is told otherwise."""
    attempt = Attempt(1, time.time(), "generic", (Job("s", "1", "here", 0),), ended, None)
    facts = {"reason": None, "attempt": attempt, "live": None, "in_vain": False, "published": False, **more}
    return UnitStatus(unit, root, state, progress=None, **facts)


def submitted(root: StudyDir, *units: UnitStatus, asked: tuple[Unit, ...] = (), **more: Any) -> str:
    """Names of the units that a keeper submits."""
    begun = more.get("started", Counter({s.unit.id: 1 for s in units if s.attempt}))
    asked_ids, unlucky = {u.id for u in asked}, more.get("unlucky", ())
    wanted = helpful(reconcile(StudyStatus(root, units)), asked_ids, unlucky, begun)
    assert wanted.outdated == ()
    return " ".join(s.unit.name for s in wanted.submit)


@pytest.mark.parametrize(
    ("state", "more", "again"),
    [
        (State.FAILED, {"reason": "its node failed"}, True),
        (State.FAILED, {"reason": "was killed by signal 9", "ended": "failed"}, True),
        (State.FAILED, {"reason": "was cancelled in Slurm by root"}, False),
        (State.WAITING, {"reason": "cancelled", "ended": "cancelled"}, False),
        (State.WAITING, {"reason": "no trace of it"}, True),
        (State.WAITING, {"reason": REMOVED}, False),
        (State.WAITING, {"reason": REMOVED, "ended": "outdated"}, False),
        (State.WAITING, {"reason": "Slurm refused it", "ended": "refused"}, True),
        (State.WAITING, {"reason": "it waited", "ended": "withdrawn"}, True),
        (State.WAITING, {"published": True}, False),
        (State.RUNNING, {}, False),
        (State.DONE, {}, False),
    ],
)
def test_what_is_begun_again(root: StudyDir, state: State, more: dict[str, Any], again: bool) -> None:
    assert submitted(root, seen(root, A, state, **more)) == ("a" if again else "")


def test_an_error_of_the_code_is_not_repeated_unless_its_node_is_avoided(root: StudyDir) -> None:
    lost = seen(root, A, State.FAILED, reason="RuntimeError: x", written={"cause": Cause.NETWORK})
    assert submitted(root, lost) == "a"
    failed = seen(root, A, State.FAILED, reason="ValueError: no", written={"cause": Cause.CODE})
    assert submitted(root, failed) == ""
    assert submitted(root, failed, unlucky={A.id}) == "a"


def test_a_budget_is_kept(root: StudyDir) -> None:
    failed = seen(root, A, State.FAILED, reason="its node failed")
    for count in range(1, BUDGET + 2):
        assert submitted(root, failed, started=Counter({A.id: count})) == ("a" if count < BUDGET else "")


def test_what_a_person_asked_for_is_begun_once_whatever_became_of_it_before(root: StudyDir) -> None:
    held = seen(root, A, State.WAITING, ended="cancelled", reason="cancelled")
    assert submitted(root, held, asked=(A,), started=Counter()) == "a"
    assert submitted(root, held, asked=(A,), started=Counter({A.id: 1})) == ""
    new = seen(root, A, State.WAITING, attempt=None)
    assert (submitted(root, new, asked=(A,)), submitted(root, new)) == ("a", "")


def test_a_job_that_asks_for_too_much_keeps_its_place_since_the_limit_may_be_raised(root: StudyDir) -> None:
    reader = seen(root, C, State.WAITING, live=LiveJobs(State.QUEUED, (), "Dependency"), in_vain=True)
    for again, names in ((False, []), (True, ["a", "c"])):
        live = LiveJobs(State.QUEUED, (), "asks for more", dead=True, again=again)
        first = seen(root, A, State.WAITING, live=live, in_vain=True)
        begun = Counter({A.id: 1, C.id: 1})
        wanted = helpful(reconcile(StudyStatus(root, (first, reader))), (), (), begun)
        assert [s.unit.name for s in wanted.submit] == [s.unit.name for s in wanted.withdraw] == names


def test_nothing_is_begun_behind_what_is_not(root: StudyDir) -> None:
    reader = seen(root, C, State.WAITING, attempt=None)
    for state, ended, names in ((State.WAITING, "cancelled", ""), (State.DONE, None, "c")):
        assert submitted(root, seen(root, A, state, ended), reader, asked=(C,)) == names
    failed = seen(root, A, State.FAILED, reason="its node failed")
    assert submitted(root, failed, reader, asked=(C,)) == "a c"


def test_the_next_one_waits_for_any_array_or_for_any_place(root: StudyDir) -> None:
    jobs = tuple(Job("s", "12", "here", i) for i in range(2))
    live = seen(root, A, State.RUNNING, live=LiveJobs(State.RUNNING, jobs))
    now = StudyStatus(root, (live, seen(root, C, State.DONE)))
    elements = tuple(Element(i, B, i) for i in range(MANY))
    new = Array("train", B.resources, elements, (), False, MANY)
    alone = Array("train", C.resources, elements[:1], (), False, 1, plain=True)
    found = next_keeper.in_queue(reconcile(now), [("13", alone), ("14", new)])
    assert first_end(found, room=False) == "afterany:12?afterany:13?afterany:14"
    each = str(first_end(found, room=True)).split("?")
    assert each[:4] == ["afterany:12_0", "afterany:12_1", "afterany:13", "afterany:14_0"]
    assert len(each) == MANY
    assert first_end((), room=True) is None
    held = [(A, "one job needs 8 GPUs, and this study may use 4 at once")]
    assert [next_keeper.waits_for_room(h) for h in ([], held, [*held, (B, f"no room: {LATER}")])] == [0, 0, 1]


# The ledger


def test_attempts_since_a_time_are_counted_without_those_that_were_refused(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.intent("s1", [Started(A.id, 1, 0)])
    since = time.time()
    ledger.intent("s2", [Started(A.id, 2, 0), Started(A.id, 2, 1), Started(B.id, 1, 2)])
    ledger.ended("failed", [(A.id, 2, "no")])
    ledger.intent("s3", [Started(A.id, 3, 0), Started(B.id, 2, 1)])
    ledger.ended("refused", [(B.id, 2, "no")])
    assert ledger.attempts_since(since) == {A.id: 2, B.id: 1}


def test_a_keeper_that_was_not_taken_never_was(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.intent("k1", [Started(KEEPER, 1, 0)])
    ledger.ended("refused", [(KEEPER, 1, "no")])
    assert ledger.attempts() == {}
    ledger.intent("k2", [Started(KEEPER, 1, 0)])
    ledger.submitted("k2", "5")
    taken = ledger.attempts()[KEEPER]
    for how in ("refused", "lost"):
        ledger.intent(f"k3-{how}", [Started(KEEPER, 2, 0)])
        assert ledger.attempts()[KEEPER].number == 2
        ledger.intent(f"s-{how}", [Started(A.id, 1, 0)])
        ledger.ended(how, [(KEEPER, 2, "no")])
        assert (ledger.attempts()[KEEPER], ledger.attempts()[A.id].number) == (taken, 1)
    ledger.ended("over", [(KEEPER, 1, "done")])
    assert (ledger.attempts()[KEEPER].ended, ledger.attempts()[KEEPER].reason) == ("over", "done")


# What it goes on from


def recorded(project: Project) -> Project:
    """A project as the keeper finds it."""
    project.root.path.mkdir(parents=True, exist_ok=True)
    write_json(project.root.study, project.study.model_dump(mode="json"))
    next_keeper.record(project, None, ())
    return reopen_project(project.root)


@pytest.mark.parametrize("study", ["demo", "smollm", "scale-or-reason"])
def test_a_shipped_study_is_the_same_again(study: str, tmp_path: Path) -> None:
    file = write_cluster(
        tmp_path / "mine.yaml", keeper=60, sbatch={"partition": "a", "exclusive": True}, secrets=["HF_TOKEN"],
        stages={"report": {"exclusive": False}},
    )  # fmt: skip
    first = open_project(study, str(file), tmp_path)
    file.unlink()
    again = recorded(first)
    assert again.units == first.units
    assert again.cluster.to_json() == first.cluster.to_json()
    assert again.cluster.source == first.cluster.source == str(file)
    assert again.cluster.sbatch_options("report", Resources()) == {"partition": "a"}


def test_texts_that_change_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    texts = tmp_path / "pairs.jsonl"
    texts.write_text('{"prompt": "p", "reasoning": "r", "ift": "a"}\n', encoding="utf-8")
    preset = {**student(), "tokenizer": "somewhere/tokenizer"}
    changes = {"pairs": {"path": "pairs.jsonl"}, "prepare": None}
    study = write_study(tmp_path / "study", {"s": preset}, **changes)
    project = open_project(str(study), str(write_cluster(tmp_path / "mine.yaml", keeper=60)), tmp_path)
    before = next_keeper.digest(project.units)
    assert next_keeper.digest(recorded(project).units) == before
    texts.write_text("other\n", encoding="utf-8")
    assert next_keeper.digest(recorded(project).units) != before


def test_a_template_that_runs_nothing_else_cannot_run_a_keeper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.study.templates.FOLDER", tmp_path)
    (tmp_path / "own.sh").write_text(
        "srun {{python}} -m jobs.runtime.array_task {{submission}}\n", encoding="utf-8"
    )
    with pytest.raises(StudyError, match=r"slurm.keeper: .*'own' runs one module alone: write {{module}}"):
        load_cluster(str(write_cluster(tmp_path / "mine.yaml", template="own", keeper=60)))


def test_a_template_of_an_earlier_version_is_told_the_new_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.study.templates.FOLDER", tmp_path)
    text = "cd {{study}}\nsrun {{python}} -m jobs.element {{submission}}\n"
    (tmp_path / "own.sh").write_text(text, encoding="utf-8")
    with pytest.raises(StudyError, match=r"own\.sh:2:20: .*jobs\.element is called .* now: write {{module}}"):
        load_cluster(str(write_cluster(tmp_path / "mine.yaml", template="own")))
