"""A real Slurm cluster on one machine, for tests and for trying the toolkit without a cluster.

`Cluster` starts slurmctld, several slurmd, and for accounting slurmdbd on MariaDB, with munge between them,
on loopback and in one scratch directory. Nodes claim CPUs, memory and GPUs that the machine need not have (a
GPU is a link to /dev/null), so that 4 nodes of 8 GPUs run on a laptop; jobs are ordinary processes.

    with Cluster(nodes=2) as cluster:
        subprocess.run(["sbatch", "--wrap=hostname"], env=cluster.environment)

`Cluster(like="perlmutter")` has the habits of a center: its partitions, accounts, limits and rules for jobs;
`cluster.centers` lists them.

The standard library is enough for it. Nothing outside the scratch directory is touched; nodes with
`networks` of their own have network namespaces, which bear its name.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from cluster import accounts, centers, config, network
from cluster.meter import Meter
from cluster.network import Network
from cluster.processes import Owner, Processes, owned

SCRATCH = "sor-slurm-"  # what scratch directories of tests begin with; its path has to be short, for sockets
TIMEOUT = 30.0  # seconds that one daemon has to come up
GIVEN, LOCK = set[int](), threading.Lock()  # ports of this process's clusters


class ClusterError(RuntimeError):
    """The cluster did not start; the message holds the end of the log that says why."""


@dataclass(frozen=True)
class Shape:
    """What the cluster has.

    Args:
        like: a center of `centers`, whose habits it has. Its nodes are then the center's, and its name, too.
        networks: every node has an address of its own and can be cut off (root only; see network.py).
        watts: what every node takes by its meter, if it has one (root only; see meter.py).
        extra: more lines of slurm.conf, which replace those of the same key.
        name: of the cluster; has to differ from that of one `beside` it.
    """

    nodes: int = 4
    cpus: int = 8
    gpus: int = 8
    like: str = ""
    accounting: bool = True
    networks: bool = False
    watts: int = 0
    extra: str = ""
    name: str = config.NAME


class Cluster:
    """A cluster that runs between `start` and `stop`, or inside a `with`.

    Args:
        shape: as keywords, the fields of `Shape`.
        scratch: its directory. Without one it is a new one, which is removed at the end and which the next
            cluster cleans up if this process dies.
        beside: a cluster with accounting whose accounts and keys this one shares, so that the programs of
            each reach the other by --clusters.
    """

    def __init__(
        self, scratch: Path | None = None, beside: Cluster | None = None, **shape: int | bool | str
    ) -> None:
        self.shape = Shape(**{"name": shape.get("like") or config.NAME, **shape})  # type: ignore[arg-type]
        self.habits = centers.of(self.shape.like) if self.shape.like else config.standard(self.shape)
        self.scratch = scratch or Path(tempfile.mkdtemp(prefix=SCRATCH, dir="/tmp"))
        self.processes = Processes(self.scratch)
        self.network = Network(self.scratch, self.nodes) if self.shape.networks else None
        self.meter = Meter(self.scratch, self.shape.watts) if self.shape.watts else None
        self._owner = None if scratch else Owner(self.scratch)
        self._beside = beside
        self.database_port = 0

    @property
    def conf(self) -> Path:
        """What SLURM_CONF has to be for Slurm's programs to talk to this cluster."""
        return self.scratch / "slurm.conf"

    @property
    def environment(self) -> dict[str, str]:
        """The environment for Slurm's programs; on its PATH are those of the habits."""
        paths = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
        if self.habits.wrapper:
            paths = f"{config.programs(self.scratch)}:{paths}"
        return {**os.environ, "PATH": paths, "SLURM_CONF": str(self.conf)}

    def __enter__(self) -> Cluster:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start every daemon and wait until all nodes are idle.

        Raises:
            ClusterError: a daemon ended or did not answer in time.
        """
        if self._owner:
            remove_abandoned(but=self.scratch)
        ports = free_ports(len(self.nodes) + 2)
        self.database_port = self._beside.database_port if self._beside else ports[1]
        keys = self._beside.scratch if self._beside else self.scratch
        config.write(self.scratch, self.shape, self.habits, [ports[0], self.database_port, *ports[2:]], keys)
        if self.network:
            self.network.start()
        if self.meter:
            self.meter.start()
        if not self._beside:
            self._start_munge()
        if self.shape.accounting and not self._beside:
            self._start_mariadb()
            self.start_slurmdbd()
        if self.shape.accounting:
            for command in accounts.commands(self.shape.name, config.user(), self.habits):
                self.run(*command)
        self.start_slurmctld()
        if self.shape.accounting:
            for command in accounts.of_gpus(self.habits):
                self.run(*command)
        for node in self.nodes:
            self.start_node(node)
        # A node has a line for each of its partitions.
        idle = ["sinfo", "--noheader", "--Node", "--states=idle", "--format=%N"]
        self._wait("slurmctld", lambda: set((self._says(idle) or "").split()) == set(self.nodes))

    def stop(self) -> None:
        """End all jobs and all daemons, and remove the scratch directory."""
        self.processes.end_all(self.conf)
        if self.meter:
            self.meter.stop()
        network.remove(self.scratch)
        if self._owner:
            self._owner.release()
        shutil.rmtree(self.scratch)

    @property
    def nodes(self) -> list[str]:
        return self.habits.hosts

    def client(self, *command: str | Path) -> list[str]:
        """The command line that runs a program where it can talk to Slurm, given `environment`."""
        words = [str(word) for word in command]
        return self.network.at_controller(*words) if self.network else words

    def run(self, *command: str, timeout: float = TIMEOUT) -> str:
        """What one of Slurm's programs prints.

        Raises:
            ClusterError: it failed.
        """
        done = subprocess.run(
            self.client(*command), env=self.environment, timeout=timeout, capture_output=True,
            encoding="utf-8",
            check=False,
        )  # fmt: skip
        if done.returncode:
            raise ClusterError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def start_slurmctld(self) -> None:
        """Start the controller, also again after `processes.end("slurmctld")`."""
        self._launch("slurmctld", "slurmctld", "-D")
        self._wait("slurmctld", lambda: "UP" in (self._says(["scontrol", "ping"]) or ""))

    def start_node(self, node: str) -> None:
        """Start the daemon of one node, also again after `processes.end(node)`."""
        command = ["slurmd", "-D", "-N", node, "-d", str(config.daemons() / "slurmstepd")]
        if self.meter:
            command = self.meter.at_node(*command)
        if self.network:
            command = self.network.at_node(node, *command)
        self.processes.start(node, command, self.environment)

    def start_slurmdbd(self) -> None:
        """Start the accounts, also again after `processes.end("slurmdbd")`."""
        self._launch("slurmdbd", "slurmdbd", "-D", MYSQL_UNIX_PORT=str(config.database_socket(self.scratch)))
        listed = ["sacctmgr", "--noheader", "--parsable2", "show", "cluster"]
        self._wait("slurmdbd", lambda: self._says(listed) is not None)

    def _start_munge(self) -> None:
        folder = self.scratch / "munge"
        folder.mkdir(mode=0o755)
        key, munge_socket = folder / "key", folder / "socket"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        self._launch(
            "munged", "munged", "--foreground", "--force", "--num-threads=2", f"--key-file={key}",
            f"--socket={munge_socket}", f"--pid-file={folder}/pid", f"--log-file={folder}/log",
            f"--seed-file={folder}/seed",
        )  # fmt: skip
        self._wait("munged", lambda: self._says(["munge", "-n", "-S", str(munge_socket)]))

    def _start_mariadb(self) -> None:
        data, user = self.scratch / "mariadb", config.user()
        self.run(
            "mariadb-install-db", "--no-defaults", "--auth-root-authentication-method=socket",
            f"--auth-root-socket-user={user}", f"--user={user}", "--skip-test-db", f"--datadir={data}",
        )  # fmt: skip
        self._launch(
            "mariadbd", "mariadbd", "--no-defaults", f"--user={user}", f"--datadir={data}",
            f"--socket={config.database_socket(self.scratch)}", f"--pid-file={self.scratch}/mariadbd.pid",
            "--skip-networking", "--innodb-buffer-pool-size=256M", "--innodb-log-file-size=64M",
            "--innodb-lock-wait-timeout=900", "--innodb-flush-log-at-trx-commit=0", "--skip-log-bin",
            "--innodb-doublewrite=0", "--performance-schema=0",
        )  # fmt: skip
        client = ["mariadb", "--no-defaults", "-S", str(config.database_socket(self.scratch)), "-u", user]
        self._wait("mariadbd", lambda: self._says([*client, "-Ne", "select 1"]) == "1")
        self.run(*client, "-e", f"create database {config.DATABASE}")

    def _launch(self, name: str, *command: str, **more: str) -> None:
        self.processes.start(name, self.client(*command), {**self.environment, **more})

    def _says(self, command: list[str]) -> str | None:
        """What a program prints; None where it fails, or has no answer yet."""
        try:
            return self.run(*command, timeout=5)
        except (ClusterError, subprocess.TimeoutExpired):
            return None

    def _wait(self, name: str, ready: Callable[[], object]) -> None:
        until = time.monotonic() + TIMEOUT
        while not ready():
            if not self.processes.alive(name) or time.monotonic() > until:
                raise ClusterError(f"{name} did not come up:\n{self.processes.log_end(name)}")
            time.sleep(0.05)


def free_ports(count: int) -> list[int]:
    """Consecutive TCP ports of loopback that nobody listens on, below those that the kernel hands out.

    Never the same twice: clusters may be started at once, and listen later.
    """
    with LOCK:
        while True:
            first = random.randrange(10_000, 32_000)
            ports = set(range(first, first + count))
            if not ports & GIVEN and all(map(_is_free, ports)):
                GIVEN.update(ports)
                return sorted(ports)


def _is_free(port: int) -> bool:
    with socket.socket() as trial:
        try:
            trial.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def remove_abandoned(but: Path) -> None:
    """End and remove the clusters of test processes that died without doing so themselves."""
    for scratch in Path("/tmp").glob(SCRATCH + "*"):
        if scratch != but and _is_ours(scratch) and owned(scratch) is False:
            Processes(scratch).end_all(scratch / "slurm.conf")
            network.remove(scratch)
            shutil.rmtree(scratch, ignore_errors=True)  # another one may be doing it, too


def _is_ours(scratch: Path) -> bool:
    try:
        return scratch.stat().st_uid == os.getuid()
    except FileNotFoundError:  # another process has ended its cluster meanwhile
        return False
