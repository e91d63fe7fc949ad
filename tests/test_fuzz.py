"""Damaged and odd input of every kind: the program answers in words, and does nothing else.

Each test tries new examples each time; the blob that a failure prints repeats it. FUZZ_EXAMPLES says how many
all tests try together: 500, or 5,000 in `make fuzz`.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mutated import ODD_JSON, RAW, Files, as_json, changed, study_with_presets
from small_study import publish, write_study
from test_foreign import EVALCHEMY, LEADERBOARD, LIGHTEVAL, LM_EVAL_0_4_3, LM_EVAL_0_4_9, TIME
from watched import Answer, call, watched

from analysis.results.collect import DataWarning, collect
from jobs.store import journal
from jobs.store.rundir import StudyDir, write_json
from launch.state.ledger import Ledger, Started
from launch.study.cluster import load_cluster
from launch.study.json_schema import json_schema
from launch.study.plan import plan
from launch.study.presets import StudyError, known_names, read_yaml
from launch.study.schema import _preset, load_study

pytestmark = pytest.mark.filterwarnings("error::pandas.errors.PandasChangeWarning")

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "500"))
SHARES = {"yaml": 0.7, "schemas": 0.1, "runs": 0.1, "results": 0.08, "reports": 0.02}  # of the examples
OWN = "raise SystemExit('this was run')\ndef make(staged, args, progress): ...\n"
CONTROLS = {chr(c) for c in (*range(32), *range(127, 160))} - {"\n"}


def some(kind: str) -> settings:
    """How many examples a test tries; each has a time limit of its own (watched.py)."""
    return settings(
        max_examples=max(1, round(EXAMPLES * SHARES[kind])),
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.generate, Phase.target, Phase.shrink),
    )


def check(answer: Answer) -> None:
    """That an answer is one of those that a person can use, and that nothing else was done."""
    assert answer.code in (0, 2), answer
    assert answer.deeds == []
    assert not CONTROLS & set(answer.out + answer.err)
    lines = answer.err.splitlines()
    assert all(line.startswith("sor: ") and len(line) > len("sor: ") for line in lines), lines
    assert bool(lines) == (answer.code == 2), answer


BASES = [
    study_with_presets(study, cluster)
    for study in ("demo", "smollm", "scale-or-reason")
    for cluster in ("local", "generic", "jean-zay")
]


@pytest.fixture(scope="module", autouse=True)
def _loaded() -> None:
    """All modules, before anything is watched: loading some reads and writes caches."""
    with tempfile.TemporaryDirectory() as folder:
        for more in ([], ["--json"]):
            assert call(Path(folder), "plan", "demo", "--runs", "runs", *more).code == 0


@some("yaml")
@given(changed(BASES), st.booleans())
def test_files_that_people_write(files: Files, json_too: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, data in files.items():
            (folder / file).write_bytes(data)
        (folder / "own.py").write_text(OWN, encoding="utf-8")
        before = set(os.listdir(folder))
        more = ["--json"] if json_too else []
        check(call(folder, "plan", "study.yaml", "--runs", "runs", "--cluster", "cluster.yaml", *more))
        assert set(os.listdir(folder)) == before
        assert "own" not in sys.modules


READ: dict[str, Callable[[Path], Any]] = {  # how a file is read, by its kind
    "study": lambda file: load_study(str(file)),
    "cluster": lambda file: load_cluster(str(file)),
    "model": lambda file: _preset(file, "students", file.name),
    "evals": lambda file: _preset(file, "benchmarks", file.name),
}
VALIDATORS = {kind: jsonschema.Draft7Validator(json_schema(kind)) for kind in READ}


@some("schemas")
@given(changed(BASES))
def test_what_a_schema_refuses_is_refused(files: Files) -> None:
    """An editor that marks a file that `sor plan` takes would be switched off."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "own.py").write_text(OWN, encoding="utf-8")
        for file, data in files.items():
            (folder / file).write_bytes(data)
        for file in files:
            preset = "model" if Path(file).stem in known_names("models") else "evals"
            kind = Path(file).stem if file in ("study.yaml", "cluster.yaml") else preset
            with suppress(StudyError):  # of one that is no YAML, nothing can be said
                if not VALIDATORS[kind].is_valid(read_yaml(folder / file).data):
                    with pytest.raises(StudyError):
                        READ[kind](folder / file)


