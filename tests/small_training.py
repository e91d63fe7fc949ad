"""A small study whose students are really trained, and processes that train them.

DeepSpeed and all that it loads takes most of a small training's time, so processes are forked from one that
has loaded it.
"""

from __future__ import annotations

import faulthandler
import itertools
import multiprocessing
import os
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from small_study import TESTS, free_port, publish, wait_for
from tiny import context

os.environ.setdefault("DS_ACCELERATOR", "cpu")
with suppress(ImportError):
    import accelerate
    import deepspeed.runtime.zero.stage3  # noqa: F401  what a training would load
    import torch
    import transformers.models.qwen3.modeling_qwen3  # noqa: F401

from jobs import toy
from jobs.core.unit import Resources, Unit
from jobs.data.packing import packed
from jobs.data.pairs import PAIRS
from jobs.data.token_store import TokenStore
from jobs.runtime.context import Context
from jobs.runtime.fence import Superseded
from jobs.runtime.signals import Interrupted
from jobs.stages import tokenize, train
from jobs.stages.train import build
from jobs.store.progress import Progress
from jobs.store.rundir import StudyDir, UnitDir, append_jsonl, read_jsonl, write_json
from jobs.training import distributed
from jobs.training.checkpointer import Saving
from jobs.training.schedule import Recipe
from launch.local.backend import Local
from launch.state.ledger import Attempt, Job
from launch.study.presets import CONFIGS

BLOCK = 48
ARCHITECTURE = {
    "model_type": "qwen3", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 32, "intermediate_size": 64, "vocab_size": 41,
    "tie_word_embeddings": True, "initializer_range": 0.05, "max_position_embeddings": 64,
}  # fmt: skip
PRESET = {
    "name": "t", "size": "tiny", "model": None, "revision": None, "tokenizer": "@prepare/tokenizer",
    "tokenizer_revision": None, "init": "random", "architecture": ARCHITECTURE,
}  # fmt: skip
START = {**PRESET, "init": "pretrained", "model": "@prepare/start"}
UNTIED = {**START, "model": "@prepare/untied"}
RECIPE: dict[str, Any] = {
    "epochs": 1, "batch": 4, "learning_rate": 1e-2, "warmup": 0.1, "schedule": "cosine", "weight_decay": 0.5,
    "betas": [0.9, 0.98], "clip": 1.0, "dtype": "fp32", "seed": 0,
}  # fmt: skip
ALONE = {
    "micro_batch": 4, "deepspeed": None, "gradient_checkpointing": False, "sequence_parallel": None,
    "mtbf_hours": 24,
}  # fmt: skip


Event = Callable[[], None]


def _signal(number: int) -> None:
    os.kill(os.getpid(), number)


WARNED, PREEMPTED = partial(_signal, signal.SIGUSR2), partial(_signal, signal.SIGTERM)
KILLED, FROZEN = partial(_signal, signal.SIGKILL), partial(_signal, signal.SIGSTOP)


