"""Plan x disk x machine -> what to do now. Pure: it changes nothing.

Run twice, it asks for the same work once: what is done stays, what a job has in hand is left to it, and
the rest is to do. A result made from inputs that are to be made again is set aside first.
"""

from __future__ import annotations

from dataclasses import dataclass

from launch.state.ledger import Job
from launch.state.states import ACTIVE, State
from launch.state.status import Seen, Snapshot


@dataclass(frozen=True)
class Difference:
    """What should be, less what is.

    Args:
        submit: units to start, inputs before what reads them.
        outdated: results to set aside before anything starts, readers before what they read.
        withdraw: units with a job that waits for something that can never come.
        active: units that a job has in hand.
        done: how many need nothing.
        former: jobs of units that the study no longer has.
        damaged: units that are left alone, with those made from them, until a person has seen to their files.
    """

    submit: tuple[Seen, ...]
    outdated: tuple[Seen, ...]
    withdraw: tuple[Seen, ...]
    active: tuple[Seen, ...]
    done: int
    former: tuple[Job, ...] = ()
    damaged: tuple[Seen, ...] = ()

    @property
    def nothing(self) -> bool:
        return not (self.submit or self.withdraw)


def reconcile(now: Snapshot, only: str | None = None) -> Difference:
    """The difference between a study's plan and its state.

    Args:
        only: a stage; units of other stages are left alone, and units whose inputs those would have to make
            first are left for later.
    """
    submit: list[Seen] = []
    held = set[str]()  # damaged, or to be made from what is
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
