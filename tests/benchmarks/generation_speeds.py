"""One teacher's generation beside bare `LLM.chat`, in one process with one engine: prints a JSON object.

    generation_speeds.py TEACHER PROMPTS TURNS IFT_TOKENS REASONING_TOKENS

TEACHER is a model's folder, PROMPTS a JSON Lines file with a column `prompt`. The ways take turns, so that
what else the machine does falls on all of them. Measured are tokens generated in a second of a processor.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from jobs.core.unit import MODES, Unit
from jobs.data.leases import Claims
from jobs.engines.load import load, quiet
from jobs.runtime.context import Context
from jobs.stages import generate
from jobs.store.rundir import StudyDir, read_json, write_json

Way = tuple[str, Callable[[], int]]
KWARGS: dict[str, Any] = {"ift": {"enable_thinking": False}, "reasoning": {"enable_thinking": True}}


def unit(teacher: str, prompts: str, tokens: dict[str, int], temperature: float, seeded: bool) -> Unit:
    """Return the unit that asks a teacher all prompts."""
    sampling = {"temperature": temperature, "top_p": 1.0, "top_k": -1}
    modes: dict[str, Any] = {
        mode: {**sampling, "max_tokens": tokens[mode], "chat_template_kwargs": KWARGS[mode]} for mode in MODES
    }
    for mode in modes.values() if seeded else ():
        mode["seed_each"] = True
    config = {
        "model": teacher, "revision": None, "thinking": {"open": "<think>", "close": "</think>"},
        "prompts": [{"path": prompts, "column": "prompt", "count": None, "seed": 0}],
        "modes": modes, "seed": 0,
    }  # fmt: skip
    return Unit("generate", "teacher", config, execution={"engine": "vllm"})


def bare(engine: Any, prompts: list[str], tokens: dict[str, int], temperature: float, seeded: bool) -> int:
    """Ask all prompts in both modes with `LLM.chat`; return how many tokens it generated."""
    from vllm import SamplingParams

    chats: list[Any] = [[{"role": "user", "content": prompt}] for prompt in prompts]
    count = 0
    for mode in MODES:
        params = [
            SamplingParams(max_tokens=tokens[mode], temperature=temperature, seed=number if seeded else None)
            for number in range(len(chats))
        ]
        answers = engine._llm.chat(
            chats, params if seeded else params[0], use_tqdm=False, chat_template_kwargs=KWARGS[mode]
        )
        count += sum(len(answer.outputs[0].token_ids) for answer in answers)
    return count


def ours(engine: Any, made: Unit, root: Path) -> int:
    """Ask all prompts in both modes as a worker does, up to the published result; return the tokens."""
    folder = StudyDir(Path(tempfile.mkdtemp(dir=root))).unit(made)
    folder.path.mkdir(parents=True)
    write_json(folder.spec, made.to_json())
    ctx = Context(made, folder)
    pool = generate.open_pool(ctx)
    claims = Claims(pool.work / "claims", "me")
    generate.Worker(ctx, pool, claims, "me", engine, time.monotonic()).work()
    generate._conclude(ctx, pool, claims, patient=True)
    tokens = read_json(folder.result)["tokens"]
    return sum(tokens[mode][part] for mode in MODES for part in ("reasoning", "answer"))


def speed(work: Callable[[], int]) -> float:
    """Return the tokens that some work generates in a second of a processor."""
    began = time.process_time()
    return work() / (time.process_time() - began)


def ways(engine: Any, teacher: str, file: str, tokens: dict[str, int], root: Path) -> Iterator[Way]:
    """Yield each way with its name: bare or ours, its temperature, and whether each answer has a seed."""
    prompts = [json.loads(line)["prompt"] for line in Path(file).read_text(encoding="utf-8").splitlines()]
    for temperature, seeded in ((0.0, False), (0.6, False), (0.6, True)):
        name = f"{temperature} seeded" if seeded else f"{temperature}"
        yield f"bare {name}", partial(bare, engine, prompts, tokens, temperature, seeded)
        yield f"ours {name}", partial(ours, engine, unit(teacher, file, tokens, temperature, seeded), root)


def main() -> None:
    """Measure all turns, and print them by way."""
    teacher, file, turns, plain, thought = sys.argv[1:]
    quiet()
    engine = load(teacher, None, {"engine": "vllm"})
    with tempfile.TemporaryDirectory(prefix="sor-bench-") as root:
        every = dict(ways(engine, teacher, file, {"ift": int(plain), "reasoning": int(thought)}, Path(root)))
        found: dict[str, list[float]] = {name: [] for name in every}
        for turn in range(int(turns) + 1):  # the first one warms up
            for name, work in every.items():
                measured = speed(work)
                if turn:
                    found[name].append(measured)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
