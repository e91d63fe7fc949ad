"""Teacher generation in both modes: any number of workers share one unit's chunks of prompts.

jobs/data/chunks.py says what is on disk. After the last chunk every worker closes its engine; one of them
publishes, and the others leave.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from io import FileIO
from itertools import chain
from typing import Any

from jobs.core.flops import architecture
from jobs.core.unit import MODES, Unit
from jobs.data import sums
from jobs.data.backlog import Backlog, Key
from jobs.data.chunks import Pool
from jobs.data.leases import LEASE_SECONDS, Claims
from jobs.data.prompts import load_prompts
from jobs.engines.base import Completion, Engine, Request, row_seed
from jobs.engines.load import follow, follows, import_engines, load, quiet
from jobs.engines.passes import Limits, Passes
from jobs.runtime.context import Context
from jobs.store.rundir import read_json, read_jsonl, write_json
from jobs.text.chat import Chat
from jobs.text.thinking import Thinking


def run(ctx: Context) -> None:
    """Work on the unit until every chunk exists; then one worker publishes the result."""
    if ctx.folder.done:
        return
    if follows(ctx.rank, ctx.unit.execution):
        ctx.preemption.listen()
        model, revision = ctx.resolve(ctx.unit.config["model"]), ctx.unit.config.get("revision")
        follow(model, revision, execution(ctx), ctx.waits, ctx.progress.beat)
        return
    ctx.progress.outside("reading the prompts", unit="rows")
    quiet()
    pool = open_pool(ctx)
    owner = f"{ctx.run}-{ctx.worker}-{uuid.uuid4().hex[:8]}"
    claims = Claims(pool.work / "claims", owner)
    ctx.preemption.listen()
    worked = _wait(ctx, pool, claims)
    try:
        if worked:
            _work(ctx, pool, claims, owner)
        _conclude(ctx, pool, claims, patient=not worked)
    finally:
        claims.give_back()  # other workers need not wait for the leases to expire


def _tokens_of(ctx: Context) -> tuple[str, str | None]:
    """Return where the engine finds the model, or of a served one the tokenizer, and its revision."""
    config = ctx.unit.config
    if served := ctx.unit.execution.get("endpoint"):
        return ctx.resolve(served["tokenizer"]), served["revision"]
    return ctx.resolve(config["model"]), config.get("revision")


def imports() -> None:
    """Import what every generation needs."""
    import_engines()


def open_pool(ctx: Context) -> Pool:
    """Return the unit's chunks; the first worker draws the prompts."""
    unit = ctx.unit
    shared = unit.resources.workers * (1 if _one_engine(unit) else unit.resources.tasks_per_node)
    return Pool.open(ctx.folder.work, shared, lambda: load_prompts(unit.config["prompts"], ctx.resolve))


def _one_engine(unit: Unit) -> bool:
    """Whether the processes of a job serve one engine, not one each."""
    return (unit.execution.get("nodes") or 1) > 1


def execution(ctx: Context) -> dict[str, Any]:
    """Return how the engine runs, with its seed.

    Engines draw apart, and a run that continues does not draw again what the one before it has drawn.
    """
    engine = f"engine {ctx.worker}.{0 if _one_engine(ctx.unit) else ctx.rank}"
    return {**ctx.unit.execution, "seed": row_seed(ctx.unit.config["seed"], ctx.run, engine)}


def _work(ctx: Context, pool: Pool, claims: Claims, owner: str) -> None:
    """Load the model and work until every chunk exists."""
    began = time.monotonic()

    def starts(phase: str) -> None:
        ctx.progress.outside(phase, *pool.counts(), "rows")

    with closing(load(*_tokens_of(ctx), execution(ctx), starts)) as engine:
        worker = Worker(ctx, pool, claims, owner, engine, began)
        worker.report(force=True)
        while _wait(ctx, pool, claims):
            worker.work()


