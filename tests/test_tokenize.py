"""Texts become what a student is asked and must write, once a tokenizer; mixtures hold what they say."""

from __future__ import annotations

from itertools import pairwise
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_blocks import rows_of
from tiny import context

from jobs import toy
from jobs.core.unit import Resources, Unit
from jobs.data.blocks import Blocks
from jobs.data.packing import mixture, packed
from jobs.data.pairs import PAIRS
from jobs.data.token_store import TokenStore
from jobs.stages import tokenize
from jobs.store.progress import Progress
from jobs.store.rundir import StudyDir, write_json
from jobs.text.chat import Chat
from jobs.text.encoding import encode
from jobs.text.thinking import Thinking

GROUP = 1000  # rows of a row group
THINKING = {"open": "<think>", "close": "</think>"}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    pytest.importorskip("transformers")
    return toy.tokenizer()


@pytest.mark.parametrize("share", [0, 0.01, 0.25, 1 / 3, 0.5, 0.75, 1])
@pytest.mark.parametrize("order", ["sequential", "shuffled"])
@pytest.mark.parametrize("prompts", [1, 2, 97, 1000])
def test_mixture_holds_each_prompt_once_and_its_share(share: float, order: str, prompts: int) -> None:
    phases = mixture(prompts, share, order, seed=3)
    used = {mode: np.concatenate([i for p in phases for m, i in p if m == mode] or [np.array([], int)])
            for mode in ("ift", "reasoning")}  # fmt: skip
    assert sorted([*used["ift"], *used["reasoning"]]) == list(range(prompts))
    assert abs(len(used["reasoning"]) - share * prompts) <= 0.5
    assert all(len(index) for phase in phases for _, index in phase), "an empty part"
    modes = [[mode for mode, _ in phase] for phase in phases]
    if order == "sequential":
        assert modes == [[m] for m in ("ift", "reasoning") if len(used[m])]
    else:
        assert modes == [[m for m in ("ift", "reasoning") if len(used[m])]]


def test_a_larger_share_holds_the_prompts_of_a_smaller_one() -> None:
    def reasoning(share: float, seed: int = 0) -> set[int]:
        found = [i for p in mixture(500, share, "shuffled", seed) for m, i in p if m == "reasoning"]
        return {int(n) for index in found for n in index}

    sets = [reasoning(share / 20) for share in range(21)]
    for smaller, larger in pairwise(sets):
        assert smaller < larger
    assert reasoning(0.5, seed=1) != reasoning(0.5, seed=0)
    assert reasoning(0.5) != set(range(250)), "the first prompts, not a sample of them"


def table(folder: Path, prompts: int, reasoning: dict[int, str], plain: dict[int, str]) -> Unit:
    """Publish collated rows whose answers name prompt and mode; returns the unit.

    Args:
        reasoning, plain: other reasoning, and other plain answers, of some prompts.
    """
    unit = Unit("collate", "rows", {"prompts": prompts})
    out = StudyDir(folder).unit(unit).out
    out.mkdir(parents=True)
    asked = [f"a:{'+'.join(str(i))}=" for i in range(prompts)]
    traces = [reasoning.get(i, f"0+{i % 10}={i % 10}") for i in range(prompts)]
    answers = [plain.get(i, f"0{i % 10}") for i in range(prompts)]
    told = [f"1{i % 10}" for i in range(prompts)]
    pq.write_table(
        pa.table({"prompt": asked, "reasoning": traces, "answer": told, "ift": answers}),
        out / PAIRS,
        row_group_size=GROUP,
    )
    write_json(out / "result.json", {})
    return unit


