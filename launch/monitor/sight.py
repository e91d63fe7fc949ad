"""What a monitor knows of one study at one moment. Data only."""

from __future__ import annotations

from dataclasses import dataclass

from launch.monitor.board import Board
from launch.nodes import Verdict
from launch.observe import Snapshot
from launch.project import Project


@dataclass(frozen=True)
class Sight:
    """One study as it was seen last.

    Args:
        now: None before the first answer.
        nodes: which ones its submissions avoid.
        board: what is worked out from `now`.
        taken: when `now` was taken, in seconds since the epoch; 0 before.
        asked: since when a look is under way; None: none is.
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
