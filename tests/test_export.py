"""`sor export`: folders that datasets and transformers load, their cards, and their upload.

The study is made up but for its pairs, which collate has made, and its model; test_demo.py exports a real
one.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from loopback_hub import Hub, serve
from small_study import environment, sor, student, write_study

from jobs.core.unit import Unit
from jobs.stages import collate
from jobs.store.rundir import StudyDir, read_json, write_json
from jobs.text.thinking import Thinking
from launch.export.folders import NOTE, written
from launch.export.pairs import _dropped, size_category
from launch.study.cluster import load_cluster
from launch.study.plan import plan
from launch.study.schema import load_study

TAGS = Thinking("<think>", "</think>")
TOKEN = "hf_token-of-a-test"
MADE_BY = {
    "command": ["/home/somebody/sor"], "python": "3.11.7", "code": {"commit": "c0ffee" * 6},
    "packages": {"torch": "2.13.0"}, "hardware": {},
}  # fmt: skip
BASE = {"init": "pretrained", "model": "lab/Base-1K", "revision": "b" * 40, "tokenizer": "@prepare/tokenizer"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny.save(tmp_path_factory.mktemp("made") / "model")
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", config | {"_name_or_path": str(folder)})
    return folder


class Made:
    """A study, of which parts are done.

    Attributes:
        file: Its YAML file.
        root: Its run directory.
    """

    def __init__(self, folder: Path, model: Path) -> None:
        prompts = "".join(json.dumps({"prompt": f"{i}+1="}) + "\n" for i in range(5))
        self.folder, self.model = folder, model
        teacher = {
            "size": "2K",
            "model": "lab/Teacher",
            "revision": "a" * 40,
            "serving": {"max_model_len": 64},
        }
        (folder / "study").mkdir()
        (folder / "study/prompts.jsonl").write_text(prompts, encoding="utf-8")
        (folder / "study/teacher.yaml").write_text(
            yaml.safe_dump({**teacher, "architecture": student()["architecture"]}), encoding="utf-8"
        )
        mode = {"max_tokens": 8, "temperature": 0.6}
        self.file = write_study(
            folder / "study", {"s": student(), "m": {**student(), **BASE, "size": "1K+"}}, pairs=None,
            teacher="teacher.yaml", prompts={"path": str(folder / "study/prompts.jsonl")},
            modes={
                "ift": {**mode, "chat_template_kwargs": {"enable_thinking": False}},
                "reasoning": {**mode, "chat_template_kwargs": {"enable_thinking": True}},
            },
        )  # fmt: skip
        self.root = StudyDir(folder / "runs/small")
        self.units = plan(load_study(str(self.file)), load_cluster("local"))

    def unit(self, stage: str, name: str) -> Unit:
        [found] = [unit for unit in self.units if (unit.stage, unit.name) == (stage, name)]
        return found

    def publish(self, stage: str, name: str, result: dict[str, Any], files: Path | None = None) -> None:
        """Publish a result, with a folder of files."""
        folder = self.root.unit(self.unit(stage, name))
        staged = folder.staging("0")
        staged.mkdir(parents=True)
        write_json(folder.spec, self.unit(stage, name).to_json())
        if files:
            shutil.copytree(files, staged / files.name)
        write_json(staged / "result.json", result)
        write_json(staged / "provenance.json", MADE_BY)
        assert folder.publish(staged)

    def pairs(self) -> None:
        """Generate, and collate for real: of five prompts one is cut in one mode."""
        chunks = self.folder / "chunks"
        chunks.mkdir()
        rows = []
        for i in range(5):
            for mode, text in (("ift", str(i + 1)), ("reasoning", TAGS.written("one more", str(i + 1)))):
                parts = TAGS.split(text)
                rows.append({
                    "id": f"{i:016x}", "prompt": f"{i}+1=", "mode": mode, "text": text, "seed": 0,
                    "reasoning": parts.reasoning, "answer": parts.answer,
                    "finish": "length" if (i, mode) == (3, "ift") else "stop",
                    "tokens": {"prompt": 4, "reasoning": 3 if mode == "reasoning" else 0, "answer": 1},
                })  # fmt: skip
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (chunks / "00000.jsonl").write_text(lines, encoding="utf-8")
        self.publish("prepare", "small", {})
        self.publish("generate", "teacher", {}, chunks)
        collate.run(tiny.context(self.root.path, self.unit("collate", "small")))

    def student(self, name: str) -> None:
        train = self.unit("train", name)
        read = {given.id for given in train.inputs if given.stage == "tokenize"}
        [tokens] = [unit for unit in self.units if unit.id in read]
        if not self.root.unit(tokens).done:
            self.publish("tokenize", tokens.name, {})
        totals = {"step": 7, "tokens": 900, "answer_tokens": 300, "flops": 1.25e9, "seconds": 1, "loss": 0.1}
        self.publish("train", name, {**totals, "parameters": 1234}, self.model)

    def evaluation(self, name: str, group: str, accuracy: float) -> None:
        row = {
            "task": group, "metric": "exact_match", "filter": "none", "accuracy": accuracy, "stderr": 0.01,
            "n": 9, "output_tokens": 12.5, "reasoning_tokens": 10.0, "flops_per_item": 1e6,
        }  # fmt: skip
        self.publish("evaluate", f"{name}.{group}", {"benchmarks": [row]})

    def export(self, *args: str | Path, code: int = 0, **more: Any) -> str:
        """Run the command, and return what it printed."""
        done = sor("export", self.file, "--runs", self.root.path.parent, *args, **more)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def made(tmp_path: Path, model: Path) -> Made:
    return Made(tmp_path, model)


def python(code: str, *args: Path, **more: str) -> Any:
    """Return what code prints as JSON, without a network; other processes share its libraries' caches."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", **more}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], env=environment(**offline), capture_output=True,
        encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


