"""JSON Schemas and reference: those of the models, true of shipped files, and of one mind with `sor plan`."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import jsonschema
import pytest
import yaml
from small_study import sor
from test_cli import loaded_by
from test_init import CPU, GPU, NODES

from launch.commands.init import cluster_text, write_new
from launch.commands.init_model import write_model
from launch.commands.init_study import Choice, write_study
from launch.study.cluster import load_cluster
from launch.study.json_schema import KINDS, _settled, descriptions, json_schema
from launch.study.presets import CONFIGS, Strict, StudyError, read_yaml
from launch.study.schema import load_study

ROOT = Path(__file__).parent.parent
SHIPPED = [(kind, path) for kind in KINDS for path in sorted((CONFIGS / KINDS[kind].folder).glob("*.yaml"))]
SCHEMAS = {kind: json_schema(kind) for kind in KINDS}
GENERATED = {
    "teacher": "qwen3-235b-a22b", "prompts": {"dataset": "a/b", "revision": "main"},
    "modes": {m: {"chat_template_kwargs": {"thinking": m}, "max_tokens": 8} for m in ("ift", "reasoning")},
}  # fmt: skip
GOOD: dict[str, dict[str, Any]] = {
    "study": {
        "pairs": {"dataset": "a/b", "revision": "main"},
        "students": "qwen2.5-0.5b", "mixtures": {"shares": 1},
        "benchmarks": "math-open-ended", "expect": {"prompt": 1, "ift": 1, "reasoning": 1},
    },
    "model": {
        "size": "1B", "model": "a/b", "training": {"learning_rate": 1e-5},
        "architecture": read_yaml(CONFIGS / "models/qwen2.5-0.5b.yaml").data["architecture"],
    },
    "evals": {
        "domain": "math", "format": "open-ended", "max_tokens": 8, "tasks": [{"task": "gsm8k", "items": 1}],
    },
    "cluster": read_yaml(CONFIGS / "clusters/generic.yaml").data,
}  # fmt: skip
OWN_FAMILY = {"model_type": "olmo3", "hidden_size": 64, "num_hidden_layers": 4, "vocab_size": 100}
MEASURED = dict.fromkeys(("per_token", "per_output", "per_pair", "parameters", "active_parameters"), 1000)
WRONG: list[tuple[str, dict[str, Any]]] = [  # kind of file, and changes to a good one
    ("study", {"mixture": {}}),
    ("study", {"training": {"epoch": 1}}),
    ("study", {"training": {"epochs": 1, "flops": 1e19}}),
    ("study", {"training": [{"epochs": 1}, {"flops": [1e19, 0]}]}),
    ("study", {"mixtures": {"shares": [0, 1.5]}}),
    ("study", {"mixtures": {"shares": []}}),
    ("study", {"mixtures": {"shares": 1, "order": "mixed"}}),
    ("study", {"students": "qwen2.5-1b"}),
    ("study", {"benchmarks": ["toy", "math"]}),
    ("study", {"training": {"batch": "many"}}),
    ("study", {"training": {"batch": 1.5}}),
    ("study", {"training": {"betas": [0.9]}}),
    ("study", {"training": {"betas": [0.9, 1]}}),
    ("study", {"training": {"clip": 0}}),
    ("study", {"seeds": [0, 2**32]}),
    ("study", {"name": "a study"}),
    ("study", {"expect": None}),
    ("study", {"pairs": None}),
    ("study", {"pairs": {"dataset": "a/b"}}),
    ("study", {"pairs": {"dataset": "a/b", "revision": "main", "path": "x.jsonl"}}),
    ("study", {"pairs": {"count": 1}}),
    ("study", {"teacher": "toy-teacher"}),
    ("study", {**GENERATED, "pairs": None, "modes": None}),
    ("study", {"prepare": {"function": "prepare"}}),
    ("model", {"model": None}),
    ("model", {"init": "random"}),
    ("model", {"size": 1.5}),
    ("model", {"architecture": {}}),
    ("model", {"architecture": {**GOOD["model"]["architecture"], "model_type": "gpt2"}}),
    ("model", {"architecture": {**GOOD["model"]["architecture"], "vocab_size": 0}}),
    ("model", {"architecture": OWN_FAMILY}),
    ("model", {"flops": MEASURED}),
    ("model", {"architecture": OWN_FAMILY, "flops": {**MEASURED, "per_pair": -1}}),
    ("model", {"architecture": OWN_FAMILY, "flops": {**MEASURED, "windows": [{"window": 9}]}}),
    ("model", {"architecture": {**OWN_FAMILY, "vocab_size": None}, "flops": MEASURED}),
    ("model", {"training": {"learning_rate": 0}}),
    ("model", {"training": {"learning_rate": 1e-5, "zero": 4}}),
    ("model", {"training": {"learning_rate": 1e-5, "gradient_checkpointing": 1}}),
    ("model", {"training": {"learning_rate": 1e-5, "gpus_per_node": 8, "zero": "Auto"}}),
    ("model", {"training": {"learning_rate": 1e-5, "gpus_per_node": 8, "micro_batch": 0}}),
    ("model", {"training": {"learning_rate": 1e-5, "micro_batch": "auto"}}),
    ("cluster", {"gpu_memory": 0}),
    ("model", {"serving": {"engine": "sglang"}}),
    ("model", {"serving": {"vllm": {"max_num_seq": 8}}}),
    ("model", {"serving": {"vllm": {"max_num_seqs": "8"}}}),
    ("model", {"serving": {"vllm": {"seed": 1}}}),
    ("model", {"serving": {"vllm": {"dtype": "bf16"}}}),
    ("model", {"serving": {"engine": "openai"}}),
    ("model", {"serving": {"engine": "openai", "url": "https://host/v1", "gpus": 1}}),
    ("model", {"serving": {"engine": "openai", "url": "host/v1"}}),
    ("model", {"serving": {"engine": "openai", "url": "https://host/v1", "key": "sk-1"}}),
    ("model", {"serving": {"url": "https://host/v1"}}),
    ("evals", {"tasks": []}),
    ("evals", {"tasks": [{"task": "gsm8k"}]}),
    ("evals", {"tasks": [{"task": "../gsm8k", "items": 1}]}),
    ("evals", {"domain": "law"}),
    ("evals", {"sampling": {"top_p": 0}}),
    ("cluster", {"backend": "pbs"}),
    ("cluster", {"backend": "local", "slurm": {}}),
    ("cluster", {"max_hours": 0}),
    ("cluster", {"gpu": 4090}),
    ("cluster", {"slurm": {"sbatch": {"array": "0-3"}}}),
    ("cluster", {"slurm": {"sbatch": {"--qos": "long"}}}),
    ("cluster", {"slurm": {"sbatch": {"qos": ["long"]}}}),
    ("cluster", {"slurm": {"stages": {"packing": {}}}}),
    ("cluster", {"slurm": {"stages": {"tokenize": {"time": 1}}}}),
    ("cluster", {"slurm": {"gpu_option": "gres=gpu"}}),
    ("cluster", {"slurm": {"memory": "no"}}),
    ("cluster", {"slurm": {"secrets": "HF_TOKEN=x"}}),
]


def generator() -> Any:
    """The program that `make reference` runs."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs/reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def faults(kind: str, data: Any) -> list[str]:
    """What the schema of a kind of file says against data."""
    return [error.message for error in jsonschema.Draft7Validator(SCHEMAS[kind]).iter_errors(data)]


