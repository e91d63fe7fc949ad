"""What the test cluster needs, and its installation."""

from __future__ import annotations

import debian

PROGRAMS = (
    "slurmctld", "slurmd", "slurmdbd", "sbatch", "sacctmgr", "munged", "munge", "mariadbd", "mariadb",
    "mariadb-install-db",
)  # fmt: skip
PACKAGES = (
    "slurmctld", "slurmd", "slurmdbd", "slurm-client", "munge", "mariadb-server-core", "mariadb-client-core",
    "slurm-wlm-mysql-plugin", "slurm-wlm-basic-plugins",
)  # fmt: skip


def install() -> str | None:
    """Install what is missing; returns why that cannot be done, and what to do, or None when all is there."""
    return debian.install("Slurm", PROGRAMS, PACKAGES)
