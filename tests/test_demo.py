"""The demo study, whole and for real, through the command that the README names.

It runs once; the tests then look at what it left behind. They check structure and sanity, never a number
that one may wish for.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from jobs.data.pairs import PAIRS
from jobs.store import journal
from jobs.store.rundir import StudyDir, UnitDir, read_json, read_jsonl

CHECKOUT = Path(__file__).parent.parent
SOR = CHECKOUT / ".venv" / "bin" / "sor"
pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Demo:
    """A finished demo: its run directory, what it printed, and ways to look at it."""

    root: StudyDir
    printed: str

    def sor(self, *args: str) -> str:
        """Run `sor` on it; it must succeed."""
        runs = str(self.root.path.parent)
        done = subprocess.run(
            [SOR, *args, "--runs", runs], capture_output=True, encoding="utf-8", cwd=CHECKOUT, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.sor("status", "demo", "--json"))
        return found

    def unit(self, stage: str, name: str) -> UnitDir:
        [found] = [u for u in self.status()["units"] if (u["stage"], u["name"]) == (stage, name)]
        return UnitDir(self.root.path / stage / f"{name}-{found['id']}")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    runs = tmp_path_factory.mktemp("a folder") / "runs"  # a blank in the path must not matter
    env = {**os.environ, "SOR_RUNS": str(runs)}
    done = subprocess.run(
        ["make", "demo"], cwd=CHECKOUT, env=env, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    return Demo(StudyDir(runs / "demo"), done.stdout)


def rows(demo: Demo) -> list[dict[str, Any]]:
    chunks = sorted((demo.unit("generate", "toy-teacher").out / "chunks").glob("*.jsonl"))
    return [row for chunk in chunks for row in read_jsonl(chunk)]


def results(demo: Demo) -> pd.DataFrame:
    return pd.read_csv(demo.unit("report", "demo").out / "results.csv")


def test_all_is_done_and_the_frontier_is_printed(demo: Demo) -> None:
    status = demo.status()
    assert {u["state"] for u in status["units"]} == {"done"}
    totals = {s["stage"]: s["total"] for s in status["stages"]}
    single = dict.fromkeys(("prepare", "generate", "collate", "report"), 1)
    assert totals == {**single, "tokenize": 1, "train": 9, "evaluate": 9}
    assert "●" in demo.printed
    page = Path(demo.printed.split("report: ")[-1].splitlines()[0])
    assert page.is_file()
    text = page.read_text(encoding="utf-8")
    assert "default-src 'none'" in text  # it asks no network, and the browser holds it to that
    assert re.findall(r"https?://[^\"']*", text) == ["http://www.w3.org/2000/svg"]


def test_every_prompt_has_one_row_a_mode_and_the_mode_changes_it(demo: Demo) -> None:
    found = rows(demo)
    by_mode = {m: {r["id"]: r for r in found if r["mode"] == m} for m in ("ift", "reasoning")}
    assert len(found) == 2 * len(by_mode["ift"]) == 2 * len(by_mode["reasoning"])
    assert by_mode["ift"].keys() == by_mode["reasoning"].keys()
    for plain, thought in zip(by_mode["ift"].values(), by_mode["reasoning"].values(), strict=True):
        assert plain["reasoning"] == ""
        assert plain["text"] != thought["text"]
    assert read_json(demo.unit("generate", "toy-teacher").result)["engine"].startswith("vllm")


def test_the_teacher_gains_by_thinking(demo: Demo) -> None:
    def right(mode: str) -> float:
        long = [r for r in rows(demo) if r["mode"] == mode and r["prompt"].count("+") == 4]
        sums = [eval(r["prompt"].split(":")[1].rstrip("=")) % 10 for r in long]
        return sum(r["answer"] == str(s) for r, s in zip(long, sums, strict=True)) / len(long)

    assert right("reasoning") > 0.8
    assert right("ift") < 0.5


def test_collated_pairs_are_the_prompts_that_were_not_dropped(demo: Demo) -> None:
    out = demo.unit("collate", "demo").out
    pairs, result = pq.read_table(out / PAIRS), read_json(out / "result.json")
    ids = pairs["id"].to_pylist()
    assert len(ids) == len(set(ids)) == result["prompts"] == 3400 - sum(result["dropped"].values())
    assert all(text for name in ("reasoning", "answer", "ift") for text in pairs[name].to_pylist())


def test_compute_grows_with_size_and_with_tokens(demo: Demo) -> None:
    flops = results(demo).groupby(["size", "share"])["training_flops"].first().unstack()
    assert list(flops.index) == ["0.01M", "0.03M", "0.11M"]
    assert (flops.diff().dropna() > 0).all(axis=None)
    assert (flops.T.diff().dropna() > 0).all(axis=None)


def test_students_are_above_chance_where_they_should_be(demo: Demo) -> None:
    accuracy = results(demo).set_index(["size", "share", "benchmark"])["accuracy"]
    assert accuracy["0.11M", 1.0, "toy_long"] > 0.3  # chance is 0.1
    assert accuracy["0.11M", 1.0, "toy_short"] > 0.3
    assert accuracy["0.11M", 0.0, "toy_long"] < 0.5  # its teacher guessed


def test_the_readme_is_right_about_the_demo(demo: Demo) -> None:
    """Larger students memorize short sums; long ones have to be worked out in steps."""
    accuracy = results(demo).set_index(["size", "share", "benchmark"])["accuracy"]
    for size in ("0.03M", "0.11M"):
        assert accuracy[size, 0.0, "toy_short"] > 0.9
        assert accuracy[size, 1.0, "toy_long"] > 0.9
    assert "At the same training compute, reasoning beats plain answers on toy_long" in demo.printed


def test_reasoning_students_think_and_the_thinking_is_counted(demo: Demo) -> None:
    table = results(demo).set_index(["size", "share", "benchmark"])
    thought = table["reasoning_tokens"]
    assert thought["0.11M", 1.0, "toy_long"] > 20
    assert thought["0.11M", 0.0, "toy_long"] == 0
    assert (table["output_tokens"] > table["reasoning_tokens"]).all()


def test_every_result_says_where_it_comes_from(demo: Demo) -> None:
    for stage in ("prepare", "generate", "collate", "tokenize", "train", "evaluate", "report"):
        for unit in demo.root.published(stage):
            made = read_json(unit.out / "provenance.json")
            assert made["packages"]["torch"].startswith("2.")
            assert len(made["code"]["commit"]) == 40
            assert made["hardware"]["cores"] >= 1
    assert read_json(demo.root.study)["students"][0]["architecture"]["hidden_size"] == 16


def test_lm_eval_loads_a_student_as_it_is(demo: Demo, tmp_path: Path) -> None:
    """lm-eval's own program, with none of this project's code, must score the student the same."""
    model = demo.unit("train", "toy-l-r0").out / "model"
    tasks = demo.unit("prepare", "demo").out / "benchmarks"
    command: list[str | Path] = [
        CHECKOUT / ".venv/bin/lm_eval", "--model", "hf", "--model_args", f"pretrained={model},dtype=float32",
        "--tasks", "toy_short", "--include_path", tasks, "--apply_chat_template", "--batch_size", "50",
        "--device", "cpu", "--gen_kwargs", "max_gen_toks=64", "--output_path", tmp_path,
    ]  # fmt: skip
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "2"}
    subprocess.run(command, env={**os.environ, **offline}, check=True, capture_output=True, cwd=tmp_path)
    [file] = tmp_path.rglob("results_*.json")
    theirs = json.loads(file.read_text(encoding="utf-8"))["results"]["toy_short"]["exact_match,none"]
    ours = results(demo).set_index(["student", "benchmark"])["accuracy"]["toy-l-r0", "toy_short"]
    assert theirs == pytest.approx(ours, abs=0.02)


def test_a_report_of_lm_eval_results_alone(demo: Demo, tmp_path: Path) -> None:
    folder = demo.unit("evaluate", "toy-l-r100.toy").out / "lm_eval"
    printed = demo.sor("report", str(folder), "--out", str(tmp_path))
    assert "toy_long" in (tmp_path / "results.csv").read_text(encoding="utf-8")
    assert str(tmp_path) in printed


def test_an_export_holds_all_that_is_done(demo: Demo, tmp_path: Path) -> None:
    demo.sor("export", "demo", "--out", str(tmp_path))
    students = [unit.path.name.rpartition("-")[0] for unit in demo.root.published("train")]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["demo-pairs", *(f"demo-{name}" for name in students)]
    )
    [file] = (tmp_path / "demo-pairs/data").iterdir()
    table, collated = pq.read_table(file), read_json(demo.unit("collate", "demo").result)
    assert len(table) == collated["prompts"]
    for mode in ("ift", "reasoning"):
        assert sum(table[f"tokens_{mode}"].to_pylist()) == collated["lengths"][mode]["total"]
    card = (tmp_path / "demo-toy-l-r100/README.md").read_text("utf-8")
    assert "| toy_long | exact_match, none |" in card
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert str(demo.root.path.parent).encode() not in path.read_bytes(), path


def test_the_python_of_the_docs(demo: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (CHECKOUT / "docs/compute.md").read_text(encoding="utf-8")
    code = text.partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(demo.root.path.parent.parent)
    train = demo.unit("train", "toy-l-r0").path.name
    found: dict[str, Any] = {}
    exec(code.replace("train/…/", f"train/{train}/"), found)
    assert len(found["results"]) == 9 * 2
    assert {"frontier", "standing", "matched", "kept", "gains", "claims", "usage"} <= found["tables"].keys()
    model = f"runs/demo/train/{train}/out/model"
    assert found["generate_flops"](model, prompt_tokens=900, new_tokens=50) > found["train_flops"](model, [1])


def test_again_there_is_nothing_to_do(demo: Demo) -> None:
    before = journal.own(demo.root.ledger).read_bytes()
    assert "nothing to do" in demo.sor("submit", "demo", "--yes")
    assert journal.own(demo.root.ledger).read_bytes() == before


def test_a_deleted_result_is_made_again_with_what_depends_on_it(demo: Demo) -> None:
    """The last test: it changes the run directory."""
    before = {(u["stage"], u["name"]): u["attempts"] for u in demo.status()["units"]}
    unit = demo.unit("train", "toy-s-r0")
    unit.out.rename(unit.path / "deleted")
    demo.sor("submit", "demo", "--yes")
    after = {(u["stage"], u["name"]): u["attempts"] for u in demo.status()["units"]}
    again = {key for key in after if after[key] > before[key]}
    assert again == {("train", "toy-s-r0"), ("evaluate", "toy-s-r0.toy"), ("report", "demo")}
    assert {u["state"] for u in demo.status()["units"]} == {"done"}
