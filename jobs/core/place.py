"""Where a process stands among the processes of its job, and the environment variables that say so.

Libraries (torch, accelerate, DeepSpeed, MPI bindings) take rank and size from variables. Those of the shell
that a study was submitted from belong to another job: a leftover WORLD_SIZE=8 lets a job of one process wait
for seven others. They are removed from every job, and set for the job's own processes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

RANKS = frozenset({
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR",
    "MASTER_PORT", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_NAME", "ROLE_WORLD_SIZE",
    "CROSS_RANK", "CROSS_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS",
})  # fmt: skip
# Of launchers: torchrun, MPI implementations, accelerate, Horovod. Accelerate's also choose the precision,
# gradient accumulation and sharding of a training, which a study says itself.
LAUNCHERS = (
    "TORCHELASTIC_", "PET_", "OMPI_COMM_WORLD_", "PMI_", "PMIX_", "MV2_COMM_WORLD_", "ACCELERATE_", "FSDP_",
    "MEGATRON_LM_", "PARALLELISM_CONFIG_", "HOROVOD_",
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """One process of a job.

    Args:
        job: the machine's id of the job.
        rank, local_rank: its number among all processes, and among those of its node.
        size: the number of processes.
        first: the address of the first node.
    """

    job: str
    rank: int = 0
    local_rank: int = 0
    size: int = 1
    nodes: int = 1
    first: str = "127.0.0.1"

    @classmethod
    def in_slurm(cls, environ: Mapping[str, str] = os.environ) -> Place:
        """The place of a process that srun has started.

        Processes of several nodes meet at SOR_MASTER_ADDR where the cluster's template exports that, as nodes
        may have other names on a fast network; otherwise at the node that srun was called on, the first one.
        """
        nodes = int(environ.get("SLURM_JOB_NUM_NODES", 1))
        # The name that Slurm has for a node may not resolve; its address needs no name.
        address = environ.get("SOR_MASTER_ADDR") or environ.get("SLURM_LAUNCH_NODE_IPADDR")
        first = address or first_node(environ.get("SLURM_JOB_NODELIST", ""))
        return cls(
            job=environ["SLURM_JOB_ID"],
            rank=int(environ.get("SLURM_PROCID", 0)),
            local_rank=int(environ.get("SLURM_LOCALID", 0)),
            size=int(environ.get("SLURM_NTASKS", 1)),
            nodes=nodes,
            first=first if nodes > 1 else "127.0.0.1",
        )

    @property
    def variables(self) -> dict[str, str]:
        """What libraries read to find the other processes; nothing for a process alone.

        Without any, each library takes the process for the only one. LOCAL_RANK=0 would have accelerate set
        up a process group of one, with a second copy of all gradients.
        """
        if self.size == 1:
            return {}
        local_size = self.size // self.nodes
        values = {
            "MASTER_ADDR": self.first,
            "MASTER_PORT": port(self.job),
            "RANK": self.rank,
            "WORLD_SIZE": self.size,
            "LOCAL_RANK": self.local_rank,
            "LOCAL_WORLD_SIZE": local_size,
            "LOCAL_SIZE": local_size,
        }
        return {name: str(value) for name, value in values.items()}


def foreign(name: str) -> bool:
    """Whether a variable, where it was inherited, describes the processes of another job."""
    return name in RANKS or name.startswith(LAUNCHERS)


def port(job_id: str) -> int:
    """A port that all ranks of a job agree on, and that jobs on one machine rarely share."""
    return 20000 + int(job_id) % 20000


def first_node(nodes: str) -> str:
    """The first name of a list of nodes in Slurm's notation, as `n[1-4,7],gpu1`."""
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", nodes).split(",")[0]
