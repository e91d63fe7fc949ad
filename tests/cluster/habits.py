"""What distinguishes one cluster from another, as far as jobs are concerned: the classes that describe it.

`config` and `accounts` turn them into Slurm's files and commands. `centers` holds a set for each center.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FILTERS = (
    Path(__file__).parent / "filters"
)  # NAME.lua: what the controller does with a new job; see common.lua


@dataclass(frozen=True)
class Nodes:
    """Equal nodes, of which a job sees what they claim. They are numbered n1, n2, … in the order of a set.

    Args:
        cpus: as Slurm counts them: hardware threads where a core has several.
        memory: in MiB.
        gpus: of each node, as GRES; 0 also where a node has GPUs that Slurm does not know.
        gpu: type of the GPUs in their GRES.
        threads: of a core.
        features: that --constraint names, with commas between them.
    """

    count: int
    cpus: int
    memory: int
    gpus: int = 0
    gpu: str = ""
    threads: int = 1
    features: str = ""


@dataclass(frozen=True)
class Partition:
    """A partition.

    Args:
        nodes: as in slurm.conf: `n[1-2]`, or ALL.
        options: more of its line in slurm.conf.
    """

    name: str
    nodes: str
    options: str = ""


@dataclass(frozen=True)
class Qos:
    """Equal qualities of service.

    Args:
        names: with commas between them, and no other center's: centers of one test share a database.
        options: of `sacctmgr add qos`.
    """

    names: str
    options: str = ""


@dataclass(frozen=True)
class Account:
    """An account of the user.

    Args:
        options: of `sacctmgr add account`; QOS= and DefaultQOS= are those that its users may use.
        rows: of the user's associations, each the options of `sacctmgr add user`, as in
            `Partition=debug,test MaxJobs=1`. A row without a partition holds for all.
    """

    name: str
    options: str = ""
    rows: tuple[str, ...] = ("",)


@dataclass(frozen=True)
class Habits:
    """A set of habits.

    Args:
        accounts: of the user; the first one is the default account.
        account: what the user writes into SBATCH_ACCOUNT, which need not be how Slurm keeps it.
        filter: name of a file in `filters`, without its suffix, with rules for new jobs, as common.lua says.
        wrapper: name of a program in `filters` that stands for sbatch; {sbatch} in it is the real one.
        extra: more lines of slurm.conf, which replace those of the same key.
    """

    nodes: tuple[Nodes, ...]
    partitions: tuple[Partition, ...]
    accounts: tuple[Account, ...]
    account: str = ""
    qos: tuple[Qos, ...] = ()
    filter: str = ""
    wrapper: str = ""
    extra: str = ""

    @property
    def hosts(self) -> list[str]:
        """Names of all nodes."""
        return [f"n{i}" for i in range(1, sum(group.count for group in self.nodes) + 1)]
