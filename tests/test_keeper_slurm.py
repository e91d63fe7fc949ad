"""The keeper on a real Slurm: a study that a person submitted once is completed by jobs alone.

The jobs of most stages are of shell alone, since a Python costs half a second; `prepare` and the keeper are
real. A job of shell writes down that it began and publishes, unless a file `hold-STAGE` is in the study's
folder: then it waits until it is gone.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster, config
from rich.console import Console
from small_slurm import before, write_cluster
from small_study import TESTS, wait_for, write_study

from jobs.core.paths import CODE
from launch.commands.submit import cancel, submit
from launch.state.states import State
from launch.study import templates
from launch.study_run import Project, open_project
from launch.submit import code_snapshot
from launch.submit.rounds import ALL_DONE
from launch.views import status_view

LIGHT = r"""
export PYTHONPATH={{code}}:"${PYTHONPATH:-}" PYTHONSAFEPATH=1
case {{submission}} in */keeper-*|*/prepare-*)
  exec srun --unbuffered --output={{log}} {{python}} -u -m {{module}} {{submission}};;
esac
parts='.*"unit": {"id": "\([^"]*\)", "stage": "\([^"]*\)", "name": "\([^"]*\)".*'
unit=$(sed -n 's|^{"index": '$SLURM_ARRAY_TASK_ID",$parts"'|\2/\3-\1|p' {{submission}}/elements.jsonl)
cd {{study}}
echo "$unit $$" >> begun
while [ -e "hold-${unit%%/*}" ]; do sleep 0.1; done
mkdir -p "$unit/out.tmp" && echo '{"lengths_in": "characters", "prompts": 4}' > "$unit/out.tmp/result.json"
mv -T "$unit/out.tmp" "$unit/out"
"""
SOON = 1  # seconds between two keepers
LONG = 150.0  # seconds that a study may take here, on a busy machine


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have jobs run a copy of this code that has the template `light`, too."""
    for name in code_snapshot.FOR_KEEPER:
        shutil.copytree(CODE / name, tmp_path / "checkout" / name)
    folder = tmp_path / "checkout" / "sbatch_templates"
    (folder / "light.sh").write_text(LIGHT, encoding="utf-8")
    for name in ("CODE", "DATA"):
        monkeypatch.setattr(code_snapshot, name, tmp_path / "checkout")
    monkeypatch.setattr(templates, "FOLDER", folder)


