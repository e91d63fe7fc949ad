"""The configuration files of the test cluster: texts made from its shape, its directory and its ports."""

from __future__ import annotations

import ipaddress
import os
import pwd
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from cluster import meter, network

if TYPE_CHECKING:
    from cluster import Shape

NAME = "lab"
ACCOUNT = "students"
DATABASE = "slurm_acct_db"
GPU = "h100"
MEMORY = 8000  # MiB that a node claims for each CPU
DEFAULT = (
    100  # MiB that a job gets for each CPU if it asks for no memory: next to nothing, as on many clusters
)

SLURM = """\
ClusterName={shape.name}
SlurmctldHost={host}({address})
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={keys}/munge/socket
CredType=cred/munge
{loopback_only}
MpiDefault=none
SwitchType=switch/none
{plugins}
MailProg=/bin/true

# Without cgroups, so that it runs in containers and without root: the memory limit is keeper: polling.
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill

# Quick decisions: a test waits for each of them.
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=2000,sched_interval=2,bf_interval=2,bf_continue
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU={DEFAULT}
MaxArraySize=100001
MaxJobCount=200000
KillWait=3
SlurmctldTimeout=30
SlurmdTimeout=15
MessageTimeout=10
TCPTimeout=2

# Preemption by partition; the signal that a job asked for is sent before.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1

# Nodes that claim what the machine need not have, and come back by themselves.
SlurmdParameters=config_overrides
ReturnToService=2

StateSaveLocation={scratch}/state
SlurmdSpoolDir={scratch}/spool-%n
SlurmctldPidFile={scratch}/slurmctld.pid
SlurmdPidFile={scratch}/slurmd-%n.pid
SlurmctldLogFile={scratch}/log/slurmctld.log
SlurmdLogFile={scratch}/log/%n.log
{accounting}
{gpu_types}
NodeName=DEFAULT CPUs={cpus} Boards=1 SocketsPerBoard=1 CoresPerSocket={cpus} ThreadsPerCore=1 \
RealMemory={node_memory} {gpus} State=UNKNOWN
{nodes}

# Jobs of a higher tier preempt those of a lower one: at once, after a grace time, or for good.
PartitionName=DEFAULT Nodes=ALL State=UP MaxTime=7-0 DefaultTime=1:00:00
PartitionName=main Default=YES PriorityTier=10 PreemptMode=OFF
PartitionName=low PriorityTier=1 PreemptMode=REQUEUE GraceTime=0
PartitionName=lowgrace PriorityTier=1 PreemptMode=REQUEUE GraceTime=15
PartitionName=lowcancel PriorityTier=1 PreemptMode=CANCEL GraceTime=10
PartitionName=high PriorityTier=20 PreemptMode=OFF
"""

ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStoragePass={keys}/munge/socket
AccountingStorageTRES=gres/gpu
AccountingStorageEnforce=associations,limits,qos
"""

SLURMDBD = """\
AuthType=auth/munge
AuthInfo=socket={scratch}/munge/socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={port}
{loopback_only}
{plugins}
SlurmUser={user}
LogFile={scratch}/log/slurmdbd.log
PidFile={scratch}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser={user}
StorageLoc={database}
"""


def user() -> str:
    """Who runs the cluster, its jobs and its database."""
    return pwd.getpwuid(os.getuid()).pw_name


def daemons() -> Path:
    """The folder of Slurm's daemons, of which slurmd looks for slurmstepd only where Slurm was built for."""
    found = shutil.which("slurmctld", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    assert found, "no slurmctld"
    return Path(found).parent


def database_socket(scratch: Path) -> Path:
    return scratch / "mariadb.socket"


def write(scratch: Path, shape: Shape, ports: list[int], keys: Path) -> None:
    """Write all files, and the folders that they name.

    Args:
        ports: of the controller, the accounts and each node.
        keys: the scratch directory whose munge is used.
    """
    for folder in ("log", "state", "gpu", *(f"spool-n{i}" for i in range(1, shape.nodes + 1))):
        (scratch / folder).mkdir(parents=True)
    for gpu in range(shape.gpus):
        (scratch / "gpu" / f"nvidia{gpu}").symlink_to("/dev/null")
    controller, database, *nodes = ports
    text = _slurm(scratch, shape, controller, database, nodes, keys)
    (scratch / "slurm.conf").write_text(text, encoding="utf-8")
    files = f"{scratch}/gpu/nvidia[0-{shape.gpus - 1}]"
    gres = f"NodeName=n[1-{shape.nodes}] Name=gpu Type={GPU} File={files}\n" if shape.gpus else ""
    (scratch / "gres.conf").write_text(gres, encoding="utf-8")
    if shape.accounting:
        file = scratch / "slurmdbd.conf"
        text = SLURMDBD.format(
            scratch=scratch, port=database, user=user(), database=DATABASE, loopback_only=_loopback_only(),
            plugins=_plugins(),
        )  # fmt: skip
        file.write_text(text, encoding="utf-8")
        file.chmod(0o600)  # slurmdbd refuses one that others can read


def _slurm(scratch: Path, shape: Shape, controller: int, database: int, nodes: list[int], keys: Path) -> str:
    host = _host()
    accounting = ACCOUNTING.format(port=database, keys=keys)
    text = SLURM.format(
        shape=shape,
        keys=keys,
        DEFAULT=DEFAULT,
        node_memory=MEMORY * shape.cpus,
        scratch=scratch,
        host=host,
        address=network.CONTROLLER if shape.networks else "127.0.0.1",
        user=user(),
        controller_port=controller,
        loopback_only="" if shape.networks else _loopback_only(),
        plugins=_plugins(),
        accounting=accounting if shape.accounting else "AccountingStorageType=accounting_storage/none",
        cpus=shape.cpus,
        gpu_types="GresTypes=gpu" if shape.gpus else "",
        gpus=f"Gres=gpu:{GPU}:{shape.gpus}" if shape.gpus else "",
        nodes="\n".join(
            f"NodeName=n{i} NodeHostname={f'n{i}' if shape.networks else host} "
            f"NodeAddr={network.address(f'n{i}') if shape.networks else '127.0.0.1'} Port={port}"
            for i, port in enumerate(nodes, 1)
        ),
    )
    extra = shape.extra + (meter.SLURM if shape.watts else "")
    replaced = {line.partition("=")[0] for line in extra.splitlines()} - {
        "PartitionName",
        "NodeName",
        "",
    }
    kept = [line for line in text.splitlines() if line.partition("=")[0] not in replaced]
    return "\n".join([*kept, extra, ""])


def _host() -> str:
    return socket.gethostname().partition(".")[0]


def _plugins() -> str:
    """Plugins of a Slurm that `versions` unpacked; any other finds its own."""
    folder = daemons().with_name("plugins")
    return f"PluginDir={folder}" if folder.is_dir() else ""


def _loopback_only() -> str:
    """Listen on the host's own address alone; elsewhere than on loopback that would not be the nodes' one."""
    try:
        local = ipaddress.ip_address(socket.gethostbyname(_host())).is_loopback
    except OSError:
        local = False
    return "CommunicationParameters=NoCtldInAddrAny,NoInAddrAny" if local else ""
