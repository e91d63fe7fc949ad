"""Nodes one by one, and the memory that jobs get by default, as scontrol prints them. Pure; memory in MiB."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from launch.slurm.text import Table, names, number, parse_table, text_of


class Node(NamedTuple):
    """A node.

    Args:
        architecture: as `uname -m` prints it; None until the node has registered once.
    """

    name: str
    architecture: str | None
    cpus: int
    memory: int
    partitions: tuple[str, ...]


class DefaultMemory(NamedTuple):
    """What a job gets that requests no memory; None where that is not limited in this way."""

    per_cpu: int | None = None
    per_node: int | None = None
    per_gpu: int | None = None


def parse_each_node(text: str) -> Table[Node]:
    """Parse the output of `scontrol show node --oneliner`."""

    def row(fields: Sequence[str]) -> list[Node]:
        found = _fields(fields[0])
        return [Node(
            found["NodeName"],
            text_of(found.get("Arch", "")),
            int(found["CPUTot"]),
            int(found["RealMemory"]),
            names(found.get("Partitions", "")),
        )]  # fmt: skip

    return parse_table(text, 1, row)


def parse_default_memory(partitions: str, config: str) -> dict[str, DefaultMemory]:
    """Parse the defaults of partitions, by name; one without its own has that of the whole cluster.

    Args:
        partitions: the output of `scontrol show partition --oneliner`.
        config: the output of `scontrol show config`.
    """
    pairs = (line.partition("=") for line in config.splitlines())
    everywhere = _default({key.strip(): value.strip() for key, _, value in pairs})
    rows = [_fields(line) for line in partitions.splitlines() if line]
    own = {found["PartitionName"]: _default(found) for found in rows if "PartitionName" in found}
    return {name: each if any(each) else everywhere for name, each in own.items()}


def _default(found: dict[str, str]) -> DefaultMemory:
    each_gpu = re.search(r"DefMemPerGPU=(\d+)", found.get("JobDefaults", ""))
    kinds = (found.get(f"DefMemPer{kind}", "") for kind in ("CPU", "Node"))
    per_cpu, per_node = (number(value) or None for value in kinds)
    return DefaultMemory(per_cpu, per_node, int(each_gpu[1]) if each_gpu else None)


def _fields(line: str) -> dict[str, str]:
    return dict(field.split("=", 1) for field in line.split(" ") if "=" in field)
