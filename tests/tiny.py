"""Tiny Qwen3 models with a letter tokenizer and a chat template with a thinking switch, for tests."""

from __future__ import annotations

import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

# Two processes whose threads spin for the same two cores are a hundred times slower than one thread each.
os.environ.setdefault("OMP_NUM_THREADS", "1")

LETTERS = "0123456789+-*/=?!.,:; \nabcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ<>/_"
SPECIAL = ["<pad>", "<unk>", "<|user|>", "<|assistant|>", "<|end|>"]
# Opens the thinking itself, as QwQ's and DeepSeek-R1-Distill's.
OPENING = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{{ '<think>\n' }}{% endif %}"
)
# As Qwen3's: thinking on leaves the model to open it, thinking off writes an empty one into the prompt.
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def traced(reasoning: str, answer: str) -> str:
    """A thinking answer as a model writes it."""
    return f"<think>\n{reasoning}\n</think>\n\n{answer}"


def tokenizer(tags: bool = True, tags_special: bool = False, template: str = TEMPLATE) -> Any:
    """One letter a token; the tags of the thinking are tokens of their own where `tags` is set."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*SPECIAL, *dict.fromkeys(LETTERS)]
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    raw.decoder = decoders.Fuse()
    made = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", unk_token="<unk>", eos_token="<|end|>",
        additional_special_tokens=["<|user|>", "<|assistant|>"],
    )  # fmt: skip
    if tags:
        made.add_tokens(
            [AddedToken(t, special=tags_special, normalized=False) for t in ("<think>", "</think>")]
        )
    made.chat_template = template
    return made


def save(
    folder: Path, seed: int = 0, says: str | None = None, after: str = "<|assistant|>", **options: Any
) -> Path:
    """Save a tiny random model and its tokenizer.

    Args:
        says: what the model answers to everything, every token other than the one before it and no token
            twice; None leaves it random.
        after: the last token of every prompt.
        options: of `tokenizer`.
    """
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tok = tokenizer(**options)
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tok), hidden_size=64 if says is None else 128, intermediate_size=64,
        num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=32,
        max_position_embeddings=512, tie_word_embeddings=False, eos_token_id=tok.eos_token_id,
        pad_token_id=tok.pad_token_id, initializer_range=0.2,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    if says is not None:
        _teach(model, [tok.convert_tokens_to_ids(after), *tok(says)["input_ids"], tok.eos_token_id])
    model.to(torch.float32).save_pretrained(folder)
    tok.save_pretrained(folder)
    return folder


def flops(folder: Path, passes: list[tuple[int, int, int]]) -> int:
    """FLOPs of passes through a model of this module, counted product by product.

    Args:
        passes: of each, how many tokens are passed, how many keys each of them meets, and at how many places
            the output layer is applied.
    """
    c = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    hidden, heads, kept, width = (
        c[k] for k in ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim")
    )
    total = 0
    for tokens, keys, outputs in passes:
        for _ in range(c["num_hidden_layers"]):
            total += 2 * tokens * hidden * heads * width  # queries
            total += 2 * (2 * tokens * hidden * kept * width)  # keys and values
            total += 2 * heads * (2 * tokens * keys * width)  # scores, and what they weigh
            total += 2 * tokens * heads * width * hidden  # the output of attention
            total += 3 * (2 * tokens * hidden * c["intermediate_size"])
        total += 2 * outputs * hidden * c["vocab_size"]
    return total


def generation_flops(folder: Path, prompt: int, new: int) -> int:
    """FLOPs of reading a prompt and writing `new` tokens, one a step; the last is passed through no more."""
    return flops(folder, [(prompt, prompt, 1), *((1, prompt + i, 1) for i in range(1, new))])


def _teach(model: Any, path: list[int]) -> None:
    """Make each token of `path` be followed by the next, whatever came before, by setting the weights."""
    import torch

    assert len(set(path)) == len(path), "a token occurs twice: what follows it would be undecided"
    state = model.state_dict()
    with torch.no_grad():
        for name, weight in state.items():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.zero_()  # layers add nothing: the next token depends on the last one only
        size = model.config.vocab_size
        state["model.embed_tokens.weight"].zero_()[:, :size] = torch.eye(size)
        head = state["lm_head.weight"].zero_()
        for before, after in pairwise(path):
            head[after, before] = 1.0


def context(root: Path, unit: Any, **place: Any) -> Any:
    """A unit's folder under the study `root`, ready to run, as the context of one of its processes."""
    from jobs.runtime.context import Context
    from jobs.store.rundir import StudyDir, write_json

    folder = StudyDir(root).unit(unit)
    folder.path.mkdir(parents=True, exist_ok=True)
    write_json(folder.spec, unit.to_json())
    return Context(unit, folder, **place)


def progress_written(monkeypatch: Any) -> list[dict[str, Any]]:
    """The progress records that stages in this process are going to write, none of them left out."""
    from jobs.store import progress
    from jobs.store.rundir import write_json

    written: list[dict[str, Any]] = []

    def recorded(path: Path, record: dict[str, Any]) -> None:
        written.append(record)
        write_json(path, record)

    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    monkeypatch.setattr(progress, "write_json", recorded)
    return written


def phases(written: list[dict[str, Any]]) -> list[tuple[str, bool]]:
    """The phases of progress records in order, and whether each is outside of the work."""
    found = [(record["phase"], record.get("outside", False)) for record in written]
    return [each for before, each in pairwise([None, *found]) if each is not None and each != before]
