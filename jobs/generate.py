"""The teacher answers every prompt in both modes: any number of workers share one unit's chunks of prompts.

    work/prompts.parquet       the prompts, one row group a chunk; drawn once, by whichever worker was first
    work/claims/               who works on which chunk (jobs/claims.py)
    work/parts/CHUNK.OWNER.jsonl  rows as they finish; a file a worker: nobody appends after a torn line
    work/chunks/CHUNK.jsonl    a finished chunk: rows in the prompts' order; linked once, never rewritten
    work/workers/OWNER.json    the seconds that each worker held the model

A worker may be killed at any line: another one, or its next attempt, goes on from the rows in the parts.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from jobs.claims import LEASE_SECONDS, Claims
from jobs.context import Context
from jobs.engines import Completion, Engine, Request, load, quiet
from jobs.prompts import load_prompts
from jobs.rundir import fsync_dir, read_json, read_jsonl, write_json
from jobs.thinking import Thinking
from jobs.unit import MODES

CHUNK_ROWS = 256  # prompts; what a worker claims at a time


def run(ctx: Context) -> None:
    """Work on the unit until every chunk is there, then publish it."""
    if ctx.folder.done:
        return
    quiet()
    pool = Pool(ctx.folder.work, _draw_prompts(ctx))
    owner = f"{ctx.run}-{ctx.worker}-{uuid.uuid4().hex[:8]}"
    claims = Claims(pool.work / "claims", owner)
    ctx.preemption.listen()
    if _wait(ctx, pool, claims):
        config = ctx.unit.config
        began = time.monotonic()
        engine = load(ctx.resolve(config["model"]), config.get("revision"), ctx.unit.execution)
        with closing(engine):
            worker = Worker(ctx, pool, claims, owner, engine, began)
            try:
                while _wait(ctx, pool, claims):
                    worker.work()
            except BaseException:
                claims.give_back()  # the others need not wait until the leases run out
                raise
    if not ctx.folder.done:
        _publish(ctx, pool)


@dataclass(frozen=True)
class Pool:
    """The chunks of a unit, as they lie on disk."""

    work: Path
    prompts: pq.ParquetFile

    @property
    def chunks(self) -> int:
        return int(self.prompts.num_row_groups)

    def path(self, chunk: int) -> Path:
        return self.work / "chunks" / f"{chunk:05d}.jsonl"

    def missing(self) -> list[int]:
        """Chunks that are not published."""
        there = {p.name for p in (self.work / "chunks").glob("*.jsonl")}
        return [c for c in range(self.chunks) if self.path(c).name not in there]

    def parts(self, chunk: int) -> list[Path]:
        return sorted((self.work / "parts").glob(f"{chunk:05d}.*.jsonl"))


@dataclass
class Chunk:
    """A chunk that this worker holds.

    Args:
        prompts: (id, text) in order.
        rows: what is there, by prompt id and mode.
        part: where this worker appends, unbuffered.
    """

    prompts: list[tuple[str, str]]
    rows: dict[tuple[str, str], dict[str, Any]]
    part: FileIO

    @property
    def complete(self) -> bool:
        return len(self.rows) == len(self.prompts) * len(MODES)


@dataclass
class Worker:
    """Generates what is missing of the chunks that it can claim."""

    ctx: Context
    pool: Pool
    claims: Claims
    owner: str
    engine: Engine
    began: float
    held: dict[int, Chunk] = field(default_factory=dict)
    beat: float = 0.0
    cut: int = 0

    def __post_init__(self) -> None:
        self.config = self.ctx.unit.config
        self.thinking = Thinking.of(self.config.get("thinking"))
        for folder in ("parts", "chunks", "workers"):
            (self.pool.work / folder).mkdir(parents=True, exist_ok=True)
        longest = max(mode["max_tokens"] for mode in self.config["modes"].values())
        if longest >= self.engine.max_length:
            raise ValueError(
                f"max_tokens is {longest}, and the context of {self.config['model']} is "
                f"{self.engine.max_length} tokens, prompt and answer together: lower max_tokens"
            )

    def work(self) -> None:
        """Claim chunks as the engine has room for more, until there is none to claim."""
        requests: dict[Any, Request] = {}
        for answer in self.engine.generate(self._requests(requests), self._tick):
            chunk, prompt, mode = answer.key
            self._add(chunk, prompt, mode, requests.pop(answer.key), answer)
        if self.cut:
            print(f"{self.cut} prompts left less than max_tokens of the model's context for their answer")
            self.cut = 0
        self._tick(force=True)

    def _requests(self, requests: dict[Any, Request]) -> Iterator[Request]:
        while (number := self.claims.take(self.pool.missing())) is not None:
            table = self.pool.prompts.read_row_group(number)
            prompts = list(zip(*(table.column(c).to_pylist() for c in ("id", "prompt")), strict=True))
            part = self.pool.work / "parts" / f"{number:05d}.{self.owner}.jsonl"
            rows: dict[tuple[str, str], dict[str, Any]] = {}
            with contextlib.suppress(FileNotFoundError):  # published in this very moment
                for path in self.pool.parts(number):  # of any owner: nothing is generated twice
                    rows |= {(row["id"], row["mode"]): row for row in read_jsonl(path)}
            if self.pool.path(number).exists():
                self.claims.release(number)
                continue
            self.held[number] = chunk = Chunk(prompts, rows, part.open("ab", buffering=0))
            new = [self._request(number, p, m) for p in prompts for m in MODES if (p[0], m) not in chunk.rows]
            self._finish(number)
            for request in new:
                requests[request.key] = request
                if request.max_tokens > 0:
                    yield request
                else:  # no answer fits behind this prompt: it counts as one that was cut off
                    _, prompt, mode = request.key
                    nothing = Completion(request.key, [], "", "length")
                    self._add(number, prompt, mode, requests.pop(request.key), nothing)

    def _request(self, chunk: int, prompt: tuple[str, str], mode: str) -> Request:
        sampling = self.config["modes"][mode]
        text = self.engine.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt[1]}],
            add_generation_prompt=True,
            tokenize=False,
            **(sampling.get("chat_template_kwargs") or {}),
        )
        ids = self.engine.encode(text)
        room = self.engine.room(len(ids), sampling["max_tokens"])
        self.cut += room < sampling["max_tokens"]
        return Request(
            key=(chunk, prompt, mode),
            prompt=ids,
            max_tokens=room,
            temperature=sampling["temperature"],
            top_p=sampling["top_p"],
            top_k=sampling["top_k"],
            seed=row_seed(self.config["seed"], prompt[0], mode),
            thinking=self.thinking,
            opened=self.thinking.opened(text),
        )

    def _add(
        self, number: int, prompt: tuple[str, str], mode: str, request: Request, answer: Completion
    ) -> None:
        chunk = self.held[number]
        parts = self.thinking.split(answer.text, request.opened)
        reasoning, rest = self.thinking.counts(
            answer.ids, lambda ids: self.engine.decode(ids, self.thinking), request.opened
        )
        row = {
            "id": prompt[0],
            "prompt": prompt[1],
            "mode": mode,
            "text": answer.text,
            "reasoning": parts.reasoning,
            "answer": parts.answer,
            "tokens": {"prompt": len(request.prompt), "reasoning": reasoning, "answer": rest},
            "finish": answer.finish,
            "seed": request.seed,
        }
        chunk.part.write((json.dumps(row) + "\n").encode())  # a kill loses nothing that was written
        chunk.rows[prompt[0], mode] = row
        self._finish(number)

    def _finish(self, number: int) -> None:
        """Publish a chunk that is complete."""
        chunk = self.held[number]
        if not chunk.complete:
            return
        final = self.pool.path(number)
        aside = final.with_name(f".{number:05d}.{self.owner}")
        with aside.open("w") as file:
            for prompt, _ in chunk.prompts:
                file.writelines(json.dumps(chunk.rows[prompt, mode]) + "\n" for mode in MODES)
        fsync_dir(aside)
        with contextlib.suppress(FileExistsError):  # a worker that was believed dead was faster
            os.link(aside, final)
        aside.unlink()
        chunk.part.close()
        for part in self.pool.parts(number):
            part.unlink(missing_ok=True)
        self.claims.release(number)
        del self.held[number]

    def _tick(self, force: bool = False) -> None:
        """Keep the leases and the progress fresh; called at every step of the model.

        Raises:
            Interrupted: this worker was told to stop. The rows that are there stay.
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
        total = int(self.pool.prompts.metadata.num_rows) * len(MODES)
        rest = sum(self.pool.prompts.metadata.row_group(c).num_rows for c in self.pool.missing())
        done = total - rest * len(MODES) + sum(len(c.rows) for c in self.held.values())
        self.ctx.progress.update(done, total, "rows", force=force)


