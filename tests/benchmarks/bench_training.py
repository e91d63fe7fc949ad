"""A training's steps against other loops of the same model, on one core: tokens in a second of a processor.

Each loop is a process of its own (`training_loops.py`). They take steps in turn, so that what else the
machine does falls on all of them. Goals: 0.97 of a bare loop, 0.93 with ZeRO 1, 1.2 times TRL's; on packed
rows three times TRL's and those of the dense mask. TRL is no dependency: it comes into a temporary folder, or
is left out.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from measure import Ratio

HERE = Path(__file__).parent
TOKENS = 4096  # of a step
WORKS = {"rows": "8 rows of 512 tokens", "packed": "4,096 tokens in 16 packed rows"}
TURNS = {"rows": 9, "packed": 3}  # of one step; differences are smaller without packing
TRL = "trl==1.16.0"
OURS = {"ours": "ours", "zero1": "ours with DeepSpeed's ZeRO 1"}
OTHERS = {"bare": "a bare loop of torch", "hf": "HF Trainer", "trl": f"TRL's SFTTrainer ({TRL}), packing bfd"}


def ratios() -> Iterator[Ratio]:
    """All measurements of this file."""
    with tempfile.TemporaryDirectory() as folder:
        others = [name for name in OTHERS if name != "trl" or _trl(Path(folder))]
        for work, what in WORKS.items():
            speeds = measured(work, [*OURS, *others], Path(folder))
            for ours, named in OURS.items():
                for other in others:
                    measure = f"training, {what}: {named}"
                    yield Ratio(measure, OTHERS[other], speeds[ours], speeds[other], "tokens a processor s")


def _trl(folder: Path) -> bool:
    """Install TRL into a folder, and return whether that worked. What it needs is installed."""
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    done = subprocess.run(
        [*install, "--target", folder / "trl", TRL], stderr=subprocess.PIPE, encoding="utf-8", check=False
    )
    if done.returncode:
        print(f"{TRL} is left out, since pip could not install it:\n{done.stderr}", file=sys.stderr)
    return not done.returncode


def measured(work: str, names: list[str], folder: Path) -> dict[str, float]:
    """Return the tokens that each loop trains on in a second of a processor: the median of its turns."""
    with ExitStack() as stack:
        loops = {name: Loop(name, work, folder, stack) for name in names}
        for loop in loops.values():
            loop.seconds()  # of its first step, to warm up
        turns = [{name: loop.step() for name, loop in loops.items()} for _ in range(TURNS[work])]
    return {name: TOKENS / statistics.median(turn[name] for turn in turns) for name in names}


class Loop:
    """A process that trains, and takes a step only when it is told to.

    Raises:
        RuntimeError: The process has ended.
    """

    def __init__(self, name: str, work: str, folder: Path, stack: ExitStack) -> None:
        self._log = folder / f"{name}-{work}.log"
        paths = [str(HERE.parent), str(folder / "trl"), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(folder),
        }  # fmt: skip
        process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, HERE / "training_loops.py", name, work], cwd=folder, env=environment,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8",
                stderr=stack.enter_context(self._log.open("w", encoding="utf-8")),
            )
        )  # fmt: skip
        assert process.stdin
        assert process.stdout
        stack.callback(process.stdin.close)  # which ends it
        self._orders, self._answers = process.stdin, process.stdout

    def step(self) -> float:
        """Have it take a step, and return the seconds of a processor."""
        print(file=self._orders, flush=True)
        return self.seconds()

    def seconds(self) -> float:
        """Wait for the end of a step, and return the seconds of a processor."""
        for line in self._answers:
            if line.startswith('{"seconds"'):  # and no library's
                return float(json.loads(line)["seconds"])
        raise RuntimeError(f"a loop has ended:\n{self._log.read_text(encoding='utf-8')[-3000:]}")


if __name__ == "__main__":
    for ratio in ratios():
        print(ratio, flush=True)
