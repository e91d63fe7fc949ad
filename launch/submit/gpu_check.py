"""Refuse trainings that cannot run as they are to be run, before anything is submitted. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from jobs.core.unit import Unit
from launch.study.cluster import Cluster
from launch.study.gpu_fit import fits, uneven, unfit
from launch.submit.limits import Refusal


def check_trainings(units: Sequence[Unit], chosen: Collection[str], cluster: Cluster) -> list[str]:
    """Return what a person should know about the memory of trainings before submitting.

    Args:
        units: all of the study's.
        chosen: identities of those that are to be submitted.

    Raises:
        Refusal: some cannot fit on their GPUs, or cannot share their batches evenly.
    """
    wanted = [unit for unit in units if unit.id in chosen or unit.stage == "pack"]
    faults = [(fit.refused, words) for fit in fits(wanted, cluster) if (words := unfit(fit))]
    if refused := uneven(wanted) + [words for fatal, words in faults if fatal]:
        raise Refusal("\n".join(refused))
    return [words for _, words in faults]
