"""A meter for the energy of each node of a test cluster, where Slurm looks for it on a Cray.

The meter is a folder of the cluster's scratch directory that a thread writes to; each node's daemon sees it
below /sys, in a mount namespace of its own. Only root can have it.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

SLURM = """\
AcctGatherEnergyType=acct_gather_energy/pm_counters
AcctGatherNodeFreq=1
JobAcctGatherFrequency=task=2,energy=1
"""
# A /sys like that of the machine, with the meter in it.
AS_METERED = """
mount -t tmpfs sys "$1" && cd /sys &&
for each in *; do mkdir "$1/$each" && mount --rbind "$each" "$1/$each"; done &&
mkdir -p "$1/cray/pm_counters" && mount --bind "$2" "$1/cray/pm_counters" && mount --rbind "$1" /sys &&
cd / && shift 2 && exec "$@"
"""


def unavailable() -> str | None:
    """Why nodes cannot have a meter here; None where they can."""
    if os.getuid():
        return "only root can put a meter where Slurm looks for it"
    trial = ["unshare", "--mount", "mount", "-t", "tmpfs", "sys", "/sys"]
    made = subprocess.run(trial, capture_output=True, encoding="utf-8", check=False)
    return f"this machine gives no mounts: {made.stderr.strip()}" if made.returncode else None


class Meter:
    """The meter of all nodes: each takes so many watts, whether something runs on it or not."""

    def __init__(self, scratch: Path, watts: int) -> None:
        self._folder, self._mount, self._watts = scratch / "meter", scratch / "sys", watts
        self._stopped = threading.Event()

    def start(self) -> None:
        self._folder.mkdir()
        self._mount.mkdir()
        self._write(0.0)
        threading.Thread(target=self._count, daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def at_node(self, *command: str) -> list[str]:
        """The command line that runs a node's daemon where it finds the meter."""
        shell = ["sh", "-c", AS_METERED, "sh", str(self._mount), str(self._folder)]
        return ["unshare", "--mount", *shell, *command]

    def _count(self) -> None:
        began = time.monotonic()
        while not self._stopped.wait(0.1):
            self._write(self._watts * (time.monotonic() - began))

    def _write(self, joules: float) -> None:
        for name, text in (("energy", f"{1000 + joules:.0f} J"), ("power", f"{self._watts} W")):
            aside = self._folder / f".{name}"
            aside.write_text(f"{text}\n", encoding="utf-8")
            os.replace(aside, self._folder / name)
