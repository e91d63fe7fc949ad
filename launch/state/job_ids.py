"""Job ids, as printed by sbatch and stored in the ledger. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

# Slurm's largest id is 2^26 by default and never has more than ten digits.
ID = re.compile(r"([1-9]\d{0,9})(?:;([A-Za-z0-9_.-]+))?", re.ASCII)


class JobId(NamedTuple):
    """Id of a job or an array, with the cluster's name where sbatch was told to choose a cluster."""

    array: str
    cluster: str | None = None

    def __str__(self) -> str:
        return self.array if self.cluster is None else f"{self.array};{self.cluster}"


def parse_id(text: str) -> JobId | None:
    """Parse `ID` or `ID;CLUSTER`, the format of sbatch --parsable and of the ledger.

    Returns:
        None if the text is not an id.
    """
    match = ID.fullmatch(text.strip())
    return JobId(match[1], match[2]) if match else None
