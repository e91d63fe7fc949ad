from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
from tiny import traced

import jobs.data.pairs
from jobs.core.unit import Input, Resources, Unit
from jobs.data.pairs import PAIRS
from jobs.stages import collate
from jobs.store.rundir import StudyDir, read_json
from jobs.text.thinking import Thinking

TESTS = Path(__file__).parent
TEACHER = Input("generate", "generate", "teacher", "0" * 12)
THINKING = {"open": "<think>", "close": "</think>"}


def row(name: str, mode: str, text: str, finish: str = "stop", **tokens: int) -> dict[str, Any]:
    parts = Thinking.of(THINKING).split(text)
    counts = {"prompt": 3, "reasoning": 10 if mode == "reasoning" else 0, "answer": 2, **tokens}
    shared = {"id": name, "prompt": f"prompt {name}", "mode": mode, "text": text, "seed": 0}
    return {
        **shared, "reasoning": parts.reasoning, "answer": parts.answer, "tokens": counts, "finish": finish,
    }  # fmt: skip


def run(root: Path, config: dict[str, Any], rows: list[dict[str, Any]] | None = None, cpus: int = 1) -> Path:
    inputs = () if rows is None else (TEACHER,)
    if rows is not None:
        chunks = StudyDir(root).unit(TEACHER).out / "chunks"
        chunks.mkdir(parents=True, exist_ok=True)
        (chunks.parent / "result.json").write_text("{}", encoding="utf-8")
        half = len(rows) // 4 * 2  # a prompt's rows are always in one chunk
        for number, part in enumerate((rows[:half], rows[half:])):
            lines = "".join(json.dumps(r) + "\n" for r in part)
            (chunks / f"{number:05d}.jsonl").write_text(lines, encoding="utf-8")
    config = {"thinking": THINKING, "pairs": None, **config}
    needs = Resources(cpus_per_task=cpus)
    ctx = tiny.context(root, Unit("collate", "rows", config, inputs, resources=needs))
    collate.run(ctx)
    return Path(ctx.folder.out)


def test_only_good_pairs_are_kept_and_each_loss_has_its_reason(tmp_path: Path) -> None:
    good = [
        r
        for name, length in (("a", 10), ("b", 20), ("c", 90))
        for r in (
            row(name, "ift", f"plain {name}", answer=4, reasoning=7),
            row(name, "reasoning", traced("R\nr", "A"), reasoning=length),
        )
    ]
    bad = [
        row("cut", "ift", "plain"), row("cut", "reasoning", "<think>\nR", "length"),
        row("cut2", "ift", "plain", "length"), row("cut2", "reasoning", traced("R", "A")),
        row("open", "ift", "plain"), row("open", "reasoning", "<think>\nR"),
        row("never", "ift", "plain"), row("never", "reasoning", "it did not think"),
        row("odd", "ift", "<think>\nR"), row("odd", "reasoning", traced("R", "A")),
        row("blank", "ift", " \n"), row("blank", "reasoning", traced("R", "A")),
        row("hollow", "ift", "plain"), row("hollow", "reasoning", traced("", "A")),
        row("twice", "ift", "plain"), row("twice", "reasoning", traced("<think>\nR", "A")),
        row("late", "ift", "plain"), row("late", "reasoning", traced("R", "A</think>B")),
        row("shut", "ift", "A</think>B"), row("shut", "reasoning", traced("R", "A")),
        row("in plain", "ift", "A <think> B"), row("in plain", "reasoning", traced("R", "A")),
        row("alone", "ift", "plain"),
        row("alone2", "reasoning", traced("R", "A")),
    ]  # fmt: skip
    out = run(tmp_path, {}, good[:2] + bad + good[2:])
    pairs = pq.read_table(out / PAIRS)
    assert pairs["id"].to_pylist() == ["a", "b", "c"]
    assert pairs["prompt"].to_pylist() == ["prompt a", "prompt b", "prompt c"]
    assert pairs["ift"].to_pylist() == ["plain a", "plain b", "plain c"]
    assert pairs["reasoning"].to_pylist() == ["R\nr"] * 3
    assert pairs["answer"].to_pylist() == ["A"] * 3
    assert pairs["tokens_prompt"].to_pylist() == [3, 3, 3]
    assert pairs["tokens_reasoning"].to_pylist() == [10, 20, 90]
    assert pairs["tokens_answer"].to_pylist() == [2, 2, 2]
    assert pairs["tokens_ift"].to_pylist() == [4, 4, 4]
    result = read_json(out / "result.json")
    assert result["prompts"] == 3
    assert result["dropped"] == {
        "truncated": 2, "unclosed": 3, "stray_tags": 4, "empty": 2, "duplicate": 0, "unpaired": 2,
    }  # fmt: skip
    assert result["lengths_in"] == "tokens"
    assert result["lengths"]["ift"]["total"] == 12
    assert result["lengths"]["reasoning"] == {
        "mean": 42.0, "p50": 22.0, "p90": pytest.approx(78.0), "max": 92, "total": 126,
    }  # fmt: skip


