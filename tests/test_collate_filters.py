"""Planted duplicates, benchmark items and wrong answers leave both modes; results say how many and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_collate import row
from test_collate import run as collate
from tiny import traced

from jobs.data.filters.apply import REASONS
from jobs.data.pairs import JUDGED, PAIRS, SCHEMA
from jobs.data.prompts import prompt_id
from jobs.evaluation.local_tasks import write_task
from jobs.store.rundir import read_json

CLIPS = (
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. "
    "How many clips did Natalia sell altogether in April and May?"
)
ROBE = (
    "A robe takes 2 bolts of blue fiber and half that much white fiber. How many bolts in total does it take?"
)
JOGS = "James decides to run 3 sprints 3 times a week. He runs 60 meters each sprint. How many meters a week?"
HENS = (
    "Wendi feeds each of her chickens three cups of mixed feed a day, and she has 20 chickens. How many cups?"
)


def pair(prompt: str, ift: str, answer: str, reference: str | None, reasoning: str = "R") -> dict[str, Any]:
    return {"prompt": prompt, "ift": ift, "reasoning": traced(reasoning, answer), "reference": reference}


ROWS = [
    pair(
        ROBE, "3", r"So \boxed{3}", "It takes 2/2=<<2/2=1>>1 bolt of white fiber\n#### 3", "2 and 1 make 3."
    ),
    pair(f" {ROBE.upper()}", "3", "3", "3"),  # a duplicate, but for case and space
    pair(ROBE.replace("in total", "altogether"), "3", "3", None),  # 16 words, of which one differs
    pair(f"Please solve this problem now. {CLIPS}", "72", "72", "72"),  # a benchmark's
    pair(JOGS, "540 meters", "The answer is 450.", "540"),  # wrong with reasoning
    pair(f"{JOGS} ", "540 meters", "The answer is 540.", None),  # another prompt than the wrong one
    pair(HENS, "60", "60", None, f"This resembles the problem: {CLIPS}"),  # the benchmark in its reasoning
    pair("What is 7 times 8?", "54", "56", "56"),  # wrong without reasoning
    pair("9*9=", "81", "81", "81"),  # a benchmark's, a short one
    pair("8*9=", "72", "72", "72"),
    pair("Name the capital of Japan.", "Tokyo", "It is Kyoto.", None),  # nobody says what is right
]


def in_file(folder: Path, **more: Any) -> dict[str, Any]:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in ROWS), encoding="utf-8")
    source = {"path": str(file), "column": "prompt", "count": None, "seed": 0}
    return {"pairs": [source], "references": [{**source, "reference": "reference"}], **more}


def test_planted_rows_leave_both_modes(tmp_path: Path) -> None:
    for name, prompts in (("gsm", [CLIPS, HENS.replace("20", "30")]), ("products", ["9*9=", "3*3="])):
        write_task(
            tmp_path / "tasks", name, [{"prompt": p, "answer": "1"} for p in prompts], source="made here"
        )
    group = {"include": str(tmp_path / "tasks"), "tasks": [{"task": "gsm"}, {"task": "products"}]}
    filters = {"near_duplicates": 0.5, "decontaminate": 13, "correct": "require"}
    out = collate(tmp_path / "s", in_file(tmp_path, filters=filters, benchmarks=[group]), cpus=2)
    kept = pq.read_table(out / PAIRS)
    assert kept.schema == JUDGED
    assert kept["prompt"].to_pylist() == [ROBE, f"{JOGS} ", "8*9=", "Name the capital of Japan."]
    assert kept["ift"].to_pylist() == ["3", "540 meters", "72", "Tokyo"]
    assert kept["reasoning"].to_pylist() == ["2 and 1 make 3.", "R", "R", "R"]
    assert (
        kept["correct_ift"].to_pylist() == kept["correct_reasoning"].to_pylist() == [True, None, True, None]
    )
    result = read_json(out / "result.json")
    assert result["prompts"] == 4
    assert {reason: result["dropped"][reason] for reason in REASONS} == {
        "contaminated": 3, "incorrect": 2, "duplicate": 1, "near_duplicate": 1,
    }  # fmt: skip
    assert result["prompts"] + sum(result["dropped"].values()) == len(ROWS)
    told = result["filters"]
    assert told["contaminated"] == {"gsm": 2, "products": 1}
    assert told["before"]["prompts"] == len(ROWS)
    assert told["before"]["correct"] == {"prompts": 7, "ift": 6 / 7, "reasoning": 6 / 7}
    assert told["after"] == {
        "prompts": 4,
        "lengths": {mode: result["lengths"][mode]["mean"] for mode in ("ift", "reasoning")},
        "correct": {"prompts": 2, "ift": 1, "reasoning": 1},
    }
    lengths = [len(each["reasoning"]) - len("<think>\n\n</think>\n\n") for each in ROWS]
    assert told["before"]["lengths"]["reasoning"] == pytest.approx(sum(lengths) / len(ROWS))
    assert sorted(p.name for p in out.iterdir()) == [PAIRS, "provenance.json", "result.json"]


def test_answers_are_compared_and_all_stay(tmp_path: Path) -> None:
    out = collate(tmp_path / "s", in_file(tmp_path, filters={"correct": "report"}))
    kept = pq.read_table(out / PAIRS)
    assert len(kept) == len(ROWS)
    right = [True, True, None, True, None, None, None, None, True, True, None]
    right[4] = right[7] = True
    assert kept["correct_ift"].to_pylist() == [*right[:7], False, *right[8:]]
    right[4] = False
    assert kept["correct_reasoning"].to_pylist() == right
    told = read_json(out / "result.json")["filters"]
    assert told["before"] == told["after"]


def test_generated_answers_are_compared_with_the_references_of_their_prompts(tmp_path: Path) -> None:
    texts = {"2+2=": "4", "3+3=": "7"}
    file = tmp_path / "prompts.jsonl"
    lines = [json.dumps({"q": text, "a": result}) for text, result in texts.items()]
    file.write_text("\n".join(lines), encoding="utf-8")
    rows = [
        row(prompt_id(text), mode, said, prompt=7) | {"prompt": text}
        for text in texts
        for mode, said in (("ift", "4"), ("reasoning", traced("R", "4")))
    ]
    source = {"path": str(file), "column": "q", "reference": "a", "count": None, "seed": 0}
    config = {"filters": {"correct": "require"}, "references": [source]}
    out = collate(tmp_path / "s", config, rows)
    assert pq.read_table(out / PAIRS)["prompt"].to_pylist() == ["2+2="]
    assert read_json(out / "result.json")["dropped"]["incorrect"] == 1
    file.write_text('{"q": "2+2=", "a": 4}\n{"q": "3+3=", "a": 7.5}\n', encoding="utf-8")  # as numbers
    out = collate(tmp_path / "n", config, rows)
    assert pq.read_table(out / PAIRS)["prompt"].to_pylist() == ["2+2="]
    parquet = {**source, "path": str(tmp_path / "prompts.parquet")}
    pq.write_table(pa.table({"q": list(texts), "a": [4.0, 7.5]}), parquet["path"])
    out = collate(tmp_path / "p", {**config, "references": [parquet]}, rows)
    assert pq.read_table(out / PAIRS)["prompt"].to_pylist() == ["2+2="]
    config["filters"] = {"duplicates": True}
    out = collate(
        tmp_path / "d", config, [*rows, row("x", "ift", "4"), row("x", "reasoning", traced("R", "4"))]
    )
    assert pq.read_table(out / PAIRS).schema == SCHEMA
    assert read_json(out / "result.json")["filters"]["before"]["correct"] is None


def test_filters_that_leave_nothing_say_so(tmp_path: Path) -> None:
    rows = [row("a", "ift", "4"), row("a", "reasoning", traced("R", "4"))]
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps({"q": "prompt a", "a": "5"}), encoding="utf-8")
    source = {"path": str(file), "column": "q", "reference": "a"}
    rows = [each | {"id": prompt_id("prompt a")} for each in rows]
    with pytest.raises(ValueError, match=r"filters leave no prompt; left out: .*'incorrect': 1.*'ift': 0"):
        collate(tmp_path / "s", {"filters": {"correct": "require"}, "references": [source]}, rows)
