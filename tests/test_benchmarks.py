"""The benchmarks that read a finished demo and that compare steps on a GPU: what they find and say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_study import environment, publish

from jobs.core.unit import Unit
from jobs.store import journal
from jobs.store.rundir import write_json
from launch.study_run import open_project

BENCHMARK = Path(__file__).parent / "benchmarks/bench_demo.py"
SCRIPT = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import bench_demo
try:
    print(json.dumps(bench_demo.measured(Path(sys.argv[2]))))
except bench_demo.Unmeasured as why:
    print(json.dumps(str(why)))
"""
MADE_BY: dict[str, Any] = {
    "python": "3.11",
    "code": {"commit": "c"},
    "packages": {"torch": "2"},
    "hardware": {"cores": 2},
}


def measured(runs: Path) -> Any:
    """What the benchmark finds, in a process of its own: its modules are no package."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, BENCHMARK.parent, runs], env=environment(), capture_output=True,
        encoding="utf-8", check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def ended(unit: Unit, runs: Path, end: float, seconds: float, attempt: int = 1) -> None:
    """Record that a run of a unit has ended."""
    folder = open_project("demo", None, runs).root.unit(unit)
    folder.path.mkdir(parents=True, exist_ok=True)
    line = {
        "attempt": attempt, "restart": 0, "worker": 0, "rank": 0, "host": "h", "time": end,
        "seconds": seconds,
        "cause": None, "error": None, "kept": 1, "micro_batch": None,
    }  # fmt: skip
    journal.append(folder.attempts, line)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A demo whose units took 1 s, 2 s, …, each after the one before, all but the report."""
    demo, end = open_project("demo", None, tmp_path / "runs"), 1000.0
    for number, unit in enumerate(demo.units[:-1], 1):
        end += number
        publish(demo.root, unit)
        write_json(demo.root.unit(unit).out / "provenance.json", MADE_BY | {"command": [unit.id]})
        ended(unit, tmp_path / "runs", end, number)
    return tmp_path / "runs"


def test_seconds_of_stages_with_the_versions_that_made_them(runs: Path) -> None:
    demo = open_project("demo", None, runs)
    last = demo.units[-1]
    assert measured(runs) == f"1 of 23 units of {demo.root.path} are to do: make demo"
    publish(demo.root, last)
    with_torch = MADE_BY | {"hardware": {"cores": 2, "gpus": ["H100"], "cuda": "12.8"}}
    write_json(demo.root.unit(last).out / "provenance.json", with_torch)
    ended(last, runs, 2000.0, 4.0)
    ended(last, runs, 2010.0, 6.0, attempt=2)
    found = measured(runs)
    assert {key: found[key] for key in MADE_BY} == MADE_BY
    assert found["wall_seconds"] == 2010 - 1000
    stages = {stage["stage"]: stage for stage in found["stages"]}
    assert list(stages) == ["prepare", "generate", "collate", "tokenize", "train", "evaluate", "report"]
    assert stages["report"] == {
        "stage": "report", "units": 1, "seconds": 10.0, "longest_unit": "demo", "longest": 10.0,
    }  # fmt: skip
    trained = [number for number, unit in enumerate(demo.units, 1) if unit.stage == "train"]
    assert (stages["train"]["units"], stages["train"]["seconds"]) == (9, sum(trained))
    assert stages["train"]["longest"] == trained[-1]
    assert stages["train"]["longest_unit"] == demo.units[trained[-1] - 1].name
    write_json(demo.root.unit(last).out / "provenance.json", MADE_BY | {"python": "3.12"})
    assert measured(runs).startswith("several versions or machines made ")


def test_without_a_demo_it_says_what_to_run_and_changes_nothing(tmp_path: Path) -> None:
    results = BENCHMARK.with_name("results.json").read_bytes()
    done = subprocess.run(
        [sys.executable, BENCHMARK], env=environment(SOR_RUNS=str(tmp_path)), capture_output=True,
        encoding="utf-8", cwd=BENCHMARK.parent.parent.parent, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout.endswith("make demo; then .venv/bin/python tests/benchmarks/bench_demo.py\n")
    assert BENCHMARK.with_name("results.json").read_bytes() == results


# Sends messages as gpu_cases.py does; its second case takes the process down.
CASES = """
import json, os, sys
def send(**message):
    print(json.dumps(message), flush=True)
send(about={"python": "3"})
print("what a library prints")
for name in ("first", "second", "third"):
    if name not in sys.argv:
        send(started=name)
        if name == "second":
            os._exit(9)
        send(row={"case": name, "seconds": 0.5})
"""


def test_a_case_that_takes_its_process_down_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(BENCHMARK.parent)
    import gpu

    out = tmp_path / "gpu.json"
    assert gpu.collect([sys.executable, "-c", CASES], out) == 0
    assert json.loads(out.read_text("utf-8")) == {
        "python": "3",
        "rows": [
            {"case": "first", "seconds": 0.5},
            {"case": "second", "left_out": "its process ended with code 9"},
            {"case": "third", "seconds": 0.5},
        ],
    }
    assert capsys.readouterr().out.splitlines() == [
        "what a library prints", "first: 0.5 s", "second: left out: its process ended with code 9",
        "what a library prints", "third: 0.5 s", f"written to {out}",
    ]  # fmt: skip
    assert gpu.collect([sys.executable, "-c", "import sys; sys.exit(2)"], tmp_path / "none") == 2
    assert not (tmp_path / "none").exists()


def on_a_gpu(*args: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the benchmark of GPUs where there is none."""
    return subprocess.run(
        [sys.executable, BENCHMARK.with_name("gpu.py"), *args], env=environment(CUDA_VISIBLE_DEVICES=""),
        capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip


def test_without_a_gpu_it_says_what_to_do(tmp_path: Path) -> None:
    done = on_a_gpu("--out", tmp_path / "gpu.json")
    assert (done.returncode, done.stdout, list(tmp_path.iterdir())) == (2, "", [])
    assert "sees no CUDA GPU" in done.stderr
    assert "make bench-gpu BIN=/path/to/venv/bin" in done.stderr


def test_both_paths_of_the_gpu_benchmark_compute_the_same(tmp_path: Path) -> None:
    done = on_a_gpu("--cpu", "--out", tmp_path / "gpu.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text("utf-8"))
    assert {"what", "python", "code", "packages", "hardware", "gpu_memory", "rows"} == set(found)
    rows = {row.pop("case"): row for row in found["rows"]}
    ours = [name for name in rows if name.endswith(": ours")]
    assert len(ours) == 10
    for mine, plain in ((rows[name], rows[f"{name.removesuffix('ours')}transformers"]) for name in ours):
        assert min(mine["seconds"], plain["seconds"]) > 0
        if "loss" in mine:
            assert mine["loss"] == pytest.approx(plain["loss"], rel=1e-2)
            assert mine["gradient_norm"] == pytest.approx(plain["gradient_norm"], rel=2e-2)
        else:
            assert 0 < mine["error"] < max(1.5 * plain["error"], 1e-3)
            assert 0 < mine["gradient_error"] < 1.5 * plain["gradient_error"] < 0.05
    assert len(done.stdout.splitlines()) == 21