def test_a_teacher_without_tags_gives_its_steps_as_the_answer(tmp_path: Path) -> None:
    rows = [row("a", "ift", "7"), row("a", "reasoning", "Step 1. So 7")]
    with pytest.raises(ValueError, match=r"no prompt has a good answer in both modes.*'unclosed': 1"):
        run(tmp_path / "tags", {}, rows)
    out = run(tmp_path / "none", {"thinking": None}, rows)
    assert pq.read_table(out / PAIRS)["answer"].to_pylist() == ["Step 1. So 7"]


def test_published_pairs_are_taken_apart_and_counted(tmp_path: Path) -> None:
    table = pa.table(
        {
            "prompt": ["p1", "p2", "p1", "p3", "p4", "p5"],
            "reasoning": [
                traced("R1", "A1"), "R2\n</think>\n\nA2", traced("R", "A"), "<think>\nR", None,
                traced("R5", "A5"),
            ],
            "ift": ["I1", "I2", "I", "I3", "I4", "I5"],
            "other": range(6),
        }
    )  # fmt: skip
    pq.write_table(table, tmp_path / "pairs.parquet")
    pairs = {"path": str(tmp_path / "pairs.parquet"), "count": None, "seed": 0}
    out = run(tmp_path / "s", {"pairs": [pairs]})
    found = pq.read_table(out / PAIRS)
    assert found["prompt"].to_pylist() == ["p1", "p2", "p5"]
    assert found["reasoning"].to_pylist() == ["R1", "R2", "R5"]
    assert found["answer"].to_pylist() == ["A1", "A2", "A5"]
    assert found["ift"].to_pylist() == ["I1", "I2", "I5"]
    assert found["tokens_answer"].to_pylist() == [None] * 3
    result = read_json(out / "result.json")
    assert result["dropped"] == {
        "truncated": 0, "unclosed": 1, "stray_tags": 0, "empty": 0, "duplicate": 1, "unpaired": 1,
    }  # fmt: skip
    assert result["lengths_in"] == "characters"
    assert result["lengths"]["reasoning"]["total"] == 12
    few = read_json(run(tmp_path / "few", {"pairs": [{**pairs, "count": 4}]}) / "result.json")
    assert few["prompts"] + sum(few["dropped"].values()) == 4
    both = read_json(run(tmp_path / "both", {"pairs": [pairs, pairs]}) / "result.json")
    assert both["prompts"] == 3
    assert both["dropped"]["duplicate"] == 7, "all of the second source, and one of the first"
    with pytest.raises(ValueError, match="7 pairs are wanted, and it has 6 rows"):
        run(tmp_path / "many", {"pairs": [{**pairs, "count": 7}]})
    pq.write_table(table.drop_columns("ift"), tmp_path / "pairs.parquet")
    with pytest.raises(ValueError, match="no column 'ift'; it has prompt, reasoning, other"):
        run(tmp_path / "lacks", {"pairs": [pairs]})


def test_row_groups_are_written_as_the_rows_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.data.pairs, "ROW_GROUP", 4)
    rows = [row(f"{i}", mode, traced("R", f"{i}")) for i in range(10) for mode in ("ift", "reasoning")]
    out = run(tmp_path, {}, rows)
    file = pq.ParquetFile(out / PAIRS)
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [4, 4, 2]
    assert file.read()["answer"].to_pylist() == [f"{i}" for i in range(10)]