def written(folder: Path, kind: str, data: dict[str, Any]) -> tuple[str, str]:
    """A file of this kind, named by a study or cluster that is good otherwise; returns study and cluster."""
    study = {"model": {"students": "own.yaml"}, "evals": {"benchmarks": "own.yaml"}}.get(kind, {})
    (folder / "study.yaml").write_text(yaml.safe_dump({**GOOD["study"], **study}), encoding="utf-8")
    file = folder / ("study.yaml" if kind == "study" else "own.yaml")
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    return str(folder / "study.yaml"), str(file) if kind == "cluster" else "local"


def fields(schema: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """The keys that a schema describes, wherever they are, with what is said of each."""
    for part in (schema, *schema["definitions"].values()):
        yield from part["properties"].items()


def test_schemas_and_reference_are_those_of_the_models() -> None:
    for path, text in generator().files().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name} is old: make reference"


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("Study: `modes.ift` and `modes.reasoning`", "study-modesift-and-modesreasoning"),
        ("Cluster: `cpus_per_gpu`", "cluster-cpus_per_gpu"),
    ],
)
def test_headings_have_the_anchors_of_forges(heading: str, anchor: str) -> None:
    assert generator().slug(heading) == anchor


def test_names_of_keys_are_no_words_of_the_schema() -> None:
    schema = {"title": "T", "properties": {"title": {"title": "x", "type": "string"}, "le": {"le": 3}}}
    assert _settled({**schema, "default": {"title": 1}}) == {
        "properties": {"title": {"type": "string"}, "le": {"maximum": 3}}, "default": {"title": 1},
    }  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_is_described_and_examples_and_defaults_are_valid(kind: str) -> None:
    schema = SCHEMAS[kind]
    jsonschema.Draft7Validator.check_schema(schema)
    checked = 0
    for key, said in fields(schema):
        assert re.match(r"[A-Z][^\n]+\.$", said["description"]), key
        values = [*said.get("examples", ()), *([said["default"]] if said.get("default") else [])]
        for value in values:
            jsonschema.validate(value, {**said, "definitions": schema["definitions"]})
        checked += len(values)
    assert checked > 5


class Half(Strict):
    told: int
    """Something."""
    untold: int


def test_a_field_without_a_docstring_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^Half: write a docstring below untold$"):
        descriptions(Half)


def test_the_docstrings_of_a_parent_count() -> None:
    (said,) = (said for key, said in fields(SCHEMAS["study"]) if key == "temperature")
    assert said["examples"] == [0.6]


