"""Refuse trainings and engines that cannot run as they are to be run, before anything is submitted. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from jobs.core.unit import Unit
from launch.study.cluster import Cluster
from launch.study.gpu_fit import fits, uneven, unfit
from launch.study.placement import engine
from launch.study.schema import Study
from launch.study.serving_fit import Fault, engine_fault
from launch.submit.limits import Refusal


def check_trainings(units: Sequence[Unit], chosen: Collection[str], cluster: Cluster) -> list[str]:
    """Return what a person should know about the memory of trainings before submitting.

    Args:
        units: all of the study's.
        chosen: identities of those that are to be submitted.

    Raises:
        Refusal: some cannot fit on their GPUs, or cannot share their batches evenly.
    """
    wanted = [unit for unit in units if unit.id in chosen]
    faults = [(fit.refused, words) for fit in fits(wanted, cluster) if (words := unfit(fit))]
    if refused := uneven(wanted) + [words for fatal, words in faults if fatal]:
        raise Refusal("\n".join(refused))
    return [words for _, words in faults]


def check_engines(
    study: Study, units: Sequence[Unit], chosen: Collection[str], cluster: Cluster
) -> list[str]:
    """Return what a person should know about the memory of engines before submitting.

    Raises:
        Refusal: the weights of some leave no room on their GPUs.
    """
    found = engine_faults(study, [unit for unit in units if unit.id in chosen], cluster)
    if refused := [fault.words for fault in found if fault.refused]:
        raise Refusal("\n".join(refused))
    return [fault.words for fault in found]


def engine_faults(study: Study, units: Sequence[Unit], cluster: Cluster) -> list[Fault]:
    """Return why the engines of these units will or may not run, one for each model."""
    wanted = [(student, False) for student in study.students if student.size in _evaluated(units)]
    if study.teacher and any(unit.stage == "generate" for unit in units):
        wanted.insert(0, (study.teacher, True))
    faults = (engine_fault(model, engine(model, cluster, shared=shared), cluster) for model, shared in wanted)
    return [fault for fault in faults if fault]


def _evaluated(units: Sequence[Unit]) -> set[str]:
    """Return the sizes of students that these units evaluate."""
    served = (unit for unit in units if unit.stage == "evaluate" and unit.resources.gpus)
    return {unit.config["student"]["size"] for unit in served}
