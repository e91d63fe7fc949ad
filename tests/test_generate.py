from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
from small_study import wait_for

from jobs.core.unit import Unit
from jobs.data.prompts import load_prompts, prompt_id
from jobs.stages import generate
from jobs.store.rundir import read_json, read_jsonl

# What a worker of an array runs, with smaller chunks, batches and leases than a cluster's.
WORKER = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from jobs.data import leases
from jobs.stages import generate
from jobs.engines import hf
from jobs.runtime.context import Context
from jobs.store.rundir import UnitDir
generate.CHUNK_ROWS = {rows}
leases.LEASE_SECONDS = generate.LEASE_SECONDS = {lease}
hf.BATCH = 8
folder = UnitDir(Path({folder!r}))
generate.run(Context(folder.unit(), folder, attempt=int(sys.argv[1]), worker=int(sys.argv[2])))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("models") / "random")


def unit(model: Path, source: Path, engine: str = "transformers", **mode: Any) -> Unit:
    sampling = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": 60, **mode}
    return Unit(
        "generate",
        "teacher",
        {
            "model": str(model),
            "revision": None,
            "thinking": {"open": "<think>", "close": "</think>"},
            "prompts": [{"path": str(source), "column": "q", "count": None, "seed": 0}],
            "modes": {
                "ift": {**sampling, "chat_template_kwargs": {"enable_thinking": False}},
                "reasoning": {**sampling, "chat_template_kwargs": {"enable_thinking": True}},
            },
            "seed": 1,
        },
        execution={"engine": engine, "tensor_parallel": 1, "max_model_len": None},
    )


def made(row: dict[str, Any]) -> int:
    """How many tokens were generated for a row."""
    return int(row["tokens"]["reasoning"] + row["tokens"]["answer"])


def write_prompts(path: Path, count: int) -> Path:
    path.write_text(
        "".join(json.dumps({"q": f"{i}*{i + 1}=?", "n": i}) + "\n" for i in range(count)), encoding="utf-8"
    )
    return path


def start(
    ctx: Any, rows: int, attempt: str, worker: int = 0, lease: float = 3.0, **more: Any
) -> subprocess.Popen[bytes]:
    code = WORKER.format(
        tests=str(Path(__file__).parent), rows=rows, folder=str(ctx.folder.path), lease=lease
    )
    return subprocess.Popen([sys.executable, "-c", code, attempt, str(worker)], **more)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(folder.glob("chunks/*.jsonl")) for row in read_jsonl(path)]


def test_each_prompt_gets_both_modes_in_order_from_vllm(model: Path, tmp_path: Path) -> None:
    ctx = tiny.context(tmp_path / "s", unit(model, write_prompts(tmp_path / "p.jsonl", 20), "auto"))
    generate.run(ctx)
    rows = rows_of(ctx.folder.out)
    assert [(r["prompt"], r["mode"]) for r in rows] == [
        (f"{i}*{i + 1}=?", mode) for i in range(20) for mode in ("ift", "reasoning")
    ]
    assert all(r["id"] == prompt_id(r["prompt"]) for r in rows)
    plain, thought = rows[0], rows[1]
    assert plain["tokens"]["prompt"] == thought["tokens"]["prompt"] + 6  # the empty thinking of the template
    assert sum(a["text"] != b["text"] for a, b in zip(rows[::2], rows[1::2], strict=True)) > 15
    result = read_json(ctx.folder.result)
    assert (result["prompts"], result["rows"]) == (20, 40)
    assert result["engine"].startswith("vllm")
    assert sum(result["finish"]["ift"].values()) == 20
    for mode in ("ift", "reasoning"):
        for part in ("prompt", "reasoning", "answer"):
            assert result["tokens"][mode][part] == sum(r["tokens"][part] for r in rows if r["mode"] == mode)
    for mode, flops in result["flops_by_mode"].items():
        marks = 3 + (6 if mode == "ift" else 0)  # <|user|>, <|end|>, <|assistant|>, and an empty thinking
        own = [(marks + len(r["prompt"]), made(r)) for r in rows if r["mode"] == mode]
        assert flops == sum(tiny.generation_flops(model, prompt, new) for prompt, new in own)
    assert result["flops"] == sum(result["flops_by_mode"].values())
    assert result["seconds"] > 0


@pytest.mark.slow
def test_a_killed_worker_loses_only_what_was_in_flight(model: Path, tmp_path: Path) -> None:
    ctx = tiny.context(tmp_path / "s", unit(model, write_prompts(tmp_path / "p.jsonl", 60), max_tokens=200))
    parts = ctx.folder.work / "parts"
    worker = start(ctx, rows=30, attempt="0")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not any(p.stat().st_size for p in parts.glob("*.jsonl")):
        time.sleep(0.02)
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    (part,) = [p for p in parts.glob("*.jsonl") if p.stat().st_size]
    before = list(read_jsonl(part))
    assert 0 < len(before) < 120
    assert not ctx.folder.done
    # Seeds would make a row that is generated again look the same, so the rows that are there get a mark.
    marked = [{**row, "text": "kept"} for row in before]
    torn = '{"id": "' + before[0]["id"]
    part.write_text("".join(json.dumps(row) + "\n" for row in marked) + torn, encoding="utf-8")
    assert start(ctx, rows=30, attempt="1").wait() == 0
    rows = rows_of(ctx.folder.out)
    assert [(r["prompt"], r["mode"]) for r in rows] == [
        (f"{i}*{i + 1}=?", mode) for i in range(60) for mode in ("ift", "reasoning")
    ]
    assert {(r["id"], r["mode"]) for r in rows if r["text"] == "kept"} == {
        (r["id"], r["mode"]) for r in before
    }


