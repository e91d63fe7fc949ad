"""The energy used by a study's jobs, by Slurm's accounting. Read-only."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

from jobs.core.unit import STAGES
from launch.slurm.backend import Slurm
from launch.state.errors import SlurmUnavailable
from launch.study_run import Project


def energy(project: Project) -> Mapping[str, int]:
    """Return joules by stage, failed runs included.

    Stages without data are left out, as on a cluster that measures no energy or keeps no accounting, or once
    its records have expired. Slurm measures whole nodes: each job on a shared node is charged for all of it.
    """
    sent = project.ledger.submissions()
    if not sent or not isinstance(project.backend, Slurm):
        return {}
    try:
        rows = project.backend.client.energy(int(min(sent.values())) - 60).rows  # clocks may differ
    except SlurmUnavailable:
        return {}
    steps = defaultdict[tuple[str, str], Counter[str]](Counter)  # by the job's id and name
    job, name = "", ""
    for row in rows:  # steps follow their job, whose id may have been reused
        if row.step is None:
            job, name = row.job, row.name
        elif row.joules is not None and row.job == job and name in sent:
            # Steps started by the script overlap with the batch step, on the same nodes and more.
            steps[job, name][row.step if row.step in ("batch", "extern") else "started"] += row.joules
    used = Counter[str]()
    for (_, name), found in steps.items():
        stage = name.partition("-")[0]  # a submission's name begins with it
        if stage in STAGES:  # the keeper belongs to none
            used[stage] += max(found.values())
    return used
