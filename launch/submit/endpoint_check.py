"""Refuse units that could not ask their teacher's endpoint. Nothing is asked over the network."""

from __future__ import annotations

from collections.abc import Iterable

from jobs.core.secrets import FILE, SecretsError, missing_secrets
from jobs.core.unit import Unit
from launch.study.slurm_section import OFFLINE
from launch.study_run import Project
from launch.submit.limits import Refusal

# Typed without an echo: neither the screen nor the shell's history shows the key.
SET = "mkdir -p {folder} && (umask 077; read -rsp 'key: ' K && echo \"{key}=$K\" >> {file})"


def check_endpoints(project: Project, units: Iterable[Unit]) -> None:
    """Check that units which ask an endpoint have a network and a key.

    Raises:
        Refusal: they have not.
    """
    if lacking := unreachable(project, units):
        raise Refusal(lacking)


def unreachable(project: Project, units: Iterable[Unit]) -> str:
    """Return why units cannot ask their endpoint, and the way out; empty if nothing is known against it."""
    for unit in units:
        endpoint = unit.execution.get("endpoint")
        if endpoint is None:
            continue
        who = f"{unit.stage} {unit.name} asks the endpoint {endpoint['url']}"
        slurm = project.cluster.slurm
        if slurm.offline:
            instead = ", ".join(f"{name}: '1'" for name in OFFLINE)
            return (
                f"{who}, and compute nodes have no internet ('offline: true'). Load the model in the job "
                "('engine: vllm'); or, if the endpoint is in the cluster's own network, replace that line in "
                f"a copy of the cluster file by: environment: {{{instead}}}"
            )
        key = endpoint["key"]
        try:
            missing = missing_secrets([key] if key else [])
        except SecretsError as error:
            return str(error)
        if missing:
            command = SET.format(folder=FILE.rpartition("/")[0], file=FILE, key=key)
            return f"{who}, and its key {key} has no value: export {key}=…, or put it into {FILE}: {command}"
    return ""
