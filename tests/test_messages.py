"""Rows in the shapes of published datasets: what becomes the prompt and its answers, and what is refused.

The rows are made up; the columns and the form of their values are those of the dataset that each names, as
its page on the hub shows them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
from small_study import write_study

from jobs.core.unit import Unit
from jobs.data.prompts import load_prompts, open_source
from jobs.stages import collate
from jobs.store.rundir import read_json
from jobs.text.messages import Reading
from jobs.text.thinking import Thinking
from launch.study.cluster import load_cluster
from launch.study.plan import plan
from launch.study.presets import StudyError
from launch.study.schema import load_study

TAGS = Thinking("<think>", "</think>")
WRITTEN = tiny.traced("r", "4")


def said(*messages: tuple[str, str], **more: Any) -> list[dict[str, Any]]:
    return [{"role": role, "content": text, **more} for role, text in messages]


ASKED = ("user", "2+2=")
SHAPES: dict[str, tuple[dict[str, Any], dict[str, str]]] = {  # dataset: a row, the columns of the study
    "Scale-or-Reason/general-reasoning-ift-pairs": (
        {"prompt": "2+2=", "reasoning": WRITTEN, "ift": "four"}, {},
    ),
    "open-r1/OpenR1-Math-220k": (
        {
            "problem": "2+2=", "solution": "four", "answer": "4", "generations": [WRITTEN, "<think>\ncut"],
            "correctness_math_verify": [True, False], "messages": said(ASKED, ("assistant", WRITTEN)),
        },
        {"prompt": "problem", "reasoning": "generations", "ift": "solution"},
    ),
    "open-thoughts/OpenThoughts-114k, and its metadata": (
        {
            "system": "Think first.", "ground_truth_solution": "four",
            "conversations": [{"from": "user", "value": "2+2="}, {"from": "assistant", "value": WRITTEN}],
        },
        {"prompt": "conversations", "reasoning": "conversations", "ift": "ground_truth_solution"},
    ),
    "nvidia/Llama-Nemotron-Post-Training-Dataset, both modes joined": (
        {"input": said(ASKED), "output": WRITTEN, "plain": "four", "system_prompt": "detailed thinking on"},
        {"prompt": "input", "reasoning": "output", "ift": "plain"},
    ),
    "a-m-team/AM-DeepSeek-R1-Distilled-1.4M": (
        {
            "messages": [
                {"role": "user", "content": "2+2=", "info": {"source": "x", "reference_answer": "four"}},
                {"role": "assistant", "content": WRITTEN, "info": None},
            ],
            "plain": said(ASKED, ("assistant", "four")),
        },
        {"prompt": "messages", "reasoning": "messages", "ift": "plain"},
    ),
    "HuggingFaceTB/smoltalk2, both splits joined": (
        {
            "think": said(ASKED, ("assistant", WRITTEN)), "no_think": said(ASKED, ("assistant", "four")),
            "chat_template_kwargs": {"enable_thinking": True},
        },
        {"prompt": "no_think", "reasoning": "think", "ift": "no_think"},
    ),
    "answers of an endpoint, with reasoning_content": (
        {
            "chat": [
                {"role": "user", "content": [{"type": "text", "text": "2+"}, {"type": "text", "text": "2="}]},
                {"role": "assistant", "content": "4", "reasoning_content": "r"},
            ],
            "plain": [
                {"role": "user", "content": "2+2="},
                {"role": "assistant", "content": "four", "reasoning": "not of a plain answer"},
            ],
        },
        {"prompt": "chat", "reasoning": "chat", "ift": "plain"},
    ),
    "ShareGPT": (
        {
            "conversations": [{"from": "human", "value": "2+2="}, {"from": "gpt", "value": WRITTEN}],
            "ift": "four",
        },
        {"prompt": "conversations", "reasoning": "conversations"},
    ),
}  # fmt: skip


def write(folder: Path, rows: list[dict[str, Any]], kind: str) -> Path:
    """Write rows as JSON Lines or Parquet."""
    file = folder / f"rows.{kind}"
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif kind == "jsonl.zst":
        with pa.output_stream(str(file), compression="zstd") as stream:
            stream.write(lines)
    else:
        file.write_bytes(lines)
    return file


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("dataset", SHAPES)
def test_pairs_in_the_shapes_of_published_datasets(dataset: str, kind: str, tmp_path: Path) -> None:
    row, columns = SHAPES[dataset]
    if kind == "parquet" and dataset.startswith("answers"):
        row = row | {"chat": [{**m, "content": "2+2="} if m["role"] == "user" else m for m in row["chat"]]}
    file = write(tmp_path, [row, row], kind)
    source = open_source({"path": str(file)}, Reading.of_pairs({"columns": columns}, TAGS))
    found = [read for batch in source.batches() for read in batch.to_pylist()]
    assert found == [{"prompt": "2+2=", "reasoning": WRITTEN, "ift": "four"}] * 2
    assert not source.cut


def test_a_dataset_on_disk_as_datasets_loads_it(tmp_path: Path) -> None:
    """A folder stands for the hub's dataset: `datasets` makes the same tables of both."""
    row, columns = SHAPES["answers of an endpoint, with reasoning_content"]
    (tmp_path / "set").mkdir()
    write(tmp_path / "set", [row], "jsonl")
    spec = {"dataset": str(tmp_path / "set"), "split": "train", "columns": columns}
    source = open_source(spec, Reading.of_pairs(spec, TAGS))
    [batch] = source.batches()
    assert batch.to_pylist() == [{"prompt": "2+2=", "reasoning": WRITTEN, "ift": "four"}]


