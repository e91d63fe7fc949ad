"""Why jobs wait, in plain words."""

from __future__ import annotations

from pathlib import Path

import made_status as made
import pytest
from made_status import HOUR, NOW

from jobs.core.unit import Unit
from jobs.store.rundir import StudyDir
from launch.state.pending_reasons import in_words
from launch.state.reasons import why
from launch.state.states import State

ACCOUNT, QOS = "your account is at its limit of ", "its QOS is at its limit of "


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("Priority", "other jobs have a higher priority"),
        ("Resources", "it is next, and waits for free nodes"),
        ("ReqNodeNotAvail", "nodes that it needs are down, drained or reserved"),
        (
            "ReqNodeNotAvail, UnavailableNodes:g[1-2]",
            "nodes that it needs are down, drained or reserved: g[1-2]",
        ),
        ("AssocGrpGRES", f"{ACCOUNT}GPUs for all who share it (AssocGrpGRES)"),
        ("AssocMaxJobsLimit", f"{ACCOUNT}jobs at once (AssocMaxJobsLimit)"),
        ("QOSMaxJobsPerUserLimit", f"{QOS}jobs at once for each user (QOSMaxJobsPerUserLimit)"),
        ("QOSMaxGRESPerUser", f"{QOS}GPUs for each user (QOSMaxGRESPerUser)"),
        ("QOSGrpCPUMinutesLimit", "its QOS has used up its core hours (QOSGrpCPUMinutesLimit)"),
        ("QOSMinGRES", "requests less GPUs than its QOS requires (QOSMinGRES)"),
        ("SomethingNew", "SomethingNew"),
        ("was cancelled in Slurm by root", "was cancelled in Slurm by root"),
        ("", ""),
    ],
)
def test_reasons_are_plain_words(code: str, words: str) -> None:
    assert in_words(code) == words


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (NOW + 20 * 60, "; Slurm expects it to start in 20 min"),
        (NOW + 2 * HOUR, "; Slurm expects it to start in 2 h"),
        (NOW + 72 * HOUR, "; Slurm expects it to start in 3 days"),
        (NOW - HOUR, ""),
        (None, ""),
    ],
)
def test_a_job_in_the_queue_says_when_it_may_start(tmp_path: Path, start: float | None, words: str) -> None:
    unit, root = Unit("train", "a", {}), StudyDir(tmp_path)
    when = None if start is None else int(start)
    seen = made.seen(root, unit, State.QUEUED, reason="Priority", start=when)
    assert why(seen, NOW) == "other jobs have a higher priority" + words
    assert why(made.seen(root, unit, State.RUNNING, start=when), NOW) == ""
