"""`sor keep` on a real Slurm that takes two jobs of a user at a time: killed, started again, to the end.

The jobs of most stages are of shell alone, as in test_keeper_slurm.py.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster
from small_slurm import before, write_cluster
from small_study import TESTS, student, wait_for, write_study
from test_keeper_slurm import checkout, lab, limit, queued, starts_of

from launch.commands.keep import Lines, _Rounds, keep
from launch.commands.submit import submit
from launch.state.lock import Locked
from launch.state.states import State
from launch.study_run import Project, open_project
from launch.submit.code_snapshot import snapshot
from launch.submit.rounds import ALL_DONE

__all__ = ["checkout", "lab"]  # fixtures
KEEP = """
import sys
from pathlib import Path
from launch.commands.keep import Lines, _Rounds, keep
from launch.study_run import open_project
sys.exit(keep(open_project(sys.argv[1], sys.argv[2], Path(sys.argv[3])), every=0.5))
"""
MOST = 2  # jobs in the queue


@pytest.fixture
def few(lab: Cluster) -> Iterator[None]:
    limit(lab, MOST)
    yield
    limit(lab, -1)


@pytest.fixture
def project(lab: Cluster, few: None, tmp_path: Path) -> Project:
    """A small study on a cluster without keepers."""
    file = write_cluster(tmp_path / "lab.yaml", template="light")
    study = write_study(tmp_path / "study", {"s": student()}, benchmarks=["easy.yaml"])
    return open_project(str(study), str(file), tmp_path)


def started(folder: Path, log: Path) -> subprocess.Popen[str]:
    """A `sor keep` with short pauses, which runs the checkout with the template `light`."""
    command = [sys.executable, "-c", KEEP, "study/small.yaml", "lab.yaml", "."]
    environment = {**os.environ, "PYTHONPATH": f"{folder}/checkout:{TESTS}", "PYTHONUNBUFFERED": "1"}
    with log.open("w", encoding="utf-8") as out:
        return subprocess.Popen(
            command, cwd=folder, env=environment, encoding="utf-8", stdout=out, stderr=subprocess.STDOUT
        )


def asked(project: Project, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often two rounds call Slurm's programs, with units that wait for room."""
    calls = folder / "calls"
    with monkeypatch.context() as patch:
        for program in ("squeue", "sacctmgr", "sinfo"):
            patch.setenv("PATH", before(program, folder / "bin", f"echo {program} >> {calls}"))
        rounds = _Rounds(project.root, snapshot(project.root), 1.0, Lines())
        assert [rounds.take(), rounds.take()] == [1.0, 1.0]
    return Counter(calls.read_text(encoding="utf-8").split())


def test_it_carries_a_study_to_its_end_through_a_kill(
    lab: Cluster,
    project: Project,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOR_NOTIFY", f'echo "$SOR_MESSAGE" >> {tmp_path}/told')
    hold = project.root.path / "hold-train"
    hold.parent.mkdir(parents=True)
    hold.touch()
    assert submit(project, yes=True, only=None) == 0
    assert f"jobs end, in tmux or with nohup: sor keep {project.file} --cluster" in capsys.readouterr().out
    assert len(project.poll().of(State.WAITING)) == len(project.units) - MOST
    assert asked(project, tmp_path, monkeypatch) == {"squeue": 2, "sacctmgr": 4, "sinfo": 1}
    log = tmp_path / "first.log"
    first = started(tmp_path, log)
    wait_for(lambda: any(name.startswith("train-") for name in queued(lab)), "a training")
    with pytest.raises(Locked, match=rf"continued by \w+ on {socket.gethostname()} \(process {first.pid}\)"):
        keep(project, 1.0)
    first.kill()
    assert first.wait() == -9
    assert project.poll().keeping is None
    hold.unlink()
    again = tmp_path / "again.log"
    second = started(tmp_path, again)

    def over() -> bool:
        assert len(queued(lab)) <= MOST
        return second.poll() is not None

    wait_for(over, "the study")
    said = again.read_text(encoding="utf-8")
    assert second.returncode == 0, said
    assert f"(process {first.pid}) since" in said.splitlines()[0]
    assert said.splitlines()[-1].endswith(f" {ALL_DONE}")
    assert "Traceback" not in said + log.read_text(encoding="utf-8")
    assert len(project.poll().of(State.DONE)) == len(project.units)
    told = (tmp_path / "told").read_text(encoding="utf-8").splitlines()
    assert told[-1] == f"small: all {len(project.units)} units are done"
    submitted = Counter(a.number for a in project.ledger.attempts().values())
    assert (set(starts_of(project).values()), set(submitted)) == ({1}, {1})
