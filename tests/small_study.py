"""A study that needs no model to begin with, and units that do what a test asks for, for the tests of launch.

The function `prepare` runs in real jobs. What it does is told by files in a folder, not by its arguments, so
that a test can change it without making a new unit of it:

    NAME.hold   wait until the file is gone       NAME.fail   raise an error, in the rank that the file names
    bad-node    raise an error on the node that it names
    NAME.oom    raise what torch does where a GPU has no room, in the rank that the file names
    NAME.grow   hold so many MiB of memory
    NAME.hang   stand still forever, in the rank that the file names and until the file is gone
    NAME.steps  while held, do steps and keep them here; a signal is listened to
    NAME.runs   is appended to by every run, with the number of its process
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from jobs.core.unit import Resources, Unit
from jobs.runtime.signals import Preemption
from jobs.store.progress import Progress
from jobs.store.rundir import StudyDir, append_jsonl, read_jsonl, write_json
from launch.local.backend import Local
from launch.local.scheduler import Event, Foreground
from launch.state.ledger import Ledger
from launch.state.reconcile import reconcile
from launch.state.status import poll
from launch.submit.steps import set_aside

TESTS = Path(__file__).parent
SOR = Path(sys.executable).with_name("sor")
TOLD = (  # variables that a run notes
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES", "TORCHELASTIC_USE_AGENT_STORE", "OMPI_COMM_WORLD_SIZE",
    "ACCELERATE_MIXED_PRECISION", "SLURM_NTASKS",
)  # fmt: skip
LONGEST = 60.0  # seconds that a job waits to be let go


def prepare(staged: Path, args: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Make a few pairs, after what the files in `args["folder"]` ask for."""
    folder, name = Path(args["folder"]), args.get("name", "study")
    told = {key: os.environ.get(key) for key in TOLD}
    append_jsonl(folder / f"{name}.runs", {"pid": os.getpid(), "parent": os.getppid(), **told})
    print(f"{name} says hello", flush=True)
    progress.update(1, 2, "parts", force=True)
    rank = os.environ.get("RANK", "0")
    fail, until = folder / f"{name}.fail", time.monotonic() + LONGEST
    if fail.exists() and fail.read_text(encoding="utf-8") in ("", rank):
        # Not before its peers, which are ended for it, have said that they began.
        while len(runs(folder, name)) < int(told["WORLD_SIZE"] or 1) and time.monotonic() < until:
            time.sleep(0.02)
        raise RuntimeError(f"{name} was told to fail")
    bad, node = folder / "bad-node", os.environ.get("SLURMD_NODENAME")
    if bad.exists() and bad.read_text(encoding="utf-8") == node:
        raise RuntimeError(f"{node} is bad")
    if (folder / f"{name}.oom").exists() and rank == (folder / f"{name}.oom").read_text(encoding="utf-8"):
        import torch

        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.32 GiB.")
    grow = folder / f"{name}.grow"
    held = b"x" * (int(grow.read_text(encoding="utf-8")) << 20) if grow.exists() else b""
    if held:
        time.sleep(8)  # Slurm looks every two seconds
    preemption, steps = Preemption(), folder / f"{name}.steps"
    if steps.exists():
        preemption.listen()
    while (folder / f"{name}.hold").exists() and time.monotonic() < until:
        if steps.exists():
            step(steps, progress)
            preemption.check()
        if (folder / f"{name}.hang").exists() and rank == (folder / f"{name}.hang").read_text(
            encoding="utf-8"
        ):
            stand_still()
        time.sleep(0.02)
    print(f"{name} says goodbye", flush=True)
    pairs = [
        {"prompt": f"p{i}", "reasoning": f"<think>\nr\n</think>\n\na{i}", "ift": f"a{i}"} for i in range(4)
    ]
    (staged / "pairs.jsonl").write_text("".join(json.dumps(p) + "\n" for p in pairs), encoding="utf-8")
    return {"pairs": len(pairs)}


def step(steps: Path, progress: Progress) -> None:
    """Do one step more than all ranks have kept, and keep it."""
    with steps.open("a", encoding="utf-8") as file:
        file.write(".")
    progress.update(steps.stat().st_size, 10**6, "steps")


def stand_still() -> None:
    """What a rank does that waits for something which never comes."""
    time.sleep(600)


def runs(folder: Path, name: str = "study") -> list[dict[str, Any]]:
    """The processes that ran `prepare` so far."""
    return list(read_jsonl(folder / f"{name}.runs"))


ARCHITECTURE = {
    "model_type": "qwen3", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1,
    "num_key_value_heads": 1, "head_dim": 32, "intermediate_size": 32, "vocab_size": 64,
    "tie_word_embeddings": True, "max_position_embeddings": 64,
}  # fmt: skip


def student(**training: Any) -> dict[str, Any]:
    """A preset of a student that is drawn at random."""
    return {
        "size": "1K", "init": "random", "tokenizer": "@prepare/tokenizer", "architecture": ARCHITECTURE,
        "training": {"learning_rate": 1e-3, **training},
    }  # fmt: skip


