"""`sor prefetch` with a hub on loopback, and jobs that then find models and rows without any network."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from cluster import Cluster
from loopback_hub import Hub, commit_of, serve
from small_slurm import write_cluster
from small_study import sor, student, write_study
from test_cli import loaded_by

from jobs.core.paths import DATA
from jobs.core.unit import Unit
from jobs.evaluation.local_tasks import write_task
from launch.commands.hub_files import chosen
from launch.study import templates
from launch.study.cluster import load_cluster
from launch.study.hub_cache import Cache, missing, table
from launch.study.hub_needs import Need, benchmarks, needs
from launch.study.plan import plan
from launch.study.schema import load_study
from launch.study_run import open_project
from launch.submit.hub_check import absent, check_hub
from launch.submit.limits import Refusal

ROWS = [
    {"prompt": f"{i}+1=", "ift": str(i + 1), "reasoning": f"<think>one more</think>{i + 1}"} for i in range(8)
]
ON_THE_HUB = """
task: easy
dataset_path: SOURCE
test_split: train
output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: "{{ift}}"
metric_list: [{metric: exact_match}]
"""
NOWHERE = "http://127.0.0.1:9"  # nothing listens there
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_ENDPOINT": NOWHERE,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Repositories: a model in three files of weights, with the same weights as .bin, and rows."""
    folder = tmp_path_factory.mktemp("repositories")
    tiny.save(folder / "whole")
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(folder / "whole")
    loaded.save_pretrained(folder / "model", max_shard_size="60KB")
    for path in (folder / "whole").glob("*"):
        if "tokenizer" in path.name or path.suffix == ".jinja":
            shutil.copy(path, folder / "model")
    (folder / "model" / "pytorch_model.bin").write_bytes(b"the same weights, in the older format")
    (folder / "model" / "README.md").write_text("# A model\n", encoding="utf-8")
    (folder / "rows").mkdir()
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (folder / "rows" / "train.jsonl").write_text(lines, encoding="utf-8")
    (folder / "rows" / "README.md").write_text("# Rows\n", encoding="utf-8")
    return folder


@pytest.fixture
def hub(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve() as hub:
        hub.add("models/lab/model", made / "model")
        hub.add("datasets/lab/Rows", made / "rows")
        for name in (*OFFLINE, "HF_TOKEN", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "SOR_CLUSTER"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("no_proxy", "*")
        yield hub


def study(hub: Hub, folder: Path, source: str = "", **preset: Any) -> Path:
    """A study with a pretrained student, and rows of a dataset.

    Args:
        source: dataset of the hub that its benchmark reads; by default it reads a local file.
    """
    config = json.loads((hub.folders["models/lab/model"] / "config.json").read_text(encoding="utf-8"))
    pretrained = {
        **student(), "init": "pretrained", "model": "lab/model", "tokenizer": None, "architecture": config,
        **preset,
    }  # fmt: skip
    commit = commit_of(hub.folders["datasets/lab/Rows"])
    file = write_study(
        folder, {"s": {key: value for key, value in pretrained.items() if value is not None}},
        prepare=None, pairs={"dataset": "lab/Rows", "revision": commit}, mixtures={"shares": [1]},
        training={"block": 64, "batch": 1}, benchmarks=["easy.yaml"],
    )  # fmt: skip
    tasks = folder / "tasks"
    tasks.mkdir()
    write_task(tasks, "easy", [{"prompt": "1+?", "answer": "7"}], source="made here")
    if source:
        (tasks / "easy.yaml").write_text(ON_THE_HUB.replace("SOURCE", source), encoding="utf-8")
    group = yaml.safe_load((folder / "easy.yaml").read_text(encoding="utf-8"))
    (folder / "easy.yaml").write_text(yaml.safe_dump({**group, "include": str(tasks)}), encoding="utf-8")
    return file


def units(file: Path) -> list[Unit]:
    return plan(load_study(str(file)), load_cluster("local"))


def stages(file: Path, runs: Path, *names: str) -> None:
    """Run these stages on this machine, in jobs that cannot reach any hub."""
    for name in names:
        done = sor("submit", file, "--runs", runs, "--yes", "--only", name, cwd=None, **OFFLINE)
        assert done.returncode == 0, done.stdout + done.stderr


def python(code: str, **more: str) -> str:
    """Run code in a process of its own: huggingface_hub reads the environment when it is imported."""
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **more}, capture_output=True, encoding="utf-8"
    )
    return done.stdout + (done.stderr if done.returncode else "")


FETCH = """
import os
from launch.commands.hub_files import download, listing
from launch.study.hub_cache import Cache, missing
from launch.study.hub_needs import Need

cache = Cache.of(os.environ)
def fetch(name, revision=None):
    need = Need(name, revision, weights=True, tokens=True)
    found = listing(need)
    print(found.why or download(found, cache) or missing(cache, need) or "there")
"""


