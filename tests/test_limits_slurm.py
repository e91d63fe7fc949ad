"""The limits of a real cluster: kept whatever their size, and what can never run is refused before anything
is submitted.

Jobs are of shell alone, since a Python costs half a second, and a thousand of them run in seconds. Such a job
finds its unit as jobs.runtime.array_task does, writes down that it began, and publishes.
"""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster, ClusterError, config
from made_projects import made_project
from small_study import wait_for

from jobs.core.unit import Resources, Unit
from jobs.store import journal
from launch.commands.submit import submit
from launch.slurm.client import SlurmClient
from launch.state.states import State
from launch.study import templates
from launch.study.plan import MARGIN
from launch.study_run import Project
from launch.submit.limits import Refusal

MAX_ARRAY_SIZE, MAX_SUBMIT = 101, 150
STUDY = 1000
LIGHT = r"""
parts='.*"unit": {"id": "\([^"]*\)", "stage": "\([^"]*\)", "name": "\([^"]*\)".*'
unit=$(sed -n 's|^{"index": '$SLURM_ARRAY_TASK_ID",$parts"'|\2/\3-\1|p' {{submission}}/elements.jsonl)
cd {{study}}
echo "$unit" >> started
while [ ! -e {{until}} ]; do sleep 0.1; done
mkdir -p "$unit/out.tmp" && echo '{}' > "$unit/out.tmp/result.json" && mv -T "$unit/out.tmp" "$unit/out"
"""