@pytest.mark.slow
def test_a_worker_that_is_told_to_stop_keeps_its_rows_and_gives_its_chunks_back(
    model: Path, tmp_path: Path
) -> None:
    ctx = tiny.context(tmp_path / "s", unit(model, write_prompts(tmp_path / "p.jsonl", 24), max_tokens=100))
    parts = ctx.folder.work / "parts"
    worker = start(ctx, rows=12, attempt="0", lease=1e4, stderr=subprocess.PIPE)
    wait_for(lambda: any(p.stat().st_size for p in parts.glob("*.jsonl")), "rows")
    worker.send_signal(signal.SIGTERM)
    assert b"Interrupted: it was preempted or cancelled" in worker.communicate(timeout=120)[1]
    kept = {(r["id"], r["mode"]) for p in parts.glob("*.jsonl") for r in read_jsonl(p)}
    assert 0 < len(kept) < 48
    assert start(ctx, rows=12, attempt="1", lease=1e4).wait(timeout=120) == 0  # waits for no lease
    assert len(rows_of(ctx.folder.out)) == 48


@pytest.mark.slow
def test_two_workers_share_the_chunks_and_a_third_has_nothing_to_do(model: Path, tmp_path: Path) -> None:
    ctx = tiny.context(tmp_path / "s", unit(model, write_prompts(tmp_path / "p.jsonl", 80), max_tokens=50))
    workers = [start(ctx, rows=5, attempt="0", worker=i) for i in range(2)]
    assert [w.wait() for w in workers] == [0, 0]
    rows = rows_of(ctx.folder.out)
    assert [(r["prompt"], r["mode"]) for r in rows] == [
        (f"{i}*{i + 1}=?", mode) for i in range(80) for mode in ("ift", "reasoning")
    ]
    owners = {p.read_text(encoding="utf-8") for p in (ctx.folder.work / "claims").glob("0*")}
    assert {owner.split("-")[1] for owner in owners} == {"0", "1"}
    assert len(list((ctx.folder.work / "claims").glob("0*.0"))) == 16
    alone = tiny.context(tmp_path / "alone", ctx.unit)
    generate.run(alone)
    assert rows_of(alone.folder.out) == rows  # whoever makes a row, beside whatever else: it is the same
    stamp = ctx.folder.result.stat().st_mtime_ns
    began = time.monotonic()
    generate.run(ctx)
    assert time.monotonic() - began < 1
    assert ctx.folder.result.stat().st_mtime_ns == stamp


def test_a_prompt_that_fills_the_context_counts_as_cut_off(model: Path, tmp_path: Path) -> None:
    lines = [{"q": "1+1"}, {"q": "2" * 505}, {"q": "3" * 600}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    ctx = tiny.context(tmp_path / "s", unit(model, tmp_path / "p.jsonl"))
    generate.run(ctx)
    found = {(r["prompt"][:1], r["mode"]): r for r in rows_of(ctx.folder.out)}
    assert found["3", "reasoning"]["finish"] == "length"
    assert found["3", "reasoning"]["text"] == ""
    assert sum(found["2", "reasoning"]["tokens"].values()) <= 512
    assert sum(found["1", "reasoning"]["tokens"].values()) > 10


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (tiny.OPENING, r"opens the thinking \('<\|end\|><\|assistant\|><think>\\n'\) in mode ift"),
        (
            tiny.OPENING.replace("{{ '<think>\n' }}", ""),
            r"ask the teacher the same: .* ignores {'enable_think",
        ),
    ],
)
def test_modes_that_the_template_cannot_tell_apart_are_refused(
    template: str, words: str, tmp_path: Path
) -> None:
    model = tiny.save(tmp_path / "model", template=template)
    ctx = tiny.context(tmp_path / "s", unit(model, write_prompts(tmp_path / "p.jsonl", 3)))
    with pytest.raises(ValueError, match=words):
        generate.run(ctx)
    assert not ctx.folder.done


def test_max_tokens_beyond_the_context_are_refused(model: Path, tmp_path: Path) -> None:
    ctx = tiny.context(tmp_path / "s", unit(model, write_prompts(tmp_path / "p.jsonl", 2), max_tokens=512))
    with pytest.raises(ValueError, match=r"max_tokens is 512, and the context of .* is 512"):
        generate.run(ctx)


def test_prompts_are_distinct_and_drawn_by_their_seed(tmp_path: Path) -> None:
    texts = ["a", "b", " ", "a", None, *"cdefgh"]
    pq.write_table(pa.table({"q": texts, "n": range(len(texts))}), tmp_path / "p.parquet")
    spec = {"path": "p.parquet", "column": "q", "count": None, "seed": 0}

    def draw(*specs: dict[str, Any]) -> list[str]:
        return list(load_prompts(specs, lambda p: str(tmp_path / p))["prompt"].to_pylist())

    assert draw(spec) == list("abcdefgh")
    some = draw({**spec, "count": 4})
    assert some == draw({**spec, "count": 4})
    assert some != draw({**spec, "count": 4, "seed": 1})
    assert some == sorted(set(some))
    (tmp_path / "more.jsonl").write_text('{"q": "h"}\n{"q": "z"}\n', encoding="utf-8")
    assert draw(spec, {**spec, "path": "more.jsonl"}) == list("abcdefghz")
    with pytest.raises(
        ValueError, match="9 prompts are requested, and column 'q' has 8 different ones in 11"
    ):
        draw({**spec, "count": 9})
    with pytest.raises(ValueError, match="no column 'text'; it has q, n"):
        draw({**spec, "column": "text"})
    with pytest.raises(ValueError, match="column 'n' must hold text and holds int64"):
        draw({**spec, "column": "n"})
    with pytest.raises(ValueError, match="there is no"):
        draw({**spec, "path": "none.jsonl"})
