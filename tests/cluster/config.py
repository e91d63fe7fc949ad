"""The configuration files of the test cluster: texts made from its shape, its directory and its ports."""

from __future__ import annotations

import ipaddress
import os
import pwd
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cluster import meter, network
from cluster.habits import Account, Habits, Nodes, Partition

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
{filter}
{gpu_types}
{nodes}

PartitionName=DEFAULT Nodes=ALL State=UP MaxTime=7-0 DefaultTime=1:00:00
{partitions}
"""

NODE = """\
NodeName={name} NodeHostname={host} NodeAddr={address} Port={port} CPUs={of.cpus} Boards=1 SocketsPerBoard=1 \
CoresPerSocket={cores} ThreadsPerCore={of.threads} RealMemory={of.memory} {gpus} {features} State=UNKNOWN"""

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


def standard(shape: Shape) -> Habits:
    """The cluster of most tests: equal nodes, one account, and partitions that preempt each other.

    Jobs of a higher tier preempt those of a lower one: at once, after a grace time, or for good.
    """
    return Habits(
        nodes=(Nodes(shape.nodes, shape.cpus, MEMORY * shape.cpus, shape.gpus, GPU),),
        partitions=(
            Partition("main", "ALL", "Default=YES PriorityTier=10 PreemptMode=OFF"),
            Partition("low", "ALL", "PriorityTier=1 PreemptMode=REQUEUE GraceTime=0"),
            Partition("lowgrace", "ALL", "PriorityTier=1 PreemptMode=REQUEUE GraceTime=15"),
            Partition("lowcancel", "ALL", "PriorityTier=1 PreemptMode=CANCEL GraceTime=10"),
            Partition("high", "ALL", "PriorityTier=20 PreemptMode=OFF"),
        ),
        accounts=(Account(ACCOUNT),),
        account=ACCOUNT,
    )


def write(scratch: Path, shape: Shape, has: Habits, ports: list[int], keys: Path) -> None:
    """Write all files, and the folders that they name.

    Args:
        ports: of the controller, the accounts and each node.
        keys: the scratch directory whose munge is used.
    """
    for folder in ("log", "state", "gpu", *(f"spool-{node}" for node in has.hosts)):
        (scratch / folder).mkdir(parents=True)
    for gpu in range(max(of.gpus for of in has.nodes)):
        (scratch / "gpu" / f"nvidia{gpu}").symlink_to("/dev/null")
    controller, database, *nodes = ports
    text = _slurm(scratch, shape, has, controller, database, nodes, keys)
    (scratch / "slurm.conf").write_text(text, encoding="utf-8")
    (scratch / "gres.conf").write_text(_gpus(scratch, has), encoding="utf-8")
    if has.filter:
        rules = _filter("common.lua") + _filter(f"{has.filter}.lua")
        (scratch / "job_submit.lua").write_text(rules, encoding="utf-8")
    if has.wrapper:
        _wrap(scratch, has.wrapper)
    if shape.accounting:
        file = scratch / "slurmdbd.conf"
        text = SLURMDBD.format(
            scratch=scratch, port=database, user=user(), database=DATABASE, loopback_only=_loopback_only(),
            plugins=_plugins(),
        )  # fmt: skip
        file.write_text(text, encoding="utf-8")
        file.chmod(0o600)  # slurmdbd refuses one that others can read


def programs(scratch: Path) -> Path:
    """The folder of programs that stand for Slurm's, and come before them on PATH."""
    return scratch / "bin"


def _wrap(scratch: Path, wrapper: str) -> None:
    real = shutil.which("sbatch")
    assert real, "no sbatch"
    file = programs(scratch) / "sbatch"
    file.parent.mkdir()
    file.write_text(_filter(wrapper).replace("{sbatch}", real), encoding="utf-8")
    file.chmod(0o755)


def _filter(name: str) -> str:
    return (Path(__file__).parent / "filters" / name).read_text(encoding="utf-8")


def _slurm(
    scratch: Path, shape: Shape, has: Habits, controller: int, database: int, nodes: list[int], keys: Path
) -> str:
    accounting = ACCOUNTING.format(port=database, keys=keys)
    text = SLURM.format(
        shape=shape,
        keys=keys,
        DEFAULT=DEFAULT,
        scratch=scratch,
        host=_host(),
        address=network.CONTROLLER if shape.networks else "127.0.0.1",
        user=user(),
        controller_port=controller,
        loopback_only="" if shape.networks else _loopback_only(),
        plugins=_plugins(),
        accounting=accounting if shape.accounting else "AccountingStorageType=accounting_storage/none",
        filter="JobSubmitPlugins=lua" if has.filter else "",
        gpu_types="GresTypes=gpu" if any(of.gpus for of in has.nodes) else "",
        nodes="\n".join(_nodes(has, nodes, shape.networks)),
        partitions="\n".join(f"PartitionName={p.name} Nodes={p.nodes} {p.options}" for p in has.partitions),
    )
    return _replaced(text, has.extra + shape.extra + (meter.SLURM if shape.watts else ""))


def _nodes(has: Habits, ports: list[int], networks: bool) -> Iterator[str]:
    """The lines of slurm.conf for all nodes."""
    kinds = (of for of in has.nodes for _ in range(of.count))
    for name, port, of in zip(has.hosts, ports, kinds, strict=True):
        yield NODE.format(
            name=name,
            host=name if networks else _host(),
            address=network.address(name) if networks else "127.0.0.1",
            port=port,
            of=of,
            cores=of.cpus // of.threads,
            gpus=f"Gres=gpu:{of.gpu}:{of.gpus}" if of.gpus else "",
            features=f"Feature={of.features}" if of.features else "",
        )


def _gpus(scratch: Path, has: Habits) -> str:
    """The text of gres.conf."""
    lines, first = list[str](), 1
    for of in has.nodes:
        nodes, files = f"n[{first}-{first + of.count - 1}]", f"{scratch}/gpu/nvidia[0-{of.gpus - 1}]"
        first += of.count
        if of.gpus:
            lines.append(f"NodeName={nodes} Name=gpu Type={of.gpu} File={files}\n")
    return "".join(lines)


def _replaced(text: str, extra: str) -> str:
    """A configuration with more lines, without those of the same keys."""
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
