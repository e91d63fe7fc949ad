"""A process's rank among the processes of its job, and the environment variables that carry it.

Libraries (torch, accelerate, DeepSpeed, MPI bindings) take rank and size from variables. Those of the
submitting shell belong to another job: a leftover WORLD_SIZE=8 makes a job of one process wait for seven
others. They are removed from every job, and set for the job's own processes.
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
# Prefixes of launchers: torchrun, MPI implementations, accelerate, Horovod. Accelerate's also set precision,
# gradient accumulation and sharding, which the study defines itself.
LAUNCHERS = (
    "TORCHELASTIC_", "PET_", "OMPI_COMM_WORLD_", "PMI_", "PMIX_", "MV2_COMM_WORLD_", "ACCELERATE_", "FSDP_",
    "MEGATRON_LM_", "PARALLELISM_CONFIG_", "HOROVOD_",
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """One process of a job.

    Args:
        job: Slurm's job ID, or the process ID of a local job.
        rank, local_rank: Rank among all processes, and among those of its node.
        size: Number of processes.
        first: Address of the first node.
    """

    job: str
    rank: int = 0
    local_rank: int = 0
    size: int = 1
    nodes: int = 1
    first: str = "127.0.0.1"

    @classmethod
    def in_slurm(cls, environ: Mapping[str, str] = os.environ) -> Place:
        """Return the place of a process started by srun.

        Processes of several nodes rendezvous at SOR_MASTER_ADDR if the cluster's template exports it, since
        nodes may have other names on a fast network; otherwise at the first node, on which srun was called.
        """
        nodes = int(environ.get("SLURM_JOB_NUM_NODES", 1))
        # Slurm's name for a node may not resolve; its address needs no resolution.
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
        """Variables that libraries read to find the other processes; empty for a single process.

        Without any, each library assumes a single process. LOCAL_RANK=0 would make accelerate set up a
        process group of one, with a second copy of all gradients.
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
    """Whether an inherited variable describes the processes of another job."""
    return name in RANKS or name.startswith(LAUNCHERS)


def port(job_id: str) -> int:
    """Return a port that is the same for all ranks of a job, and rarely shared by jobs on one machine."""
    return 20000 + int(job_id) % 20000


def first_node(nodes: str) -> str:
    """Return the first name of a node list in Slurm's notation, such as `n[1-4,7],gpu1`."""
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", nodes).split(",")[0]