@dataclass
class Chunk:
    """A chunk that this worker has claimed."""

    prompts: dict[str, str]  # by id, in order
    part: FileIO  # this worker's part file, unbuffered
    lines: dict[tuple[str, str], str] = field(default_factory=dict)  # finished rows by prompt id and mode
    sums: sums.Sums = field(default_factory=sums.nothing)

    @property
    def complete(self) -> bool:
        return len(self.lines) == len(self.prompts) * len(MODES)


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
        self.in_flight = 0
        self.beat = 0.0
        self.switched = False  # whether the modes are known to render different prompts
        self.cut = 0  # number of prompts that leave less than max_tokens of context
        self.config = ctx.unit.config
        self.modes: dict[str, Any] = self.config["modes"]
        self.backlog = Backlog({mode: self.modes[mode]["max_tokens"] for mode in MODES})
        self.thinking = Thinking.of(self.config.get("thinking"))
        self.chats = chats(engine.tokenizer, self.thinking, self.modes)
        self.shape = teacher_shape(ctx)
        for folder in ("parts", "chunks", "sums", "workers"):
            (pool.work / folder).mkdir(exist_ok=True)
        longest = max(Limits.of(mode).retry or mode["max_tokens"] for mode in self.modes.values())
        if longest >= engine.max_length:
            raise ValueError(
                f"max_tokens is {longest}, and the context of {self.config['model']} is "
                f"{engine.max_length} tokens, prompt and answer together: lower max_tokens"
            )

    def work(self) -> None:
        """Claim chunks as the engine has room for more, until none is left to claim."""
        limits = {mode: Limits.of(self.modes[mode]) for mode in MODES}
        passes = Passes(self.engine, self, lambda request: limits[request.key.mode])
        for answer in passes.generate(self._tick):
            self.in_flight -= 1
            self._add(answer)
        if self.cut:
            print(f"{self.cut} prompts left less than max_tokens of the model's context for their answer")
            self.cut = 0
        self._tick(force=True)

    def __iter__(self) -> Iterator[Request]:
        return self

    def __next__(self) -> Request:
        """Return the request to make next.

        Raises:
            StopIteration: There is none now. Later there may be, of a worker that dies.
        """
        while True:
            while self.backlog.wants(self.in_flight) and self._claim():
                pass
            if not len(self.backlog):
                raise StopIteration
            key = self.backlog.pop()
            request = self._request(key, self.held[key.chunk].prompts[key.id])
            if request.max_tokens > 0:
                self.in_flight += 1
                return request
            # The prompt leaves no room for an answer: counts as truncated.
            self._add(self.engine.completion(request, [], "length"))

    def _claim(self) -> bool:
        """Claim a chunk; return False if other workers hold all that are left."""
        number = self.claims.take(self.pool.missing())
        if number is None:
            return False
        chunk = self._open(number)
        if chunk is None:
            self.claims.release(number)
            return True
        self.held[number] = chunk
        self._check_switch(list(chunk.prompts.values()))
        for id, prompt in chunk.prompts.items():
            for mode in MODES:
                if (id, mode) not in chunk.lines:
                    self.backlog.add(Key(number, id, mode), prompt)
        if chunk.complete:
            self._finish(number)
        return True

    def _open(self, number: int) -> Chunk | None:
        """Return a chunk with its existing rows; None if the chunk has just been published."""
        path = self.pool.work / "parts" / f"{number:05d}.{self.owner}.jsonl"
        # Of any owner, so that nothing is generated twice. Parts that are removed meanwhile, as the chunk is
        # published, read as empty.
        rows = chain.from_iterable(map(read_jsonl, self.pool.parts(number)))
        found = {(row["id"], row["mode"]): row for row in rows}
        if self.pool.path(number).exists():
            return None
        chunk = Chunk(self.pool.read(number), path.open("ab", buffering=0))
        for row in found.values():
            self._keep(chunk, row)
        return chunk

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
        sampling = self.modes[key.mode]
        text = self.chats[key.mode].ask(prompt)
        seed = row_seed(self.config["seed"], key.id, key.mode) if sampling.get("seed_each") else None
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
        row |= {
            key: value for key in ("passes", "thinking_cut", "retried") if (value := getattr(answer, key))
        }
        chunk.part.write(self._keep(chunk, row).encode())  # unbuffered: a kill loses no finished row
        self.backlog.finished(key.mode, len(answer.ids))
        if chunk.complete:
            self._finish(key.chunk)

    def _keep(self, chunk: Chunk, row: dict[str, Any]) -> str:
        """Count a finished row and return its line."""
        line = json.dumps(row) + "\n"
        chunk.lines[row["id"], row["mode"]] = line
        sums.count(chunk.sums, row, self.shape)
        return line

    def _finish(self, number: int) -> None:
        """Publish a complete chunk."""
        chunk = self.held.pop(number)
        chunk.part.close()
        lines = (chunk.lines[id, mode] for id in chunk.prompts for mode in MODES)
        if self.pool.finish(number, self.owner, lines):
            sums.keep(self.pool, number, chunk.sums)
        self.claims.release(number)

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
        done += sum(len(c.lines) for c in self.held.values())
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


def teacher_shape(ctx: Context) -> Any:
    """Return the teacher's architecture."""
    from transformers import AutoConfig

    config, execution = ctx.unit.config, ctx.unit.execution
    if "endpoint" in execution:  # the model may be nowhere but there
        return architecture(execution["endpoint"]["architecture"])
    model = AutoConfig.from_pretrained(ctx.resolve(config["model"]), revision=config.get("revision"))
    return architecture(_shape(model.to_dict(), execution))


def _shape(config: dict[str, Any], execution: dict[str, Any]) -> dict[str, Any]:
    """Return a teacher's config, with its FLOPs if they were measured."""
    return {**config, "flops": execution["flops"]} if "flops" in execution else config


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


def _conclude(ctx: Context, pool: Pool, claims: Claims, patient: bool) -> None:
    """Publish the result, unless another worker does.

    Args:
        patient: Whether to wait for the other worker's result, and to publish if it dies. A worker that has
            worked leaves instead; if the other one dies, the unit's next attempt publishes.

    Raises:
        Interrupted: This worker was asked to stop.
    """
    while not ctx.folder.done:
        ctx.preemption.check()
        ctx.progress.outside("publishing", *pool.counts(), "rows")
        if claims.take([pool.chunks]) is not None:  # a piece beyond the last chunk: whose is publishing
            _publish(ctx, pool, claims)
        elif not patient:
            print("every row is there, and another worker publishes the result", flush=True)
            return
        else:
            time.sleep(min(5.0, LEASE_SECONDS / 20))


def _publish(ctx: Context, pool: Pool, claims: Claims) -> None:
    staged, shape = ctx.staging(), teacher_shape(ctx)
    (staged / "chunks").mkdir()
    found, beat = sums.nothing(), time.monotonic()
    for number in range(pool.chunks):
        path = pool.path(number)
        os.link(path, staged / "chunks" / path.name)
        sums.add(found, sums.of_chunk(pool, number, shape))
        if time.monotonic() - beat > LEASE_SECONDS / 6:
            claims.refresh()
            beat = time.monotonic()
        ctx.preemption.check()
        ctx.progress.beat()
    workers = [read_json(p) for p in sorted((pool.work / "workers").glob("[!.]*.json"))]
    result = {
        "prompts": pool.prompts.metadata.num_rows,
        **found,
        "flops": sum(found["flops_by_mode"].values()),
        "seconds": round(sum(w["seconds"] for w in workers), 1),
        "engine": ", ".join(sorted({w["engine"] for w in workers})),
    }
    ctx.publish(staged, result)