def disk_full() -> None:
    """From now on this process cannot write what is larger than a few lines."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def busy_gloo() -> None:
    """From now on a training's process group still has a tensor to release when it has been torn down.

    Its thread needs the GIL for that, and here nothing gives it away, as on a machine that is short of cores.
    """
    real = distributed.part

    def part(accelerator: Any) -> None:
        group = torch.distributed.group.WORLD
        real(accelerator)
        sys.setswitchinterval(1000)
        tensor = torch.ones(30_000_000)
        work = group.allreduce([tensor])
        del work, tensor
        until = time.perf_counter() + 1
        while time.perf_counter() < until:
            pass

    vars(train)["part"] = part


class Study:
    """A study's folder with a tokenizer, and rows that are tokenized: half plain, half with their steps."""

    model = START  # what its students are at first

    def __init__(self, path: Path, order: str = "sequential") -> None:
        self.root, self.order = StudyDir(path), order
        self.tokenizer = toy.tokenizer()
        every = [(label, (digit,)) for label, digit in itertools.product(toy.LABELS, range(10))]
        every = [every[i] for i in np.random.default_rng(0).permutation(len(every))]
        self.learnt, self.held_out = every[:160], every[160:]
        self.prepare, collate = Unit("prepare", "p", {}), Unit("collate", "c", {})
        publish(self.root, self.prepare)
        publish(self.root, collate)
        made = self.root.unit(self.prepare).out
        self.tokenizer.save_pretrained(made / "tokenizer")
        for name, tied in (("start", True), ("untied", False)):
            preset = {**PRESET, "architecture": {**ARCHITECTURE, "tie_word_embeddings": tied}}
            build(preset, Recipe(**RECIPE), ALONE).save_pretrained(made / name)
        rows = {
            "prompt": [toy.text(q) for q in self.learnt],
            "reasoning": [toy.steps(q) for q in self.learnt],
            "answer": [toy.answer(q) for q in self.learnt],
            "ift": [toy.answer(q) for q in self.learnt],
        }
        pq.write_table(pa.table(rows), self.root.unit(collate).out / PAIRS)
        thinking = {"open": toy.OPEN, "close": toy.CLOSE}
        config = {"tokenizer": "@prepare/tokenizer", "revision": None, "thinking": thinking}
        self.tokens = Unit("tokenize", "toy", config, (collate.as_input(), self.prepare.as_input()))
        tokenize.run(context(path, self.tokens))
        store = TokenStore.open(self.root.unit(self.tokens).out)
        mixed = {"share": 0.5, "order": order, "seed": 0, "block_size": BLOCK}
        self.blocks, _ = packed(store, mixed, path / "blocks.npz")

    def unit(self, name: str, recipe: dict[str, Any], execution: dict[str, Any], processes: int = 1) -> Unit:
        """A student to train. How it is run has no part in what it is."""
        config = {
            "model": self.model,
            "recipe": {**RECIPE, **recipe},
            "share": 0.5,
            "order": self.order,
            "seed": 0,
            "block_size": BLOCK,
            "called": name,
        }
        inputs = (self.tokens.as_input(), self.prepare.as_input())
        resources = Resources(tasks_per_node=processes)
        return Unit("train", name, config, inputs, {**ALONE, **execution}, resources)

    def train(self, name: str, recipe: dict[str, Any], execution: dict[str, Any], processes: int = 1) -> Path:
        """Train a student: here, or in a job of its own where it has several processes."""
        unit = self.unit(name, recipe, execution, processes)
        ctx = context(self.root.path, unit)
        if processes == 1:
            train.run(ctx)
        else:
            local, submission = Local(self.root), f"train-{name}-1234"
            job = Job(submission, local.submit(unit, submission, 1, 0, ()), os.uname().nodename)
            attempts = {unit.id: Attempt(1, 0, "local", (job,))}
            wait_for(lambda: not local.live(attempts), "the training", 240)
            logs = self.root.logs(submission, job.id)
            assert ctx.folder.done, "\n".join(log.read_text(encoding="utf-8") for log in logs)
        return ctx.folder.out

    def run(self, unit: Unit, attempt: int, until: int | None = None, event: Event = WARNED) -> str:
        """Train a unit in processes of their own; returns how the first one ended.

        Args:
            until: something happens to each of them after so many steps.
            event: what; a signal before the time limit unless told.
        """
        return wait(self.start(unit, attempt, until, event))

    def start(self, unit: Unit, attempt: int, until: int | None = None, event: Event = WARNED) -> list[Any]:
        """As `run`, without waiting."""
        context(self.root.path, unit)
        forks = server()
        world, port = unit.resources.tasks_per_node, free_port()
        started = []
        for rank in range(world):
            place = {"rank": rank, "local_rank": rank, "world_size": world, "attempt": attempt}
            args = (self.root.path, unit, place, port, until, event)
            started.append(forks.Process(target=rank_of, args=args))
            started[-1].start()
        return started


