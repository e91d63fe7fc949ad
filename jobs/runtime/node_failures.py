"""What jobs tell of the node that they run on: failures in a row, each soon after the work had begun.

A node that is broken fails every job within seconds, and so gets the next one. Jobs only tell; whether a node
is avoided is decided where jobs are submitted (launch/submit/bad_nodes.py).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jobs.core.secrets import hide
from jobs.runtime.fence import Superseded
from jobs.runtime.signals import Interrupted
from jobs.store.clock import ahead
from jobs.store.rundir import StudyDir, append_jsonl

FAST = 60.0  # seconds; work that went on for longer speaks for the node, however it ended


@contextmanager
def told(root: StudyDir, unit: str, local_rank: int) -> Iterator[None]:
    """Tell how work at a unit (its id) ends, where one process of each node does so."""
    node = os.environ.get("SLURMD_NODENAME")  # Slurm's name for it, which need not be the host's
    if node is None or local_rank != 0:
        yield
        return
    note, began = root.node(node), time.monotonic()
    try:
        yield
    except BaseException as error:
        fast = time.monotonic() - began < FAST
        if fast and not isinstance(error, Interrupted | Superseded):
            with suppress(OSError):
                note.parent.mkdir(exist_ok=True)
                line = {
                    "time": time.time() + ahead(root.nodes),
                    "unit": unit,
                    "partition": os.environ.get("SLURM_JOB_PARTITION"),
                    "error": hide(f"{type(error).__name__}: {error}"),
                }
                append_jsonl(note, line)
        elif not fast:
            _well(note)
        raise
    _well(note)


def _well(note: Path) -> None:
    with suppress(OSError):  # it is not worth the loss of what went well
        note.unlink(missing_ok=True)