LOADED = """
import json, sys
from datasets import load_dataset
from huggingface_hub import DatasetCard, ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer

pairs, student, trained, cache = sys.argv[1:]
found = load_dataset(pairs, split="train", cache_dir=cache)
kinds = {name: str(kind.dtype) for name, kind in found.features.items()}
tokens = AutoTokenizer.from_pretrained(student)
asked = [{"role": "user", "content": "1+1="}]
text = tokens.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
ids = tokens(text, return_tensors="pt").input_ids
models = [AutoModelForCausalLM.from_pretrained(folder) for folder in (student, trained)]
same = bool((models[0](ids).logits == models[1](ids).logits).all())
loaded = [found.to_list(), kinds, text, same, models[0].generation_config.eos_token_id]
cards = [DatasetCard.load(pairs + "/README.md").data, ModelCard.load(student + "/README.md").data]
scores = [[score.dataset_name, score.metric_type, score.metric_value] for score in cards[1].eval_results]
print(json.dumps([loaded, [cards[0].size_categories, cards[1].base_model, cards[1].library_name, scores]]))
"""  # and reads the cards as the hub does


def test_datasets_and_transformers_load_what_is_exported(made: Made, tmp_path: Path) -> None:
    made.pairs()
    made.student("m-r50")
    made.evaluation("m-r50", "easy", 0.5)
    said = made.export()
    out = made.root.path / "export"
    assert f"written    {out}/small-pairs\n" in said
    assert "not done yet, and skipped: s-r0, s-r50, m-r0\n" in said
    assert sorted(path.name for path in out.iterdir()) == ["small-m-r50", "small-pairs"]
    pairs, student = out / "small-pairs", out / "small-m-r50"
    trained = made.root.unit(made.unit("train", "m-r50")).out / "model"
    loaded, cards = python(LOADED, pairs, student, trained, tmp_path / "cache")
    rows, kinds, asked, same, end = loaded
    assert [row["prompt"] for row in rows] == ["0+1=", "1+1=", "2+1=", "4+1="]
    assert rows[1] == {
        "id": f"{1:016x}", "prompt": "1+1=", "reasoning": tiny.traced("one more", "2"), "ift": "2",
        "tokens_prompt": 4, "tokens_reasoning": 4, "tokens_ift": 1,
    }  # fmt: skip
    assert kinds == dict.fromkeys(("id", "prompt", "reasoning", "ift"), "string") | dict.fromkeys(
        ("tokens_prompt", "tokens_reasoning", "tokens_ift"), "int64"
    )
    assert (asked, same, end) == ("<|user|>1+1=<|end|><|assistant|>", True, 4)
    assert cards == [["n<1K"], "lab/Base-1K", "transformers", [["easy", "exact_match", 0.5]]]
    _check_cards((pairs / "README.md").read_text("utf-8"), (student / "README.md").read_text("utf-8"))
    for path in (path for path in out.rglob("*") if path.is_file()):
        assert str(tmp_path).encode() not in path.read_bytes(), path
        assert b"somebody" not in path.read_bytes(), path
    assert (student / "model.safetensors").samefile(trained / "model.safetensors")
    assert not (student / "config.json").samefile(trained / "config.json")


