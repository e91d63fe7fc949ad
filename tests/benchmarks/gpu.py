"""Measure training steps on one GPU beside the plain path of transformers: `make bench-gpu`.

This process imports the standard library only and never touches the GPU. `gpu_cases.py` measures, and sends
each row as a line of JSON; here the row is printed and the file of results is written anew, so that a kill at
a time limit loses one case. A case that takes its process down (after an illegal memory access all calls of
CUDA fail) is noted, and a fresh process measures the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
RESULTS = HERE / "gpu.json"
TRIED = Path(tempfile.gettempdir()) / "gpu.json"  # must not replace results of a GPU
SECONDS = 450  # after which no case is started; eight minutes with the last one
FIGURES = {
    "error": "error {:.1e}", "gradient_error": "of gradients {:.1e}", "seconds": "{:.4g} s",
    "tokens_per_second": "{:,.0f} tokens/s", "mfu": "MFU {:.1%}", "peak": "peak {:.2f} GiB",
    "loss": "loss {:.5g}", "gradient_norm": "gradient norm {:.5g}", "left_out": "left out: {}",
}  # fmt: skip


def main() -> int:
    """Measure what this machine can, and return the exit code: 2 without torch, transformers or a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, help=f"file of results ({RESULTS}; with --cpu {TRIED})")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="start no case after (%(default)s)")
    parser.add_argument("--cpu", action="store_true", help="try the same code on tiny shapes, without a GPU")
    given = parser.parse_args()
    missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if missing:
        print(
            f"{sys.executable} lacks {' and '.join(missing)}: run this with a Python that has torch 2.11 or "
            "newer for CUDA, and transformers (make bench-gpu BIN=/path/to/venv/bin)",
            file=sys.stderr,
        )
        return 2
    command = [sys.executable, str(HERE / "gpu_cases.py"), "--until", str(time.time() + given.seconds)]
    if given.cpu:
        return collect([*command, "--cpu"], given.out or TRIED)
    return collect(command, given.out or RESULTS)


def collect(command: list[str], out: Path) -> int:
    """Run a command that sends messages until all its cases are measured, and write the rows that it sends.

    Messages are lines of JSON: {"about": versions and hardware}, {"started": its name}, {"row": figures}.

    Args:
        command: Is repeated after a failure, with the names of the cases that were started as more arguments.

    Returns:
        The exit code of the command; that of the last failure if it could not start a further case.
    """
    found: dict[str, Any] = {"rows": []}
    started: list[str] = []
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path}
    while True:
        before = len(started)
        with subprocess.Popen(
            [*command, *started], stdout=subprocess.PIPE, encoding="utf-8", env=environment
        ) as process:
            assert process.stdout
            for line in process.stdout:
                if not line.startswith("{"):  # of a library
                    print(line, end="", flush=True)
                    continue
                message = json.loads(line)
                if "started" in message:
                    started.append(message["started"])
                elif "row" in message:
                    _add(message["row"], found, out)
                else:
                    found = {**message["about"], **found}
        code = process.returncode
        if started and (not found["rows"] or found["rows"][-1]["case"] != started[-1]):
            _add({"case": started[-1], "left_out": f"its process ended with code {code}"}, found, out)
        if code == 0 or len(started) == before:
            break
    if found["rows"]:
        print(f"written to {out}")
    return code


def _add(row: dict[str, Any], found: dict[str, Any], out: Path) -> None:
    """Print a row, and write all rows so far by one rename."""
    texts = [text.format(row[key]) for key, text in FIGURES.items() if row.get(key) is not None]
    print(f"{row['case']}: {', '.join(texts)}", flush=True)
    found["rows"].append(row)
    staged = out.with_name(f"{out.name}.new")
    staged.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    staged.replace(out)


if __name__ == "__main__":
    sys.exit(main())
