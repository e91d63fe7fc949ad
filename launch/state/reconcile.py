"""Plan, disk and machine -> the work to do now. Pure: it changes nothing.

Two runs request the same work once: finished work stays, units with live jobs are left to those jobs, and the
rest is submitted. A result made from inputs that are to be remade is set aside first.
"""

from __future__ import annotations

from dataclasses import dataclass

from launch.state.ledger import Job
from launch.state.states import ACTIVE, State
from launch.state.status import StudyStatus, UnitStatus


@dataclass(frozen=True)
class Difference:
    """Difference between the planned and the current state.

    Args:
        submit: units to start, inputs before the units that read them.
        outdated: results to set aside before anything starts, readers before their inputs.
        withdraw: units with a job that waits for something that can never happen.
        active: units with a live job.
        done: how many need nothing.
        former: jobs of units that the study no longer has.
        damaged: units that are left alone, with those made from them, until a person has fixed their files.
    """

    submit: tuple[UnitStatus, ...]
    outdated: tuple[UnitStatus, ...]
    withdraw: tuple[UnitStatus, ...]
    active: tuple[UnitStatus, ...]
    done: int
    former: tuple[Job, ...] = ()
    damaged: tuple[UnitStatus, ...] = ()

    @property
    def nothing(self) -> bool:
        return not (self.submit or self.withdraw)


def reconcile(now: StudyStatus, only: str | None = None) -> Difference:
    """Return the difference between a study's plan and its state.

    Args:
        only: a stage; units of other stages are left alone, and units whose inputs those would have to make
            first are left for later.
    """
    submit: list[UnitStatus] = []
    held = set[str]()  # damaged units, and units to be made from them
    ready = {u.unit.id for u in now.units if u.state == State.DONE}
    for seen in now.units:
        if seen.state == State.DONE or seen.state in ACTIVE:
            continue
        if seen.state == State.DAMAGED or any(i.id in held for i in seen.unit.inputs):
            held.add(seen.unit.id)
            continue
        if only is not None and (seen.unit.stage != only or any(i.id not in ready for i in seen.unit.inputs)):
            continue
        submit.append(seen)
        ready.add(seen.unit.id)
    stale = [u for u in now.units if u.published and u.state != State.DONE and u.unit.id not in held]
    return Difference(
        submit=tuple(submit),
        outdated=tuple(reversed(stale)),
        withdraw=tuple(u for u in now.units if u.in_vain),
        active=tuple(now.of(*ACTIVE)),
        done=len(now.of(State.DONE)),
        former=now.former,
        damaged=tuple(now.of(State.DAMAGED)),
    )