def _check_cards(pairs: str, student: str) -> None:
    for words in (
        "[lab/Teacher](https://huggingface.co/lab/Teacher), revision `aaaa", "temperature: 0.6",
        "max_tokens: 8",
        "| kept | 4 |", "| dropped: truncated | 1 |", "between `<think>` and `</think>`", "torch 2.13.0",
        "commit c0ffeec0ffee", "# license:", "arXiv:2509.22193", "a local file (sha256:",
    ):  # fmt: skip
        assert words in pairs, words
    for words in (
        "50 % plain answers, 50 % answers",
        "[lab/Base-1K](https://huggingface.co/lab/Base-1K), revision `bbbb",
        "on answers of [lab/Teacher]", "| tokens | 900 |", "| training FLOPs, counted | 1.25e+09 |",
        "| parameters | 1,234 |", "| order of the mixture | sequential |", "| learning rate | 0.001 |",
        "| easy | exact_match, none | 0.500 ± 0.010 | 9 | 12.5 |", "Not evaluated yet: hard.",
    ):  # fmt: skip
        assert words in student, words


def test_an_export_is_brought_up_to_date_and_keeps_what_was_edited(made: Made) -> None:
    said = made.export(code=1)
    assert "not done yet, and skipped: the pairs, s-r0, s-r50, m-r0, m-r50" in said
    assert "nothing to export is done yet. Its state: sor status" in said
    made.pairs()
    made.student("s-r0")
    out = made.folder / "elsewhere"
    made.export("--out", out)
    pairs, student = out / "small-pairs", out / "small-s-r0"
    data = next((pairs / "data").iterdir())
    before = data.stat()
    said = made.export("--out", out)
    assert said.count("unchanged  ") == 2
    (student / "LICENSE").write_text("mine", encoding="utf-8")
    card = (pairs / "README.md").read_text("utf-8").replace("# license: choose", "license: cc0-1.0  # chosen")
    (pairs / "README.md").write_text(card, encoding="utf-8")
    made.evaluation("s-r0", "hard", 0.25)
    said = made.export("--out", out)
    assert f"updated    {student}" in said
    assert f"unchanged  {pairs}" in said
    assert "| hard | exact_match, none | 0.250" in (student / "README.md").read_text("utf-8")
    assert (student / "LICENSE").read_text("utf-8") == "mine"
    assert (pairs / "README.md").read_text("utf-8") == card
    assert (data.stat().st_ino, data.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    # The training is made again, with other weights: files follow, what the user added stays.
    train = made.root.unit(made.unit("train", "s-r0"))
    result = read_json(train.result) | {"loss": 0.2}
    shutil.rmtree(train.out)
    made.publish("train", "s-r0", result, made.model)
    made.export("--students", "s-*", "--out", out)
    assert (student / "model.safetensors").samefile(train.out / "model/model.safetensors")
    assert (student / "LICENSE").read_text("utf-8") == "mine"
    assert sorted(path.name for path in out.iterdir()) == ["small-pairs", "small-s-r0"]


def test_rows_that_were_cut_are_named() -> None:
    rows = _dropped({"dropped": {"empty": 1200}, "cut": {"turns": 3}})
    assert rows == [("dropped: empty", "1,200"), ("rows read, cut to their first turn", "3")]


def test_what_is_named_is_exported_and_other_folders_are_left_alone(made: Made) -> None:
    made.pairs()
    made.student("s-r0")
    said = made.export("--students", "x-*", code=2)
    assert "'x-*' is no student of this study, which has s-r0, s-r50, m-r0, m-r50" in said
    out = made.root.path / "export"
    made.export("--students", "s-r0,m-r0")
    assert [path.name for path in out.iterdir()] == ["small-s-r0"]
    shutil.rmtree(out)
    (out / "small-s-r0").mkdir(parents=True)
    (out / "small-s-r0/mine.txt").write_text("mine", encoding="utf-8")
    made.export("--data")
    assert sorted(path.name for path in out.iterdir()) == ["small-pairs", "small-s-r0"]
    said = made.export(code=2)
    assert "small-s-r0 is there and was not written by sor export" in said
    assert [path.name for path in (out / "small-s-r0").iterdir()] == ["mine.txt"]


def test_nothing_half_written_appears(tmp_path: Path) -> None:
    folder = tmp_path / "a"

    def fill(staged: Path) -> dict[str, Any]:
        (staged / "data").write_text("1", encoding="utf-8")
        assert not folder.exists()
        return {}

    def broken(staged: Path) -> dict[str, Any]:
        (staged / "data").write_text("2", encoding="utf-8")
        raise ValueError("no space")

    assert written(folder, "one", fill, lambda _: "card") == "written"
    with pytest.raises(ValueError, match="no space"):
        written(folder, "two", broken, lambda _: "card")
    assert (folder / "data").read_text("utf-8") == "1"
    # Killed between its two renames, with the new folder unfinished.
    folder.rename(tmp_path / ".a.before")
    (tmp_path / ".a.staged").mkdir()
    assert written(folder, "one", broken, lambda _: "card") == "unchanged"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert sorted(path.name for path in folder.iterdir()) == [NOTE, "README.md", "data"]


@pytest.mark.parametrize(
    ("rows", "category"),
    [
        (999, "n<1K"),
        (1000, "1K<n<10K"),
        (99_999, "10K<n<100K"),
        (100_000, "100K<n<1M"),
        (3 * 10**6, "1M<n<10M"),
    ],
)
def test_sizes_of_datasets(rows: int, category: str) -> None:
    assert size_category(rows) == category


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve() as hub:
        for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_DATASETS_CACHE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")  # git LFS, which the hub takes, too
        monkeypatch.setenv("no_proxy", "*")
        yield hub


def test_folders_are_uploaded_to_private_repositories(made: Made, hub: Hub, tmp_path: Path) -> None:
    uploads = hub.take_uploads(tmp_path / "uploaded", TOKEN)
    made.pairs()
    made.student("s-r0")
    said = made.export("--push", "lab", code=2)
    assert f"no token of the hub: make one with write access at {hub.url}/settings/tokens" in said
    assert "hf auth login" in said
    assert not made.root.exported.exists()
    said = made.export("--push", "lab", code=2, HF_TOKEN=TOKEN)
    assert "lab/small-pairs" in said
    assert "no terminal to ask" in said
    assert not uploads.created
    said = made.export("--push", "lab", "--yes", HF_TOKEN=TOKEN, HF_HUB_OFFLINE="1")
    assert f"uploaded  {hub.url}/datasets/lab/small-pairs\nuploaded  {hub.url}/lab/small-s-r0\n" in said
    assert TOKEN not in said
    assert [each["visibility"] for each in uploads.created] == ["private", "private"]
    for kind, name in (("datasets", "small-pairs"), ("models", "small-s-r0")):
        local, there = made.root.exported / name, uploads.folder / kind / "lab" / name
        files = {path.relative_to(local) for path in local.rglob("*") if path.is_file()} - {Path(NOTE)}
        assert files == {path.relative_to(there) for path in there.rglob("*") if path.is_file()}
        assert all((local / name).read_bytes() == (there / name).read_bytes() for name in files)
    # Again, after an upload that had another file of the data: it leaves, and what is there is not sent.
    old = uploads.folder / "datasets/lab/small-pairs/data/train-00000-of-00002.parquet"
    old.write_bytes(b"old")
    sent = len(uploads.sent)
    made.export("--push", "lab", "--yes", "--data", HF_TOKEN=TOKEN)
    assert (old.exists(), len(uploads.sent)) == (False, sent)


def test_an_upload_that_is_refused_is_named_with_what_helps(made: Made, hub: Hub, tmp_path: Path) -> None:
    hub.take_uploads(tmp_path / "uploaded", TOKEN)
    made.student("s-r0")
    made.publish("prepare", "small", {})
    made.publish("generate", "teacher", {})
    made.publish("collate", "small", {})
    args = ("--students", "s-r0", "--yes", "--push")
    assert "the hub does not accept the token (401): hf auth login" in made.export(
        *args, "lab", code=1, HF_TOKEN="another"
    )
    said = made.export(*args, "others", code=1, HF_TOKEN=TOKEN)
    assert "others/small-s-r0: the token may not write there: it needs write access" in said
    assert "0 of 1 folder uploaded; run this command again for the rest" in said
    assert "no repository -x-/small-s-r0" in made.export(*args, "-x-", code=2, HF_TOKEN=TOKEN)
    gone = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": TOKEN}
    assert "no network: http://127.0.0.1:9 cannot be reached" in made.export(*args, "lab", code=1, **gone)
