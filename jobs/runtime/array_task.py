"""Entry point of each rank of a Slurm array element: runs the unit that the submission lists for it.

The sbatch scripts call this program. One file in the submission's folder maps element indices to units;
nothing is pickled, and Slurm is not queried.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from jobs.core.place import Place
from jobs.core.secrets import load_secrets
from jobs.core.trust import private_umask
from jobs.core.unit import Unit
from jobs.runtime.run import run_unit
from jobs.store import by_hand
from jobs.store.rundir import StudyDir

ELEMENTS = by_hand.ELEMENTS
BY_HAND = 0  # placeholder attempt number: the job has to record the attempt itself


def element(submission: Path, index: int) -> dict[str, Any]:
    """Return an array element's entry: unit, root, attempt, worker.

    Raises:
        LookupError: No element has this index.
    """
    with (submission / ELEMENTS).open(encoding="utf-8") as lines:
        mine = next((line for line in lines if line.startswith(f'{{"index": {index},')), None)
    if mine is None:
        raise LookupError(f"{submission / ELEMENTS} has no element {index}: was it edited?")
    found: dict[str, Any] = json.loads(mine)
    return found


def line(index: int, unit: Unit, root: Path, attempt: int, worker: int, **more: list[str]) -> str:
    """Return the line that `element` reads back."""
    return unit.to_line(index=index, root=str(root), attempt=attempt, worker=worker, **more)


def verdict(submission: Path) -> Path:
    """Return the path of the requeue verdict, which the job's script (sbatch_templates/again.bash) reads."""
    array, index = map(os.environ.get, ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"))
    job = f"{array}_{index}" if array else os.environ["SLURM_JOB_ID"]
    return submission / f"{job}.{os.environ.get('SLURM_RESTART_COUNT', 0)}.verdict"


def main() -> None:
    """Run element SLURM_ARRAY_TASK_ID of the submission folder given as the first argument.

    On clusters without job arrays, a submission holds a single element.
    """
    index = int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
    private_umask()
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # sent before the time limit; would kill the process
    load_secrets()
    submission = Path(sys.argv[1])
    mine = element(submission, index)
    place = Place.in_slurm()
    attempt = mine["attempt"]
    if attempt == BY_HAND:
        root, unit = StudyDir(Path(mine["root"])), Unit.from_json(mine["unit"])
        attempt = 1 if root.unit(unit).done else by_hand.enter(submission, root, unit.id)
    run_unit(mine["unit"], mine["root"], attempt, mine["worker"], place, verdict(submission))


if __name__ == "__main__":
    main()
