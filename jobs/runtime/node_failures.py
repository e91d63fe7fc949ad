"""Failure records of nodes: consecutive failures, each soon after the start of the work.

A broken node fails every job within seconds and therefore keeps getting the next one. Jobs only record
failures; launch/submit/bad_nodes.py decides at submission whether to exclude a node.
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

FAST = 60.0  # seconds; work that ran longer clears the node, however it ended


@contextmanager
def recorded(root: StudyDir, unit: str, local_rank: int) -> Iterator[None]:
    """Record how the work on unit ID `unit` ends, from one process per node."""
    node = os.environ.get("SLURMD_NODENAME")  # Slurm's node name, which may differ from the hostname
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
    with suppress(OSError):  # a failed removal must not fail work that succeeded
        note.unlink(missing_ok=True)