def run(
    folder: Path,
    tokenizer: Any,
    prompts: int = 60,
    template: str = toy.TEMPLATE,
    reasoning: dict[int, str] | None = None,
    plain: dict[int, str] | None = None,
    cpus: int = 1,
    **changes: Any,
) -> tuple[Blocks, dict[str, Any]]:
    """Tokenize, and pack a mixture; returns what a training reads, and the counts for its result."""
    saved = toy.tokenizer()
    saved.chat_template = template
    saved.save_pretrained(folder / "tokenizer")
    about = {"tokenizer": str(folder / "tokenizer"), "revision": None, "thinking": THINKING}
    mixed = {"share": 0.5, "order": "sequential", "block_size": 48, "seed": 0}
    about |= {key: changes.pop(key) for key in ("revision",) if key in changes}
    rows = table(folder, prompts, reasoning or {}, plain or {})
    needs = Resources(cpus_per_task=cpus)
    ctx = context(folder, Unit("tokenize", "t", about, (rows.as_input(),), resources=needs))
    tokenize.run(ctx)
    return packed(TokenStore.open(ctx.folder.out), mixed | changes, folder / "work" / "blocks.npz")


def test_rows_come_out_of_the_blocks_as_they_went_in(tmp_path: Path, tokenizer: Any) -> None:
    blocks, result = run(tmp_path, tokenizer)
    assert len(blocks.phases) == 2
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    texts = []
    for prompt, answer in rows_of(blocks):
        assert answer[-1] == end, "an answer must end with the turn's end, and learn it"
        texts.append((tokenizer.decode(prompt), tokenizer.decode(answer[:-1])))
    plain, thought = mixture(60, 0.5, "sequential", 0)
    expected = []
    for mode, index in (*plain, *thought):
        for i in index.tolist():
            asked = f"<|user|>a:{'+'.join(str(i))}=<|end|><|assistant|>"
            steps = f"<think>\n0+{i % 10}={i % 10}\n</think>\n\n1" if mode == "reasoning" else "0"
            expected.append((asked, f"{steps}{i % 10}"))
    assert sorted(texts) == sorted(expected)
    in_first = rows_of(blocks, 0, blocks.phases[0])
    assert {tokenizer.decode(a)[0] for _, a in in_first} == {"0"}, "the plain phase holds reasoning"
    assert len(in_first) == 30
    assert result["rows"] == 60
    assert result["prompts"] == 60
    assert result["dropped"] == {"stray_tags": 0, "switched": 0, "too_long": 0}
    assert result["tokens"] == sum(len(p) + len(a) for p, a in rows_of(blocks))
    assert result["answer_tokens"] == sum(len(a) for _, a in rows_of(blocks))
    assert result["reasoning_rows"] == 30
    assert result["blocks"] == list(blocks.phases)
    assert result["filled"] == pytest.approx(result["tokens"] / (len(blocks) * 48))
    assert blocks.store.tokens.itemsize == 2, "a vocabulary of 41 words"


def test_shuffled_is_one_phase_whose_blocks_hold_both_modes(tmp_path: Path, tokenizer: Any) -> None:
    blocks, _ = run(tmp_path, tokenizer, order="shuffled", share=0.25, prompts=200)
    assert len(blocks.phases) == 1
    kinds = ["think" if len(answer) > 3 else "plain" for _, answer in rows_of(blocks)]
    assert (kinds.count("think"), kinds.count("plain")) == (50, 150)


