from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
from small_study import wait_for

import jobs.data.chunks
from jobs.core.flops import generate_flops
from jobs.core.unit import Unit
from jobs.data import leases, sums
from jobs.data.chunks import Pool
from jobs.data.leases import Claims
from jobs.data.prompts import load_prompts, prompt_id
from jobs.engines.base import Engine, row_seed
from jobs.engines.load import load
from jobs.runtime.context import Context
from jobs.runtime.signals import Interrupted
from jobs.stages import generate
from jobs.stages.generate import Worker
from jobs.store.progress import Progress
from jobs.store.rundir import read_json, read_jsonl, write_json, write_jsonl

# What a worker of an array runs, with smaller chunks, batches and leases than a cluster's.
WORKER = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from jobs.data import chunks, leases
from jobs.stages import generate
from jobs.engines import hf
from jobs.runtime.context import Context
from jobs.store.rundir import UnitDir
chunks.CHUNK_ROWS = {rows}
leases.LEASE_SECONDS = generate.LEASE_SECONDS = {lease}
hf.BATCH = 8
{before}
folder = UnitDir(Path({folder!r}))
generate.run(Context(folder.unit(), folder, attempt=int(sys.argv[1]), worker=int(sys.argv[2])))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("models") / "random")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """See at once what other workers do."""
    monkeypatch.setattr(leases, "VIEW_SECONDS", 0.0)


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
        execution={"engine": engine, "max_model_len": None},
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
    ctx: Any, rows: int, attempt: str, worker: int = 0, lease: float = 3.0, before: str = "", **more: Any
) -> subprocess.Popen[bytes]:
    folder = str(ctx.folder.path)
    code = WORKER.format(
        tests=str(Path(__file__).parent), rows=rows, folder=folder, lease=lease, before=before
    )
    return subprocess.Popen([sys.executable, "-c", code, attempt, str(worker)], **more)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(folder.glob("chunks/*.jsonl")) for row in read_jsonl(path)]


