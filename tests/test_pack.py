"""Rows stay whole in their blocks, loss counts on answers only, and mixtures hold what they say."""

from __future__ import annotations

import random
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import context

from jobs import toy
from jobs.core.unit import Unit
from jobs.data.blocks import LEARN, PADDING, REASONING, START, Blocks
from jobs.data.pairs import PAIRS
from jobs.stages import pack
from jobs.stages.pack import OPEN_BLOCKS, Row, encode, encoded, mixture, packed, usable, write
from jobs.store.progress import Progress
from jobs.store.rundir import StudyDir, read_json, write_json
from jobs.text.chat import Chat
from jobs.text.thinking import Thinking

THINKING = {"open": "<think>", "close": "</think>"}
SIZE = 40


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    pytest.importorskip("transformers")
    return toy.tokenizer()


def row(number: int, length: int) -> Row:
    """A row that can be told from others: its number is in each of its tokens."""
    return Row([number] * (length // 2), [number] * (length - length // 2))


lengths = st.lists(st.integers(1, SIZE), max_size=200)


@given(lengths)
def test_every_row_is_in_one_block_and_no_block_is_too_full(lengths: list[int]) -> None:
    rows = [row(i, n) for i, n in enumerate(lengths)]
    blocks = list(packed(rows, SIZE))
    assert sorted(r.answer[0] for r in chain.from_iterable(blocks)) == list(range(len(rows)))
    assert all(0 < sum(map(len, block)) <= SIZE for block in blocks)


@given(lengths)
def test_two_blocks_that_fit_into_one_are_one(lengths: list[int]) -> None:
    """First fit: while all blocks are open, at most one can be half empty or emptier."""
    rows = [row(i, n) for i, n in enumerate(lengths)]
    blocks = list(packed(rows, SIZE))
    if len(blocks) <= OPEN_BLOCKS:
        assert sum(2 * sum(map(len, block)) <= SIZE for block in blocks) <= 1


def test_rows_stay_near_their_place() -> None:
    rng = random.Random(0)
    rows = [row(i, rng.randint(1, SIZE)) for i in range(5000)]
    order = [r.answer[0] for block in packed(rows, SIZE) for r in block]
    moved = [abs(place - number) for place, number in enumerate(order)]
    assert np.mean(moved) < 3 * OPEN_BLOCKS, "the order of training is lost"


def test_a_row_goes_where_it_fits_to_the_last_token_and_the_fullest_block_is_closed_first() -> None:
    def numbers(lengths: list[int]) -> list[list[int]]:
        rows = [row(number, length) for number, length in enumerate(lengths)]
        return [[r.answer[0] for r in block] for block in packed(rows, SIZE)]

    assert numbers([30, 35, 10, 5, SIZE, 1]) == [[0, 2], [1, 3], [4], [5]]
    lengths = [SIZE // 2 + 1] * OPEN_BLOCKS
    lengths[3] = lengths[7] = SIZE - 1
    closed = numbers([*lengths, SIZE, 1, SIZE])
    assert closed[:2] == [[3], [OPEN_BLOCKS]]
    assert closed[2:] == [
        [0, OPEN_BLOCKS + 1], *([n] for n in range(1, OPEN_BLOCKS) if n != 3), [OPEN_BLOCKS + 2],
    ]  # fmt: skip


def test_blocks_are_written_token_by_token(tmp_path: Path) -> None:
    phases = [
        [Row([1, 2], [3]), Row([4], [5, 6], True)],
        [Row([7], [8] * 6), Row([9], [10, 11]), Row([], [12])],
    ]
    result = write(tmp_path, phases, 7, padding=99)
    assert result == {
        "block_size": 7, "phases": [{"blocks": 1}, {"blocks": 2}], "rows": 5, "reasoning_rows": 1,
        "tokens": 17, "answer_tokens": 12, "row_squares": 9 + 9 + 49 + 9 + 1, "filled": 17 / 21,
    }  # fmt: skip
    write_json(tmp_path / "result.json", result)
    blocks = Blocks.open(tmp_path)
    assert blocks.phases == (1, 2)
    assert blocks.tokens.tolist() == [
        [1, 2, 3, 4, 5, 6, 99], [7, 8, 8, 8, 8, 8, 8], [9, 10, 11, 12, 99, 99, 99],
    ]  # fmt: skip
    begin, learn, begin_none, none, why = START, LEARN, START | PADDING, PADDING, REASONING
    assert blocks.flags.tolist() == [
        [begin, 0, learn, begin | why, learn | why, learn | why, begin_none],
        [begin, *[learn] * 6],
        [begin, learn, learn, begin | learn, begin_none, none, none],
    ]
    assert blocks.answers(np.arange(3)) == (10, 2)
    assert blocks.flat(np.array([0])).reasoning.tolist() == [False, True, True]
    assert blocks.marked
    write_json(tmp_path / "result.json", {k: v for k, v in result.items() if k != "reasoning_rows"})
    assert not Blocks.open(tmp_path).marked, "an earlier version has marked no rows"
    assert not blocks.tokens.flags.writeable
    assert not blocks.flags.flags.writeable


def test_a_row_longer_than_a_block_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        write(tmp_path, [[row(1, 8)]], 7, padding=0)


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
        pa.table({"prompt": asked, "reasoning": traces, "answer": told, "ift": answers}), out / PAIRS
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
    pad: str | None = "<|pad|>",
    **changes: Any,
) -> Path:
    """Pack; returns the published result's folder."""
    saved = toy.tokenizer()
    saved.pad_token = pad
    saved.chat_template = template
    saved.save_pretrained(folder / "tokenizer")
    config = {
        "tokenizer": str(folder / "tokenizer"), "revision": None, "thinking": THINKING, "share": 0.5,
        "order": "sequential", "block_size": 48, "seed": 0,
    }  # fmt: skip
    rows = table(folder, prompts, reasoning or {}, plain or {})
    ctx = context(folder, Unit("pack", "p", config | changes, (rows.as_input(),)))
    pack.run(ctx)
    return ctx.folder.out


def rows_of(blocks: Blocks, first: int = 0, last: int | None = None) -> list[tuple[list[int], list[int]]]:
    """Prompt and answer tokens of all rows in some blocks, read from tokens and flags alone."""
    found: list[tuple[list[int], list[int]]] = []
    tokens, flags = blocks.tokens[first:last].reshape(-1), blocks.flags[first:last].reshape(-1)
    for token, flag in zip(tokens.tolist(), flags.tolist(), strict=True):
        if flag & PADDING:
            continue
        if flag & START:
            found.append(([], []))
        found[-1][bool(flag & LEARN)].append(token)
    return found


def test_rows_come_out_of_the_blocks_as_they_went_in(tmp_path: Path, tokenizer: Any) -> None:
    out = run(tmp_path, tokenizer)
    blocks, result = Blocks.open(out), read_json(out / "result.json")
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
    assert result["row_squares"] == sum((len(p) + len(a)) ** 2 for p, a in rows_of(blocks))
    assert result["filled"] == pytest.approx(result["tokens"] / blocks.tokens.size)


def test_shuffled_is_one_phase_in_which_modes_alternate(tmp_path: Path, tokenizer: Any) -> None:
    blocks = Blocks.open(run(tmp_path, tokenizer, order="shuffled", share=0.25, prompts=200))
    assert len(blocks.phases) == 1
    kinds = ["think" if len(answer) > 3 else "plain" for _, answer in rows_of(blocks)]
    assert kinds.count("think") == 50
    for part in range(4):  # evenly, not one after the other
        assert 5 <= kinds[50 * part : 50 * (part + 1)].count("think") <= 20


def test_two_modes_are_interleaved_evenly(tokenizer: Any) -> None:
    chat = Chat.of(tokenizer, Thinking(**THINKING))
    texts = [str(n) for n in range(6)]
    rows = pa.table({"prompt": ["a:1="] * 6, "reasoning": [""] * 6, "answer": texts})
    phase = [("ift", np.array([5, 0, 1, 2])), ("reasoning", np.array([4, 3]))]
    made = encoded(tokenizer, chat, {"ift": rows, "reasoning": rows}, phase)
    assert [tokenizer.decode(row.answer)[0] for row in made] == list("540132")


def test_batches_and_progress_change_nothing(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    strays, told = {5: "1<think>2", 33: "9" * 60}, list[tuple[Any, ...]]()

    def update(_: Progress, *what: Any, **more: Any) -> None:
        told.append((*what, more))

    whole = run(tmp_path / "whole", tokenizer, 40, reasoning=strays)
    monkeypatch.setattr(pack, "BATCH", 7)
    monkeypatch.setattr(Progress, "update", update)
    parts = run(tmp_path / "parts", tokenizer, 40, reasoning=strays)
    for name in ("tokens.u32", "flags.u8", "result.json"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()
    assert read_json(parts / "result.json")["prompts"] == 38
    measured = [(done, 80, "prompts", {"force": done == 0, "phase": "measuring"}) for done in range(0, 40, 7)]
    written = [(done, 80, "prompts", {"force": True, "phase": "packing"}) for done in (40, 40 + 19)]
    assert told == measured + written


def test_modes_of_other_prompts_are_an_error(tokenizer: Any) -> None:
    def rows(count: int) -> pa.Table:
        return pa.table({"prompt": ["a:1="] * count, "reasoning": [""] * count, "answer": ["1"] * count})

    chat = Chat.of(tokenizer, Thinking(**THINKING))
    with pytest.raises(ValueError, match="zip"):
        usable(tokenizer, chat, {"ift": rows(2), "reasoning": rows(1)}, SIZE, lambda done: None)


def test_padding_is_the_tokenizers_or_nothing(tmp_path: Path, tokenizer: Any) -> None:
    for name, wanted in (("<|end|>", tokenizer.convert_tokens_to_ids("<|end|>")), (None, 0)):
        blocks = Blocks.open(run(tmp_path / str(name), tokenizer, pad=name))
        assert set(blocks.tokens[blocks.flags & PADDING != 0].tolist()) == {wanted}


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
    def with_first(texts: list[str], add_special_tokens: bool = True) -> Any:
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
        blocks = Blocks.open(run(tmp_path / mode.strip("<>"), tokenizer, share=share))
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
        out = run(folder, tokenizer, 20, reasoning=longer, share=share, order=order, block_size=44)
        learned[share] = {tokenizer.decode(prompt) for prompt, _ in rows_of(Blocks.open(out))}
        results[share] = read_json(out / "result.json")
    assert learned[0] == learned[0.25] == learned[1], "students differ in their prompts"
    kept = [i for i in range(20) if i not in LONG]
    assert learned[0] == {f"<|user|>a:{'+'.join(str(i))}=<|end|><|assistant|>" for i in kept}
    for result in results.values():
        assert result["prompts"] == result["rows"] == 17
        assert result["dropped"] == {"stray_tags": 0, "switched": 0, "too_long": 3}
    plain = 17 - round(17 * 0.25)
    if order == "sequential":
        blocks = Blocks.open(StudyDir(tmp_path / "0.25").published("pack")[0].out)
        assert len(rows_of(blocks, 0, blocks.phases[0])) == plain, "the share is no longer that of the study"


def test_where_no_prompt_is_left_the_reason_is_named(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=r"none of 60 prompts .* 8 tokens.*'too_long': 60.*training\.block"):
        run(tmp_path, tokenizer, block_size=8)


def test_a_row_may_fill_its_block_to_the_last_token(tmp_path: Path, tokenizer: Any) -> None:
    """Rows of exactly a block are kept, the next longer are not, and a full block has no padding."""
    prompt, answer = 1 + 4 + 1 + 1, 2 + 1  # <|user|>a:N=<|end|><|assistant|>, then two digits and <|end|>
    trace = {i: "9" * (i - 2) for i in range(2, 8)}  # the tokens of the reasoning: 0, 1, 2 …
    full = prompt + 2 + 4 + 4 + answer  # <think>\n, four tokens, \n</think>\n\n
    out = run(tmp_path, tokenizer, 8, reasoning={0: "9", 1: "9", **trace, 2: "9"}, share=1, block_size=full)
    blocks, result = Blocks.open(out), read_json(out / "result.json")
    assert result["dropped"]["too_long"] == 1, "only that of five tokens"
    lengths = sorted(blocks.lengths(np.arange(len(blocks.tokens))))
    assert lengths[-1] == full
    of_full = [i for i in range(len(blocks.tokens)) if blocks.lengths(np.array([i])) == [full]]
    assert len(of_full) == 1
    assert not (blocks.flags[of_full[0]] & PADDING).any()
    assert (blocks.flags[of_full[0]] & START).nonzero()[0].tolist() == [0]


def test_stray_tags_drop_a_prompt_in_both_modes(tmp_path: Path, tokenizer: Any) -> None:
    strays = {0: "1<think>2", 1: "1</think>2"}
    out = run(tmp_path, tokenizer, 10, reasoning=strays, plain={2: "<think>", 3: "</think>5"}, share=0)
    result = read_json(out / "result.json")
    assert result["dropped"] == {"stray_tags": 4, "switched": 0, "too_long": 0}
    assert result["rows"] == 6


OPENING = toy.TEMPLATE + "{%- if add_generation_prompt -%}{{ '<think>\\n' }}{%- endif -%}"


def test_behind_a_template_that_opens_the_thinking_rows_go_on_inside_it(
    tmp_path: Path, tokenizer: Any
) -> None:
    out = run(tmp_path, tokenizer, 20, template=OPENING)
    plain, thought = list[str](), list[str]()
    for prompt, answer in rows_of(Blocks.open(out)):
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
    result = read_json(run(tmp_path, tokenizer, 20, template=switched) / "result.json")
    assert result["dropped"] == {"stray_tags": 0, "switched": 2, "too_long": 0}  # 7 and 17


def test_lengths_and_positions(tmp_path: Path) -> None:
    rows = [row(1, 5), row(2, 3), row(3, 8), row(4, 1)]
    write_json(tmp_path / "result.json", write(tmp_path, [rows], 10, padding=0))
    blocks = Blocks.open(tmp_path)
    assert [sorted(blocks.lengths(np.array([i]))) for i in range(2)] == [[1, 3, 5], [8]]
    assert sorted(blocks.lengths(np.array([1, 0]))) == [1, 3, 5, 8]
    flat = blocks.flat(np.array([0, 1]))
    lengths = [5, 3, 1, 8]
    assert np.diff(flat.bounds).tolist() == lengths
    assert flat.positions.tolist() == [i for length in lengths for i in range(length)]
    flags, tokens = blocks.flags.ravel(), blocks.tokens.ravel()
    assert flat.tokens.tolist() == tokens[(flags & PADDING) == 0].tolist()
    assert flat.targets.tolist() == tokens[(flags & (LEARN | START)) == LEARN].tolist()
    assert flat.tokens[flat.predicting + 1].tolist() == flat.targets.tolist()


def test_a_rows_first_token_is_nothing_to_predict() -> None:
    flags = np.array([[START | LEARN, LEARN, START | LEARN, LEARN, START | PADDING]], np.uint8)
    flat = Blocks(np.arange(5, dtype=np.uint32)[None], flags, (1,)).flat(np.array([0]))
    assert (flat.predicting.tolist(), flat.targets.tolist()) == ([0, 2], [1, 3])


def test_template_options_reach_the_prompt(tokenizer: Any) -> None:
    chats = [Chat.of(tokenizer, Thinking(**THINKING), o) for o in ({"enable_thinking": False}, None)]
    (plain,), (free,) = (list(encode(tokenizer, chat, ["a:1="], [""], ["1"])) for chat in chats)
    assert tokenizer.decode(plain.prompt) == tokenizer.decode(free.prompt) + "<think>\n\n</think>\n\n"
    assert plain.answer == free.answer
