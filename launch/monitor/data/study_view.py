"""One study as the monitor saw it last: what its thread hands to the screen. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from launch.state.status import Snapshot
from launch.study_run import Project
from launch.submit.bad_nodes import Verdict

if TYPE_CHECKING:
    from launch.monitor.data.summary import Board


@dataclass(frozen=True)
class Sight:
    """One study as it was seen last.

    Args:
        now: None before the first answer.
        nodes: which nodes its next submissions avoid.
        board: what was worked out from `now`.
        taken: when `now` was taken, seconds since the epoch; 0 before.
        asked: since when a look is under way, seconds since the epoch; None: none is.
        trouble: why there is nothing newer, in words.
        interval: seconds between looks, as they are now.
    """

    project: Project
    now: Snapshot | None
    nodes: Verdict
    board: Board | None
    taken: float
    asked: float | None
    trouble: str | None
    interval: float
