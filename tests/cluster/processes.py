"""The processes of a test cluster: started with their ids written down, and ended by them, and nothing else.

A written id is trusted only while its process has this cluster's SLURM_CONF in its environment, since ids are
used again. The ids outlive the process that started the cluster; see `Owner`.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

GRACE = 10.0  # seconds that a daemon has to end by itself


class Processes:
    """The daemons of the cluster in a directory: `pids/NAME` holds an id, `log/NAME.out` what it printed."""

    def __init__(self, scratch: Path) -> None:
        self._pids, self._logs = scratch / "pids", scratch / "log"
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._mark = f"SLURM_CONF={scratch / 'slurm.conf'}".encode()

    def start(self, name: str, command: Sequence[str], environment: dict[str, str]) -> None:
        """Start a daemon in a session of its own, so that an interrupt in a terminal does not reach it."""
        self._pids.mkdir(exist_ok=True)
        with (self._logs / f"{name}.out").open("ab") as log:
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._children[name] = process
        (self._pids / name).write_text(str(process.pid), encoding="utf-8")

    def alive(self, name: str) -> bool:
        """Whether a daemon runs."""
        if name in self._children:
            return self._children[name].poll() is None
        try:
            pid = int((self._pids / name).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return False
        return self._mark in _environment(pid)  # empty for a process that has ended

    def send(self, name: str, sign: signal.Signals) -> None:
        """Send a signal to a daemon that runs."""
        assert self.alive(name), f"{name} does not run"
        os.kill(int((self._pids / name).read_text(encoding="utf-8")), sign)

    def end(self, *names: str, sign: signal.Signals = signal.SIGTERM) -> None:
        """End daemons, all at once; by force those that do not end in time."""
        for how in (sign, signal.SIGKILL):
            for name in filter(self.alive, names):
                self.send(name, how)
            until = time.monotonic() + GRACE
            while any(map(self.alive, names)) and time.monotonic() < until:
                time.sleep(0.02)

    def end_all(self, conf: Path) -> None:
        """End every job and every daemon, the controller before the database that it reports to."""
        names = [p.name for p in self._pids.iterdir()] if self._pids.exists() else []
        self.end("slurmctld", *(n for n in names if n.startswith("n")))
        until = time.monotonic() + GRACE
        while (jobs := self._jobs()) and time.monotonic() < until:
            for pid in jobs:
                _kill(pid)
            time.sleep(0.02)  # and look again: a job may have started another process meanwhile
        for name in ("slurmdbd", "mariadbd", "munged"):
            self.end(name)

    def log_end(self, name: str) -> str:
        """The last lines that a daemon wrote."""
        files = [self._logs / f"{name}.log", self._logs / f"{name}.out"]
        lines = [
            line
            for f in files
            if f.exists()
            for line in f.read_text(errors="replace", encoding="utf-8").splitlines()[-10:]
        ]
        return "\n".join(lines)

    def _jobs(self) -> set[int]:
        """The step daemons, which survive the node's daemon, and all processes of jobs."""
        parents = {int(f.name): _parent(f) for f in Path("/proc").iterdir() if f.name.isdigit()}
        found = set[int]()
        for pid in parents:
            environment, step = _environment(pid), _name(pid) == "slurmstepd"
            job = any(v.startswith(b"SLURMD_NODENAME=") for v in environment)  # is set inside jobs alone
            ours = self._mark in environment or (step and self._writes_log(pid))
            if ours and (job or step):
                found.add(pid)
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more  # those that a job gave another environment
        return found

    def _writes_log(self, pid: int) -> bool:
        """Whether a process has a log of this cluster open; new step daemons overwrite their environment."""
        try:
            return any(f.readlink().is_relative_to(self._logs) for f in Path(f"/proc/{pid}/fd").iterdir())
        except OSError:
            return False


class Owner:
    """Marks a scratch directory as in use for as long as this process lives, however it ends."""

    def __init__(self, scratch: Path) -> None:
        self._file = (scratch / "owner.new").open("w", encoding="utf-8")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        (scratch / "owner.new").rename(scratch / "owner")  # locked from its first moment

    def release(self) -> None:
        self._file.close()


def owned(scratch: Path) -> bool | None:
    """Whether the process that made the directory lives; None if it was never marked."""
    try:
        with (scratch / "owner").open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return True
    return False


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # it has ended, or is somebody else's
        return []


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _parent(folder: Path) -> int:
    try:
        return int((folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
