"""The latest state of a study, passed from the polling thread to the screen. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from launch.state.status import StudyStatus
from launch.study_run import Project
from launch.submit.bad_nodes import Verdict

if TYPE_CHECKING:
    from launch.monitor.data.summary import Summary


@dataclass(frozen=True)
class StudyView:
    """The latest state of one study.

    Args:
        now: None before the first answer.
        nodes: the nodes that its next submissions avoid.
        summary: computed from `now`.
        taken: when `now` was taken, in seconds since the epoch; 0 before.
        asked: start of the poll in progress, in seconds since the epoch; None: none is.
        trouble: why the last poll failed, in words.
        interval: current seconds between polls.
    """

    project: Project
    now: StudyStatus | None
    nodes: Verdict
    summary: Summary | None
    taken: float
    asked: float | None
    trouble: str | None
    interval: float
