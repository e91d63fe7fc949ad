"""Models that cannot be built and `prepare` functions that cannot be called are found by `sor plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from real_models import REAL
from small_study import ARCHITECTURE, student, write_study
from test_cli import loaded_by

from launch.study.functions import prepare_faults
from launch.study.presets import CONFIGS, StudyError
from launch.study.schema import load_study
from launch.study.shapes import heads_fault, shape_faults

MOE: dict[str, Any] = yaml.safe_load((CONFIGS / "models/qwen3-235b-a22b.yaml").read_text(encoding="utf-8"))[
    "architecture"
]
LLAMA: dict[str, Any] = yaml.safe_load((CONFIGS / "models/smollm2-135m.yaml").read_text(encoding="utf-8"))[
    "architecture"
]
QWEN2 = {**LLAMA, "model_type": "qwen2"}
SMOLLM3, MISTRAL, DEEPSEEK, GPT_OSS, STARCODER2 = (
    REAL[name][0] for name in ("SmolLM3-3B", "Mistral-7B-v0.1", "DeepSeek-V3", "gpt-oss-20b", "starcoder2-3b")
)

SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    "unknown architecture": (ARCHITECTURE, {"model_type": "gpt2"}, "model_type", "found 'gpt2'; known"),
    "no architecture": (ARCHITECTURE, {"model_type": None}, "model_type", "is missing; known architectures"),
    "a list for it": (ARCHITECTURE, {"model_type": ["qwen3"]}, "model_type", "found ['qwen3']"),
    "no layers": (ARCHITECTURE, {"num_hidden_layers": 0}, "num_hidden_layers", "found 0; a whole number"),
    "very many layers": (ARCHITECTURE, {"num_hidden_layers": 10**9}, "num_hidden_layers", "to 10,000"),
    "a text": (ARCHITECTURE, {"hidden_size": "32"}, "hidden_size", "found '32'; a whole number"),
    "a fraction": (ARCHITECTURE, {"vocab_size": 64.5}, "vocab_size", "found 64.5"),
    "true": (ARCHITECTURE, {"intermediate_size": True}, "intermediate_size", "found True"),
    "heads and hidden size": (QWEN2, {"hidden_size": 577}, "num_attention_heads", "do not divide"),
    "the same of a llama": (
        LLAMA,
        {"hidden_size": 577, "head_dim": 64},
        "num_attention_heads", "divide",
    ),
    "key-value heads": (LLAMA, {"num_key_value_heads": 2}, "num_key_value_heads", "do not divide the 9"),
    "odd width": (ARCHITECTURE, {"head_dim": 31}, "head_dim", "an even one"),
    "experts": (MOE, {"num_experts_per_tok": 200}, "num_experts_per_tok", "200 active experts of 128"),
    "windows": (QWEN2, {"layer_types": ["full_attention"]}, "layer_types", "1 entries for 30 layers"),
    "types of layers": (
        QWEN2,
        {"layer_types": ["mamba"] * 30}, "layer_types", "a list of full_attention and sliding_attention",
    ),
    "ropes of layers": (SMOLLM3, {"no_rope_layers": [1, 0, 2]}, "no_rope_layers", "a list of 0 and 1"),
    "no window": (MISTRAL, {"sliding_window": 0}, "sliding_window", "found 0; a whole number from 1"),
    "no latent width": (DEEPSEEK, {"kv_lora_rank": None}, "kv_lora_rank", "is missing; deepseek_v3 needs"),
    "a null": (DEEPSEEK, {"v_head_dim": "128"}, "v_head_dim", "found '128'"),
    "odd rope": (DEEPSEEK, {"qk_rope_head_dim": 63}, "qk_rope_head_dim", "an even one"),
    "latent groups": (DEEPSEEK, {"num_key_value_heads": 64}, "num_key_value_heads", "equals the 128 heads"),
    "routed experts": (DEEPSEEK, {"num_experts_per_tok": 300}, "num_experts_per_tok", "300 active experts"),
    "groups of experts": (DEEPSEEK, {"n_group": 7}, "n_group", "7 groups do not divide 256 experts"),
    "small groups": (DEEPSEEK, {"n_group": 256}, "n_group", "into two or more each"),
    "chosen groups": (DEEPSEEK, {"topk_group": 9}, "topk_group", "9 of 8 groups, for 8 of 256 experts"),
    "few of them": (DEEPSEEK, {"num_experts_per_tok": 129}, "topk_group", "4 of 8 groups, for 129 of 256"),
    "default groups": (
        DEEPSEEK,
        {"n_group": None, "n_routed_experts": 250}, "n_group", "8 groups do not divide 250 experts",
    ),
    "default choice": (DEEPSEEK, {"topk_group": None, "n_group": 2}, "topk_group", "4 of 2 groups"),
    "default heads": (
        DEEPSEEK,
        {"num_key_value_heads": None, "num_attention_heads": 256},
        "num_key_value_heads", "found 128; with latent attention, it equals the 256",
    ),
    "no dense layer": (DEEPSEEK, {"first_k_dense_replace": -1}, "first_k_dense_replace", "number from 0"),
    "few experts": (GPT_OSS, {"num_experts_per_tok": 33}, "num_experts_per_tok", "33 active experts of 32"),
    "the default groups": (
        MISTRAL,
        {"num_attention_heads": 12, "head_dim": 64, "num_key_value_heads": None},
        "num_key_value_heads", "8 key-value heads do not divide the 12",
    ),
    "a biased switch": (STARCODER2, {"use_bias": 1}, "use_bias", "true or false is needed"),
    "a measured family": (LLAMA, {"model_type": "olmo3"}, "model_type", "--model MODEL' measures others"),
    "a switch": (LLAMA, {"tie_word_embeddings": "yes"}, "tie_word_embeddings", "true or false is needed"),
    "layers without experts": (MOE, {"mlp_only_layers": "none"}, "mlp_only_layers", "a list of numbers"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SHAPES)
def test_an_impossible_shape(kind: str) -> None:
    config, changes, key, words = SHAPES[kind]
    assert list(shape_faults(config)) == []
    [(found, message)] = shape_faults({k: v for k, v in {**config, **changes}.items() if v is not None})
    assert found == key
    assert words in message


@pytest.mark.parametrize(
    ("name", "group", "divisors"),
    [
        # THU-KEG/AdaptThink, issue 1: 28 heads, shared by 8 processes
        ("qwen2.5-7b", 8, "28 attention heads: 1, 2, 4, 7, 14, 28 do"),
        ("qwen2.5-7b", 4, None),
        # verl-project/verl, issue 1226: 40 heads with 8 of keys, shared by more than 8 processes
        ("qwen2.5-14b", 20, None),
        ("qwen2.5-14b", 16, "40 attention heads: 1, 2, 4, 5, 8, 10, 20, 40 do"),
    ],
)
def test_heads_that_processes_share(tmp_path: Path, name: str, group: int, divisors: str | None) -> None:
    preset = yaml.safe_load((CONFIGS / f"models/{name}.yaml").read_text(encoding="utf-8"))
    preset["training"] |= {"gpus_per_node": 80, "sequence_parallel": group}
    file = write_study(tmp_path, {"s": preset}, training={"block": 32768})
    if divisors is None:
        assert load_study(str(file)).students[0].training.sequence_parallel == group  # type: ignore[union-attr]
        return
    with pytest.raises(StudyError) as error:
        load_study(str(file))
    [mistake] = error.value.mistakes
    assert (mistake.file, mistake.key) == (tmp_path / "s.yaml", "training.sequence_parallel")
    assert mistake.message == f"found {group}, which does not divide the model's {divisors}"
    assert mistake.at is not None


def test_heads_of_a_measured_family_are_not_known() -> None:
    assert heads_fault({"model_type": "mpt", "n_heads": 9}, 2) is None
    assert heads_fault({"num_attention_heads": 9}, None) is None
    assert heads_fault({"num_attention_heads": 9}, 2) is not None


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "num_key_value_heads"])
def test_a_misspelt_key(key: str) -> None:
    renamed = {k if k != key else key[:-1] + "x": v for k, v in LLAMA.items()}
    found = dict(shape_faults(renamed))
    assert f"did you mean {key!r}?" in found.pop(key[:-1] + "x")
    assert all("is missing; llama needs hidden_size" in message for message in found.values())


def test_keys_that_may_be_null() -> None:
    nothing = dict.fromkeys(("num_key_value_heads", "head_dim", "max_position_embeddings"))
    assert list(shape_faults({**MOE, **nothing})) == []
    [(key, words)] = shape_faults({**MOE, "decoder_sparse_step": None})  # found by the fuzz test
    assert (key, words[:10]) == ("decoder_sparse_step", "found None")


def test_a_mistake_names_the_line_of_the_preset(tmp_path: Path) -> None:
    wrong = {**student(), "architecture": {**ARCHITECTURE, "num_hidden_layers": 0}}
    file = write_study(tmp_path, {"s": student(), "m": wrong})
    with pytest.raises(StudyError) as error:
        load_study(str(file))
    [mistake] = error.value.mistakes
    assert (mistake.file, mistake.key) == (tmp_path / "m.yaml", "architecture.num_hidden_layers")
    assert mistake.at is not None
    line = mistake.file.read_text(encoding="utf-8").splitlines()[mistake.at.line - 1]
    assert line[mistake.at.column - 1 :] == "num_hidden_layers: 0"


TOY: dict[str, Any] = yaml.safe_load((CONFIGS / "studies/demo.yaml").read_text(encoding="utf-8"))["prepare"][
    "args"
]
TOY["prompts"] = {str(digits): count for digits, count in TOY["prompts"].items()}
TOY["teacher"]["learning_rate"] = 3e-3
OWN = """\
import torch_of_nobody
raise RuntimeError("this must not be run")
from typing import NotRequired, TypedDict
class Base(TypedDict):
    seed: int