@cache
def server() -> Any:
    """The process that the others are forked from."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload([__name__])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(TESTS))  # it finds this module by it
        forkserver.ensure_running()
    return forks


LONGEST = 90.0  # seconds that a process may take
ENDS = {0: "done", 3: "Interrupted", 4: "Superseded", -9: "killed"}


def wait(processes: list[Any]) -> str:
    """How the first of these ended, once all have."""
    for process in processes:
        process.join(LONGEST)
    assert len({process.exitcode for process in processes}) == 1, [p.exitcode for p in processes]
    return ENDS.get(processes[0].exitcode, f"exit code {processes[0].exitcode}")


def rank_of(
    root: Path, unit: Unit, place: dict[str, Any], port: int, until: int | None, event: Event
) -> NoReturn:
    """One process of a training."""
    faulthandler.dump_traceback_later(LONGEST, exit=True)
    torch.set_num_threads(1)
    if place["world_size"] > 1:
        names = {"RANK": "rank", "WORLD_SIZE": "world_size", "LOCAL_RANK": "local_rank"}
        os.environ |= {name: str(place[key]) for name, key in names.items()}
        os.environ |= {"LOCAL_SIZE": os.environ["WORLD_SIZE"], "LOCAL_WORLD_SIZE": os.environ["WORLD_SIZE"]}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ctx = context(root, unit, **place)
    vars(ctx)["progress"] = Stopping(ctx.folder.progress if not ctx.rank else None, until, event)
    try:
        train.run(ctx)
        code = 0
    except Interrupted:
        code = 3
    except Superseded:
        code = 4
    except BaseException as error:
        traceback.print_exc()
        append_jsonl(ctx.folder.attempts.with_name("failed.jsonl"), {"error": str(error)})
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def save_for_ever(folder: Path, execution: dict[str, Any], attempt: int, told: Path) -> None:
    """A training whose weights are its step, which saves after each, and writes where it began to `told`."""
    torch.set_num_threads(1)
    ctx = Context(Unit("train", "u", {}, execution=execution), UnitDir(folder), attempt)
    accelerator = accelerate.Accelerator(cpu=True)
    saving = Saving(ctx, accelerator)
    model = torch.nn.Linear(200, 200)
    optimizer = torch.optim.AdamW(model.parameters())
    _, totals = saving.resume(lambda: accelerator.prepare(model, optimizer))
    lines = [line["step"] for line in read_jsonl(saving.log)]
    assert lines == list(range(1, totals.step + 1))
    if totals.step:
        assert all((weight == totals.step).all() for weight in model.parameters())
        drawn = random_numbers()
        accelerate.utils.set_seed(totals.step)
        assert drawn == random_numbers()
    write_json(told, totals.step)
    while True:
        totals.step += 1
        with torch.no_grad():
            for weight in model.parameters():
                weight.fill_(totals.step)
        accelerate.utils.set_seed(totals.step)
        append_jsonl(saving.log, {"step": totals.step})
        saving.boundary(totals)


def random_numbers() -> tuple[float, ...]:
    """One of each generator that a training may draw from."""
    return random.random(), float(np.random.rand()), float(torch.rand(1))


class Stopping(Progress):
    """Progress that has something happen to its process after so many steps; 0: before it has its model."""

    def __init__(self, path: Path | None, until: int | None, event: Event) -> None:
        super().__init__(path)
        self._until, self._event = until, event

    def update(self, done: int, total: int, unit: str, *, force: bool = False, **metrics: Any) -> None:
        super().update(done, total, unit, force=force, **metrics)
        if done == self._until and done:
            self._event()

    def outside(self, phase: str, done: int = 0, total: int = 0, unit: str = "steps") -> None:
        super().outside(phase, done, total, unit)
        if self._until == 0 and phase == "loading the model":
            self._event()


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in read_jsonl(out / "metrics.jsonl")]


def zero(stage: int) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(
        (CONFIGS / "deepspeed" / f"zero{stage}.yaml").read_text(encoding="utf-8")
    )
    return {"deepspeed": loaded}


def load(out: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    found: dict[str, Any] = load_file(out / "model" / "model.safetensors")
    return found