@pytest.fixture
def light(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the template `light` known, with its variable `until`: the file that a job waits for."""
    folder = tmp_path / "templates"
    folder.mkdir()
    (folder / "light.sh").write_text(LIGHT, encoding="utf-8")
    monkeypatch.setattr(templates, "FOLDER", folder)


STUDENT = {"student": {"size": "1K"}}  # of an evaluation


def light_jobs(until: Path = Path("/dev/null"), **slurm: Any) -> dict[str, Any]:
    """What a cluster file says that has jobs of shell, which end once there is a file."""
    return {"template": "light", "variables": {"until": str(until)}, **slurm}


def started(project: Project) -> Counter[str]:
    """How often each unit of a project with jobs of shell was started, by the name of its folder."""
    return Counter((project.root.path / "started").read_text(encoding="utf-8").split())


@pytest.fixture(scope="module")
def tight(slurm: Cluster) -> Iterator[Cluster]:
    """A cluster that takes arrays up to index 100 and 150 jobs of a user."""
    assert slurm  # there is one to be had
    with Cluster(nodes=2, cpus=64, gpus=4, extra=f"MaxArraySize={MAX_ARRAY_SIZE}") as cluster:
        limit(cluster)
        yield cluster


def limit(cluster: Cluster) -> None:
    """Set the user's MaxSubmitJobs, and wait until the controller has heard of it."""
    who = ("user", config.user(), "where", f"account={config.ACCOUNT}")
    cluster.run("sacctmgr", "--immediate", "--quiet", "modify", *who, "set", f"MaxSubmitJobs={MAX_SUBMIT}")
    known = ("scontrol", "show", "assoc_mgr", "flags=assoc")
    wait_for(
        lambda: f"MaxSubmitJobs={MAX_SUBMIT}(" in cluster.run(*known), "the controller to know the limit"
    )


@pytest.fixture
def here(tight: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The tight cluster as the one that Slurm's programs talk to; the test's jobs are ended after it."""
    monkeypatch.setenv("SLURM_CONF", str(tight.conf))
    yield tight
    tight.run("scancel", "--me")
    wait_for(lambda: not queued(tight), "the queue to be empty")


def queued(cluster: Cluster, *options: str) -> list[str]:
    """What squeue says of each job in the queue, its id unless told."""
    return cluster.run("squeue", "--noheader", "--array", *(options or ("--format=%i",))).splitlines()


def units(count: int, stage: str = "tokenize", **resources: Any) -> list[Unit]:
    needs = Resources(hours=0.5, **resources)
    return [
        Unit(stage, f"{stage}{i}", {"i": i, "of": stage, **STUDENT}, resources=needs) for i in range(count)
    ]


def behind(stage: str, name: str, *inputs: Unit) -> Unit:
    """A unit that reads others."""
    config = {"name": name, "recipe": {"batch": 1}}
    execution = {"micro_batch": 1, "sequence_parallel": None}
    given = tuple(i.as_input(i.name) for i in inputs)
    return Unit(stage, name, config, given, execution, Resources(hours=0.5))


def done(project: Project) -> int:
    return len(project.poll().of(State.DONE))


def through(project: Project, cluster: Cluster, seconds: float = 240) -> int:
    """Submit again and again until all is done; returns how many submits found something to submit."""
    until, useful = time.monotonic() + seconds, 0
    while done(project) < len(project.units):
        folders = set(project.root.path.glob("submissions/*"))
        assert submit(project, yes=True, only=None) == 0, "a submission was refused"
        useful += set(project.root.path.glob("submissions/*")) != folders
        assert len(queued(cluster)) <= MAX_SUBMIT
        assert time.monotonic() < until, stuck(project)
        time.sleep(0.2)
    return useful


def stuck(project: Project) -> str:
    """What is not done after all that time, for the message of a test that fails."""
    return "\n".join(f"{u.unit.name}: {u.state}, {u.reason}" for u in project.poll().units if not u.published)


@pytest.mark.slow
@pytest.mark.usefixtures("light")
def test_a_study_far_larger_than_the_limits_completes_by_repeated_submits(
    here: Cluster, tmp_path: Path
) -> None:
    first = units(STUDY - 71)
    students = [behind("train", f"train{i}", first[3 * i], first[3 * i + 1]) for i in range(50)]
    tables = [behind("evaluate", f"evaluate{i}", student) for i, student in enumerate(students[:20])]
    project = made_project(
        tmp_path, [*first, *students, *tables, behind("report", "all", *tables)], **light_jobs()
    )
    assert len(project.units) == STUDY
    submits = through(project, here)
    assert submits >= STUDY / MAX_SUBMIT
    assert set(started(project).values()) == {1}
    assert len(started(project)) == STUDY
    arrays = here.run("sacct", "--allocations", "--noheader", "--parsable2", "--format=JobID").splitlines()
    assert max(int(id.partition("_")[2]) for id in arrays) < MAX_ARRAY_SIZE


def test_how_often_slurm_is_asked_does_not_grow_with_the_study(
    slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(work: Callable[[], object]) -> list[str]:
        """The programs of Slurm's that some work calls."""
        called.clear()
        work()
        return list(called)

    def run(command: Sequence[str], **more: Any) -> Any:
        called.extend({command[0]} - {"git"})  # which lists the code to copy
        return original(command, **more)

    called, original = list[str](), subprocess.run
    monkeypatch.setattr("launch.slurm.client.subprocess.run", run)
    monkeypatch.setenv("SLURM_CONF", str(slurm.conf))
    project = made_project(tmp_path, units(3 * STUDY), sbatch={"hold": True})
    try:
        first = asked(lambda: submit(project, yes=True, only=None))
        assert first.count("sbatch") == 1
        assert len(first) <= 12
        assert asked(project.poll) == ["squeue"]
        assert asked(lambda: submit(project, yes=True, only=None)) == ["squeue"]
    finally:
        slurm.run("scancel", "--me")
    [submission] = (project.root.path / "submissions").iterdir()
    assert {path.name for path in submission.iterdir()} == {"elements.jsonl", "submit.sh"}
    wait_for(lambda: not queued(slurm), "the queue to be empty")


@pytest.mark.usefixtures("light")
def test_a_queue_that_other_jobs_have_filled_is_waited_for(
    here: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def submitted() -> str:
        """What `sor submit` says; a process of its own each time, as far as it remembers anything."""
        project = made_project(tmp_path, units(30), **light_jobs())
        assert submit(project, yes=True, only=None) == 0
        return " ".join(capsys.readouterr().out.split())

    others(here, 100)
    others(here, 40)
    assert (
        "20 units not submitted yet: account students has room for 10 more of your jobs: submitted later"
        in submitted()
    )
    project = made_project(tmp_path, units(30), **light_jobs())
    wait_for(lambda: done(project) == 10 and len(queued(here)) == 140, "what there was room for")
    others(here, 10)
    with pytest.raises(ClusterError, match="AssocMaxSubmitJobLimit"):
        others(here, 1)
    assert (
        "20 units not submitted yet: account students has room for 0 more of your jobs: submitted later"
        in submitted()
    )
    here.run("scancel", "--me")
    wait_for(lambda: not queued(here), "the others to be gone")
    assert through(project, here) == 1
    assert set(started(project).values()) == {1}


def others(cluster: Cluster, count: int) -> None:
    """Jobs of this user that are no study's, and that stay in the queue."""
    cluster.run("sbatch", "--hold", "--output=/dev/null", f"--array=1-{count}", "--wrap=true")


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize(("cap", "most"), [("max_jobs", 5), ("max_gpus", 7)])
def test_caps_of_the_cluster_file_are_kept_by_arrays_and_submits_together(
    here: Cluster, tmp_path: Path, cap: str, most: int
) -> None:
    def weight() -> int:
        """What the jobs that run count for: one each, or their GPUs."""
        names = queued(here, "--states=RUNNING", "--format=%j")
        return sum(2 if cap == "max_gpus" and name.startswith("evaluate") else 1 for name in names)

    small, large = units(7, "generate", gpus_per_node=1), units(3, "evaluate", gpus_per_node=2)
    file = light_jobs(tmp_path / "go", **{cap: most})
    assert submit(made_project(tmp_path, small[:4], **file), yes=True, only=None) == 0
    wait_for(lambda: weight() == 4, "the first ones")
    project = made_project(tmp_path, [*small, *large], **file)
    assert submit(project, yes=True, only=None) == 0
    wait_for(lambda: weight() >= most, "as many as may run")
    until = time.monotonic() + 2
    while time.monotonic() < until:
        assert weight() == most
    (tmp_path / "go").touch()
    through(project, here)
    assert set(started(project).values()) == {1}


ALONE = Unit("evaluate", "s", STUDENT, resources=Resources(hours=1))
HOURS = 7 * 24  # of the partition's MaxTime


@pytest.mark.parametrize(
    ("needs", "options", "words"),
    [
        ({"nodes": 5}, {}, "needs 5 nodes, and partition main allows at most 2: request less"),
        ({"gpus_per_node": 9}, {}, "needs 1 node with 1 core and 9 GPUs, and partition main does not have"),
        ({"cpus_per_task": 65}, {}, "needs 1 node with 65 cores, and partition main does not have that"),
        ({"hours": 2.2 * HOURS}, {}, "is estimated to take 184.8 h, and partition main or your account"),
        ({}, {"account": "none"}, "this cluster refuses .*; account 'none' is not one of yours .*students"),
        ({}, {"partition": "gpu"}, "no partition 'gpu'; available: main, low, lowgrace, lowcancel"),
    ],
)  # fmt: skip
def test_what_can_never_run_is_refused_before_anything_is_submitted(
    here: Cluster, tmp_path: Path, needs: dict[str, Any], options: dict[str, str], words: str
) -> None:
    never = replace(ALONE, resources=replace(ALONE.resources, **needs))
    project = made_project(
        tmp_path, [*units(3), never, replace(never, name="t", config={"t": 1, **STUDENT})], sbatch=options
    )
    nobody = "tokenize0 and 4 more" if options else "evaluate s and 1 more"
    with pytest.raises(Refusal, match=f"^{'tokenize ' if options else ''}{nobody}: {words}"):
        submit(project, yes=True, only=None)
    assert nothing_was_submitted(project, here)


def nothing_was_submitted(project: Project, cluster: Cluster) -> bool:
    return not (
        queued(cluster) or journal.files(project.root.ledger) or (project.root.path / "submissions").exists()
    )


def test_a_time_limit_that_only_its_margin_makes_too_long_is_lowered(here: Cluster, tmp_path: Path) -> None:
    long = replace(ALONE, resources=Resources(hours=HOURS * MARGIN))
    assert submit(made_project(tmp_path, [long], sbatch={"hold": True}), yes=True, only=None) == 0
    assert queued(here, "--format=%l") == ["7-00:00:00"]


def test_a_user_without_an_account_is_told_to_ask_for_one(here: Cluster, tmp_path: Path) -> None:
    manage = ("sacctmgr", "--immediate", "--quiet")
    project = made_project(tmp_path, [ALONE])
    here.run(*manage, "delete", "user", config.user())
    try:
        with pytest.raises(
            Refusal, match=r"^evaluate s: you have no account on this cluster, which refuses jobs"
        ):
            submit(project, yes=True, only=None)
        assert nothing_was_submitted(project, here)
    finally:
        here.run(*manage, "add", "user", config.user(), f"Account={config.ACCOUNT}", "AdminLevel=Admin")
        limit(here)


@pytest.fixture
def short(here: Cluster) -> Iterator[str]:
    """A partition whose own QOS takes four jobs of a user, each of two hours, and no QOS but `normal`."""
    manage = ("sacctmgr", "--immediate", "--quiet")
    here.run(*manage, "add", "qos", "short", "MaxSubmitJobsPerUser=4", "MaxWall=2:00:00")
    settings = ("QoS=short", "AllowQos=normal")
    wait_for(lambda: created(here, *settings), "the controller to know the QOS")
    yield "short"
    here.run("scancel", "--me")
    wait_for(lambda: not queued(here), "the queue to be empty")
    here.run("scontrol", "delete", "PartitionName=short")
    here.run(*manage, "delete", "qos", "short")


def created(cluster: Cluster, *settings: str) -> bool:
    """Whether the controller took the partition; a QOS that it has not heard of yet it refuses."""
    try:
        cluster.run("scontrol", "create", "PartitionName=short", "Nodes=ALL", "State=UP", *settings)
    except ClusterError:
        return False
    return True


@pytest.mark.usefixtures("light")
def test_a_partition_that_denies_an_account_above(here: Cluster, short: str, tmp_path: Path) -> None:
    """Newer versions of Slurm let such a job wait for ever; older ones start it."""
    here.run("scontrol", "update", f"PartitionName={short}", "DenyAccounts=root")
    project = made_project(tmp_path, units(1), **light_jobs(sbatch={"partition": short}))
    if SlurmClient().config().denies_below:
        with pytest.raises(Refusal, match=f"partition short does not take account {config.ACCOUNT}"):
            submit(project, yes=True, only=None)
        assert nothing_was_submitted(project, here)
    else:
        assert submit(project, yes=True, only=None) == 0
        wait_for(lambda: not queued(here), "the job to run")
        assert set(started(project).values()) == {1}


@pytest.mark.usefixtures("light")
def test_the_limits_of_a_partition_itself_hold_back_what_does_not_fit(
    here: Cluster, short: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def project(**options: Any) -> Project:
        return made_project(tmp_path, units(10), **light_jobs(sbatch={"partition": short, **options}))

    with pytest.raises(ClusterError, match="QOSMaxSubmitJobPerUserLimit"):
        here.run("sbatch", "--partition", short, "--array=0-4", "--wrap=true")
    others(here, 20)  # in another partition, so that they do not count
    assert submit(project(), yes=True, only=None) == 0
    held = "6 units not submitted yet: QOS short has room for 4 more of your jobs: submitted later"
    assert held in " ".join(capsys.readouterr().out.split())
    assert through(project(), here) == 2
    assert set(started(project()).values()) == {1}
    long = made_project(
        tmp_path / "long",
        [replace(ALONE, resources=Resources(hours=5))],
        **light_jobs(sbatch={"partition": short}),
    )
    with pytest.raises(
        Refusal, match=r"is estimated to take 2.5 h, and partition short or your account allows 2 h"
    ):
        submit(long, yes=True, only=None)
    here.run("scontrol", "update", "PartitionName=short", "State=DRAIN")
    drained = made_project(tmp_path / "drained", [ALONE], **light_jobs(sbatch={"partition": short}))
    with pytest.raises(Refusal, match="partition short is in state DRAIN and accepts no jobs"):
        submit(drained, yes=True, only=None)
    # Of two partitions one that takes the job is enough, for Slurm as well.
    both = {"partition": f"{short},low", "hold": True}
    either = made_project(tmp_path / "either", [ALONE], **light_jobs(sbatch=both))
    assert submit(either, yes=True, only=None) == 0
