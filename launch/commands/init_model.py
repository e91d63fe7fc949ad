"""`sor init FILE --model NAME`: a preset of a model, its shape read from its config.json."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs.core.architectures import FAMILIES, LATENT, SIZES
from jobs.core.flops import architecture
from launch.commands.init import refuse, write_new
from launch.study.hub import Described, describe
from launch.study.model import AUTO
from launch.study.presets import Mistake, StudyError
from launch.study.shapes import EXPERTS, NULLABLE, WINDOWS, shape_faults

KEPT = (
    "model_type", *SIZES, "num_experts", "num_local_experts", "num_experts_per_tok", "moe_intermediate_size",
    *NULLABLE, "decoder_sparse_step", "mlp_only_layers", "tie_word_embeddings", "attention_bias", "mlp_bias",
)  # fmt: skip
ALSO = tuple(dict.fromkeys((*LATENT, "q_lora_rank", *EXPERTS, "qkv_bias", "use_bias", *WINDOWS)))
GROUPS = ("n_group", "topk_group")  # no FLOPs depend on them, but whether the model can be built
BY_TORCH = "By torch's counter: 'sor' itself does not know this family of models."
MEASURING = "jobs.engines.measure"
NODE, GPU = 8, 80e9  # GPUs of a node, and bytes of one, that the defaults assume
USABLE = 0.6  # of a GPU's memory, for weights; the rest is for activations or the cache
LONGEST = 20480  # tokens that a student's answers and prompts may take
TEMPLATE = """\
# {quoted}, {size} parameters; written by 'sor init --model' from its config.json.
size: {size}   # its label in tables
model: {quoted}
{revision}# tokenizer: ORG/NAME   # where the model's own has no chat template, or all sizes share one
architecture: {architecture}
{flops}# Full fine-tuning; nodes with 8 GPUs of 80 GB are assumed. 'sor plan' shows what auto takes.
training: {training}
serving: {{gpus: {gpus}, max_model_len: {length}}}
"""


def write_model(file: Path, name: str) -> str:
    """Write a preset for a model and return what to do with it.

    Args:
        name: a folder, or ORG/NAME on the hub, with @REVISION or without.

    Raises:
        StudyError: there is no such model, its architecture cannot be counted, or see `init.refuse`.
    """
    refuse(file)
    model, _, revision = (name, "", "") if Path(name).expanduser().is_dir() else name.partition("@")
    try:
        text = model_text(measured(describe(model, revision or None)))
    except ValueError as error:
        raise StudyError([Mistake(Path(name), "", str(error))]) from None
    write_new(file, "model", text)
    return f"wrote {file}. To use it, name it in a study beside it: students: [{json.dumps(file.name)}]"


def measured(found: Described) -> Described:
    """Return a model with FLOPs as `jobs.engines.measure` finds them, if its family is unknown.

    A process of its own measures, since it needs PyTorch, which is loaded nowhere else on a login node.

    Raises:
        ValueError: its FLOPs cannot be measured, or not here.
    """
    name = found.config.get("model_type")
    if not isinstance(name, str) or name in FAMILIES or "flops" in found.config:
        return found
    made = subprocess.run(
        [sys.executable, "-m", MEASURING],
        input=json.dumps(found.config), capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    if made.returncode:
        last = made.stderr.strip().splitlines()[-1:] or [f"{MEASURING} ended with {made.returncode}"]
        raise ValueError(f"its FLOPs cannot be measured: {last[0]}")
    return replace(found, config=json.loads(made.stdout))


def model_text(found: Described) -> str:
    """Return a commented preset. Pure.

    Raises:
        ValueError: FLOPs of its architecture cannot be counted.
    """
    config = {key: value for key, value in found.config.items() if key != "flops"}
    flops = found.config.get("flops")
    faults = [f"config.json: {key}: {words}" for key, words in shape_faults(config, bool(flops))]
    if faults:
        raise ValueError("; ".join(faults))
    kept = _kept(config) if not flops else {k: v for k, v in config.items() if k in KEPT}
    count = architecture({**kept, **({"flops": flops} if flops else {})}).parameters
    longest = min(int(kept.get("max_position_embeddings", LONGEST)), LONGEST)
    return TEMPLATE.format(
        size=_rounded(count),
        quoted=json.dumps(found.model),
        revision=f"revision: {json.dumps(found.revision)}\n" if found.revision else "",
        architecture=_flow(kept),
        flops=f"# {BY_TORCH}\nflops: {_flow(flops)}\n" if flops else "",
        training=_flow(_training(count)),
        gpus=_gpus(2 * count),
        length=longest,
    )


def _kept(config: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of a known family's config that a preset names: those without which counts differ."""
    family, shape = FAMILIES[config["model_type"]], architecture(config)
    always = (*family.needed, *(GROUPS if family.latent else ()))
    kept = {key: config[key] for key in (*KEPT, *ALSO) if key in config}
    for key, value in list(kept.items()):
        without = {other: kept[other] for other in kept if other != key}
        needed = key in always or (key in KEPT and value is not None)
        if not needed and architecture(without) == shape:
            kept = without
    return kept


def _training(parameters: int) -> dict[str, Any]:
    """Return as many GPUs as weights, gradients and optimizer (16 bytes a parameter) need, and `auto`."""
    gpus = _gpus(16 * parameters)
    return {
        "learning_rate": 2e-5 if parameters < 2e9 else 1e-5,
        **dict.fromkeys(("micro_batch", "zero", "gradient_checkpointing"), AUTO),
        "nodes": math.ceil(gpus / NODE),
        "gpus_per_node": min(gpus, NODE),
    }


def _gpus(size: int) -> int:
    """Return how many GPUs hold so many bytes: a power of two."""
    return int(2 ** math.ceil(math.log2(max(1.0, size / (USABLE * GPU)))))


def _rounded(count: int) -> str:
    """Format a number of parameters as model names do: 494M, 7.6B."""
    return f"{count / 1e9:.3g}B" if count >= 1e9 else f"{count / 1e6:.3g}M"


def _flow(values: dict[str, Any]) -> str:
    """Format a mapping as YAML in braces."""
    text = "{" + ", ".join(f"{key}: {json.dumps(value)}" for key, value in values.items()) + "}"
    return textwrap.fill(text, 100, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
