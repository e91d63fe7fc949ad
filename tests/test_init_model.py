"""`sor init FILE --model`: presets from a config.json, in a folder or on a hub, played by a local server."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from real_models import REAL
from small_study import sor

from jobs.core.flops import architecture, forward_flops
from launch.commands.init_model import model_text, write_model
from launch.study.cluster import load_cluster
from launch.study.hub import Described
from launch.study.plan import plan
from launch.study.presets import CONFIGS, StudyError
from launch.study.schema import load_study

COMMIT = "060db6499f32faf8b98477b0a26969ef7d8b9987"
# As published; unlike a preset, with much that does not change shapes.
QWEN: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
    "eos_token_id": 151643, "hidden_act": "silu", "hidden_size": 896, "initializer_range": 0.02,
    "intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 24,
    "model_type": "qwen2", "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": True,
    "torch_dtype": "bfloat16", "transformers_version": "4.40.1", "use_cache": True, "use_mrope": False,
    "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip
MOE: dict[str, Any] = {
    "model_type": "qwen3_moe", "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 32,
    "num_key_value_heads": 4, "head_dim": 128, "intermediate_size": 6144, "moe_intermediate_size": 768,
    "num_experts": 128, "num_experts_per_tok": 8, "decoder_sparse_step": 1, "mlp_only_layers": [],
    "vocab_size": 151936, "tie_word_embeddings": False, "max_position_embeddings": 40960,
    "attention_bias": False, "rope_scaling": None,
}  # fmt: skip
MAMBA = {**QWEN, "model_type": "mamba", "architectures": ["MambaForCausalLM"]}
HUB = {"Qwen/Qwen2.5-0.5B": QWEN, "Qwen/Qwen3-30B-A3B": MOE, "state-spaces/mamba": MAMBA}


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[tuple[str, str | None]]]:
    """What is asked: path and token. One model is gated, one breaks the hub."""
    asked = list[tuple[str, str | None]]()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers["Authorization"]))
            parts = self.path.strip("/").split("/")
            name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
            code = 401 if name == "meta/gated" else 500 if name == "a/broken" else 200 if name in HUB else 404
            known = json.dumps({"sha": COMMIT} if parts[0] == "api" else HUB.get(name))
            self.send_response(code)
            self.end_headers()
            self.wfile.write(known.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield asked
    server.shutdown()
    server.server_close()


STUDY = """\
pairs: {{path: {rows}}}
students: [student.yaml]
mixtures: {{shares: [0, 1]}}
benchmarks: [general-open-ended]
expect: {{prompt: 20, ift: 5, reasoning: 60}}
"""


def student(folder: Path) -> Any:
    """The preset, after it was loaded as a study's student."""
    (folder / "rows.jsonl").write_text('{"prompt": "a", "ift": "b", "reasoning": "c"}\n', encoding="utf-8")
    (folder / "study.yaml").write_text(STUDY.format(rows=folder / "rows.jsonl"), encoding="utf-8")
    return load_study(str(folder / "study.yaml")).students[0]


def test_a_model_of_the_hub_at_its_commit(tmp_path: Path, hub: list[tuple[str, str | None]]) -> None:
    said = write_model(tmp_path / "student.yaml", "Qwen/Qwen2.5-0.5B")
    assert said.endswith('students: ["student.yaml"]')
    found = student(tmp_path)
    assert (found.model, found.revision, found.size) == ("Qwen/Qwen2.5-0.5B", COMMIT, "494M")
    shipped = yaml.safe_load((CONFIGS / "models/qwen2.5-0.5b.yaml").read_text(encoding="utf-8"))
    assert found.architecture == shipped["architecture"]
    assert (found.training.learning_rate, found.training.zero) == (2e-5, "auto")
    assert found.serving.max_model_len == 20480
    path = f"/Qwen/Qwen2.5-0.5B/resolve/{COMMIT}/config.json"
    assert [each for each, _ in hub] == ["/api/models/Qwen/Qwen2.5-0.5B/revision/main", path]


