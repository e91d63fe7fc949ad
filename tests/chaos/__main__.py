"""`make chaos`: strike, check, print; exit code 1 if anything is wrong."""

from __future__ import annotations

import argparse
import signal
import sys

from cluster import network, packages

from chaos.study import Work
from chaos.trial import Plan, trial

WORK = Work(prompts=400, epochs=60, shares=(0, 1))


def main() -> int:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="decides about all that is random")
    parser.add_argument("--faults", type=int, default=50)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is put right then, too
    why = network.unavailable() or packages.install()
    if why:
        print(f"chaos: {why}", file=sys.stderr)
        return 1
    wrong = trial(Plan(args.seed, args.faults, WORK), lambda line: print(line, flush=True))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
