"""Teacher generation in both modes: any number of workers share one unit's chunks of prompts.

    work/prompts.parquet       the prompts, one row group per chunk; drawn once, by the first worker
    work/claims/               claims of workers on chunks (jobs/data/leases.py)
    work/parts/CHUNK.OWNER.jsonl  rows as they finish; one file per worker, so none appends to a torn line
    work/chunks/CHUNK.jsonl    a finished chunk: rows in prompt order; linked once, never rewritten
    work/workers/OWNER.json    the seconds for which each worker held the model

A worker may be killed at any line: another one, or its next attempt, continues from the rows in the parts.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from io import FileIO
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from jobs.core.unit import MODES
from jobs.data.leases import LEASE_SECONDS, Claims
from jobs.data.prompts import load_prompts
from jobs.engines.base import Completion, Engine, Request, row_seed
from jobs.engines.load import follow, follows, import_engines, load, quiet
from jobs.runtime.context import Context
from jobs.store.rundir import fsync_dir, link_once, read_json, read_jsonl, write_json
from jobs.text.chat import Chat
from jobs.text.thinking import Thinking

CHUNK_ROWS = 256  # prompts claimed at a time


def run(ctx: Context) -> None:
    """Work on the unit until every chunk exists, then publish the result."""
    if ctx.folder.done:
        return
    if follows(ctx.rank, ctx.unit.execution):
        ctx.preemption.listen()
        model, revision = ctx.resolve(ctx.unit.config["model"]), ctx.unit.config.get("revision")
        follow(model, revision, ctx.unit.execution, ctx.waits, ctx.progress.beat)
        return
    ctx.progress.outside("reading the prompts", unit="rows")
    quiet()
    pool = Pool(ctx.folder.work, _draw_prompts(ctx))
    owner = f"{ctx.run}-{ctx.worker}-{uuid.uuid4().hex[:8]}"
    claims = Claims(pool.work / "claims", owner)
    ctx.preemption.listen()
    if _wait(ctx, pool, claims):
        began = time.monotonic()

        def starts(phase: str) -> None:
            ctx.progress.outside(phase, *pool.counts(), "rows")

        engine = load(*_tokens_of(ctx), ctx.unit.execution, starts)
        with closing(engine):
            worker = Worker(ctx, pool, claims, owner, engine, began)
            try:
                worker.report(force=True)
                while _wait(ctx, pool, claims):
                    worker.work()
            except BaseException:
                claims.give_back()  # other workers need not wait for the leases to expire
                raise
    if not ctx.folder.done:
        _publish(ctx, pool)


def _tokens_of(ctx: Context) -> tuple[str, str | None]:
    """Return where the engine finds the model, or of a served one the tokenizer, and its revision."""
    config = ctx.unit.config
    if served := ctx.unit.execution.get("endpoint"):
        return ctx.resolve(served["tokenizer"]), served["revision"]
    return ctx.resolve(config["model"]), config.get("revision")


def imports() -> None:
    """Import what every generation needs."""
    import_engines()


@dataclass(frozen=True)
class Pool:
    """The chunks of a unit on disk."""

    work: Path
    prompts: pq.ParquetFile

    @property
    def chunks(self) -> int:
        return int(self.prompts.num_row_groups)

    def path(self, chunk: int) -> Path:
        return self.work / "chunks" / f"{chunk:05d}.jsonl"

    def missing(self) -> list[int]:
        """Return the chunks that are not published."""
        there = {p.name for p in (self.work / "chunks").glob("*.jsonl")}
        return [c for c in range(self.chunks) if self.path(c).name not in there]

    def counts(self) -> tuple[int, int]:
        """Return the number of rows in published chunks, and of all rows."""
        total = int(self.prompts.metadata.num_rows)
        rest = sum(int(self.prompts.metadata.row_group(c).num_rows) for c in self.missing())
        return (total - rest) * len(MODES), total * len(MODES)

    def parts(self, chunk: int) -> list[Path]:
        return sorted((self.work / "parts").glob(f"{chunk:05d}.*.jsonl"))


@dataclass
class Chunk:
    """A chunk that this worker has claimed."""

    prompts: dict[str, str]  # by id, in order
    rows: dict[tuple[str, str], dict[str, Any]]  # finished rows by prompt id and mode
    part: FileIO  # this worker's part file, unbuffered


class Key(NamedTuple):
    """Identifies the row that an answer belongs to."""

    chunk: int
    id: str
    mode: str


class Worker:
    """Generates the missing rows of the chunks that it can claim.

    Args:
        began: Monotonic time at which loading the model began.
    """

    def __init__(
        self, ctx: Context, pool: Pool, claims: Claims, owner: str, engine: Engine, began: float
    ) -> None:
        self.ctx, self.pool, self.claims, self.owner = ctx, pool, claims, owner
        self.engine, self.began = engine, began
        self.held: dict[int, Chunk] = {}
        self.beat = 0.0
        self.switched = False  # whether the modes are known to render different prompts
        self.cut = 0  # number of prompts that leave less than max_tokens of context
        self.config = ctx.unit.config
        self.thinking = Thinking.of(self.config.get("thinking"))
        self.chats = chats(engine.tokenizer, self.thinking, self.config["modes"])
        for folder in ("parts", "chunks", "workers"):
            (pool.work / folder).mkdir(exist_ok=True)
        longest = max(mode["max_tokens"] for mode in self.config["modes"].values())
        if longest >= engine.max_length:
            raise ValueError(
                f"max_tokens is {longest}, and the context of {self.config['model']} is "
                f"{engine.max_length} tokens, prompt and answer together: lower max_tokens"
            )

    def work(self) -> None:
        """Claim chunks as the engine has room for more, until none is left to claim."""
        for answer in self.engine.generate(self._requests(), self._tick):
            self._add(answer)
        if self.cut:
            print(f"{self.cut} prompts left less than max_tokens of the model's context for their answer")
            self.cut = 0
        self._tick(force=True)

    def _requests(self) -> Iterator[Request]:
        while (number := self.claims.take(self.pool.missing())) is not None:
            chunk = self._open(number)
            if chunk is None:
                self.claims.release(number)
                continue
            self.held[number] = chunk
            self._check_switch(list(chunk.prompts.values()))
            keys = [Key(number, id, mode) for id in chunk.prompts for mode in MODES]
            missing = [key for key in keys if (key.id, key.mode) not in chunk.rows]
            self._finish(number)
            for key in missing:
                request = self._request(key, chunk.prompts[key.id])
                if request.max_tokens > 0:
                    yield request
                else:  # the prompt leaves no room for an answer: counts as truncated
                    self._add(self.engine.completion(request, [], "length"))

    def _open(self, number: int) -> Chunk | None:
        """Return a chunk with its existing rows; None if the chunk has just been published."""
        table = self.pool.prompts.read_row_group(number)
        prompts = dict(zip(table.column("id").to_pylist(), table.column("prompt").to_pylist(), strict=True))
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        # Of any owner, so that nothing is generated twice. Parts that are removed meanwhile, as the chunk is
        # published, read as empty.
        for path in self.pool.parts(number):
            rows |= {(row["id"], row["mode"]): row for row in read_jsonl(path)}
        if self.pool.path(number).exists():
            return None
        part = self.pool.work / "parts" / f"{number:05d}.{self.owner}.jsonl"
        return Chunk(prompts, rows, part.open("ab", buffering=0))

    def _check_switch(self, prompts: list[str]) -> None:
        """Refuse modes that render the same prompts; checked once, on the first chunk's prompts."""
        if self.switched:
            return
        plain, thought = (self.chats[mode] for mode in MODES)
        if all(plain.ask(prompt) == thought.ask(prompt) for prompt in prompts):
            raise ValueError(
                f"modes.ift and modes.reasoning ask the teacher the same: the chat template of {plain.name} "
                f"ignores {dict(plain.options)} and {dict(thought.options)}. Set chat_template_kwargs that "
                "the template reads, or give answers that exist as 'pairs'"
            )
        self.engine.check_switch([self._request(Key(0, "", mode), prompts[0]) for mode in MODES])
        self.switched, self.cut = True, 0

    def _request(self, key: Key, prompt: str) -> Request:
        sampling = self.config["modes"][key.mode]
        text = self.chats[key.mode].ask(prompt)
        seed = row_seed(self.config["seed"], key.id, key.mode)
        request = self.engine.request(key, text, sampling, self.thinking, seed)
        self.cut += request.max_tokens < sampling["max_tokens"]
        return replace(request, question=prompt, options=self.chats[key.mode].options)

    def _add(self, answer: Completion) -> None:
        request, key = answer.request, answer.request.key
        chunk = self.held[key.chunk]
        row = {
            "id": key.id,
            "prompt": chunk.prompts[key.id],
            "mode": key.mode,
            "text": answer.text,
            "reasoning": answer.reasoning,
            "answer": answer.answer,
            "tokens": {
                "prompt": answer.prompt_tokens,
                "reasoning": answer.reasoning_tokens,
                "answer": answer.answer_tokens,
            },
            "finish": answer.finish,
            "seed": request.seed,
        }
        chunk.part.write((json.dumps(row) + "\n").encode())  # unbuffered: a kill loses no finished row
        chunk.rows[key.id, key.mode] = row
        self._finish(key.chunk)

    def _finish(self, number: int) -> None:
        """Publish the chunk if it is complete."""
        chunk = self.held[number]
        if len(chunk.rows) < len(chunk.prompts) * len(MODES):
            return
        final = self.pool.path(number)
        aside = final.with_name(f".{number:05d}.{self.owner}")
        with aside.open("w", encoding="utf-8") as file:
            for id in chunk.prompts:
                file.writelines(json.dumps(chunk.rows[id, mode]) + "\n" for mode in MODES)
        fsync_dir(aside)
        link_once(aside, final)  # a worker presumed dead may have published first
        chunk.part.close()
        for part in self.pool.parts(number):
            part.unlink(missing_ok=True)
        self.claims.release(number)
        del self.held[number]

    def _tick(self, force: bool = False) -> None:
        """Refresh leases and progress; called at every step of the model.

        Raises:
            Interrupted: This worker was asked to stop. Finished rows are kept.
        """
        self.ctx.preemption.check()
        self.ctx.progress.beat()
        now = time.monotonic()
        if not force and now - self.beat < min(20.0, LEASE_SECONDS / 6):
            return
        self.beat = now
        self.claims.refresh()
        record = {"engine": self.engine.name, "seconds": round(now - self.began, 1)}
        write_json(self.pool.work / "workers" / f"{self.owner}.json", record)
        self.report(force)

    def report(self, force: bool) -> None:
        """Report the rows that are done: those of published chunks and those of this worker."""
        done, total = self.pool.counts()
        done += sum(len(c.rows) for c in self.held.values())
        self.ctx.progress.update(done, total, "rows", force=force, phase="answering")