def test_experts_and_a_revision_and_a_token(
    tmp_path: Path, hub: list[tuple[str, str | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    write_model(tmp_path / "student.yaml", "Qwen/Qwen3-30B-A3B@v1")
    found = student(tmp_path)
    assert (found.size, found.training.zero, found.training.gpus_per_node) == ("30.5B", "auto", 8)
    assert found.architecture["mlp_only_layers"] == []
    assert hub[0] == ("/api/models/Qwen/Qwen3-30B-A3B/revision/v1", "Bearer hf_secret")
    assert "hf_secret" not in (tmp_path / "student.yaml").read_text(encoding="utf-8")


def test_neither_a_path_nor_the_hub_writes_another_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / "a@b\nsize: 1B"
    odd.mkdir()
    (odd / "config.json").write_text(json.dumps(QWEN), encoding="utf-8")
    file = tmp_path / "student.yaml"
    for model, commit in (
        (str(odd), None),
        *(("Qwen/Qwen2.5-0.5B", c) for c in ("1e" + "2" * 38, "x\nsize: 1B")),
    ):
        monkeypatch.setattr(sys.modules[__name__], "COMMIT", commit)
        write_model(file, model)
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
        assert (found["size"], found.get("revision")) == ("494M", commit)
        file.unlink()


def test_experts_as_transformers_saves_them_and_settings_that_fit(tmp_path: Path) -> None:
    shape = {key: value for key, value in MOE.items() if key != "num_experts"} | {"num_local_experts": 128}
    found = yaml.safe_load(model_text(Described("a/b", None, shape)))
    assert (found["size"], found["architecture"]["num_local_experts"]) == ("30.5B", 128)
    large = {**QWEN, "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64}
    found = yaml.safe_load(model_text(Described("a/b", None, {**large, "intermediate_size": 28672})))
    states = 16 * float(found["size"].removesuffix("B")) * 1e9
    assert found["training"]["nodes"] * found["training"]["gpus_per_node"] * 80e9 > states
    assert found["serving"]["gpus"] * 80e9 > states / 8


@pytest.mark.parametrize("name", REAL)
def test_a_published_model_of_each_family(name: str, tmp_path: Path) -> None:
    """The preset has the keys without which a count would differ, and is good for a study."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text(json.dumps(REAL[name][0]), encoding="utf-8")
    write_model(tmp_path / "student.yaml", str(tmp_path / "m"))
    found = student(tmp_path)
    assert architecture(found.shape) == architecture(REAL[name][0])
    assert found.flops is None
    least = {key: found.architecture.get(key) for key in ("sliding_window", "n_group", "layer_types")}
    assert least == LEAST.get(name, dict.fromkeys(least))
    if name == "Mistral-7B-v0.3":  # whose family has a window unless a config has none
        assert "sliding_window" in found.architecture
    for unit in plan(load_study(str(tmp_path / "study.yaml")), load_cluster("local")):
        assert unit.resources.memory


LEAST: dict[str, dict[str, Any]] = {
    name: {"sliding_window": None, "n_group": None, "layer_types": None, **keys}
    for name, keys in {
        "gemma-3-1b-pt": {"sliding_window": 512}, "Phi-3-mini-4k-instruct": {"sliding_window": 2047},
        "Phi-4-mini-instruct": {"sliding_window": 262144}, "starcoder2-3b": {"sliding_window": 4096},
        "DeepSeek-V3": {"n_group": 8},
    }.items()
}  # fmt: skip


def test_a_model_of_another_family_is_measured(tmp_path: Path) -> None:
    shape = {**QWEN, "model_type": "olmo3", "hidden_size": 64, "num_hidden_layers": 4, "vocab_size": 99}
    shape |= {"num_attention_heads": 4, "eos_token_id": 2, "bos_token_id": 1, "intermediate_size": 80}
    folder = tmp_path / "olmo"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(shape | {"layer_types": None}), encoding="utf-8")
    done = sor("init", tmp_path / "student.yaml", "--model", folder)
    assert done.returncode == 0, done.stderr
    found = student(tmp_path)
    assert found.architecture["model_type"] == "olmo3"
    layer = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 80)  # queries and outputs, keys and values, the MLP
    assert found.flops.model_dump() == {
        "per_token": 4 * layer, "per_output": 2 * 64 * 99, "per_pair": 4 * 64,
        "windows": ({"window": 32768, "per_pair": 3 * 4 * 64},), "parameters": found.flops.parameters,
        "active_parameters": found.flops.parameters,
    }  # fmt: skip
    assert found.flops.parameters == 4 * (layer // 2 + 64 + 32 + 2 * 64) + 64 + 64 * 99
    assert forward_flops(found.shape, 10) == 10 * (4 * layer + 2 * 64 * 99) + 100 * 4 * 4 * 64
    units = {
        unit.stage: unit for unit in plan(load_study(str(tmp_path / "study.yaml")), load_cluster("local"))
    }
    assert units["evaluate"].flops
    assert units["train"].config["model"]["architecture"]["flops"]["per_output"] == 2 * 64 * 99
    again = tmp_path / "again"
    again.mkdir()
    (again / "config.json").write_text(json.dumps(found.shape), encoding="utf-8")  # as a training saves it
    (tmp_path / "student.yaml").unlink()
    write_model(tmp_path / "student.yaml", str(again))
    assert student(tmp_path).shape == found.shape


def test_without_torch_it_is_said_where_to_measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('No module named torch')", encoding="utf-8")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text('{"model_type": "olmo3"}', encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(
        StudyError, match=r"needs PyTorch .*No module named torch.* pip install 'scale-or-rea"
    ):
        write_model(tmp_path / "student.yaml", str(tmp_path / "m"))


def test_the_token_goes_to_no_other_host(
    tmp_path: Path, hub: list[tuple[str, str | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hub sends to its store of files."""
    there = os.environ["HF_ENDPOINT"]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers["Authorization"]))
            self.send_response(302)
            same = f"/again{self.path}"
            self.send_header(
                "Location", same if not self.path.startswith("/again") else there + self.path[6:]
            )
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    asked = list[tuple[str, str | None]]()
    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    write_model(tmp_path / "student.yaml", "Qwen/Qwen2.5-0.5B")
    server.shutdown()
    server.server_close()
    assert {token for _, token in asked} == {"Bearer hf_secret"}
    assert len(asked) == 4
    assert [token for _, token in hub] == [None, None]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("student.yml", "--model", "m@main"), "a folder has no revision: leave out @main"),
        (("student", "--model", "m"), "a name that ends in .yaml is needed"),
        (("none/student.yaml", "--model", "m"), "Name a file in a folder that exists"),
        (("--cluster", "cluster"), "a name that ends in .yaml is needed"),
        (("student.yaml", "--model", "m", "--from", "demo"), "give FILE, for a study; FILE and --model"),
    ],
)
def test_mistakes_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], why: str
) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text(json.dumps(QWEN), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))
    done = sor("init", *arguments)
    assert done.returncode == 2
    assert why in done.stderr
    assert set(tmp_path.rglob("*")) == before