def write_study(folder: Path, students: dict[str, dict[str, Any]] | None = None, **changes: Any) -> Path:
    """Write the study `small` with its presets beside it; returns its file."""
    folder.mkdir(parents=True, exist_ok=True)
    students = students or {"s": student(), "m": student()}
    groups: dict[str, dict[str, Any]] = {
        name: {
            "domain": "math",
            "format": "open-ended",
            "max_tokens": 8,
            "tasks": [{"task": name, "items": 9}],
        }
        for name in ("easy", "hard")
    }
    for name, preset in {**students, **groups}.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(preset), encoding="utf-8")
    study: dict[str, Any] = {
        "prepare": {"function": "small_study:prepare", "args": {"folder": str(folder)}},
        "pairs": {"path": "@prepare/pairs.jsonl"},
        "students": [f"{name}.yaml" for name in students],
        "mixtures": {"shares": [0, 0.5]},
        "benchmarks": [f"{name}.yaml" for name in groups],
        "expect": {"prompt": 1, "ift": 1, "reasoning": 3},
    }
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump(study | changes), encoding="utf-8")
    return file


def environment(**more: str) -> dict[str, str]:
    """Where jobs find this module, and what keeps them small."""
    return {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1", "COLUMNS": "200", **more}


def sor(*args: str | Path, cwd: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the program to its end."""
    return subprocess.run(
        [SOR, *map(str, args)],
        env=environment(**more),
        cwd=cwd,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )


def listen() -> None:
    """Have this process, which is to become the program, take signals that a background or nohup ignores."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def start(*args: str | Path) -> subprocess.Popen[str]:
    """Start the program in a process group of its own, as a shell would."""
    return subprocess.Popen(
        [SOR, *map(str, args)], env=environment(), encoding="utf-8", start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        preexec_fn=listen,
    )  # fmt: skip


@contextmanager
def watched_study(folder: Path) -> Iterator[Path]:
    """The file of a small study; no process of its jobs may be left in the end."""
    file = write_study(folder / "study")
    yield file
    left = [p[which] for p in runs(file.parent) for which in ("parent", "pid") if lives(p[which])]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, "processes of jobs were left"


def wait_for(true: Any, what: str, seconds: float = 180.0) -> None:
    """Wait until a condition holds; fail if it does not in time."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, f"waited {seconds} s for {what}"
        time.sleep(0.02)


def lives(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def unit(folder: Path, name: str, *inputs: Unit, **resources: Any) -> Unit:
    """A unit of the prepare stage, which may read others unlike in a study."""
    args = {"folder": str(folder), "name": name}
    config = {"function": "small_study:prepare", "args": args}
    return Unit(
        "prepare", name, config, tuple(i.as_input(i.name) for i in inputs),
        resources=Resources(**{"memory": 1024, **resources}),
    )  # fmt: skip


def publish(root: StudyDir, unit: Unit, result: dict[str, Any] | None = None) -> None:
    """Publish a made-up result of a unit."""
    folder = root.unit(unit)
    staged = folder.staging("0")
    staged.mkdir(parents=True)
    write_json(folder.spec, unit.to_json())
    write_json(staged / "result.json", result or {"made_up": True})
    assert folder.publish(staged)


def logs(root: StudyDir, unit: Unit) -> list[Path]:
    """The logs of a unit's last attempt."""
    attempt = Ledger(root.ledger).attempts()[unit.id]
    return [log for job in attempt.jobs for log in root.logs(job.submission, job.id)]


class Run:
    """One run of units in the foreground, with what it told.

    Args:
        at_look: is called at every look at the jobs, so that a test can do something meanwhile.
    """

    def __init__(
        self,
        units: list[Unit],
        root: StudyDir,
        cores: int = 4,
        at_look: Callable[[], object] = bool,
        gpus: tuple[str, ...] = (),
    ) -> None:
        self.events: list[Event] = []
        self.at_work: list[set[str]] = []  # names of the units at work, at every look
        self._at_look = at_look
        ledger = Ledger(root.ledger)
        now = poll(units, root, Local(root))
        difference = reconcile(now)
        for seen in difference.outdated:
            set_aside(seen, ledger)
        self.foreground = Foreground(Local(root), ledger, cores, gpus, self.events.append, self._tick)
        self.foreground.run(now, difference)

    def _tick(self) -> None:
        self.at_work.append({r.seen.unit.name for r in self.foreground.running.values()})
        self._at_look()

    def names(self, kind: str) -> list[str]:
        """Units with an event of this kind, in the order of the events."""
        return [e.unit.name for e in self.events if e.kind == kind]

    @property
    def failures(self) -> dict[str, str | None]:
        """The failed units and why."""
        return {s.unit.name: s.reason for s in self.foreground.failures}

    @property
    def blocked(self) -> list[str]:
        return [s.unit.name for s in self.foreground.blocked]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
