"""A network for each node of a test cluster: network namespaces of Linux, joined by a bridge in one more.

    SCRATCH          the controller, the accounts and all clients; holds the bridge
    SCRATCH-n1 …     a node each, with one address, and a host name and an /etc/hosts of its own

A node can be cut off while its processes run on, as when somebody pulls its cable. The names are those of the
cluster's scratch directory; the machine's own network is not touched. Only root can have it.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

NAMESPACES = Path("/run/netns")  # where ip keeps them
SUBNET = "10.77.0"  # is known inside the namespaces alone, so that clusters may share it
CONTROLLER = f"{SUBNET}.1"
# Slurm's daemon of a node sees the mounts that the machine has and gets, and one file that differs.
AS_NODE = 'hostname "$0" && mount --bind "$1" /etc/hosts && shift && exec "$@"'


def unavailable() -> str | None:
    """Why nodes cannot have networks of their own here, and what to do; None where they can."""
    if os.getuid() != 0:
        return "only root can give nodes a network of their own"
    lacks = [name for name in ("ip", "nsenter", "unshare") if not shutil.which(name)]
    if lacks:
        return f"no {', '.join(lacks)} here: apt-get install iproute2 util-linux"
    trial = f"sor-trial-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", trial], capture_output=True, encoding="utf-8", check=False)
    if made.returncode:
        return f"this machine gives no network namespaces: {made.stderr.strip()}"
    _ip("netns", "del", trial)
    return None


def address(node: str) -> str:
    """The address of a node, n1 to n200."""
    return f"{SUBNET}.{10 + int(node.removeprefix('n'))}"


class Network:
    """The namespaces of one cluster; they are there between `start` and `remove`."""

    def __init__(self, scratch: Path, nodes: Sequence[str]) -> None:
        self._scratch, self._nodes, self._name = scratch, nodes, scratch.name

    def start(self) -> None:
        names = {socket.gethostname(): CONTROLLER, **{node: address(node) for node in self._nodes}}
        lines = ["127.0.0.1 localhost", *(f"{where} {name}" for name, where in names.items())]
        self._hosts.write_text("\n".join(lines) + "\n", encoding="utf-8")
        _ip("netns", "add", self._name)
        self._at_bridge("link", "set", "lo", "up")
        self._at_bridge("link", "add", "bridge", "type", "bridge")
        self._at_bridge("address", "add", f"{CONTROLLER}/24", "dev", "bridge")
        self._at_bridge("link", "set", "bridge", "up")
        for node in self._nodes:
            own = f"{self._name}-{node}"
            _ip("netns", "add", own)
            self._at_bridge("link", "add", node, "type", "veth", "peer", "name", "eth0", "netns", own)
            self._at_bridge("link", "set", node, "master", "bridge", "up")
            _ip("-n", own, "address", "add", f"{address(node)}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", own, "link", "set", device, "up")

    def cut(self, node: str) -> None:
        """Nothing reaches the node any more, and nothing comes from it."""
        self._at_bridge("link", "set", node, "down")

    def heal(self, node: str) -> None:
        """The reverse of `cut`."""
        self._at_bridge("link", "set", node, "up")

    def at_controller(self, *command: str) -> list[str]:
        """The command line that runs a program where the controller is."""
        return ["nsenter", f"--net={NAMESPACES / self._name}", *command]

    def at_node(self, node: str, *command: str) -> list[str]:
        """The command line that runs a program on a node."""
        apart = ["unshare", "--uts", "--mount", "--propagation", "slave", "sh", "-c", AS_NODE, node]
        inside = f"--net={NAMESPACES / self._name}-{node}"
        return ["nsenter", inside, *apart, str(self._hosts), *command]

    @property
    def _hosts(self) -> Path:
        return self._scratch / "hosts"

    def _at_bridge(self, *command: str) -> None:
        _ip("-n", self._name, *command)


def remove(scratch: Path) -> None:
    """Remove the namespaces of the cluster with this scratch directory, if it has any."""
    for found in (*NAMESPACES.glob(f"{scratch.name}-n*"), *NAMESPACES.glob(scratch.name)):
        _ip("netns", "del", found.name)


def _ip(*command: str) -> None:
    subprocess.run(["ip", *command], check=True, capture_output=True, encoding="utf-8")
