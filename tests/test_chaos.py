"""The demo study under faults, one of each kind; `make chaos` strikes longer.

Needs root, for the networks and the disk that are taken away. The checks themselves are tested without.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chaos import verify
from chaos.faults import KINDS
from chaos.study import Work
from chaos.trial import Plan, drawn, trial
from chaos.watch import Loss, Watch, losses, shared_out
from cluster import Cluster, network, packages
from small_study import publish, unit, wait_for

from jobs.core.unit import MODES
from jobs.data.pairs import PAIRS
from jobs.store.rundir import StudyDir, UnitDir, append_jsonl, write_json
from launch.state.ledger import Ledger, Started

WORK = Work(prompts=300, epochs=12, shares=(1,))
ANSWERS = [(name, mode, f"{name} in {mode}") for name in "abc" for mode in MODES]


def need_networks() -> None:
    """Skip where the cluster cannot be had, but never in CI."""
    why = network.unavailable() or packages.install()
    if why and os.environ.get("CI"):
        pytest.fail(why)
    if why:
        pytest.skip(why)


@pytest.mark.slow
@pytest.mark.slurm
def test_faults_cost_time_and_nothing_else() -> None:
    need_networks()
    told: list[str] = []
    wrong = trial(Plan(seed=1, faults=len(KINDS), work=WORK), told.append)
    assert not wrong, "\n".join(told)


def test_a_seed_fixes_the_faults() -> None:
    plan = Plan(seed=3, faults=20, work=WORK)
    first, again = ([(kind, rng.random()) for kind, rng in drawn(plan)] for _ in range(2))
    assert first == again
    assert len(first) == 20
    assert {kind for kind, _ in first[: len(KINDS)]} == {kind.__name__ for kind in KINDS}


def generated(path: Path, rows: list[tuple[str, str, str]]) -> UnitDir:
    folder = UnitDir(path)
    (folder.out / "chunks").mkdir(parents=True)
    for id, mode, text in rows:
        append_jsonl(folder.out / "chunks" / "00000.jsonl", {"id": id, "mode": mode, "text": text})
    return folder


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (ANSWERS[::-1], []),
        (ANSWERS[1:], ["of 6 rows 1 are missing, 0 are too many, 0 are there twice"]),
        ([*ANSWERS, ANSWERS[0]], ["of 6 rows 0 are missing, 1 are too many, 1 are there twice"]),
        ([("a", "ift", "other"), *ANSWERS[1:]], ["1 answers are not those of the undisturbed run"]),
    ],
)
def test_rows_are_compared(tmp_path: Path, rows: list[tuple[str, str, str]], said: list[str]) -> None:
    assert verify.rows(generated(tmp_path / "ours", rows), generated(tmp_path / "model", ANSWERS)) == said


def test_datasets_are_compared(tmp_path: Path) -> None:
    ours, model = UnitDir(tmp_path / "ours"), UnitDir(tmp_path / "model")
    for folder, ids in ((ours, ["a", "b", "b"]), (model, ["a", "b", "c"])):
        folder.out.mkdir(parents=True)
        pq.write_table(pa.table({"id": ids}), folder.out / PAIRS)
    assert verify.pairs(ours, model) == ["of 3 pairs 1 are missing, 1 are too many, 1 are there twice"]
    assert verify.pairs(model, model) == []


def test_losses_are_compared_bit_for_bit(tmp_path: Path) -> None:
    folders = {}
    for name, loss, seconds in (("model", 0.1, 5.0), ("slower", 0.1, 9.0), ("other", 0.1 + 1e-16, 5.0)):
        folders[name] = UnitDir(tmp_path / name)
        folders[name].out.mkdir(parents=True)
        append_jsonl(folders[name].out / "metrics.jsonl", {"step": 1, "loss": loss, "seconds": seconds})
    assert verify.training(folders["slower"], folders["model"]) == []
    assert len(verify.training(folders["other"], folders["model"])) == 1


def test_runs_after_the_result_are_seen(tmp_path: Path) -> None:
    root, done = StudyDir(tmp_path / "study"), unit(tmp_path, "done")
    folder, ledger = root.unit(done), Ledger(root.ledger)
    publish(root, done)
    ledger.intent("first-1", [Started(done.id, 1, 0)])
    watch = Watch(root, [done])
    for started in (-60, 60):
        began = folder.out.stat().st_ctime + started
        write_json(folder.progress, {"done": 1, "kept": 0, "started": began, "updated": began})
        watch.poll()
    assert verify.late(done, root, watch) == ["was started 60.0 s after it was done"]


def test_lost_work_is_what_was_done_twice(tmp_path: Path) -> None:
    trained = unit(tmp_path, "trained")

    def watched(name: str, words: list[tuple[float, float, int, int]]) -> Watch:
        watch = Watch(StudyDir(tmp_path / name), [trained])
        folder = watch.root.unit(trained)
        folder.path.mkdir(parents=True)
        for started, updated, done, kept in words:
            told = {"done": done, "kept": kept, "started": started, "updated": updated}
            write_json(folder.progress, told)
            watch.poll()
        return watch

    undisturbed = watched("undisturbed", [(0, 2, 10, 0), (0, 12, 110, 0)])  # 10 steps a second
    told: list[tuple[float, float, int, int]] = [
        (0, 2, 10, 0),
        (0, 6, 50, 30),
        (20, 22, 0, 0),
        (20, 24, 55, 40),
        (20, 26, 60, 40),
        (30, 34, 90, 60),
    ]
    found = losses(watched("struck", told), undisturbed)
    assert found == [Loss(6, 1.0), Loss(26, 0.0)]
    assert shared_out(found, [5, 7, 25]) == [0.0, 1.0, 0.0]


@pytest.mark.slurm
def test_a_node_can_be_cut_off_and_healed() -> None:
    need_networks()
    with Cluster(nodes=2, gpus=0, accounting=False, networks=True) as cluster:
        assert cluster.network
        assert sorted(cluster.run("srun", "--nodes=2", "hostname").split()) == ["n1", "n2"]
        port = re.findall(r"NodeName=n2 .*Port=(\d+)", cluster.conf.read_text(encoding="utf-8"))[0]
        connect = f"exec 3<>/dev/tcp/{network.address('n2')}/{port}"

        def reached() -> bool:
            knock = cluster.client("timeout", "1", "bash", "-c", connect)
            return subprocess.run(knock, capture_output=True, check=False).returncode == 0

        assert reached()
        cluster.network.cut("n2")
        assert not reached()
        cluster.network.heal("n2")
        wait_for(reached, "the node to be reached again")
    assert not list(network.NAMESPACES.glob(f"{cluster.scratch.name}*"))