@pytest.mark.parametrize(
    ("ift", "reasoning", "kept"),
    [  # as public data sets have them
        ("<think>\n\n</think>\n\nA", "<think>\nR\n</think>\n\nA", ("R", "A", "A")),  # Qwen3, both modes
        ("A", "R\n</think>\n\nA", ("R", "A", "A")),  # DeepSeek-R1 behind its own template
        ("<think>R0</think>A", "<think>R</think><answer>A</answer>", ("R", "<answer>A</answer>", "A")),
        ("A", "<think>\n<think>\nR\n</think>\n\nA", None),  # the template's tag and the model's
        ("A", "<think>\n\n</think>\n\n<think>R</think>A", None),  # switched off, and it thought
        ("A", "<think>R</think>A</think>", None),
        ("A\n</think>\n\nA", "<think>R</think>A", None),
    ],
)
def test_tags_as_data_sets_have_them(
    ift: str, reasoning: str, kept: tuple[str, str, str] | None, tmp_path: Path
) -> None:
    told = [("p", reasoning, ift), ("q", traced("R", "A"), "A")]
    table = pa.table({name: [r[i] for r in told] for i, name in enumerate(("prompt", "reasoning", "ift"))})
    pq.write_table(table, tmp_path / "pairs.parquet")
    out = run(
        tmp_path / "s", {"pairs": [{"path": str(tmp_path / "pairs.parquet"), "count": None, "seed": 0}]}
    )
    rows = pq.read_table(out / PAIRS).to_pylist()
    assert read_json(out / "result.json")["dropped"]["stray_tags"] == (kept is None)
    assert [row["prompt"] for row in rows] == (["q"] if kept is None else ["p", "q"])
    if kept:
        assert (rows[0]["reasoning"], rows[0]["answer"], rows[0]["ift"]) == kept


def test_several_processes_write_the_same_bytes(tmp_path: Path) -> None:
    rows = [row(f"{i % 7}", mode, traced("R", f"{i}")) for i in range(10) for mode in ("ift", "reasoning")]
    one, two = (run(tmp_path / str(cpus), {}, rows, cpus) for cpus in (1, 2))
    for name in (PAIRS, "result.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    assert read_json(two / "result.json")["dropped"]["duplicate"] == 3


def test_a_mistake_in_another_process_ends_the_stage(tmp_path: Path) -> None:
    rows = [row(f"{i}", mode, traced("R", f"{i}")) for i in range(4) for mode in ("ift", "reasoning")]
    del rows[-1]["finish"]
    with pytest.raises(KeyError, match="finish"):
        run(tmp_path, {}, rows, 2)


PEAK = """
import sys
from pathlib import Path
import pyarrow as pa
import tiny
from jobs.core.unit import Unit
from jobs.data.export_pairs import rows
from jobs.data.pairs import PAIRS
from jobs.stages import collate
from jobs.text.thinking import Thinking

folder, thinking = Path(sys.argv[1]), {"open": "<think>", "close": "</think>"}
source = {"path": str(folder / "rows.parquet"), "count": None, "seed": 0}
ctx = tiny.context(folder, Unit("collate", "rows", {"pairs": [source], "thinking": thinking}))
collate.run(ctx)
sum(len(batch) for batch in rows(ctx.folder.out, Thinking.of(thinking)))
print(pa.default_memory_pool().max_memory())
"""


def test_memory_does_not_grow_with_the_number_of_rows(tmp_path: Path) -> None:
    peaks = []
    for pairs in (4_000, 40_000):
        folder = tmp_path / str(pairs)
        folder.mkdir()
        # Numbers do not compress to nothing, as one text repeated would.
        texts = [f"{number:x} {number**9:x}" for number in range(pairs)]
        columns = {
            "prompt": texts,
            "ift": texts,
            "reasoning": [f"<think>\n{t}\n</think>\n\n{t}" for t in texts],
        }
        pq.write_table(pa.table(columns), folder / "rows.parquet", row_group_size=1000)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
        command = [sys.executable, "-c", PEAK, str(folder)]
        done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=False)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.split()[-1]))
    assert peaks[1] < 1.2 * peaks[0], peaks
