"""Secrets and escape sequences in everything that a person or a model can write: none comes out again.

Each is planted where it can be: in a study's values, in errors, in logs, in rows, in results of others. All
that `sor` prints is searched, and, for the secret, all that it writes.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from cluster import Cluster
from small_slurm import write_cluster
from small_study import sor, student, write_study

from jobs.core.plain import CONTROLS

SECRET = "hf_PlantedSecretValue0123"
ESCAPE = "\x1b]0;owned\x07\x1b[31m[/INST][bold]\x9b2J\u202e"
HOSTILE = f"{ESCAPE} {SECRET} =1+1"
PLANTED = """
import sys

def prepare(staged, args, progress):
    print(args["text"] + "\\r\\n", flush=True)
    print(args["text"], file=sys.stderr, flush=True)
    raise RuntimeError(args["text"] + args["secret"].replace("|", ""))
"""
HIDDEN = "|".join(SECRET)  # a study that holds the secret itself is refused


def printed(*args: str | Path, code: tuple[int, ...], cwd: Path, name: str = "HF_TOKEN") -> str:
    """What a command prints, searched; it must end with one of these exit codes.

    Args:
        name: the variable that holds the secret.
    """
    done = sor(*args, cwd=cwd, PYTHONPATH=str(cwd), **{name: SECRET})
    both = done.stdout + done.stderr
    assert done.returncode in code, both
    assert "Traceback (most recent call last)" not in done.stderr, both
    assert SECRET not in both
    assert not CONTROLS.search(both), both
    return both


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """The file of a study whose first unit fails with hostile words."""
    (tmp_path / "planted.py").write_text(PLANTED, encoding="utf-8")
    args = {"text": ESCAPE, "secret": HIDDEN}
    prepare = {"function": "planted:prepare", "args": args}
    return write_study(tmp_path / "study", {"s": student()}, prepare=prepare)


def test_what_a_job_says(study: Path, tmp_path: Path) -> None:
    said = printed("submit", study, "--yes", "--only", "prepare", code=(1,), cwd=tmp_path)
    assert "[/INST][bold]" in said  # literally
    for verb in (["plan"], ["plan", "--json"], ["status"], ["status", "--json"], ["logs", "--failed"]):
        printed(verb[0], study, *verb[1:], code=(0, 4), cwd=tmp_path)
    assert "[HF_TOKEN]" in printed("logs", study, "prepare/small", code=(0,), cwd=tmp_path)
    assert "[HF_TOKEN]" in printed("monitor", study, "--once", code=(0,), cwd=tmp_path)
    printed("cancel", study, ESCAPE, code=(2,), cwd=tmp_path)
    written = [p for p in (tmp_path / "runs").rglob("*") if p.is_file()]
    assert len(written) > 5
    assert [p for p in written if SECRET.encode() in p.read_bytes()] == []


def test_a_secret_that_only_the_cluster_file_names(
    study: Path, slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", str(slurm.conf))
    cluster = write_cluster(tmp_path / "mine.yaml", secrets=["PASSPHRASE"])
    for verb, codes in (
        (("submit", "--yes", "--only", "prepare"), (0,)), (("status", "--wait"), (1, 4)),
        (("logs", "--failed"), (0,)), (("monitor", "--once"), (0, 1, 4)),
    ):  # fmt: skip
        shown = printed(
            verb[0], study, *verb[1:], "--cluster", cluster, code=codes, cwd=tmp_path, name="PASSPHRASE"
        )
        assert verb[0] == "submit" or "[PASSPHRASE]" in shown, verb
    written = [p for p in (tmp_path / "runs").rglob("*") if p.is_file()]
    logs = {p for p in written if p.suffix == ".out"}  # what a job itself writes to its log stays as it is
    assert logs
    assert {p for p in written if SECRET.encode() in p.read_bytes()} <= logs


def test_values_of_a_study(study: Path, tmp_path: Path) -> None:
    whole = study.read_text(encoding="utf-8")
    keys = ("students", "benchmarks", "pairs", "mixtures", "training", "expect", ESCAPE, "name")
    study.write_text(json.dumps(dict.fromkeys(keys, HOSTILE)), encoding="utf-8")
    assert "[HF_TOKEN]" in printed("plan", study, code=(2,), cwd=tmp_path)
    study.write_text(whole.replace("small:prepare", "x").replace(HIDDEN, SECRET), encoding="utf-8")
    assert "contains the value of HF_TOKEN" in printed("submit", study, "--yes", code=(2,), cwd=tmp_path)
    printed("plan", ESCAPE, code=(2,), cwd=tmp_path)
    printed("plan", study, "--cluster", ESCAPE, code=(2,), cwd=tmp_path)


def test_results_of_others(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    for number in range(2):
        name = f"{HOSTILE}{number}"
        results = {
            "results": {"=cmd|x!A1": {"alias": HOSTILE, "acc,none": 0.5, "acc_stderr,none": 0.1}},
            "n-samples": {"=cmd|x!A1": {"original": 100, "effective": 100}},
            "config": {"model": "hf", "model_args": f"pretrained={name}"},
            "model_name": name, "date": 1.0 + number,
        }  # fmt: skip
        (folder / f"results_2025-01-0{number + 1}T00-00-00.000000.json").write_text(
            json.dumps(results), encoding="utf-8"
        )
    out = tmp_path / "out"
    assert "[HF_TOKEN]" in printed("report", folder, "--out", out, code=(0,), cwd=tmp_path)
    written = [path for path in out.rglob("*") if path.is_file()]
    assert {path.suffix for path in written} >= {".csv", ".html"}
    assert [path for path in written if SECRET.encode() in path.read_bytes()] == []
    texts = {path: path.read_text(encoding="utf-8") for path in written}
    assert [path for path, text in texts.items() if CONTROLS.search(text)] == []
    rows = [row for path in out.glob("*.csv") for row in csv.reader(texts[path].splitlines())]
    cells = [cell for row in rows for cell in row]
    assert any(cell.startswith("'=cmd") for cell in cells)
    assert not any(cell.startswith(("=", "+", "@")) for cell in cells)