class Args(Base):
    parts: "list[int] | None"
    rate: NotRequired[float]
    odd: NotRequired[torch_of_nobody.Odd]
def make(staged, args: Args, progress): ...
def free(staged, args, progress=None): ...
def short(staged, args): ...
def many(staged, args, progress, more): ...
def _own(staged, args, progress): ...
later = make
try:
    from nowhere import taken
except ImportError:
    def taken(*given): ...
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a module that cannot be imported."""
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    (tmp_path / "broken.py").write_text("def make(:\n", encoding="utf-8")
    (tmp_path / "null.py").write_text("\0", encoding="utf-8")
    (tmp_path / "deep.py").write_text("(" * 5000, encoding="utf-8")
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("function", "args", "key", "words"),
    [
        ("jobs.toy:prepar", TOY, "function", "did you mean 'prepare'? its functions are prepare, questions"),
        ("jobs.tow:prepare", TOY, "function", "no module 'jobs.tow'; did you mean 'jobs.toy'?"),
        ("nowhere.at.all:f", {}, "function", "no module 'nowhere'; put its folder into PYTHONPATH"),
        ("jobs.toy.within:f", {}, "function", "no module 'jobs.toy.within'"),
        ("jobs.toy:prepare", {**TOY, "item": 1}, "args.item", "did you mean 'items'? allowed are prompts"),
        ("jobs.toy:prepare", {**TOY, "seed": "x"}, "args.seed", "found 'x'; a whole number is needed"),
        ("jobs.toy:prepare", {**TOY, "teacher": 3}, "args.teacher", "found 3; a mapping of epochs, batch"),
        ("jobs.toy:prepare", {**TOY, "prompts": {"1": 1.5}}, "args.prompts.1", "found 1.5; a whole number"),
        ("jobs.toy:prepare", {**TOY, "prompts": []}, "args.prompts", "found []; a mapping is needed"),
        ("jobs.smollm:prepare", {"wheel": "x"}, "args.wheel", "did you mean 'wheels'? allowed are"),
        ("jobs.smollm:prepare", {"wheels": 1}, "args.wheels", "found 1; a text is needed"),
        ("own:make", {"parts": [1, "x"], "seed": 0}, "args.parts.1", "found 'x'; a whole number"),
        ("own:make", {"parts": None}, "args.seed", "is missing"),
        ("own:make", {"parts": None, "seed": True}, "args.seed", "found True"),
        ("own:short", {}, "function", "short ("),
        ("own:many", {}, "function", "is called with (folder, arguments, progress)"),
        ("own:other", {}, "function", "its functions are make, free, short, many"),
        ("broken:make", {}, "function", "broken cannot be read: invalid syntax"),
        ("null:make", {}, "function", "null cannot be read"),
        ("deep:make", {}, "function", "deep cannot be read"),
    ],
)  # fmt: skip
def test_a_function_that_cannot_be_called(
    function: str, args: dict[str, Any], key: str, words: str, own: Path
) -> None:
    [(found, message)] = prepare_faults(function, args)
    assert found == key
    assert words in message


@pytest.mark.parametrize(
    ("function", "args"),
    [
        ("jobs.toy:prepare", TOY),
        ("jobs.smollm:prepare", {}),
        ("jobs.smollm:prepare", {"seed": 1, "wheels": None}),
        ("own:make", {"seed": 1, "parts": [1], "rate": 1, "odd": "anything"}),
        ("own:free", {"anything": 1}),
        ("own:taken", {"anything": 1}),
        ("own:later", {"anything": 1}),
        ("math:sqrt", {}),  # compiled: nothing can be known
    ],
)
def test_a_function_that_can(function: str, args: dict[str, Any], own: Path) -> None:
    assert list(prepare_faults(function, args)) == []


def test_the_study_names_file_and_line(tmp_path: Path) -> None:
    text = (CONFIGS / "studies/demo.yaml").read_text(encoding="utf-8")
    file = tmp_path / "mine.yaml"
    file.write_text(text.replace("learning_rate: 3e-3", "learning_rat: 3e-3"), encoding="utf-8")
    with pytest.raises(StudyError) as error:
        load_study(str(file))
    line = next(ln for ln in text.splitlines() if "learning_rate" in ln)
    number = text.splitlines().index(line) + 1
    assert [(m.key, m.at) for m in error.value.mistakes] == [
        ("prepare.args.teacher.learning_rat", (number, line.index("learning_rate") + 1)),
        ("prepare.args.teacher.learning_rate", (number, line.index("teacher") + 1)),
    ]


def test_nothing_is_imported_for_it() -> None:
    loaded = loaded_by("from launch.study.schema import load_study; load_study('demo'); load_study('smollm')")
    assert "launch.study.functions" in loaded
    assert not loaded & {"torch", "numpy", "jobs.toy", "jobs.smollm", "jobs.stages.train", "transformers"}