@pytest.fixture
def lab(slurm: Cluster, checkout: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The cluster, in use; without jobs afterwards."""
    monkeypatch.setenv("SLURM_CONF", str(slurm.conf))
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    yield slurm
    for _ in range(2):  # a keeper may have submitted something
        slurm.run("scancel", "--me")
        wait_for(lambda: not queued(slurm), "the queue to be empty")


def queued(cluster: Cluster) -> list[str]:
    return cluster.run("squeue", "--noheader", "--array", "--format=%j %T").splitlines()


def kept(folder: Path, **slurm: Any) -> Project:
    """The small study in a folder, with a keeper; opened as every command does."""
    file = write_cluster(folder / "lab.yaml", template="light", keeper=SOON, **slurm)
    study = folder / "study" / "small.yaml"
    return open_project(str(study if study.exists() else write_study(study.parent)), str(file), folder)


def starts_of(project: Project) -> Counter[str]:
    """How often each unit with a job of shell was started, by its folder."""
    return Counter(
        line.split()[0] for line in (project.root.path / "begun").read_text(encoding="utf-8").splitlines()
    )


def started(project: Project, stage: str) -> list[tuple[str, int]]:
    """Units of a stage with a job of shell, and the shell's process."""
    file = project.root.path / "begun"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [(unit, int(pid)) for unit, pid in map(str.split, lines) if unit.startswith(f"{stage}/")]


def status(project: Project) -> str:
    """What `sor status` says."""
    console = Console(width=200, file=io.StringIO())
    with console.capture() as said:
        console.print(status_view(project.poll()))
    return said.get()


def end(project: Project) -> str | None:
    """Why no keeper followed; None while there is one."""
    keeper = project.poll().keeper
    assert keeper is not None
    assert keeper.live or keeper.attempt.ended, "the keeper is gone"
    return keeper.attempt.reason


def ends(project: Project, why: str) -> None:
    """Wait until no keeper follows, for a reason."""
    wait_for(lambda: end(project), "the last keeper", LONG)
    assert re.search(why, str(end(project))), end(project)


@pytest.fixture
def few(lab: Cluster) -> Iterator[int]:
    """How many jobs the user may have in the queue."""
    limit(lab, 9)
    yield 9
    limit(lab, -1)


def limit(cluster: Cluster, most: int) -> None:
    """Set the user's MaxSubmitJobs, and wait until the controller has heard of it."""
    who = ("user", config.user(), "where", f"account={config.ACCOUNT}")
    cluster.run("sacctmgr", "--immediate", "--quiet", "modify", *who, "set", f"MaxSubmitJobs={most}")
    known, words = ("scontrol", "show", "assoc_mgr", "flags=assoc"), f"MaxSubmitJobs={most}("
    wait_for(lambda: (words in cluster.run(*known)) == (most > 0), "the controller to know the limit")


def test_what_the_queue_has_no_room_for_is_submitted_by_keepers_who_tell_it(
    lab: Cluster, few: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOR_NOTIFY", f'echo "$SOR_MESSAGE" >> {tmp_path}/told')
    project = kept(tmp_path)
    assert submit(project, yes=True, only=None) == 0
    assert len(project.poll().of(State.WAITING)) > len(project.units) - few

    def over() -> bool:
        queue = queued(lab)
        assert len(queue) <= few
        assert sum(job.startswith("keeper-small-") and "PENDING" in job for job in queue) <= 1
        return end(project) is not None

    wait_for(over, "the study", LONG)
    assert end(project) == ALL_DONE
    assert len(project.poll().of(State.DONE)) == len(project.units)
    assert set(starts_of(project).values()) == {1}
    wait_for(lambda: not queued(lab), "the last keeper to end")
    told = (tmp_path / "told").read_text(encoding="utf-8").splitlines()
    assert told[-1] == f"small: all {len(project.units)} units are done"
    stages = ", ".join(re.findall(r"small: (.+) (?:is|are) done, \d+ of", "\n".join(told))).split(", ")
    assert stages[0] == "prepare"
    assert len(stages) == len(set(stages)), told


@pytest.mark.slow
def test_what_may_help_is_repeated_and_what_may_not_is_not(lab: Cluster, tmp_path: Path) -> None:
    project = kept(tmp_path)
    fail = tmp_path / "study" / "study.fail"
    fail.touch()
    assert submit(project, yes=True, only=None) == 0
    ends(project, r"failed units are not retried: prepare small: RuntimeError: study was told to fail")
    assert "no keeper any more: failed units are not retried: prepare small" in status(project)
    seen = project.poll().of(State.FAILED)[0]
    assert seen.attempt is not None
    assert seen.attempt.number == 1
    fail.unlink()
    hold = project.root.path / "hold-train"
    hold.touch()
    assert submit(project, yes=True, only=None) == 0
    wait_for(lambda: started(project, "train"), "students in training", LONG)
    killed, pid = started(project, "train")[0]
    os.kill(pid, signal.SIGKILL)
    hold.unlink()
    ends(project, ALL_DONE)
    assert {unit for unit, count in starts_of(project).items() if count > 1} == {killed}
    assert len(project.poll().of(State.DONE)) == len(project.units)


def test_there_is_never_more_than_one_and_cancel_ends_it(lab: Cluster, tmp_path: Path) -> None:
    def keeper() -> str:
        """The only one."""
        [name] = {job.split()[0] for job in queued(lab) if job.startswith("keeper-")}
        return name

    project, hold = kept(tmp_path), tmp_path / "study" / "study.hold"
    hold.touch()
    assert submit(project, yes=True, only=None) == 0
    first = keeper()
    live = project.poll().kept
    assert live is not None
    assert f"keeper: job {live.jobs[0].id}" in status(project)
    assert submit(project, yes=True, only=None) == 0  # nothing is missing
    assert keeper() == first
    now = project.poll()
    cancel(project, now, now.units[-1:])
    assert keeper() == first
    assert submit(project, yes=True, only=None) == 0
    second = keeper()
    assert second != first
    lab.run("scancel", f"--name={second}")
    wait_for(lambda: not project.poll().kept, "the keeper to be gone")
    assert f"is gone (its log is in submissions/{second})" in status(project)
    assert submit(project, yes=True, only=None) == 0
    assert keeper() != second
    assert cancel(project, project.poll(), None)[0] == "the keeper"
    wait_for(lambda: not queued(lab), "the queue to be empty")
    assert project.poll().kept is None


UNWILLING = """
case "$*" in */keeper-*) [ -z "$SLURMD_NODENAME" ] || for word in nope "Unable to contact"; do
  mkdir "{folder}/$word" && echo "sbatch: error: Batch job submission failed: $word" >&2 && exit 1
done;; esac
"""


@pytest.mark.slow
def test_one_whose_successor_slurm_does_not_take_goes_on(
    lab: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = tmp_path / "said"
    said.mkdir()
    path = before("sbatch", tmp_path / "bin", UNWILLING.format(folder=said))
    monkeypatch.setenv("PATH", path)
    project = kept(tmp_path)
    hold = project.root.path / "hold-train"
    hold.parent.mkdir()
    hold.touch()
    assert submit(project, yes=True, only=None) == 0

    def second() -> bool:
        keeper = project.poll().keeper
        return keeper is not None and keeper.attempt.number == 2 and keeper.attempt.jobs[0].id is not None

    wait_for(second, "a keeper that Slurm took", LONG)
    assert len(list(said.iterdir())) == 2
    hold.unlink()
    ends(project, ALL_DONE)
    logs = [log.read_text(encoding="utf-8") for log in project.root.path.glob("submissions/keeper-*/*.out")]
    assert sum(log.count("retrying in") for log in logs) >= 2
    assert len(project.poll().of(State.DONE)) == len(project.units)
