"""What the test cluster needs: which programs are missing, and their installation from Debian's packages."""

from __future__ import annotations

import os
import shutil
import subprocess

PROGRAMS = (
    "slurmctld", "slurmd", "slurmdbd", "sbatch", "sacctmgr", "munged", "munge", "mariadbd", "mariadb",
    "mariadb-install-db",
)  # fmt: skip
PACKAGES = (
    "slurmctld", "slurmd", "slurmdbd", "slurm-client", "munge", "mariadb-server-core", "mariadb-client-core",
    "slurm-wlm-mysql-plugin", "slurm-wlm-basic-plugins",
)  # fmt: skip
BY_HAND = "apt-get install --no-install-recommends " + " ".join(PACKAGES)


def missing() -> list[str]:
    """The programs that are not installed."""
    paths = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return [name for name in PROGRAMS if not shutil.which(name, path=paths)]


def install() -> str | None:
    """Install what is missing; returns why that cannot be done, and what to do, or None when all is there."""
    lacks = missing()
    if not lacks:
        return None
    why = f"no Slurm here: {', '.join(lacks)} missing"
    if not shutil.which("apt-get"):
        return f"{why}, and no apt-get: the test cluster is made from the packages of Debian or Ubuntu"
    if os.getuid() == 0:
        sudo = []
    elif shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:
        sudo = ["sudo", "-n"]
    else:
        return f"{why}, and neither root nor sudo without a password to install it: as root, {BY_HAND}"
    command = [*sudo, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
    for action in (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run([*command, *action], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode:
            return f"{why}, and 'apt-get {action[0]}' failed: {done.stderr.strip()[-500:]}"
    lacks = missing()
    return f"still missing after the installation: {', '.join(lacks)}" if lacks else None