def foreign(*results: dict[str, Any]) -> dict[str, Any]:
    """Files of results, each in a folder of its own, with the scores of items and what the students cost."""
    files: dict[str, Any] = {
        "compute.csv": "student,training_flops,size,share\nold,1e18,1B,0\nnew,2e18,2B,1\n"
    }
    for number, data in enumerate(results):
        files[f"{number}/results_{TIME.format(number + 1)}.json"] = data
    items = [{"doc_id": i, "filter": "none", "acc": i % 2, "resps": [["a"]]} for i in range(4)]
    files[f"0/samples_arc_easy_{TIME.format(1)}.jsonl"] = items
    return files


RESULTS = [
    foreign(LM_EVAL_0_4_3, LM_EVAL_0_4_9),
    foreign(LM_EVAL_0_4_3, EVALCHEMY, LIGHTEVAL),
    foreign(LEADERBOARD),
    {"results.csv": "student,benchmark,accuracy,n,size,share\na,x,0.5,10,1B,0\nb,x,0.6,10,2B,1\n"},
]


def written(folder: Path, files: Files) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


@some("results")
@given(changed(RESULTS, as_json, ODD_JSON))
def test_results_of_others(files: Files) -> None:
    """What `sor report` reads; what it computes and draws would take 2 s each time."""
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        written(Path(name) / "results", files)
        with watched(Path(name)) as deeds:
            words = f"{name}/results: "
            try:
                collect(Path(name) / "results")
            except ValueError as error:
                words = str(error)
        assert words.startswith(f"{name}/results")
        assert deeds.found == []


@some("reports")
@given(changed(RESULTS, as_json, ODD_JSON))
def test_reports_of_results_of_others(files: Files) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        written(folder / "results", files)
        check(call(folder, "report", "results", "--out", "out"))
        assert set(os.listdir(folder)) <= {"results", "out"}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study and its run directory: a unit is done, one failed, one runs."""
    folder = tmp_path_factory.mktemp("begun")
    file = write_study(folder / "study")
    root = StudyDir(folder / "runs" / "small")
    done, second, third, *_ = plan(load_study(str(file)), load_cluster("local"))
    publish(root, done)
    ledger = Ledger(root.ledger)
    for unit in (done, second, third):
        ledger.intent(f"{unit.stage}-x", [Started(unit.id, 1)])
        ledger.submitted(f"{unit.stage}-x", "1")
        root.unit(unit).path.mkdir(parents=True, exist_ok=True)
        write_json(root.unit(unit).spec, unit.to_json())
        times = {"started": 1.0, "updated": 2.0}
        write_json(root.unit(unit).progress, {"done": 1, "total": 2, "unit": "rows", "attempt": 1, **times})
    ended = {"cause": "code error", "error": "x", "time": 1.0, "seconds": 1.0, "kept": 0, "host": "h"}
    numbers = dict.fromkeys(("attempt", "restart", "worker", "rank"), 0)
    journal.append(root.unit(second).attempts, {**numbers, "attempt": 1, **ended, "micro_batch": None})
    ledger.ended("failed", [(second.id, 1, "x")])
    return folder


@some("runs")
@given(st.data())
def test_run_directories_with_one_damaged_file(begun: Path, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "copy"
        shutil.copytree(begun, folder)
        files = sorted(path for path in (folder / "runs").rglob("*") if path.is_file())
        file = data.draw(st.sampled_from(files), "file")
        whole = file.read_bytes()
        at = data.draw(st.integers(0, len(whole)))
        junk = data.draw(st.one_of(st.sampled_from(RAW), st.sampled_from(ODD_JSON).map(str.encode)))
        how = data.draw(st.sampled_from(("insert", "cut", "replace", "line")))
        changed = {
            "insert": whole[:at] + junk + whole[at:], "cut": whole[:at], "replace": junk,
            "line": whole + junk + b"\n" + whole,
        }  # fmt: skip
        file.write_bytes(changed[how])
        command = data.draw(
            st.sampled_from((["plan"], ["status"], ["status", "--json"], ["logs", "--failed"]))
        )
        answer = call(folder, command[0], str(begun / "study" / "small.yaml"), *command[1:], "--runs", "runs")
        assert answer.code in (0, 1, 2, 3, 4)
        assert answer.deeds == []
        assert not CONTROLS & set(answer.out + answer.err)
