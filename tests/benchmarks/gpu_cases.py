"""The cases of `make bench-gpu`: our packed attention, loss and training step beside those of transformers.

Started by `gpu.py`, to which each result is sent as a line of JSON. Needs torch 2.11 or newer and
transformers, and downloads nothing: weights are random, made on the device. Cases must not share anything on
the GPU.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from gpu_checks import attention, loss
from gpu_machine import FEWEST, MOST, WARM_UP, Figures, LeftOut, Machine
from gpu_steps import step

LONGEST = 120  # seconds until a case counts as hanging, and its process ends
WHAT = (
    f"medians of {FEWEST} to {MOST} passes forward and backward after {WARM_UP}, in bf16, without an "
    "optimizer's step; MFU: without recomputed layers; peak: GiB of torch's allocator, with weights and "
    "gradients; errors are relative, by norms, against fp32"
)


@dataclass(frozen=True)
class Case:
    """One measurement; `measure` returns its figures."""

    name: str
    measure: Callable[[], Figures]


def cases(machine: Machine) -> Iterator[Case]:
    """Yield all cases: checks first, then steps of the smallest models."""
    lengths = (128,) if machine.tiny else (4096, 16384)
    for tokens in lengths:
        for size in (machine.sizes[0], machine.sizes[-1]):
            for window in (None, tokens // 16):
                where = f"attention of {size}, {tokens:,} tokens" + (f", window {window:,}" if window else "")
                yield from _both(where, partial(attention, machine, size, tokens, window))
            yield from _both(f"loss of {size}, {tokens:,} tokens", partial(loss, machine, size, tokens))
    for recomputed in (True, False):  # as the presets have it, and where memory allows
        for size in machine.sizes:
            for tokens in lengths:
                where = f"step of {size}, {tokens:,} tokens" + (", layers recomputed" if recomputed else "")
                yield from _both(where, partial(step, machine, size, tokens, recomputed))


def _both(name: str, measure: Callable[[bool], Figures]) -> Iterator[Case]:
    """Yield a case for our path and for the plain one."""
    yield Case(f"{name}: ours", partial(measure, True))
    yield Case(f"{name}: transformers", partial(measure, False))


def attempt(case: Case, machine: Machine, until: float) -> tuple[dict[str, Any], bool]:
    """Measure a case.

    Returns:
        Its figures, or why it was left out; and whether this process can go on.
    """
    machine.clear()
    if time.time() > until:
        return {"left_out": "the time was over (--seconds)"}, True
    faulthandler.dump_traceback_later(LONGEST, exit=True)
    try:
        return case.measure(), True
    except LeftOut as why:
        return {"left_out": str(why)}, True
    except torch.OutOfMemoryError:
        return {"left_out": "out of memory"}, True
    except Exception as error:  # of CUDA, after which no call may work
        traceback.print_exc()
        return {"left_out": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"}, False
    finally:
        faulthandler.cancel_dump_traceback_later()


def send(message: dict[str, Any]) -> None:
    """Send a message to `gpu.py`."""
    print(json.dumps(message), flush=True)


def main() -> int:
    """Measure all cases but those that are named, and return the exit code."""
    parser = argparse.ArgumentParser(description="Started by gpu.py")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--until", type=float, required=True)
    parser.add_argument("started", nargs="*")
    given = parser.parse_args()
    if given.cpu:
        torch.set_num_threads(1)  # shapes are too small for more
    elif not torch.cuda.is_available():
        print(
            f"torch {torch.__version__} of {sys.executable} sees no CUDA GPU: run this on a node with one, "
            "with a CUDA build of torch 2.11 or newer (make bench-gpu BIN=/path/to/venv/bin); --cpu tries "
            "the code on tiny shapes (make bench-gpu GPU=--cpu)",
            file=sys.stderr,
        )
        return 2
    from jobs.store.provenance import provenance

    made_by = provenance()
    about = {key: made_by[key] for key in ("python", "code", "packages", "hardware")}
    machine = Machine("cpu" if given.cpu else "cuda")
    send({"about": {"what": WHAT, **about, "gpu_memory": machine.memory}})
    for case in cases(machine):
        if case.name in given.started:
            continue
        send({"started": case.name})
        figures, sound = attempt(case, machine, given.until)
        send({"row": {"case": case.name, **figures}})
        if not sound:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