LONG = said(ASKED, ("assistant", "4"), ("user", "sure?"), ("assistant", "yes"))
SYSTEM = said(("system", "Be kind."), ASKED, ("assistant", "4"))
REFUSED = [
    (LONG, "holds a chat of 2 turns: 'turns: first' takes"),
    (SYSTEM, "holds a system message, .* 'system: ignore' leaves it out"),
    (said(("assistant", "4"), ASKED), "does not begin with the user"),
    (said(ASKED, ("tool", "4")), "holds a message of the role 'tool'"),
    ([{"text": "2+2="}], "something else than messages"),
    ([{"role": "user", "content": [{"type": "image_url"}]}], "a part of the type image_url"),
    ({"role": "user"}, "must hold text or messages, and holds a dict"),
]  # fmt: skip


@pytest.mark.parametrize(("chat", "words"), REFUSED)
def test_chats_that_are_refused_by_the_study_with_their_line(chat: Any, words: str, tmp_path: Path) -> None:
    file = write(tmp_path, [{"messages": said(ASKED)}, {"messages": chat}], "jsonl")
    with pytest.raises(StudyError, match=rf"rows\.jsonl, line 2: column 'messages' .*{words}"):
        load_study(str(study(tmp_path / "study", path=str(file), columns=dict.fromkeys(PARTS, "messages"))))


PARTS = ("prompt", "reasoning", "ift")


def study(folder: Path, **source: Any) -> Path:
    return write_study(folder, pairs=source, prepare=None)


def test_chats_of_parquet_are_refused_with_their_row(tmp_path: Path) -> None:
    file = write(tmp_path, [{"messages": said(ASKED)}] * 3 + [{"messages": LONG}], "parquet")
    with pytest.raises(ValueError, match=r"rows\.parquet, row 4: column 'messages' holds a chat of 2 turns"):
        load_prompts([{"path": str(file), "column": "messages"}])
    table = pa.table({"messages": [[{"role": "user", "text": "a"}]]})
    pq.write_table(table, file)
    with pytest.raises(ValueError, match="column 'messages' must hold text or messages, and holds list<"):
        load_prompts([{"path": str(file), "column": "messages"}])


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.zst", "parquet"])
def test_turns_are_cut_and_system_messages_left_out_with_a_count(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of allenai/tulu-3-sft-mixture, which has both."""
    both = said(("system", "Be kind.")) + said(("user", "3+3="), ("assistant", "6"), ("user", "sure?"))
    rows: list[dict[str, Any]] = [
        {"id": "a", "messages": LONG}, {"id": "b", "messages": both}, {"id": "c", "messages": None},
        {"id": "d", "messages": said(("user", "5+5="), ("assistant", "10"))},
    ]  # fmt: skip
    file = write(tmp_path, rows, kind)
    spec = {"path": str(file), "column": "messages", "turns": "first", "system": "ignore"}
    assert load_prompts([spec])["prompt"].to_pylist() == ["2+2=", "3+3=", "5+5="]
    assert "left out of rows: {'turns': 2, 'system': 1}" in capsys.readouterr().out


def test_collate_counts_what_was_cut(tmp_path: Path) -> None:
    rows = [
        {"a": LONG, "b": [{**message, "reasoning": "r"} for message in LONG]},
        {
            "a": said(("user", "5+5="), ("assistant", "10")),
            "b": said(("user", "5+5="), ("assistant", WRITTEN)),
        },
    ]
    file = write(tmp_path, rows, "jsonl")
    source = {
        "path": str(file), "dataset": None, "columns": {"prompt": "a", "reasoning": "b", "ift": "a"},
        "turns": "first",
    }  # fmt: skip
    config = {"pairs": [source], "thinking": {"open": "<think>", "close": "</think>"}}
    ctx = tiny.context(tmp_path / "runs", Unit("collate", "rows", config))
    collate.run(ctx)
    table = pq.read_table(ctx.folder.out / "pairs.parquet")
    assert table.select(["prompt", "reasoning", "answer", "ift"]).to_pylist() == [
        {"prompt": "2+2=", "reasoning": "r", "answer": "4", "ift": "4"},
        {"prompt": "5+5=", "reasoning": "r", "answer": "4", "ift": "10"},
    ]
    result = read_json(ctx.folder.out / "result.json")
    assert (result["prompts"], result["cut"]) == (2, {"turns": 1})


def test_columns_are_part_of_a_unit_only_where_they_are_named(tmp_path: Path) -> None:
    def collated(folder: str, **source: Any) -> Unit:
        file = write_study(tmp_path / folder, pairs={"path": str(rows), **source})
        return next(u for u in plan(load_study(str(file)), load_cluster("local")) if u.stage == "collate")

    rows = write(tmp_path, [{"prompt": "a", "q": "a", "ift": "b", "reasoning": "c"}], "jsonl")
    plain = collated("plain")
    assert not {"columns", "turns", "system"} & plain.config["pairs"][0].keys()
    named = collated("named", columns={"prompt": "q"}, turns="first")
    assert named.config["pairs"][0]["columns"] == {"prompt": "q", "reasoning": "reasoning", "ift": "ift"}
    assert named.id != plain.id


def test_keys_of_the_other_kind_of_source_are_named(tmp_path: Path) -> None:
    rows = write(tmp_path, [{"prompt": "a", "ift": "b", "reasoning": "c"}], "jsonl")
    with pytest.raises(StudyError, match=r"pairs\.column: is of prompts; pairs have 'columns: "):
        load_study(str(study(tmp_path / "study", path=str(rows), column="q")))
    with pytest.raises(
        StudyError, match=r"no column 'q'; it has prompt, .*'columns: {prompt: NAME, reasoning: "
    ):
        load_study(str(study(tmp_path / "study", path=str(rows), columns={"prompt": "q"})))
