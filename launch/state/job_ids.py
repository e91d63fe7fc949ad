"""Ids of jobs, as sbatch prints them and the ledger keeps them. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

# Slurm's largest id is 2^26 by default and never more than ten digits.
ID = re.compile(r"([1-9]\d{0,9})(?:;([A-Za-z0-9_.-]+))?", re.ASCII)


class JobId(NamedTuple):
    """The id of a job or an array, with the cluster's name where sbatch was told to choose a cluster."""

    array: str
    cluster: str | None = None

    def __str__(self) -> str:
        return self.array if self.cluster is None else f"{self.array};{self.cluster}"


def parse_id(text: str) -> JobId | None:
    """`ID` or `ID;CLUSTER`, as sbatch --parsable prints it and the ledger keeps it; None: it is no id."""
    match = ID.fullmatch(text.strip())
    return JobId(match[1], match[2]) if match else None
