"""The demo's data: sums modulo ten, a tokenizer, a teacher trained on them, prompts and benchmarks.

A question is a label and digits, `c:3+7+5=`, and its answer their sum modulo ten. The steps are one addition
each, `0+3=3;3+7=0;0+5=5`. Labels carry no meaning; they multiply the few short sums. The teacher learns both
to write the steps and to answer directly, which works for short sums only, so a student of its plain answers
also learns its guesses. No other module of the project may depend on this one.
"""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any, TypedDict

from jobs.data.blocks import Blocks
from jobs.evaluation.local_tasks import write_task
from jobs.stages.train import build, fit, save
from jobs.store.progress import Progress
from jobs.store.rundir import write_jsonl
from jobs.text.chat import Chat
from jobs.text.encoding import encode
from jobs.text.thinking import Thinking
from jobs.training.distributed import accelerate
from jobs.training.schedule import Recipe, scheduled

LABELS = "abcdefghijklmnopqrst"
OPEN, CLOSE = "<think>", "</think>"
# Qwen3's convention: without thinking, the prompt contains an empty trace.
TEMPLATE = (
    "{%- for m in messages -%}<|{{ m.role }}|>{{ m.content }}<|end|>{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>"
    "{%- if enable_thinking is defined and enable_thinking is false -%}"
    "{{ '<think>\\n\\n</think>\\n\\n' }}{%- endif -%}{%- endif -%}"
)
Question = tuple[str, tuple[int, ...]]  # label, digits


class TeacherArgs(TypedDict):
    """How the teacher is trained; its vocabulary is the tokenizer's."""

    epochs: int
    batch: int
    block: int
    learning_rate: float
    architecture: dict[str, Any]


class Args(TypedDict):
    """Arguments that a study may pass to `prepare`; `sor plan` reads these types."""

    prompts: dict[str, int]  # number of questions by number of digits
    items: int  # per benchmark
    teacher: TeacherArgs
    seed: int


def prepare(staged: Path, args: Args, progress: Progress) -> dict[str, Any]:
    """Make the demo's files: tokenizer/, teacher/, prompts.jsonl, benchmarks/."""
    prompts, held_out = questions({int(k): n for k, n in args["prompts"].items()}, args["seed"])
    tokens = tokenizer()
    tokens.save_pretrained(staged / "tokenizer")
    write_jsonl(staged / "prompts.jsonl", ({"prompt": text(q)} for q in prompts))
    shortest, longest = min(held_out), max(held_out)
    for name, digits in (("toy_short", sorted(held_out)[1]), ("toy_long", longest)):
        items = [{"prompt": text(q), "answer": answer(q)} for q in held_out[digits][: args["items"]]]
        write_task(staged / "benchmarks", name, items, source="made by jobs/toy.py, free to use")
    taught = train_teacher(staged, tokens, prompts, args["teacher"], args["seed"], progress)
    return {"prompts": len(prompts), "digits": [shortest, longest], "teacher": taught}


def questions(wanted: dict[int, int], seed: int) -> tuple[list[Question], dict[int, list[Question]]]:
    """Return distinct training questions, and held-out ones by number of digits."""
    rng = random.Random(seed)
    learn: list[Question] = []
    held_out: dict[int, list[Question]] = {}
    for digits, count in wanted.items():
        if digits <= 2:  # few enough to enumerate
            found = list(itertools.product(LABELS, itertools.product(range(10), repeat=digits)))
            rng.shuffle(found)
        else:
            drawn = (
                (rng.choice(LABELS), tuple(rng.randrange(10) for _ in range(digits)))
                for _ in range(3 * count)
            )
            found = list(dict.fromkeys(drawn))
        learn += found[:count]
        held_out[digits] = found[count:]
    rng.shuffle(learn)
    return learn, held_out


def text(question: Question) -> str:
    """Return the question's text."""
    label, digits = question
    return f"{label}:{'+'.join(map(str, digits))}="


def answer(question: Question) -> str:
    """Return the correct answer."""
    return str(sum(question[1]) % 10)


def steps(question: Question) -> str:
    """Return the additions that lead to the answer."""
    sums = list(itertools.accumulate(question[1], lambda a, b: (a + b) % 10, initial=0))
    return ";".join(f"{a}+{d}={b}" for a, d, b in zip(sums, question[1], sums[1:], strict=False))


def tokenizer() -> Any:
    """Build a tokenizer with one token per character and a chat template with a thinking switch."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"]
    characters = [*special, "\n", *"0123456789+=;:", *LABELS]
    made = Tokenizer(models.WordLevel({c: i for i, c in enumerate(characters)}, unk_token="<|pad|>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    made.decoder = decoders.Fuse()
    made.add_special_tokens([AddedToken(t, special=True) for t in special])
    made.add_tokens([AddedToken(OPEN), AddedToken(CLOSE)])  # models write these, so they are not special
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<|end|>", pad_token="<|pad|>", chat_template=TEMPLATE
    )


def train_teacher(
    staged: Path, tokens: Any, prompts: list[Question], args: TeacherArgs, seed: int, progress: Progress
) -> dict[str, Any]:
    """Train the teacher on the correct answers in both modes and save it."""
    recipe = Recipe(
        epochs=args["epochs"], batch=args["batch"], learning_rate=args["learning_rate"], warmup=0.05,
        schedule="cosine", weight_decay=0.01, betas=(0.9, 0.98), clip=1.0, dtype="fp32", seed=seed,
    )  # fmt: skip
    asked = [text(q) for q in prompts]
    answers = [answer(q) for q in prompts]
    chats = [Chat.of(tokens, Thinking(OPEN, CLOSE), {"enable_thinking": on}) for on in (False, True)]
    plain = encode(tokens, chats[0], asked, [""] * len(asked), answers)
    thought = encode(tokens, chats[1], asked, [steps(q) for q in prompts], answers)
    blocks = Blocks.of_rows(itertools.chain(plain, thought), args["block"])
    preset = {"init": "random", "architecture": {**args["architecture"], "vocab_size": len(tokens)}}
    execution = {
        "deepspeed": None, "gradient_checkpointing": False, "micro_batch": args["batch"],
        "sequence_parallel": None,
    }  # fmt: skip
    accelerator = accelerate(recipe, execution, world=1)
    schedule = scheduled(blocks, recipe, preset["architecture"])
    model, totals = fit(
        accelerator, build(preset, recipe, execution), blocks, schedule, execution, progress,
        staged / "teacher.jsonl",
    )  # fmt: skip
    model = accelerator.unwrap_model(model)
    save(model, model.state_dict(), tokens, staged / "teacher", recipe.dtype)
    return {"loss": totals.loss, "flops": totals.flops, "tokens": totals.tokens, "seconds": totals.seconds}
