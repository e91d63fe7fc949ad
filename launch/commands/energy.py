"""What the jobs of a study have used of energy, by Slurm's accounts. It asks, and changes nothing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

from jobs.core.unit import STAGES
from launch.slurm.backend import Slurm
from launch.state.errors import SlurmUnavailable
from launch.study_run import Project


def energy(project: Project) -> Mapping[str, int]:
    """Joules by stage, runs that came to nothing included.

    A stage of which nobody knows is left out: as on a cluster that measures no energy or keeps no accounts,
    or once these are forgotten. Slurm measures whole nodes: of one that jobs share, each is said to take all.
    """
    sent = project.ledger.submissions()
    if not sent or not isinstance(project.backend, Slurm):
        return {}
    try:
        told = project.backend.controller.energy(int(min(sent.values())) - 60).rows  # clocks may differ
    except SlurmUnavailable:
        return {}
    steps = defaultdict[tuple[str, str], Counter[str]](Counter)  # by the job's id and name
    job, name = "", ""
    for row in told:  # those of a job stand behind it, and its id may have been another job's, too
        if row.step is None:
            job, name = row.job, row.name
        elif row.joules is not None and row.job == job and name in sent:
            # What was started in the script is measured while the script is, on the same nodes and more.
            steps[job, name][row.step if row.step in ("batch", "extern") else "started"] += row.joules
    used = Counter[str]()
    for (_, name), found in steps.items():
        stage = name.partition("-")[0]  # a submission's name begins with it
        if stage in STAGES:  # the keeper is of none
            used[stage] += max(found.values())
    return used