@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_each_prompt_gets_both_modes_in_order(
    engine: str,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ctx = tiny.context(tmp_path / "s", unit(model, write_prompts(tmp_path / "p.jsonl", 20), engine))
    written = tiny.progress_written(monkeypatch)
    generate.run(ctx)
    named = "vLLM" if engine == "vllm" else engine
    starting = ["reading the prompts", f"importing {named}", "loading the model"]
    working = [*((phase, True) for phase in starting), ("answering", False)]
    assert tiny.phases(written) == [*working, ("publishing", True)]
    ready = next(record for record in written if "outside" not in record)
    assert (ready["done"], ready["total"], ready["unit"]) == (0, 40, "rows")
    assert ready["working_since"] == pytest.approx(ready["updated"]), "loading is not part of the work"
    assert "prompts left" not in capsys.readouterr().out
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
    assert result["engine"].startswith(engine)
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
    assert {r["seed"] for r in rows} == {None}
    assert read_json(ctx.folder.progress)["done"] == 40
    assert not list((ctx.folder.work / "parts").iterdir())
    assert [p.name for p in (ctx.folder.work / "chunks").iterdir()] == ["00000.jsonl"]
    (worker,) = (ctx.folder.work / "workers").iterdir()
    assert re.fullmatch(r"0\.0-0-[0-9a-f]{8}\.json", worker.name)


@pytest.mark.slow
def test_a_killed_worker_loses_only_what_was_in_flight(model: Path, tmp_path: Path) -> None:
    ctx = tiny.context(tmp_path / "s", unit(model, write_prompts(tmp_path / "p.jsonl", 60), max_tokens=200))
    parts = ctx.folder.work / "parts"
    worker = start(ctx, rows=30, attempt="0")
    wait_for(lambda: any(p.stat().st_size for p in parts.glob("*.jsonl")), "rows")
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    (part,) = [p for p in parts.glob("*.jsonl") if p.stat().st_size]
    before = list(read_jsonl(part))
    assert 0 < len(before) < 120
    assert not ctx.folder.done
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


# Starts both workers' work together, makes the second one slow, and writes how each worked.
UNEQUAL = """
import json, time
load, work, step, began = generate.load, generate.Worker.work, hf._Rows.ended, []
number, seen = int(sys.argv[2]), Path({seen!r})

def both_loaded(*what):
    engine = load(*what)
    (seen / f"loaded.{{number}}").touch()
    while len(list(seen.glob("loaded.*"))) < 2:
        time.sleep(0.01)
    return engine

def slowly(rows, *what):
    global last
    if len(rows.ids[0]) == 0:
        began.append(time.monotonic())
        last = began[-1]
    elif number:  # three times as slow
        time.sleep(2 * (time.monotonic() - last))
    last = time.monotonic()
    return step(rows, *what)

def timed(worker):
    work(worker)
    (seen / f"worked.{{number}}").write_text(json.dumps([*began, time.monotonic()]))

generate.load, generate.Worker.work, hf._Rows.ended = both_loaded, timed, slowly
"""


@pytest.mark.slow
def test_workers_of_unequal_speed_share_the_chunks_and_end_within_one_requests_time(
    model: Path, tmp_path: Path
) -> None:
    made = unit(model, write_prompts(tmp_path / "p.jsonl", 80), max_tokens=50, seed_each=True)
    made = replace(made, resources=replace(made.resources, workers=2))
    ctx = tiny.context(tmp_path / "s", made)
    more = UNEQUAL.format(seen=str(tmp_path))
    workers = [start(ctx, rows=40, attempt="0", worker=i, lease=60.0, before=more) for i in range(2)]
    assert [w.wait() for w in workers] == [0, 0]
    fast, slow = (json.loads((tmp_path / f"worked.{i}").read_text(encoding="utf-8")) for i in range(2))
    longest = max(
        after - before for before, after in pairwise(slow)
    )  # of a batch, all of whose rows end at once
    assert len(fast) > 1.5 * len(slow), "the second worker is not slow"
    assert abs(fast[-1] - slow[-1]) < longest
    rows = rows_of(ctx.folder.out)
    assert [(r["prompt"], r["mode"]) for r in rows] == [
        (f"{i}*{i + 1}=?", mode) for i in range(80) for mode in ("ift", "reasoning")
    ]
    assert all(r["seed"] == row_seed(1, r["id"], r["mode"]) for r in rows)
    claims = [p.read_text(encoding="utf-8") for p in (ctx.folder.work / "claims").glob("0*.0")]
    assert {owner.split("-")[1] for owner in claims} == {"0", "1"}
    assert len(claims) == len(list(ctx.folder.out.glob("chunks/*"))) + 1, "and publishing"
    alone = tiny.context(tmp_path / "alone", made)
    generate.run(alone)
    assert rows_of(alone.folder.out) == rows  # whoever makes a row, beside whatever else: it is the same
    stamp = ctx.folder.result.stat().st_mtime_ns
    began = time.monotonic()
    generate.run(ctx)
    assert time.monotonic() - began < 1
    assert ctx.folder.result.stat().st_mtime_ns == stamp


@pytest.fixture(scope="module")
def engine(model: Path) -> Engine:
    return load(str(model), None, {"engine": "transformers"})


class Clock:
    """Time that passes where a test says so, in the place of generate's `time`."""

    def __init__(self, asleep: Callable[[], object] = lambda: None) -> None:
        self.now = 20.0  # not long after the machine started
        self.slept: list[float] = []
        self.asleep = asleep

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.asleep()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What progress is told."""
    told: list[tuple[Any, ...]] = []

    def update(_: Progress, *what: Any, **more: Any) -> None:
        told.append((*what, more))

    monkeypatch.setattr(Progress, "update", update)
    return told


def chunked(
    root: Path, model: Path, prompts: int, monkeypatch: pytest.MonkeyPatch, rows: int = 2, **mode: Any
) -> tuple[Context, Pool]:
    """A unit whose prompts are drawn, in chunks of `rows`."""
    monkeypatch.setattr(jobs.data.chunks, "CHUNK_ROWS", rows)
    ctx = tiny.context(root / "s", unit(model, write_prompts(root / "p.jsonl", prompts), **mode))
    return ctx, generate.open_pool(ctx)


def worker_of(ctx: Context, pool: Pool, engine: Engine, owner: str = "me", began: float = 0.0) -> Worker:
    return Worker(ctx, pool, Claims(pool.work / "claims", owner), owner, engine, began)


def expire(pool: Pool) -> None:
    for path in (pool.work / "claims").iterdir():
        os.utime(path, (0, 0))


def test_prompts_are_drawn_once_in_chunks(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx, pool = chunked(tmp_path, model, 5, monkeypatch)
    assert [pool.prompts.metadata.row_group(c).num_rows for c in range(pool.chunks)] == [2, 2, 1]
    assert [p.name for p in pool.work.iterdir()] == ["prompts.parquet"]
    assert pool.path(12) == pool.work / "chunks" / "00012.jsonl"
    (tmp_path / "p.jsonl").unlink()
    assert generate.open_pool(ctx).prompts.read().equals(pool.prompts.read())
    assert pool.missing() == [0, 1, 2]
    for folder, name in (("chunks", "00001.jsonl"), ("chunks", ".00002.me"), ("parts", "00002.b.jsonl")):
        (pool.work / folder).mkdir(exist_ok=True)
        (pool.work / folder / name).touch()
    (pool.work / "parts" / "00002.a.jsonl").touch()
    assert pool.missing() == [0, 2]
    assert [p.name for p in pool.parts(2)] == ["00002.a.jsonl", "00002.b.jsonl"]


def test_prompts_are_read_where_the_submission_found_them_into_a_folder_that_others_made(
    model: Path, tmp_path: Path
) -> None:
    made = unit(model, Path("p.jsonl"))
    made.execution["files"] = {"p.jsonl": str(write_prompts(tmp_path / "there.jsonl", 2))}
    ctx = tiny.context(tmp_path / "s", made)
    ctx.folder.work.mkdir()
    prompts = generate.open_pool(ctx).prompts.read()
    assert prompts.column("prompt").to_pylist() == ["0*1=?", "1*2=?"]


def test_the_rows_that_others_have_finished_are_not_generated_again(
    model: Path, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx, pool = chunked(tmp_path, model, 4, monkeypatch, max_tokens=8, seed_each=True)
    first = worker_of(ctx, pool, engine, "first")
    first.work()
    rows = {c: list(read_jsonl(pool.path(c))) for c in range(2)}
    for c in range(2):
        pool.path(c).unlink()
    expire(pool)
    marked = [{**row, "text": "kept"} for row in [*rows[0], rows[1][0], rows[1][3]]]
    for name, some in (
        ("00000.a", marked[:1]),
        ("00000.b", marked[1:4]),
        ("00001.a", marked[4:5]),
        ("00001.b", marked[5:]),
    ):
        part = pool.work / "parts" / f"{name}.jsonl"
        part.write_text("".join(json.dumps(row) + "\n" for row in some) + '{"id": "', encoding="utf-8")
    worker_of(ctx, pool, engine, "second").work()
    assert list(read_jsonl(pool.path(0))) == marked[:4]
    assert list(read_jsonl(pool.path(1))) == [marked[4], *rows[1][1:3], marked[5]]
    assert not list((pool.work / "parts").iterdir())


def test_a_chunk_that_is_published_while_it_is_claimed_is_left_to_who_was_faster(
    model: Path, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx, pool = chunked(tmp_path, model, 4, monkeypatch, max_tokens=8)
    worker = worker_of(ctx, pool, engine)
    pool.path(0).write_text("theirs\n", encoding="utf-8")

    class Late(Pool):
        """Has looked for chunks before the other worker published its own."""

        def missing(self) -> list[int]:
            return [0, *super().missing()]

        def parts(self, chunk: int) -> list[Path]:
            return [*super().parts(chunk), self.work / "parts" / f"{chunk:05d}.gone.jsonl"]

    worker.pool = Late(pool.work, pool.prompts)
    worker.work()
    assert pool.path(0).read_text(encoding="utf-8") == "theirs\n"
    assert len(list(read_jsonl(pool.path(1)))) == 4, "the next chunk is not made"
    assert not worker.held
    assert not list((pool.work / "parts").iterdir())


def test_a_finished_row_is_on_disk_at_once(
    model: Path, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx, pool = chunked(tmp_path, model, 2, monkeypatch, max_tokens=8)
    worker = worker_of(ctx, pool, engine)
    requests = list(worker)
    assert [(r.key.chunk, r.key.mode, r.max_tokens) for r in requests] == [
        (0, mode, 8) for mode in ("reasoning", "ift") for _ in range(2)
    ]
    ids = engine.encode("<think>\n1+1\n</think>\n\n2")
    answer = engine.completion(requests[0], ids, "stop")
    worker._add(answer)
    (part,) = pool.parts(0)
    assert part.name == "00000.me.jsonl"
    assert list(read_jsonl(part)) == [
        {
            "id": prompt_id("0*1=?"),
            "prompt": "0*1=?",
            "mode": "reasoning",
            "text": "<think>\n1+1\n</think>\n\n2",
            "reasoning": "1+1",
            "answer": "2",
            "tokens": {"prompt": 8, "reasoning": answer.reasoning_tokens, "answer": answer.answer_tokens},
            "finish": "stop",
            "seed": None,
        }
    ]
    assert answer.reasoning_tokens + answer.answer_tokens == len(ids)
    assert answer.reasoning_tokens > answer.answer_tokens > 0


def test_a_step_renews_leases_and_tells_progress_every_twenty_seconds(
    model: Path, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[tuple[Any, ...]]
) -> None:
    clock = Clock()
    monkeypatch.setattr(generate, "time", clock)
    ctx, pool = chunked(tmp_path, model, 6, monkeypatch, max_tokens=8)
    worker = worker_of(ctx, pool, engine, began=3.04)
    pool.path(1).touch()
    requests = list(worker)
    assert {r.key.chunk for r in requests} == {0, 2}
    for request in requests[:3]:
        worker._add(engine.completion(request, engine.encode("2"), "stop"))
    claim = pool.work / "claims" / "00000.0"
    record = pool.work / "workers" / "me.json"

    def renewed(**how: bool) -> bool:
        os.utime(claim, (0, 0))
        told.clear()
        worker._tick(**how)
        fresh = claim.stat().st_mtime > 0
        assert fresh == bool(told)
        return fresh

    assert renewed()
    assert told == [(4 + 3, 12, "rows", {"force": False, "phase": "answering"})]
    assert read_json(record) == {"engine": engine.name, "seconds": 17.0}
    clock.now = 39.9
    assert not renewed()
    assert renewed(force=True)
    assert told == [(4 + 3, 12, "rows", {"force": True, "phase": "answering"})]
    assert read_json(record)["seconds"] == 36.9
    clock.now = 59.8
    assert not renewed()
    clock.now = 59.9
    assert renewed()
    monkeypatch.setattr(generate, "LEASE_SECONDS", 60.0)  # renewed six times before it expires
    clock.now = 69.8
    assert not renewed()
    clock.now = 69.9
    assert renewed()
    monkeypatch.setattr(generate, "LEASE_SECONDS", 600.0)
    clock.now = 89.9
    assert renewed()
    assert ctx.progress.beats == 8
    ctx.preemption.reason = "enough"
    with pytest.raises(Interrupted, match="enough"):
        worker._tick()


def test_a_worker_waits_for_chunks_that_others_hold(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx, pool = chunked(tmp_path, model, 4, monkeypatch)
    other, mine = (Claims(pool.work / "claims", name) for name in ("other", "mine"))
    assert generate._wait(ctx, pool, mine)
    assert (other.take([0, 1]), other.take([0, 1])) == (0, 1)
    (pool.work / "chunks").mkdir()
    clock = Clock(lambda: pool.path(len(clock.slept) - 1).touch())  # the other one finishes one after another
    monkeypatch.setattr(generate, "time", clock)
    beats = ctx.progress.beats
    assert generate._wait(ctx, pool, mine) is False
    assert clock.slept == [5.0, 5.0]
    told = read_json(ctx.folder.progress)
    assert (told["phase"], told["total"], told["unit"]) == ("waiting for other workers", 8, "rows")
    assert not ctx.progress.within
    assert ctx.progress.beats == beats + 2 * 2
    pool.path(1).unlink()
    monkeypatch.setattr(generate, "LEASE_SECONDS", 60.0)
    clock.asleep = other.give_back  # it dies
    assert generate._wait(ctx, pool, mine) is True
    assert clock.slept[2:] == [3.0]
    ctx.preemption.reason = "enough"
    with pytest.raises(Interrupted, match="enough"):
        generate._wait(ctx, pool, mine)


def test_told_to_stop_a_worker_gives_its_chunks_back(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx, pool = chunked(tmp_path, model, 4, monkeypatch, max_tokens=300)

    def tell() -> None:
        wait_for(lambda: list(pool.work.glob("parts/*")), "a chunk")
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=tell)
    thread.start()
    with pytest.raises(Interrupted):
        generate.run(ctx)
    thread.join()
    claimed = list((pool.work / "claims").glob("0*"))
    assert claimed
    assert {path.stat().st_mtime for path in claimed} == {0}
    generate.run(Context(ctx.unit, ctx.folder, attempt=1))
    assert len(rows_of(ctx.folder.out)) == 8


def test_modes_are_told_apart_by_the_first_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The template reads the switch only where the question holds a 0."""
    template = tiny.TEMPLATE.replace("enable_thinking is defined", "'0' in messages[0].content")
    template = template.replace("not enable_thinking", "enable_thinking is defined and not enable_thinking")
    model = tiny.save(tmp_path / "model", template=template)
    ctx, pool = chunked(tmp_path, model, 4, monkeypatch)
    worker = worker_of(ctx, pool, load(str(model), None, {"engine": "transformers"}))
    with pytest.raises(ValueError, match="ask the teacher the same"):
        worker._check_switch(["1", "2"])
    worker._check_switch(["1", "0"])
    worker._check_switch(["1", "2"])


def test_a_revision_is_that_of_the_model_and_of_its_config(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoConfig

    config, engine = AutoConfig.from_pretrained(model), load(str(model), None, {"engine": "transformers"})
    loaded = list[tuple[Any, ...]]()

    def load_engine(*what: Any) -> Engine:
        *asked, _starts = what
        loaded.append(tuple(asked))
        return engine

    def load_config(path: str, revision: str) -> Any:
        loaded.append((path, revision))
        return config

    monkeypatch.setattr(generate, "load", load_engine)
    monkeypatch.setattr(AutoConfig, "from_pretrained", load_config)
    made = unit(Path("org/name"), write_prompts(tmp_path / "p.jsonl", 1), max_tokens=4)
    made.config["revision"] = "v2"
    made.execution["files"] = {"org/name": str(model)}
    ctx = tiny.context(tmp_path / "s", made)
    generate.run(ctx)
    assert loaded == [(str(model), "v2", generate.execution(ctx)), *2 * [(str(model), "v2")]]


def test_of_many_workers_one_publishes_and_of_those_that_worked_none_waits(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ctx, pool = chunked(tmp_path, model, 2, monkeypatch)
    for folder in ("chunks", "workers"):
        (pool.work / folder).mkdir()
    write_jsonl(pool.path(0), [row(mode, 5, 0, 3) for _ in range(2) for mode in ("ift", "reasoning")])
    publisher, worked, fresh = (Claims(pool.work / "claims", name) for name in ("a", "b", "c"))
    assert publisher.take([pool.chunks]) == 1
    generate._conclude(ctx, pool, worked, patient=False)
    assert "another worker publishes the result" in capsys.readouterr().out
    assert not ctx.folder.done
    clock = Clock(publisher.give_back)  # it dies
    monkeypatch.setattr(generate, "time", clock)
    generate._conclude(ctx, pool, fresh, patient=True)
    assert clock.slept == [5.0]
    assert read_json(ctx.folder.result)["rows"] == 4
    ctx.preemption.reason = "enough"
    generate._conclude(ctx, pool, worked, patient=True)  # there is nothing to do


def row(mode: str, prompt: int, reasoning: int, answer: int, finish: str = "stop") -> dict[str, Any]:
    tokens = {"prompt": prompt, "reasoning": reasoning, "answer": answer}
    return {"mode": mode, "tokens": tokens, "finish": finish}


@pytest.mark.parametrize("kept", [False, True])
def test_the_result_sums_all_chunks_and_workers(
    kept: bool, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx, pool = chunked(tmp_path, model, 4, monkeypatch)
    chunks = [
        [row("ift", 5, 0, 3), row("reasoning", 6, 10, 2), row("reasoning", 7, 9, 0, "length")],
        [row("ift", 8, 0, 0, "length"), row("ift", 9, 1, 0)],
    ]
    workers = [("a", "vllm 1", 1.26), ("b", "transformers 2", 2.0), ("c", "vllm 1", 3.0)]
    for folder in ("chunks", "workers"):
        (pool.work / folder).mkdir()
    for number, rows in enumerate(chunks):
        write_jsonl(pool.path(number), rows)
    if kept:
        (pool.work / "sums").mkdir()
        (pool.work / "sums" / "00000.json").touch()  # torn
        counted = sums.nothing()
        for each in chunks[1]:
            sums.count(counted, each, generate.teacher_shape(ctx))
        sums.keep(pool, 1, counted)
        pool.path(1).write_text("is not read", encoding="utf-8")
    for name, engine, seconds in workers:
        write_json(pool.work / "workers" / f"{name}.json", {"engine": engine, "seconds": seconds})
    (pool.work / "workers" / ".d.json").write_text("torn", encoding="utf-8")
    generate._conclude(ctx, pool, Claims(pool.work / "claims", "me"), patient=False)
    flops = {
        "ift": tiny.generation_flops(model, 5, 3) + tiny.generation_flops(model, 9, 1),
        "reasoning": tiny.generation_flops(model, 6, 12) + tiny.generation_flops(model, 7, 9),
    }
    assert read_json(ctx.folder.result) == {
        "prompts": 4,
        "rows": 5,
        "tokens": {
            "ift": {"prompt": 22, "reasoning": 1, "answer": 3},
            "reasoning": {"prompt": 13, "reasoning": 19, "answer": 2},
        },
        "finish": {"ift": {"stop": 2, "length": 1}, "reasoning": {"stop": 1, "length": 1}},
        "flops": sum(flops.values()),
        "flops_by_mode": flops,
        "seconds": 6.3,
        "engine": "transformers 2, vllm 1",
    }
    assert sorted(p.name for p in (ctx.folder.out / "chunks").iterdir()) == ["00000.jsonl", "00001.jsonl"]


def test_measured_flops_of_a_teacher_count() -> None:
    measured = {"per_token": 2000, "per_output": 200, "per_pair": 20, "parameters": 1, "active_parameters": 1}
    shape = generate._shape({"model_type": "olmo3"}, {"flops": measured})
    assert generate_flops(shape, 3, 1) == 3 * 2000 + 200 + 9 * 20
    assert generate._shape({"model_type": "qwen3"}, {}) == {"model_type": "qwen3"}


def test_a_worker_says_how_many_prompts_of_its_work_leave_less_than_max_tokens(
    model: Path, engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # <|user|>, <|end|> and <|assistant|> take 3 of 512 tokens, an empty thinking 6
    rooms = {"1": 61, "2": 60, "3": 2, "4": 1, "5": 0}
    lines = [{"q": digit * (512 - 3 - room)} for digit, room in rooms.items()]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    ctx = tiny.context(tmp_path / "s", unit(model, tmp_path / "p.jsonl"))
    pool = generate.open_pool(ctx)
    worker = worker_of(ctx, pool, engine)
    worker.work()
    said = "8 prompts left less than max_tokens of the model's context for their answer\n"
    assert capsys.readouterr().out == said
    pool.path(0).unlink()
    expire(pool)
    worker.work()  # counts anew
    assert capsys.readouterr().out == said
    worker.work()
    assert capsys.readouterr().out == ""
    found = {r["prompt"][0]: r for r in read_jsonl(pool.path(0)) if r["mode"] == "reasoning"}
    assert made(found["4"]) == 1
    assert (made(found["5"]), found["5"]["finish"], found["5"]["tokens"]["prompt"]) == (0, "length", 512)


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
    with pytest.raises(ValueError, match="column 'n' must hold text or messages, and holds int64"):
        draw({**spec, "column": "n"})
    with pytest.raises(ValueError, match="no such path"):
        draw({**spec, "path": "none.jsonl"})