def test_a_folder(tmp_path: Path, hub: list[tuple[str, str | None]]) -> None:
    model = tmp_path / "my models" / "small"
    model.mkdir(parents=True)
    shape = {**QWEN, "hidden_size": 64, "num_hidden_layers": 2, "max_position_embeddings": 256}
    (model / "config.json").write_text(json.dumps({**shape, "num_attention_heads": 4}), encoding="utf-8")
    done = sor("init", tmp_path / "student.yaml", "--model", model)
    assert done.returncode == 0, done.stderr
    found = student(tmp_path)
    assert (found.model, found.revision, found.serving.max_model_len) == (str(model), None, 256)
    assert hub == []


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (
            "a/nothing",
            r"no folder here is called a/nothing, and the hub does not show it \(404\): set HF_TOKEN",
        ),
        ("meta/gated", r"does not show it \(401\): set HF_TOKEN if it is private or gated"),
        ("a/broken", r"the hub answered 500 about a/broken: try again later, or download it"),
        ("state-spaces/mamba", r"its FLOPs cannot be measured: mamba: FLOPs of its forward pass are not a·n"),
        ("a/model of mine", r"no folder here is called a/model of mine, and the hub does not show it"),
        ("./nowhere", r"nowhere/config\.json: no such file; give a folder in Hugging Face format"),
        ("nowhere", r"nowhere/config\.json: no such file"),
    ],
)
def test_what_cannot_be_written(tmp_path: Path, name: str, why: str) -> None:
    with pytest.raises(StudyError, match=why):
        write_model(tmp_path / "student.yaml", name)
    assert not (tmp_path / "student.yaml").exists()


def test_without_a_network_or_with_something_else_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "example.org")
    with pytest.raises(StudyError, match=r"HF_ENDPOINT is 'example\.org', which is no address"):
        write_model(tmp_path / "student.yaml", "Qwen/Qwen2.5-0.5B")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        StudyError, match=r"the hub cannot be reached .*: download it where there is a network"
    ):
        write_model(tmp_path / "student.yaml", "Qwen/Qwen2.5-0.5B")
    folder = tmp_path / "odd"
    folder.mkdir()
    for text in ("<html>", "[]"):
        (folder / "config.json").write_text(text, encoding="utf-8")
        with pytest.raises(StudyError, match=r"not JSON|not a mapping of keys"):
            write_model(tmp_path / "student.yaml", str(folder))


def test_a_file_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "student.yaml").write_text("mine", encoding="utf-8")
    with pytest.raises(StudyError, match="exists already"):
        write_model(tmp_path / "student.yaml", "Qwen/Qwen2.5-0.5B")
    assert (tmp_path / "student.yaml").read_text(encoding="utf-8") == "mine"
    assert sor("init", "--cluster", tmp_path / "c.yaml", "--model", "a/b").returncode == 2