def row_seed(seed: int, prompt: str, mode: str) -> int:
    """The seed of one row: the same whichever worker generates it, beside whatever else."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{prompt}:{mode}".encode()).digest()[:4], "big") >> 1


def _draw_prompts(ctx: Context) -> pq.ParquetFile:
    """The unit's prompts, drawn by the first worker and the same for all."""
    path = ctx.folder.work / "prompts.parquet"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".prompts.{uuid.uuid4().hex}")
        table = load_prompts(ctx.unit.config["prompts"], ctx.resolve)
        pq.write_table(table, aside, row_group_size=CHUNK_ROWS)
        with contextlib.suppress(FileExistsError):
            os.link(aside, path)
        aside.unlink()
    return pq.ParquetFile(path)


def _wait(ctx: Context, pool: Pool, claims: Claims) -> bool:
    """Wait until there is something to claim (True) or every chunk is there (False).

    While others hold all that is left, this worker stays: if one of them dies, its chunk is taken over.

    Raises:
        Interrupted: this worker was told to stop.
    """
    while missing := pool.missing():
        ctx.preemption.check()
        ctx.progress.beat()
        if claims.available(missing):
            return True
        time.sleep(min(5.0, LEASE_SECONDS / 20))
    return False


def _publish(ctx: Context, pool: Pool) -> None:
    from transformers import AutoConfig

    config = ctx.unit.config
    model = AutoConfig.from_pretrained(ctx.resolve(config["model"]), revision=config.get("revision"))
    staged = ctx.staging()
    (staged / "chunks").mkdir()
    tally = Tally(model)
    for number in range(pool.chunks):
        path = pool.path(number)
        os.link(path, staged / "chunks" / path.name)
        tally.add(list(read_jsonl(path)))
    workers = [read_json(p) for p in sorted((pool.work / "workers").glob("[!.]*.json"))]
    ctx.publish(
        staged,
        {
            "prompts": pool.prompts.metadata.num_rows,
            "rows": tally.rows,
            "tokens": tally.tokens,
            "finish": tally.finish,
            "flops": sum(tally.flops.values()),
            "flops_by_mode": tally.flops,
            "seconds": round(sum(w["seconds"] for w in workers), 1),
            "engine": ", ".join(sorted({w["engine"] for w in workers})),
        },
    )


@dataclass
class Tally:
    """What the rows of a unit sum up to; `flops` are those of the model with this config."""

    model: Any
    rows: int = 0
    flops: dict[str, int] = field(default_factory=lambda: dict.fromkeys(MODES, 0))
    tokens: dict[str, dict[str, int]] = field(
        default_factory=lambda: {m: {"prompt": 0, "reasoning": 0, "answer": 0} for m in MODES}
    )
    finish: dict[str, dict[str, int]] = field(
        default_factory=lambda: {m: {"stop": 0, "length": 0} for m in MODES}
    )

    def add(self, rows: list[dict[str, Any]]) -> None:
        from analysis.flops import generate_flops

        for row in rows:
            self.finish[row["mode"]][row["finish"]] += 1
            for part, count in row["tokens"].items():
                self.tokens[row["mode"]][part] += count
        self.rows += len(rows)
        for mode in MODES:
            made = [r["tokens"] for r in rows if r["mode"] == mode]
            made = [t for t in made if t["reasoning"] + t["answer"]]
            self.flops[mode] += generate_flops(
                self.model, [t["prompt"] for t in made], [t["reasoning"] + t["answer"] for t in made]
            )
