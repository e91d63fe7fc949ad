"""The nodes of one engine: where they meet, and how the others end with the first.

Each node has one process of the job. That of the first node loads the engine and does the unit's work; the
others run vLLM's workers on theirs. Each of them holds a connection to the first: it is made when the engine
is about to be loaded, tells vLLM's port, and its end is the end of the engine. No file has to become visible.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from jobs.core.place import foreign

POLL = 1.0  # seconds between checks of a waiting process
END = b"end\n"  # the last line of the first node: it needs the others no longer
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Node:
    """The place of this process among the nodes of its engine.

    Args:
        rank, count: of the nodes.
        first: address of the first one.
        port: on which the first one waits for the others.
    """

    rank: int = 0
    count: int = 1
    first: str = "127.0.0.1"
    port: int = 0

    @classmethod
    def take(cls, count: int, gpus: int, environ: MutableMapping[str, str] = os.environ) -> Node:
        """Return the place, from the variables of ranks, and take them out of the environment.

        Libraries would join this process with others by them. Where engines run side by side on a node, this
        process keeps the GPUs of its own engine only.

        Args:
            count: nodes of the engine.
            gpus: of the engine on each node.
        """
        found = {name: environ.pop(name) for name in list(environ) if foreign(name)}
        size = int(found.get("LOCAL_WORLD_SIZE", 1))
        if size > 1 and gpus:
            environ[VISIBLE] = own_gpus(environ.get(VISIBLE), int(found["LOCAL_RANK"]), size, gpus)
        if count == 1:
            return cls()
        return cls(int(found["RANK"]), count, found["MASTER_ADDR"], int(found["MASTER_PORT"]))

    def arguments(self, port: int) -> dict[str, Any]:
        """Return vLLM's arguments that join the nodes; none if there is one.

        Args:
            port: of vLLM's own connections, on the first node.
        """
        if self.count == 1:
            return {}
        return {
            "nnodes": self.count,
            "node_rank": self.rank,
            "master_addr": self.first,
            "master_port": port,
            "distributed_executor_backend": "mp",
        }

    def use_network(self) -> None:
        """Have vLLM use the network by which this node reaches the first one; a node may have several."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((self.first, self.port))  # sends nothing
            os.environ.setdefault("VLLM_HOST_IP", probe.getsockname()[0])


def own_gpus(visible: str | None, rank: int, size: int, gpus: int) -> str:
    """Return the GPUs of one of several engines on a node, as CUDA_VISIBLE_DEVICES names them.

    Args:
        visible: those of the job; None: all of the node, by their numbers. If Slurm has split them already,
            these are the engine's own.
        rank, size: of this engine among those of the node.

    Raises:
        ValueError: The job has another number of GPUs.
    """
    all_of_them = [str(n) for n in range(size * gpus)] if visible is None else visible.split(",")
    if len(all_of_them) == gpus:
        return ",".join(all_of_them)
    if len(all_of_them) != size * gpus:
        wanted = f"{size} engines with {gpus} GPUs each need {size * gpus}"
        raise ValueError(f"{wanted}, and {VISIBLE} on {socket.gethostname()} is {visible}")
    return ",".join(all_of_them[rank * gpus : (rank + 1) * gpus])


def _line(joined: socket.socket) -> bytes:
    """Read one line, and nothing after it; what there is if the connection ends before."""
    said = b""
    while (byte := joined.recv(1)) and byte != b"\n":
        said += byte
    return said


class Front:
    """The first node's side: accepts the connections of the others, until `close`."""

    def __init__(self, node: Node) -> None:
        self._listening = socket.create_server(("", node.port), backlog=node.count)
        with socket.create_server(("", 0)) as free:
            self.port: int = free.getsockname()[1]
        self._joined: list[socket.socket] = []
        threading.Thread(target=self._accept, name="nodes", daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                joined, _ = self._listening.accept()
            except OSError:  # closed
                return
            self._joined.append(joined)
            joined.sendall(f"{self.port}\n".encode())

    def close(self) -> None:
        """Let the other nodes end."""
        self._listening.close()
        for joined in self._joined:
            try:
                joined.sendall(END)
            except OSError:  # it has ended already
                continue
            finally:
                joined.close()


class Follower:
    """Another node's side: the connection to the first.

    Args:
        waits: called until there is a connection: whether there may be one; may raise to end the wait.
    """

    def __init__(self, node: Node, waits: Callable[[], bool]) -> None:
        self._socket: socket.socket | None = None
        self.port = 0
        while waits():
            try:
                self._socket = socket.create_connection((node.first, node.port), timeout=10 * POLL)
                self.port = int(_line(self._socket))
                self._socket.settimeout(POLL)
                return
            except (OSError, ValueError):  # the first node is not there yet, or was just ending
                time.sleep(POLL)

    @property
    def joined(self) -> bool:
        """Whether the engine is being loaded; else the unit is done."""
        return self._socket is not None

    def over(self) -> bool:
        """Wait a moment; return whether the first node has closed the engine.

        Raises:
            ConnectionError: The first node ended without doing so.
        """
        assert self._socket is not None
        try:
            said = self._socket.recv(len(END))
        except TimeoutError:
            return False
        if said != END:
            raise ConnectionError("Connection closed: the process on the engine's first node ended")
        return True

    def __enter__(self) -> Follower:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._socket is not None:
            self._socket.close()
