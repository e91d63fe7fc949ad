"""Installs what tests need from Debian's packages, where that can be done."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path


def missing(programs: Sequence[str]) -> list[str]:
    """The programs that are not installed."""
    paths = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return [name for name in programs if not shutil.which(name, path=paths)]


def install(what: str, programs: Sequence[str], packages: Sequence[str]) -> str | None:
    """Install what is missing; returns why that cannot be done, and what to do, or None when all is there.

    Args:
        what: in words.
        programs: that are needed.
        packages: that they come from.
    """
    with Path(f"/tmp/sor-tests-install-{os.getuid()}").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several processes may share the tests
        return _install(what, programs, packages)


def _install(what: str, programs: Sequence[str], packages: Sequence[str]) -> str | None:
    lacks = missing(programs)
    if not lacks:
        return None
    why = f"no {what} here: {', '.join(lacks)} missing"
    if not shutil.which("apt-get"):
        return f"{why}, and no apt-get: it is installed from the packages of Debian or Ubuntu"
    if os.getuid() == 0:
        sudo = []
    elif shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:
        sudo = ["sudo", "-n"]
    else:
        by_hand = "apt-get install --no-install-recommends " + " ".join(packages)
        return f"{why}, and neither root nor sudo without a password to install it: as root, {by_hand}"
    command = [*sudo, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
    for action in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
        done = subprocess.run(
            [*command, *action], capture_output=True, encoding="utf-8", stdin=subprocess.DEVNULL
        )
        if done.returncode:
            return f"{why}, and 'apt-get {action[0]}' failed: {done.stderr.strip()[-500:]}"
    lacks = missing(programs)
    return f"still missing after the installation: {', '.join(lacks)}" if lacks else None
