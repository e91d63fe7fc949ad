"""What a monitor would know of a study in the middle of its run, made by hand, for the tests of its pages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.core.unit import Unit
from jobs.store import journal
from jobs.store.rundir import StudyDir, write_json
from launch.local.backend import Local
from launch.monitor.data.study_view import StudyView
from launch.monitor.data.summary import Summary, summarize
from launch.monitor.data.unit_files import UnitFiles
from launch.state.backend import LiveJobs
from launch.state.ledger import Attempt, Job
from launch.state.states import State
from launch.state.status import StudyStatus, UnitStatus
from launch.study.cluster import load_cluster
from launch.study.plan import plan
from launch.study.schema import load_study
from launch.study_run import Project
from launch.submit.bad_nodes import Verdict

NOW = 1_800_000_000.0
HOUR = 3600.0
STARTING = 1  # the group of benchmarks whose evaluations have not reported yet
LOADING = (10, 3)  # the training and the group of an evaluation that still loads its model


def paper(folder: Path, name: str = "scale-or-reason") -> Project:
    """The study of the paper: 5 sizes, 5 mixtures, 4 groups of benchmarks."""
    study, cluster, root = load_study(name), load_cluster("roihu"), StudyDir(folder / "runs" / name)
    return Project(study, cluster, root, plan(study, cluster), Local(root))


def ended(root: StudyDir, unit: Unit, seconds: float, error: str | None = None, **more: Any) -> None:
    """A run of the unit is over."""
    folder = root.unit(unit)
    folder.path.mkdir(parents=True, exist_ok=True)
    line = {
        "attempt": 1, "restart": 0, "worker": 0, "rank": 0, "host": "g1", "time": NOW - HOUR,
        "seconds": seconds, "cause": None if error is None else "code error", "error": error, "kept": 0,
        "micro_batch": None,
    }  # fmt: skip
    journal.append(folder.attempts, {**line, **more})


def published(root: StudyDir, unit: Unit, result: dict[str, Any], seconds: float = HOUR) -> None:
    """The unit is done."""
    root.unit(unit).out.mkdir(parents=True)
    write_json(root.unit(unit).result, result)
    ended(root, unit, seconds)


def evaluated(root: StudyDir, unit: Unit, flops: float, accuracy: float, seconds: float = HOUR) -> None:
    """The evaluation is done, with the same accuracy of all its benchmarks."""
    tasks = [task["task"] for task in unit.config["group"]["tasks"]]
    rows = [{"task": task, "accuracy": accuracy} for task in tasks]
    published(root, unit, {"training": {"flops": flops}, "benchmarks": rows}, seconds)


def attempt(unit: Unit, number: int = 1, jobs: int = 1, id: str | None = None) -> Attempt:
    """An attempt that was started three hours ago."""
    made = tuple(Job("sub", f"{id or 4711}{f'_{i}' if jobs > 1 else ''}", "login1") for i in range(jobs))
    return Attempt(number, NOW - 3 * HOUR, "roihu", made)


def seen(root: StudyDir, unit: Unit, state: State, **more: Any) -> UnitStatus:
    """The unit as it is."""
    had = state not in (State.WAITING, State.BLOCKED)
    tried = more.pop("attempt", attempt(unit) if had else None)
    live = None
    if state in (State.QUEUED, State.RUNNING, State.STALLED, State.PREEMPTED):
        machine = State.RUNNING if state == State.STALLED else state
        start = more.pop("start", int(NOW - 2 * HOUR) if machine == State.RUNNING else None)
        live = LiveJobs(
            machine, tried.jobs, more.get("reason"), nodes=more.pop("nodes", "g[1-4]"), start=start
        )
    facts: dict[str, Any] = {"reason": None, "in_vain": False, "progress": None, "written": None, **more}
    return UnitStatus(unit, root, state, attempt=tried, live=live, published=state == State.DONE, **facts)


def progress(done: int, total: int, unit: str, **more: Any) -> dict[str, Any]:
    """What a unit says of itself that began two hours ago."""
    told = {"done": done, "total": total, "unit": unit, "kept": 0}
    return {**told, "started": NOW - 2 * HOUR, "updated": NOW - 12, **more}


def view(
    project: Project, units: Sequence[UnitStatus], before: Summary | None = None, at: float = NOW, **more: Any
) -> StudyView:
    """The study as seen at `at`."""
    keeper = more.pop("keeper", None)
    now = StudyStatus(
        project.root, tuple(units), more.pop("former", ()), keeper, more.pop("submitting", None)
    )
    facts = UnitFiles(project.root)
    facts.update(now, budget=60)
    rest: dict[str, Any] = {"nodes": Verdict(), "asked": None, "trouble": None, "interval": 30.0, **more}
    summary = summarize(project, now, rest["nodes"], facts, before, at)
    return StudyView(project, now, summary=summary, taken=at, **rest)


def in_the_middle(folder: Path) -> StudyView:
    """Everything at once: students done, in training, failed, stalled, preempted, queued, blocked."""
    project = paper(folder)
    root, units = project.root, project.units
    root.path.mkdir(parents=True)
    started = {"submission": "prepare-1", "cluster": "generic", "host": "login", "elements": []}
    journal.append(root.ledger, {"event": "intent", "time": NOW - 80 * HOUR, **started})
    trainings = [u for u in units if u.stage == "train"]
    names = {u.name: i for i, u in enumerate(trainings)}
    found = []
    for unit in units:
        if unit.stage == "train":
            found.append(_training(root, unit, names[unit.name], _state(names[unit.name])))
        elif unit.stage == "evaluate":
            found.append(_evaluation(root, unit, names[unit.inputs[0].name]))
        elif unit.stage == "report":
            found.append(seen(root, unit, State.WAITING, reason="needs evaluate x and 80 more"))
        else:
            published(root, unit, {}, 40 * HOUR if unit.stage == "generate" else 0.3 * HOUR)
            found.append(seen(root, unit, State.DONE))
    return view(project, found)


def _state(i: int) -> State:
    """Of the i-th training."""
    later = (
        State.RUNNING, State.RUNNING, State.STALLED, State.PREEMPTED, State.QUEUED, State.FAILED,
        State.FAILED, State.QUEUED,
    )  # fmt: skip
    return State.DONE if i < 12 else later[i - 12] if i < 20 else State.WAITING


def _training(root: StudyDir, unit: Unit, i: int, state: State) -> UnitStatus:
    if state == State.DONE:
        published(root, unit, {"flops": 1e19 * (i + 1) ** 2}, (2 + i) * HOUR)
        return seen(root, unit, state)
    if state == State.RUNNING:
        told = progress(
            300 + 100 * i,
            4000,
            "steps",
            loss=0.812,
            tokens_per_second=123456.0,
            phase="training",
            memory=58_368,
            gpus=[{"busy": 93 - gpu, "used": 72_704 - 512 * gpu, "total": 98_304} for gpu in range(4)],
        )
        return seen(root, unit, state, progress=told)
    if state == State.STALLED:
        told = progress(1200, 4000, "steps", loss=0.7, updated=NOW - 1200)
        return seen(root, unit, state, progress=told, reason="no heartbeat for 20 minutes")
    if state == State.FAILED:
        error = "RuntimeError: shape '[64, 16384]' is invalid for input of size 1040384"
        ended(root, unit, 600, error)
        written = {"worker": 0, "rank": 0, "cause": "code error", "error": error}
        job = Job("train-1", f"48{i}", "login1")
        logs = root.submission("train-1")
        logs.mkdir(parents=True, exist_ok=True)
        trace = [f'  File "/x/jobs/train.py", line {n}, in fit' for n in range(180, 190)]
        (logs / f"48{i}_0_log.out").write_text("\n".join(["Traceback", *trace, error]), encoding="utf-8")
        tried = Attempt(1, NOW - 3 * HOUR, "roihu", (job,))
        return seen(root, unit, state, reason=error, written=written, attempt=tried)
    if state == State.QUEUED:
        return seen(root, unit, state, reason="Priority", start=int(NOW + 2 * HOUR), nodes=None)
    if state == State.PREEMPTED:
        words = "was requeued, and starts again in two minutes at the earliest"
        return seen(root, unit, state, reason=words, nodes=None)
    return seen(root, unit, state, reason="needs tokenize tokenizer")


def _evaluation(root: StudyDir, unit: Unit, i: int) -> UnitStatus:
    trained = _state(i)
    group = [
        "general-multiple-choice",
        "general-open-ended",
        "math-multiple-choice",
        "math-open-ended",
    ].index(unit.config["group"]["name"])
    if trained == State.DONE and i * 4 + group < 42:
        evaluated(
            root, unit, 1e19 * (i + 1) ** 2, 0.35 + 0.02 * i - 0.05 * (i % 5 == 4), (1 + 0.3 * group) * HOUR
        )
        return seen(root, unit, State.DONE)
    if trained == State.DONE:
        if group == STARTING:
            return seen(root, unit, State.RUNNING)
        told = progress(30 + 10 * group, 1000, "requests", benchmark="2 of 5 mmlu_pro", kept=1)
        if (i, group) == LOADING:
            told = progress(0, 5, "benchmarks", phase="loading the model", memory=2_150, outside=True)
        return seen(root, unit, State.RUNNING, progress=told)
    if trained == State.FAILED:
        return seen(root, unit, State.BLOCKED, reason=f"needs train {unit.inputs[0].name}, which failed")
    return seen(root, unit, State.WAITING, reason=f"needs train {unit.inputs[0].name}")
