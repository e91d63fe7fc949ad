"""`sor init FILE --model NAME`: a preset of a model, its shape read from its config.json."""

from __future__ import annotations

import json
import shlex
import textwrap
from pathlib import Path
from typing import Any

from jobs.core.flops import architecture
from launch.commands.init import write_new
from launch.study.hub import Described, describe
from launch.study.presets import Mistake, StudyError
from launch.study.shapes import EXPERTS, NULLABLE, SIZES, shape_faults

KEPT = (
    "model_type", *SIZES, *EXPERTS, *NULLABLE, "decoder_sparse_step", "mlp_only_layers",
    "tie_word_embeddings", "attention_bias", "mlp_bias",
)  # fmt: skip
LONGEST = 20480  # tokens that a student's answers and prompts may take
TEMPLATE = """\
# {quoted}, {size} parameters; written by 'sor init --model' from its config.json.
size: {size}   # its label in tables
model: {quoted}
{revision}# tokenizer: ORG/NAME   # where the model's own has no chat template, or all sizes share one
architecture: {architecture}
# Our defaults for full fine-tuning on GPUs of 80 GB: correct them for your nodes.
training: {training}
serving: {{gpus: 1, max_model_len: {length}}}
"""


def write_model(file: Path, name: str) -> str:
    """Write a preset for a model and return what to do with it.

    Args:
        name: a folder, or ORG/NAME on the hub, with @REVISION or without.

    Raises:
        StudyError: there is no such model, its architecture cannot be counted, or the file exists.
    """
    model, _, revision = (name, "", "") if Path(name).expanduser().is_dir() else name.partition("@")
    try:
        text = model_text(describe(model, revision or None))
    except ValueError as error:
        raise StudyError([Mistake(Path(name), "", str(error))]) from None
    write_new(file, "model", text)
    return f"wrote {file}. To use it, name it in a study beside it: students: [{shlex.quote(file.name)}]"


def model_text(found: Described) -> str:
    """Return a commented preset. Pure.

    Raises:
        ValueError: FLOPs of its architecture cannot be counted.
    """
    faults = [f"config.json: {key}: {words}" for key, words in shape_faults(found.config)]
    if faults:
        raise ValueError("; ".join(faults))
    kept = {key: found.config[key] for key in KEPT if found.config.get(key) is not None}
    count = architecture(kept).parameters
    longest = min(int(kept.get("max_position_embeddings", LONGEST)), LONGEST)
    return TEMPLATE.format(
        size=_rounded(count),
        quoted=json.dumps(found.model),
        revision=f"revision: {json.dumps(found.revision)}\n" if found.revision else "",
        architecture=_flow(kept),
        training=_flow(_training(count)),
        length=longest,
    )


def _training(parameters: int) -> dict[str, Any]:
    """Return settings like those of the shipped presets of about this size."""
    small, middle = parameters < 1e9, parameters < 5e9
    return {
        "learning_rate": 2e-5 if small else 1e-5,
        "micro_batch": 2 if middle else 1,
        "zero": 1 if small else 2 if middle else 3,
        "gradient_checkpointing": True,
        "gpus_per_node": 1 if small else 8,
    }


def _rounded(count: int) -> str:
    """Format a number of parameters as model names do: 494M, 7.6B."""
    return f"{count / 1e9:.3g}B" if count >= 1e9 else f"{count / 1e6:.3g}M"


def _flow(values: dict[str, Any]) -> str:
    """Format a mapping as YAML in braces."""
    text = "{" + ", ".join(f"{key}: {json.dumps(value)}" for key, value in values.items()) + "}"
    return textwrap.fill(text, 100, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