# As a job of `generate` does it.
ENGINE = """
from jobs.engines.load import load
engine = load('lab/model', None, {'engine': 'transformers'})
print(engine.encode('1+1='), engine.ends)
"""


def _check_rows(rows: Need) -> None:
    """Another commit of the rows that are in the cache, another split or subset are no substitute."""
    cache = Cache.of(os.environ)
    assert table(cache, rows)
    assert table(cache, replace(rows, split="test")) is None
    assert table(cache, replace(rows, subset="other")) is None
    other = replace(rows, revision="0" * 40)
    assert missing(cache, other) == "its rows are not in the cache"
    spec = {"dataset": rows.name, "revision": other.revision, "split": "train"}
    said = python(f"from jobs.data.prompts import load_rows; load_rows({spec})", **OFFLINE)
    assert f"ValueError: the cache has lab/Rows at commit {rows.revision}, and the study names" in said


@pytest.mark.slow
def test_jobs_find_without_a_network_what_was_fetched(hub: Hub, tmp_path: Path) -> None:
    file, runs = study(hub, tmp_path / "study"), tmp_path / "runs"
    done = sor("prefetch", file, "--runs", runs, "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"lab/model +model +11 +\d+ kB", done.stdout)
    assert re.search(r"lab/Rows@\w{40} \(train\) +dataset +up to \d+ bytes", done.stdout)
    assert [line.split()[:2] for line in done.stdout.splitlines()[-2:]] == [
        ["there", "lab/model"],
        ["there", f"lab/Rows@{commit_of(hub.folders['datasets/lab/Rows'])}"],
    ]
    assert "model-00001-of-00005.safetensors" in hub.got()
    assert "pytorch_model.bin" not in hub.got()
    # By a listing of the whole repository, huggingface_hub would call the snapshot incomplete.
    assert list((tmp_path / "hf" / "hub" / "models--lab--model").glob("trees/*")) == []
    assert not runs.exists()
    assert re.search(r"^\[\d+, \d+, \d+, \d+\] \[\d+\]$", python(ENGINE, **OFFLINE), re.MULTILINE)
    stages(file, runs, "collate", "tokenize", "train")

    _check_rows(Need("lab/Rows", commit_of(hub.folders["datasets/lab/Rows"]), split="train"))

    hub.asked.clear()
    again = sor("prefetch", file, "--runs", runs)  # nobody is asked, and no hub either
    assert again.stdout == "nothing to fetch: what is left of the study reads nothing of the hub\n"
    assert (again.returncode, hub.asked) == (0, [])


def test_a_download_that_broke_off_continues_after_the_files_that_are_complete(
    hub: Hub, tmp_path: Path
) -> None:
    last = "model-00005-of-00005.safetensors"
    hub.broken.add(last)
    file, runs = study(hub, tmp_path / "study"), tmp_path / "runs"
    done = sor("prefetch", file, "--runs", runs, "--yes")
    assert done.returncode == 1
    assert re.search(r"missing +lab/model: (no network|incomplete)", done.stdout), done.stdout
    assert "1 of the 2 are missing" in done.stdout
    assert missing(Cache.of(os.environ), Need("lab/model", weights=True)).startswith(
        "1 of 5 files of weights are missing"
    )
    hub.broken.clear()
    hub.asked.clear()
    done = sor("prefetch", file, "--runs", runs, "--yes")
    assert done.returncode == 0, done.stdout
    assert [name for name in hub.got() if name.startswith("model-")] == [last]


def test_what_cannot_be_fetched_is_named_with_the_reason(hub: Hub, tmp_path: Path, made: Path) -> None:
    hub.add("models/lab/gated", made / "model")
    hub.gated.add("models/lab/gated")
    calls = "fetch('lab/gated'); fetch('lab/absent'); fetch('lab/model', 'v9')"
    absent = f"not found: there is no {hub.url}/lab/absent, or it is private and needs: hf auth login"
    assert python(FETCH + calls, HF_HUB_DISABLE_PROGRESS_BARS="1").splitlines() == [
        f"gated: ask for access at {hub.url}/lab/gated, then: hf auth login",
        absent,
        "not found: the hub has lab/model, but not its revision v9",
    ]
    file = study(hub, tmp_path / "study", tokenizer="lab/absent")
    done = sor("prefetch", file, "--runs", tmp_path / "runs", "--yes")
    assert (done.returncode, f"missing  lab/absent: {absent}" in done.stdout) == (1, True), done.stdout
    assert "there    lab/model" in done.stdout


def test_without_a_network_what_is_there_is_not_called_missing(hub: Hub, tmp_path: Path) -> None:
    file, runs = study(hub, tmp_path / "study"), tmp_path / "runs"
    done = sor("prefetch", file, "--runs", runs, "--yes", HF_ENDPOINT=NOWHERE)
    assert done.returncode == 1
    assert re.search(r"missing +lab/model: no network: http://127.0.0.1:9 cannot be reached", done.stdout)
    assert python(f"{FETCH}fetch('lab/model')") == "there\n"
    done = sor("prefetch", file, "--runs", runs, "--yes", HF_ENDPOINT=NOWHERE)
    assert "there    lab/model (not compared with the hub: no network" in done.stdout
    assert re.search(r"missing +lab/Rows", done.stdout)


def test_a_submission_to_nodes_without_internet_names_what_is_missing(hub: Hub, tmp_path: Path) -> None:
    file, runs = study(hub, tmp_path / "study"), tmp_path / "runs"
    there = write_cluster(tmp_path / "there.yaml", offline=True)
    project = open_project(str(file), str(there), runs)
    with pytest.raises(Refusal) as refused:
        check_hub(project, project.units)
    command = f"sor prefetch {file} --cluster {there} --runs {runs}"
    cache = tmp_path / "hf"
    assert str(refused.value).splitlines() == [
        f"compute nodes have no internet ('offline: true'), and the hub's cache in {cache} lacks:",
        "  model lab/model: not in the cache",
        f"  dataset {needs(project.units)[1]}: its rows are not in the cache",
        f"Fetch it on this machine first: {command}",
    ]
    check_hub(project, [unit for unit in project.units if unit.stage == "report"])
    hub.asked.clear()
    shown = sor("submit", file, "--cluster", there, "--runs", runs, "--dry-run", "--out", tmp_path / "out")
    assert (shown.returncode, f"Fetch it on this machine first: {command}" in shown.stdout) == (0, True)
    assert hub.asked == []
    with_internet = write_cluster(tmp_path / "with.yaml")
    check_hub(open_project(str(file), str(with_internet), runs), project.units)
    elsewhere = write_cluster(tmp_path / "else.yaml", offline=True, environment={"HF_HOME": "/nowhere/hf"})
    assert "cache in /nowhere/hf lacks" in absent(
        open_project(str(file), str(elsewhere), runs), project.units
    )
    assert sor("prefetch", file, "--cluster", there, "--runs", runs, "--yes").returncode == 0
    check_hub(project, project.units)


def test_the_look_into_the_cache_imports_nothing_heavy(hub: Hub, tmp_path: Path) -> None:
    file = study(hub, tmp_path / "study")
    there = write_cluster(tmp_path / "there.yaml", offline=True)
    code = (
        "from pathlib import Path; from launch.study_run import open_project;"
        "from launch.submit.hub_check import absent;"
        f"p = open_project({str(file)!r}, {str(there)!r}, Path('none')); assert absent(p, p.units)"
    )
    assert not loaded_by(code) & {"huggingface_hub", "datasets", "transformers", "torch", "numpy", "pandas"}


def test_what_a_study_needs(hub: Hub, tmp_path: Path) -> None:
    def of(**preset: Any) -> list[Need]:
        return needs(units(study(hub, tmp_path / str(len(list(tmp_path.iterdir()))), **preset)))

    rows = Need("lab/Rows", commit_of(hub.folders["datasets/lab/Rows"]), split="train")
    assert of(revision="v1") == [Need("lab/model", "v1", weights=True, tokens=True), rows]
    tokens = {"tokenizer": "lab/tokens", "tokenizer_revision": "v2"}
    assert of(**tokens) == [
        Need("lab/model", weights=True), Need("lab/tokens", "v2", tokens=True), rows
    ]  # fmt: skip
    assert of(init="random", model=None, **tokens) == [Need("lab/tokens", "v2", tokens=True), rows]
    assert of(model="/some/folder") == [rows]
    paper = needs(plan(load_study("scale-or-reason"), load_cluster("local")))
    assert paper[0].name.startswith("Qwen/")
    assert {need.kind for need in paper} >= {"model", "dataset"}


def test_benchmarks_whose_data_may_be_on_the_hub(hub: Hub, tmp_path: Path) -> None:
    def names(units: list[Unit]) -> dict[str, list[str]]:
        return {each.folder: [task["task"] for task in each.tasks] for each in benchmarks(units)}

    paper = names(plan(load_study("scale-or-reason"), load_cluster("local")))
    assert paper.keys() == {"", str(DATA / "configs/evals/tasks")}
    assert "gsm8k_cot_zeroshot" in paper[""]
    assert "aqua_rat_letter" in paper[str(DATA / "configs/evals/tasks")]
    assert names(plan(load_study("demo"), load_cluster("local"))) == {}
    assert names(units(study(hub, tmp_path / "local"))) == {}
    file = study(hub, tmp_path / "study", "lab/items")
    assert names(units(file)) == {str(file.parent / "tasks"): ["easy"]}
    text = file.read_text(encoding="utf-8") + "\nfilters: {decontaminate: 13}\n"
    file.write_text(text, encoding="utf-8")
    first = [unit for unit in units(file) if unit.stage == "collate"]
    assert names(first) == {str(file.parent / "tasks"): ["easy"]}, "its filters read them first"


@pytest.mark.slow
def test_the_data_of_benchmarks_is_fetched_and_found_without_a_network(
    hub: Hub, made: Path, tmp_path: Path
) -> None:
    hub.add("datasets/lab/items", made / "rows")
    file, runs = study(hub, tmp_path / "study", "lab/items", model=str(made / "model")), tmp_path / "runs"
    other = ON_THE_HUB.replace("SOURCE", "lab/nothing").replace("easy", "hard")
    (file.parent / "tasks" / "hard.yaml").write_text(other, encoding="utf-8")
    group = yaml.safe_load((file.parent / "easy.yaml").read_text(encoding="utf-8"))
    group["tasks"].append({"task": "hard", "items": 9})
    (file.parent / "easy.yaml").write_text(yaml.safe_dump(group), encoding="utf-8")
    there = write_cluster(tmp_path / "there.yaml", offline=True)
    project = open_project(str(file), str(there), runs)
    assert "  data of benchmarks: easy, hard\n" in absent(project, project.units)

    done = sor("prefetch", file, "--cluster", there, "--runs", runs, "--yes")
    assert re.search(r"easy +benchmark +unknown", done.stdout), done.stdout + done.stderr
    *_, first, second, last = done.stdout.splitlines()
    assert first == "there    benchmark easy"
    assert re.fullmatch(r"missing  benchmark hard: DatasetNotFoundError: .*lab/nothing.*", second), second
    assert (done.returncode, last) == (1, "1 of the 3 are missing")
    assert "  data of benchmarks: hard\n" in absent(project, project.units)

    shutil.rmtree(tmp_path / "hf" / "datasets" / "lab___items")  # as a center's cleaning of scratch does
    assert "  data of benchmarks: easy, hard\n" in absent(project, project.units)


def test_a_template_that_says_where_the_cache_is_is_believed(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(templates, "FOLDER", tmp_path)
    text = "export HF_HOME=/shared/hf\nexport {{environment}}\nsrun {{python}} -m {{module}} {{submission}}\n"
    (tmp_path / "own.sh").write_text(text, encoding="utf-8")
    there = write_cluster(tmp_path / "there.yaml", offline=True, template="own")
    project = open_project(str(study(hub, tmp_path / "study")), str(there), tmp_path / "runs")
    assert absent(project, project.units) == ""
    (tmp_path / "own.sh").write_text(text.partition("\n")[2], encoding="utf-8")
    assert "lab/model" in absent(project, project.units)


def test_nothing_is_submitted_before_all_is_there(
    hub: Hub, tmp_path: Path, slurm: Cluster, on_the_cluster: None
) -> None:
    file, runs = study(hub, tmp_path / "study"), tmp_path / "runs"
    there = write_cluster(tmp_path / "there.yaml", offline=True)
    where = (file, "--cluster", there, "--runs", runs)
    done = sor("submit", *where, "--yes")
    assert (done.returncode, "model lab/model: not in the cache" in done.stderr) == (2, True), done.stderr
    assert slurm.run("squeue", "--noheader") == ""
    assert not (runs / "small" / "study.json").exists()
    shown = sor("plan", *where)
    assert (shown.returncode, "model lab/model: not in the cache" in shown.stdout) == (0, True)
    only = sor("submit", *where, "--yes", "--only", "report")  # it waits for results, and reads no model
    assert "not in the cache" not in only.stderr


@pytest.mark.parametrize(
    ("files", "weights", "read"),
    [
        (("config.json", "model.safetensors", "pytorch_model.bin", "model.gguf", "x.py"), True,
         {"config.json", "model.safetensors"}),
        (("pytorch_model.bin", "pytorch_model.bin.index.json"), True,
         {"pytorch_model.bin", "pytorch_model.bin.index.json"}),
        (("model-1-of-2.safetensors", "model-2-of-2.safetensors", "model.safetensors.index.json",
          "pytorch_model.bin.index.json", "consolidated.safetensors"), True,
         {"model-1-of-2.safetensors", "model-2-of-2.safetensors", "model.safetensors.index.json"}),
        (("model.safetensors", "tokenizer.json", "onnx/config.json", "additional_chat_templates/a.jinja"),
         False, {"tokenizer.json", "additional_chat_templates/a.jinja"}),
    ],
)  # fmt: skip
def test_the_files_that_are_read(files: tuple[str, ...], weights: bool, read: set[str]) -> None:
    found = chosen(dict.fromkeys(files, 1), Need("a/b", weights=weights, tokens=True))
    assert found.keys() == read