def chats(tokenizer: Any, thinking: Thinking, modes: dict[str, Any]) -> dict[str, Chat]:
    """Return each mode's chat for the teacher.

    Raises:
        ValueError: The teacher's chat template does not support a mode.
    """
    found = {mode: Chat.of(tokenizer, thinking, modes[mode].get("chat_template_kwargs")) for mode in MODES}
    for mode, chat in found.items():
        if fault := chat.teacher_fault(mode):
            raise ValueError(fault)
    return found


def _draw_prompts(ctx: Context) -> pq.ParquetFile:
    """Return the unit's prompts, drawn by the first worker and the same for all."""
    path = ctx.folder.work / "prompts.parquet"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        aside = path.with_name(f".prompts.{uuid.uuid4().hex}")
        table = load_prompts(ctx.unit.config["prompts"], ctx.resolve)
        pq.write_table(table, aside, row_group_size=CHUNK_ROWS)
        link_once(aside, path)
    return pq.ParquetFile(path)


def _wait(ctx: Context, pool: Pool, claims: Claims) -> bool:
    """Wait until a chunk can be claimed (True) or every chunk exists (False).

    While others hold all remaining chunks, this worker stays, to take over the chunk of one that dies.

    Raises:
        Interrupted: This worker was asked to stop.
    """
    while missing := pool.missing():
        ctx.preemption.check()
        ctx.progress.beat()
        if claims.available(missing):
            return True
        ctx.progress.outside("waiting for other workers", *pool.counts(), "rows")
        time.sleep(min(5.0, LEASE_SECONDS / 20))
    return False