@pytest.mark.parametrize(("kind", "path"), SHIPPED, ids=lambda value: getattr(value, "stem", None))
def test_a_shipped_file_names_its_schema_and_fits_it(kind: str, path: Path) -> None:
    line = path.read_text(encoding="utf-8").partition("\n")[0]
    named = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", line)
    assert named
    assert json.loads((path.parent / named[1]).read_text(encoding="utf-8")) == SCHEMAS[kind]
    assert faults(kind, read_yaml(path).data) == []


def test_made_files_name_the_schema_wherever_they_are(tmp_path: Path) -> None:
    write_study(tmp_path / "study.yaml", Choice())
    write_new(tmp_path / "cluster.yaml", "cluster", cluster_text("lab", (CPU, GPU), NODES, []))
    (tmp_path / "config.json").write_text(json.dumps(GOOD["model"]["architecture"]), encoding="utf-8")
    write_model(tmp_path / "model.yaml", str(tmp_path))
    for kind in ("study", "cluster", "model"):
        lines = (tmp_path / f"{kind}.yaml").read_text(encoding="utf-8").splitlines()
        assert [n for n, line in enumerate(lines) if "$schema=" in line] == [0]
        address = lines[0].removeprefix("# yaml-language-server: $schema=")
        assert Path(url2pathname(urlsplit(address).path)) == CONFIGS / f"schema/{kind}.json"
        assert faults(kind, read_yaml(tmp_path / f"{kind}.yaml").data) == []


def test_a_folder_with_spaces_is_named_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Editors end the address at the first space."""
    monkeypatch.setattr("launch.commands.init.CONFIGS", tmp_path / "my configs#1")
    write_new(tmp_path / "mine.yaml", "study", "a: 1\n")
    line, rest = (tmp_path / "mine.yaml").read_text(encoding="utf-8").split("\n", 1)
    assert re.fullmatch(r"\S+ \S+ \$schema=file:///\S+/my%20configs%231/schema/study\.json", line)
    assert rest == "a: 1\n"


def test_a_measured_model_is_good_for_both(tmp_path: Path) -> None:
    flops = {**MEASURED, "windows": [{"window": 9, "per_pair": 1}]}
    data = {**GOOD["model"], "architecture": OWN_FAMILY, "flops": flops}
    assert faults("model", data) == []
    load_study(written(tmp_path, "model", data)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_good_files_are_good_for_both(kind: str, tmp_path: Path) -> None:
    assert faults(kind, GOOD[kind]) == []
    study, cluster = written(tmp_path, kind, GOOD[kind])
    assert load_study(study).name == "study"
    load_cluster(cluster)


@pytest.mark.parametrize(("kind", "changes"), WRONG, ids=lambda value: str(value)[:60])
def test_what_is_wrong_is_refused_by_both(kind: str, changes: dict[str, Any], tmp_path: Path) -> None:
    data = {**GOOD[kind], **changes}
    assert faults(kind, data)
    study, cluster = written(tmp_path, kind, data)
    with pytest.raises(StudyError) as error:
        load_study(study) if kind != "cluster" else load_cluster(cluster)
    file = tmp_path / ("study.yaml" if kind == "study" else "own.yaml")
    assert {mistake.file for mistake in error.value.mistakes} == {file}


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_names_the_place(kind: str, tmp_path: Path) -> None:
    study, cluster = written(tmp_path, kind, {**GOOD[kind], "nmae": 1})
    done = sor("plan", study, "--cluster", cluster, "--runs", tmp_path / "runs")
    assert (done.returncode, done.stdout) == (2, "")
    file = tmp_path / ("study.yaml" if kind == "study" else "own.yaml")
    line = file.read_text(encoding="utf-8").splitlines().index("nmae: 1") + 1
    assert done.stderr.startswith(f"sor: {file}:{line}:1: nmae: unknown key; did you mean 'name'?")


def test_values_that_only_a_validator_accepts_are_accepted(tmp_path: Path) -> None:
    """One value for a list, numbers as options and words, `off` as YAML reads it, generated rows."""
    slurm = {
        "sbatch": {"nice": 10, "exclusive": True, "qos": None}, "memory": False, "secrets": "HF_TOKEN",
        "required": "nice", "template": "modules", "variables": {"modules": ["cuda/12.4", 3]},
    }  # fmt: skip
    cluster = {**GOOD["cluster"], "gpu": "gpu:h100:4", "slurm": slurm}
    assert faults("cluster", cluster) == []
    assert load_cluster(written(tmp_path, "cluster", cluster)[1]).slurm.memory == "off"
    study = {**GOOD["study"], **GENERATED, "pairs": None}
    study |= {"seeds": 3, "mixtures": {"shares": 0, "order": ["shuffled"]}}
    assert faults("study", study) == []
    assert load_study(written(tmp_path, "study", study)[0]).seeds == (3,)


def test_a_plan_loads_no_schema() -> None:
    loaded = loaded_by("from launch.cli import app; app(['plan', 'demo'], standalone_mode=False)")
    assert "launch.study.schema" in loaded
    assert not loaded & {"launch.study.json_schema", "jsonschema"}