def test_batches_groups_and_processes_change_nothing(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    strays, told = {5: "1<think>2", 33: "9" * 60}, list[tuple[Any, ...]]()

    def update(_: Progress, *what: Any, **more: Any) -> None:
        told.append((*what, more))

    run(tmp_path / "whole", tokenizer, 40, reasoning=strays)
    monkeypatch.setattr(tokenize, "BATCH", 70)
    monkeypatch.setitem(globals(), "GROUP", 7)
    monkeypatch.setattr(Progress, "update", update)
    run(tmp_path / "parts", tokenizer, 40, reasoning=strays)
    said = [(n, 40, "prompts", {"force": n == 7, "kept": 0}) for n in (*range(7, 40, 7), 40)]
    assert told == said
    run(tmp_path / "shared", tokenizer, 40, reasoning=strays, cpus=2)
    assert told == said * 2
    forkserver._forkserver._stop()  # type: ignore[attr-defined]  # it has not loaded what other tests need
    whole, *others = (
        StudyDir(tmp_path / n).published("tokenize")[0].out for n in ("whole", "parts", "shared")
    )
    for other in others:
        for name in ("tokens.u16", "lengths.u32", "faults.u8", "result.json"):
            assert (other / name).read_bytes() == (whole / name).read_bytes()


def test_an_index_is_made_once(tmp_path: Path, tokenizer: Any) -> None:
    blocks, result = run(tmp_path, tokenizer)
    file = tmp_path / "work" / "blocks.npz"
    written = file.stat().st_mtime_ns
    config = {"share": 0.5, "order": "sequential", "block_size": 48, "seed": 0}
    again, same = packed(blocks.store, config, file)
    assert (same, file.stat().st_mtime_ns, [p.name for p in file.parent.iterdir()]) == (
        result, written, ["blocks.npz"],
    )  # fmt: skip
    assert rows_of(again) == rows_of(blocks)
    other, _ = packed(blocks.store, {**config, "seed": 1}, tmp_path / "other.npz")
    assert rows_of(other) != rows_of(blocks)


def test_the_tokenizer_is_that_of_its_revision(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer

    loaded = list[tuple[str, str]]()

    def load(path: str, revision: str) -> Any:
        loaded.append((path, revision))
        return tokenizer

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", load)
    run(tmp_path, tokenizer, revision="v2")
    assert loaded == [(str(tmp_path / "tokenizer"), "v2")]


def test_tokens_are_those_of_the_texts_alone(tokenizer: Any) -> None:
    def with_first(texts: list[str], add_special_tokens: bool = True, **_: Any) -> Any:
        made = tokenizer(texts, add_special_tokens=False)["input_ids"]
        return {"input_ids": [[0, *ids] if add_special_tokens else ids for ids in made]}

    chat = Chat.of(tokenizer, Thinking(**THINKING))
    plain = list(encode(tokenizer, chat, ["a:1="], [""], ["1"]))
    assert list(encode(with_first, chat, ["a:1="], [""], ["1"])) == plain
    assert list(encode(tokenizer, chat, [], [], [])) == []
    for prompts, answers in ((["a:1=", "b:2="], ["1"]), (["a:1="], ["1", "2"])):
        with pytest.raises(ValueError, match="zip"):
            list(encode(tokenizer, chat, prompts, [""], answers))


def test_pure_students_read_one_mode(tmp_path: Path, tokenizer: Any) -> None:
    for share, mode in ((0, "0"), (1, "<think>")):
        blocks, _ = run(tmp_path / mode.strip("<>"), tokenizer, share=share)
        assert {tokenizer.decode(a[:1]) for _, a in rows_of(blocks)} == {mode}


LONG = [3, 5, 8]  # prompts whose reasoning is longer than the others'


@pytest.mark.parametrize("order", ["sequential", "shuffled"])
def test_a_row_that_is_too_long_drops_its_twin_in_every_mixture(
    tmp_path: Path, tokenizer: Any, order: str
) -> None:
    longer = dict.fromkeys(LONG, "9" * 30)
    learned, results = {}, {}
    for share in (0, 0.25, 1):
        folder = tmp_path / str(share)
        blocks, results[share] = run(
            folder, tokenizer, 20, reasoning=longer, share=share, order=order, block_size=44
        )
        learned[share] = {tokenizer.decode(prompt) for prompt, _ in rows_of(blocks)}
        if (share, order) == (0.25, "sequential"):
            plain = 17 - round(17 * 0.25)
            assert len(rows_of(blocks, 0, blocks.phases[0])) == plain, "the share is not that of the study"
    assert learned[0] == learned[0.25] == learned[1], "students differ in their prompts"
    kept = [i for i in range(20) if i not in LONG]
    assert learned[0] == {f"<|user|>a:{'+'.join(str(i))}=<|end|><|assistant|>" for i in kept}
    for result in results.values():
        assert result["prompts"] == result["rows"] == 17
        assert result["dropped"] == {"stray_tags": 0, "switched": 0, "too_long": 3}


def test_where_no_prompt_is_left_the_reason_is_named(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=r"none of 60 prompts .* 8 tokens.*'too_long': 60.*training\.block"):
        run(tmp_path, tokenizer, block_size=8)


def test_a_row_may_fill_its_block_to_the_last_token(tmp_path: Path, tokenizer: Any) -> None:
    """Rows of exactly a block are kept, the next longer are not, and a full block has no padding."""
    prompt, answer = 1 + 4 + 1 + 1, 2 + 1  # <|user|>a:N=<|end|><|assistant|>, then two digits and <|end|>
    trace = {i: "9" * (i - 2) for i in range(2, 8)}  # the tokens of the reasoning: 0, 1, 2 …
    full = prompt + 2 + 4 + 4 + answer  # <think>\n, four tokens, \n</think>\n\n
    blocks, result = run(
        tmp_path, tokenizer, 8, reasoning={0: "9", 1: "9", **trace, 2: "9"}, share=1, block_size=full
    )
    assert result["dropped"]["too_long"] == 1, "only that of five tokens"
    assert [blocks.lengths(np.array([i])) for i in range(len(blocks))].count([full]) == 1
    assert max(blocks.lengths(np.arange(len(blocks)))) == full


def test_stray_tags_drop_a_prompt_in_both_modes(tmp_path: Path, tokenizer: Any) -> None:
    strays = {0: "1<think>2", 1: "1</think>2"}
    _, result = run(tmp_path, tokenizer, 10, reasoning=strays, plain={2: "<think>", 3: "</think>5"}, share=0)
    assert result["dropped"] == {"stray_tags": 4, "switched": 0, "too_long": 0}
    assert result["rows"] == 6


OPENING = toy.TEMPLATE + "{%- if add_generation_prompt -%}{{ '<think>\\n' }}{%- endif -%}"


def test_behind_a_template_that_opens_the_thinking_rows_go_on_inside_it(
    tmp_path: Path, tokenizer: Any
) -> None:
    blocks, _ = run(tmp_path, tokenizer, 20, template=OPENING)
    plain, thought = list[str](), list[str]()
    for prompt, answer in rows_of(blocks):
        asked, told = tokenizer.decode(prompt), tokenizer.decode(answer)
        assert asked.endswith("<|assistant|><think>\n")
        assert (asked + told).count("<think>") == (asked + told).count("</think>") == 1
        (thought if "+" in told else plain).append(told)
    assert len(plain) == len(thought) == 10
    assert all(told.startswith("\n</think>\n\n0") for told in plain)
    assert all(told.startswith("0+") and "\n</think>\n\n1" in told for told in thought)


def test_a_template_that_closes_the_thinking_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    closing = OPENING.replace("'<think>\\n'", "'<think></think>'")
    with pytest.raises(
        ValueError, match=r"ends a question with .*<think></think>', which closes .*tokenizer'"
    ):
        run(tmp_path, tokenizer, template=closing)


def test_a_prompt_that_switches_the_thinking_itself_is_dropped(tmp_path: Path, tokenizer: Any) -> None:
    switched = OPENING.replace("'<think>\\n'", "'' if '7' in messages[0].content else '<think>\\n'")
    _, result = run(tmp_path, tokenizer, 20, template=switched)
    assert result["dropped"] == {"stray_tags": 0, "switched": 2, "too_long": 0}  # 7 and 17


def test_template_options_reach_the_prompt(tokenizer: Any) -> None:
    chats = [Chat.of(tokenizer, Thinking(**THINKING), o) for o in ({"enable_thinking": False}, None)]
    (plain,), (free,) = (list(encode(tokenizer, chat, ["a:1="], [""], ["1"])) for chat in chats)
    assert tokenizer.decode(plain.prompt) == tokenizer.decode(free.prompt) + "<think>\n\n</think>\n\n"
    assert plain.answer == free.answer