def _publish(ctx: Context, pool: Pool) -> None:
    from transformers import AutoConfig

    config, execution = ctx.unit.config, ctx.unit.execution
    if "endpoint" in execution:  # the model may be nowhere but there
        shape = execution["endpoint"]["architecture"]
    else:
        model = AutoConfig.from_pretrained(ctx.resolve(config["model"]), revision=config.get("revision"))
        shape = _shape(model.to_dict(), execution)
    staged = ctx.staging()
    (staged / "chunks").mkdir()
    chunks = [pool.path(number) for number in range(pool.chunks)]
    for path in chunks:
        os.link(path, staged / "chunks" / path.name)
    workers = [read_json(p) for p in sorted((pool.work / "workers").glob("[!.]*.json"))]
    result = {
        "prompts": pool.prompts.metadata.num_rows,
        **_sums(chunks, shape),
        "seconds": round(sum(w["seconds"] for w in workers), 1),
        "engine": ", ".join(sorted({w["engine"] for w in workers})),
    }
    ctx.publish(staged, result)


def _shape(config: dict[str, Any], execution: dict[str, Any]) -> dict[str, Any]:
    """Return a teacher's config, with its FLOPs if they were measured."""
    return {**config, "flops": execution["flops"]} if "flops" in execution else config


def _sums(chunks: list[Path], model: Any) -> dict[str, Any]:
    """Sum rows, tokens, finish reasons and FLOPs over all chunks; `model` is the model's config."""
    from jobs.core.flops import architecture, generate_flops

    shape, rows = architecture(model), 0
    tokens = {mode: {"prompt": 0, "reasoning": 0, "answer": 0} for mode in MODES}
    finish = {mode: {"stop": 0, "length": 0} for mode in MODES}
    flops = dict.fromkeys(MODES, 0)
    for row in chain.from_iterable(map(read_jsonl, chunks)):
        mode, counts = row["mode"], row["tokens"]
        rows += 1
        finish[mode][row["finish"]] += 1
        for part, count in counts.items():
            tokens[mode][part] += count
        if made := counts["reasoning"] + counts["answer"]:
            flops[mode] += generate_flops(shape, counts["prompt"], made)
    total = sum(flops.values())
    return {"rows": rows, "tokens": tokens, "finish": finish, "flops": total, "flops_by_mode": flops}
