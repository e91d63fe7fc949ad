"""Nodes that the next submissions of a study avoid: those on which its jobs fail fast, several in a row.

A pure function judges the failures that jobs recorded (jobs/runtime/node_failures.py). Slurm is queried only
if a node looks bad.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jobs.store.clock import ahead
from jobs.store.rundir import Damaged, StudyDir, read_jsonl
from jobs.store.schema import FAILURE
from launch.slurm.backend import Slurm
from launch.study_run import Project

NODE = re.compile(r"[A-Za-z0-9_.-]+")
ROW = 3  # failures in a row, of at least two units, after which a node looks bad
WHILE = 24 * 3600.0  # seconds for which a failure counts
MOST = 4  # if more than one node in so many is bad, nodes are not the cause


@dataclass(frozen=True)
class BadNode:
    """A node on which jobs fail fast.

    Args:
        partition, error: of its last job.
        units: that failed on it in a row, one entry per failure.
        until: when it stops looking bad, in seconds since the epoch.
    """

    name: str
    partition: str | None
    units: tuple[str, ...]
    error: str
    until: float


@dataclass(frozen=True)
class Verdict:
    """The nodes to exclude, and those that look bad but are too many of their partition to exclude."""

    avoid: tuple[BadNode, ...] = ()
    many: tuple[BadNode, ...] = ()
    harm: tuple[str, ...] = ()  # files written by jobs that cannot be read

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(node.name for node in self.avoid)

    @property
    def units(self) -> set[str]:
        """Ids of units that failed on nodes to avoid."""
        return {unit for node in self.avoid for unit in node.units}


def verdict(project: Project) -> Verdict:
    """Return which nodes a study avoids now.

    Raises:
        SlurmUnavailable: a node looks bad, and Slurm does not report how many there are.
    """
    if not isinstance(project.backend, Slurm):
        return Verdict()
    found, harm = _told(project.root)
    bad = looks_bad(found, time.time())
    if not bad:
        return Verdict(harm=harm)
    sizes = Counter[str]()
    for group in project.backend.client.nodes().rows:
        sizes[group.partition] += group.count
    return replace(judge(bad, sizes, max(unit.resources.nodes for unit in project.units)), harm=harm)


def _told(root: StudyDir) -> tuple[dict[str, list[dict[str, Any]]], tuple[str, ...]]:
    """Return the failures recorded by jobs, by node name, and which files cannot be read and are ignored."""
    found, harm = {}, []
    for note in (note for note in sorted(root.nodes.glob("*.jsonl")) if NODE.fullmatch(note.stem)):
        try:
            lines = list(read_jsonl(note, FAILURE))
        except Damaged as error:
            harm.append(str(error))
            continue
        skew = ahead(root.nodes)
        found[note.stem] = [{**line, "time": line["time"] - skew} for line in lines]
    return found, tuple(harm)


def looks_bad(by_node: Mapping[str, Sequence[Mapping[str, Any]]], now: float) -> list[BadNode]:
    """Return the nodes with enough failures in a row. `by_node` holds those since a node's last success."""
    bad = []
    for name, failures in by_node.items():
        recent = [f for f in failures if f["time"] > now - WHILE]
        if len(recent) >= ROW and len({f["unit"] for f in recent}) > 1:
            last = recent[-1]
            units, until = tuple(f["unit"] for f in recent), recent[-ROW]["time"] + WHILE
            bad.append(BadNode(name, last["partition"], units, last["error"], until))
    return bad


def judge(bad: Sequence[BadNode], sizes: Mapping[str, int], needs: int) -> Verdict:
    """Avoid bad nodes, unless they are more than a quarter of a partition.

    Then the nodes are hardly the cause, since an error in the code fails everywhere.

    Args:
        sizes: nodes of each partition.
        needs: nodes of the largest job, which must remain.
    """
    counts = Counter(node.partition for node in bad)

    def few(node: BadNode) -> bool:
        size, count = sizes.get(node.partition or "", 0), counts[node.partition]
        return count <= max(1, size // MOST) and size - count >= needs

    return Verdict(tuple(n for n in bad if few(n)), tuple(n for n in bad if not few(n)))
